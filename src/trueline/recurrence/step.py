"""A step of SGD on a linear model as a matrix: from the rows of its batch to its affine map."""

from typing import NamedTuple

import torch
from torch import Tensor

from trueline.workspace import Workspace

MOST_ROWS = 1024
"""Of a batch whose products are summed in float32; those of larger ones are in float64."""


class Rule(NamedTuple):
    """The update rule of `torch.optim.SGD` and the L2 penalty, as far as they are affine.

    Args:
        momentum: In [0, 1).
        dampening: Of momentum, in [0, 1].
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: Of all parameters, ≥ 0.
        l2: Strength of the L2 penalty, ≥ 0, which leaves the bias out.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    l2: float = 0.0

    def pull(self, theta: Tensor) -> Tensor:
        """Return by what share of θ weight decay and L2 penalty add to the gradient.

        Args:
            theta: Shape (p, T), or (n, p, T).

        Returns:
            `2·l2 + weight_decay`, and for the bias `weight_decay`; shape (p, 1), or (n, p, 1).
        """
        pull = torch.full_like(theta[..., :1], 2 * self.l2 + self.weight_decay)
        pull[..., -1, :] = self.weight_decay
        return pull


def summed_in(dtype: torch.dtype, batch_size: int) -> torch.dtype:
    """Return in which dtype the products of a batch are summed.

    Args:
        dtype: That of the training.
        batch_size: Rows of the batch.

    Returns:
        The same dtype, or float64 where the rows are many.

    Example:
        >>> summed_in(torch.float32, 32), summed_in(torch.float32, 100_000)
        (torch.float32, torch.float64)
    """
    return dtype if batch_size <= MOST_ROWS else torch.float64


def gram(Z: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """Return the second moments `Zᵀ·diag(w)·Z` of each batch: sums, not yet divided.

    Args:
        Z: Rows `[x, 1, y]`, shape (K, batch_size, p + T).
        sample_weight: Shape (K, batch_size); ones unless given.

    Returns:
        Shape (K, p + T, p + T), in the dtype of Z.

    Example:
        >>> gram(torch.tensor([[[2.0, 1.0, 5.0], [3.0, 1.0, 7.0]]]))[0, 0].tolist()
        [13.0, 5.0, 31.0]
    """
    return torch.bmm(Z.mT, Z if sample_weight is None else Z * sample_weight[..., None])


def gradient_from_rows(
    Z: Tensor, theta: Tensor, sample_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what rows contribute to gradient and loss, by their residuals `r = [x, 1]·θ − y`.

    Args:
        Z: Rows `[x, 1, y]`, shape (batch_size, p + T); or those of n batches, with an axis more.
        theta: θ, shape (p, T), or (n, p, T).
        sample_weight: Shape (batch_size,), or (n, batch_size); ones unless given.

    Returns:
        `2·Σ w·[x, 1]ᵀ·r`, shape (p, T), and `Σ w·r²`, shape (), or for n batches (n, p, T) and
        (n,): sums, not yet divided.

    Example:
        >>> Z = torch.tensor([[2.0, 1.0, 5.0], [3.0, 1.0, 7.0]])
        >>> gradient, squares = gradient_from_rows(Z, torch.tensor([[2.0], [0.0]]))
        >>> gradient.tolist(), squares.item()
        ([[-10.0], [-4.0]], 2.0)
    """
    p = theta.shape[-2]
    r = Z[..., :p] @ theta - Z[..., p:]
    weighted = r if sample_weight is None else r * sample_weight[..., None]
    return 2 * (Z[..., :p].mT @ weighted), (weighted * r).sum((-2, -1))


def step_maps(
    gradient: Tensor,
    scale: Tensor,
    origin: Tensor,
    lrs: Tensor,
    rule: Rule,
    first: bool = False,
    moments: bool = False,
    workspace: Workspace | None = None,
) -> Tensor:
    """Return each step of SGD as one matrix that acts on `[δ; v; 1]`, or `[δ; 1]` without momentum.

    With g the gradient of the objective, as torch.optim.SGD documents it:

        g ← g + weight_decay·θ
        v ← momentum·v + (1 − dampening)·g, and v ← g at the first step of a training
        d = g + momentum·v (nesterov), or v (momentum), or g
        δ ← δ − lr·d

    Args:
        gradient: Of the mean squared error, but for the factor `scale`, as a matrix that acts on
            `[δ; 1]`: for each of K steps, shape (K, p, p + T), or one for all, (1, p, p + T). With
            `moments`, those of the rows of each batch, which `gram` returns.
        scale: What the gradient is to be multiplied with, such as 2/size; shape (K,) or (1,).
        origin: θ where the steps begin, shape (p, T).
        lrs: Shape (K,), float64.
        rule: The update rule, and the L2 penalty, which adds `2·l2·θ` to g, the bias left out.
        first: Whether the first of the steps is the first of a training.
        moments: Whether `gradient` are moments.
        workspace: Memory for what is returned.

    Returns:
        Shape (K, q + T, q + T), with q = 2p where there is momentum and p otherwise.

    Example:
        >>> slope = torch.tensor([[[4.0, -2.0]]]).double()  # of 2δ² − 2δ, as it acts on [δ; 1]
        >>> one, zero = torch.ones(1).double(), torch.zeros(1, 1).double()
        >>> step_maps(slope, one, zero, 0.25 * one, Rule())  # δ ← 0·δ + 0.5
        tensor([[[0.0000, 0.5000],
                 [0.0000, 1.0000]]], dtype=torch.float64)
    """
    workspace = workspace or Workspace()
    p, T = origin.shape
    pulled, pull = bool(rule.l2 or rule.weight_decay), rule.pull(origin)[:, 0]
    if not rule.momentum:
        J = _times(gradient, -lrs * scale, origin, moments, workspace)
        if pulled:
            _add_pull(J[:, :p], -lrs[:, None] * pull, origin)
        J[:, p:] = 0
        J.diagonal(dim1=1, dim2=2).add_(1)
        return J
    g = _times(gradient, scale, origin, moments, workspace)[:, :p]
    if pulled:
        _add_pull(g, pull.expand(len(g), p), origin)
    J = workspace("maps with buffers", (len(lrs), 2 * p + T, 2 * p + T), g).zero_()
    by_v = slice(p, 2 * p)
    v = J[:, by_v]
    v[:, :, :p], v[:, :, 2 * p :] = g[:, :, :p], g[:, :, p:]
    v[int(first) :] *= 1 - rule.dampening
    v[int(first) :, :, by_v].diagonal(dim1=1, dim2=2).add_(rule.momentum)
    d = v
    if rule.nesterov:
        d = rule.momentum * v
        d[:, :, :p] += g[:, :, :p]
        d[:, :, 2 * p :] += g[:, :, p:]
    torch.mul(d, -lrs[:, None, None], out=J[:, :p])
    J[:, :p].diagonal(dim1=1, dim2=2).add_(1)
    J[:, 2 * p :, 2 * p :].diagonal(dim1=1, dim2=2).fill_(1)
    return J


def _times(
    gradient: Tensor, factors: Tensor, origin: Tensor, moments: bool, workspace: Workspace
) -> Tensor:
    """Return gradients times factors in the upper p rows of square float64 matrices."""
    width = sum(origin.shape)
    square = workspace("maps", (len(factors), width, width), origin)
    if moments:
        # Converted first: twice as fast as a product of two precisions.
        return _moved_to(origin, square.copy_(gradient).mul_(factors[:, None, None]))
    square[:, len(origin) :] = 0
    torch.mul(gradient, factors[:, None, None], out=square[:, : len(origin)])
    return square


def _moved_to(origin: Tensor, G: Tensor) -> Tensor:
    """Turn moments, in place, into the gradients that they make as matrices that act on `[δ; 1]`.

    With the moments `[[A, B], [Bᵀ, C]]` of rows `[x, 1, y]`, the gradient of the mean squared error
    at `origin + δ` is `2/size·(A·δ + A·origin − B)`. So the first p rows need nothing but their
    last T columns changed, from B to `A·origin − B`.

    Args:
        origin: θ, shape (p, T).
        G: Shape (K, p + T, p + T), float64 and contiguous.

    Returns:
        The same memory; its last T rows mean nothing any more.
    """
    p, T = origin.shape
    minus_one = -torch.eye(T, dtype=G.dtype, device=G.device)
    width = p + T
    G[:, :, p:] = (G.view(-1, width) @ torch.cat([origin, minus_one])).view(-1, width, T)
    return G


def _add_pull(maps: Tensor, strength: Tensor, origin: Tensor) -> None:
    """Add `strength·θ`, by parameter, to p rows that act on `[δ; 1]`: strength (K, p)."""
    p = len(origin)
    maps[:, :, :p].diagonal(dim1=1, dim2=2).add_(strength)
    maps[:, :, p:] += strength[:, :, None] * origin
