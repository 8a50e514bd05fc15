"""K steps of SGD on a linear model, composed into one: pure functions of tensors.

Under the mean squared error, the gradient is an affine function of the parameters, and so a step of
SGD is an affine map of parameters and momentum buffers. Affine maps compose, in any grouping: K of
them in pairs, log₂ K batched products deep, instead of one after another.

Notation: `z = [x, 1, y]` is a row, p = n_features + 1, T targets, and the parameters
`θ = [weight, bias]` are a matrix (p, T). A batch enters by `G = Zᵀ·diag(s)·Z` alone, with s the
share of a row in the mean of the squared residuals. The maps act on the deviation `δ = θ − origin`
from where the K steps begin, and on the momentum buffers v (p, T): near the minimum δ is small
beside θ, and so is what rounding does to it. Maps and states are in float64.

References:
    Kogge & Stone, "A Parallel Algorithm for the Efficient Solution of a General Class of Recurrence
    Equations" (1973); Blelloch, "Prefix Sums and Their Applications" (1990): the scan.
    Devarakonda & Demmel, "Avoiding Communication in Logistic Regression" (2020): s-step SGD.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from trueline.workspace import Workspace

MOST_ROWS = 1024
"""Of a batch whose products are summed in float32; larger ones are in float64."""
REFINED = 2.0**-26
"""A correction below this share of the states leaves its square, which is the rounding of one."""
MOST_REFINEMENTS = 4
"""Each squares the share that is wrong; four bring 1e-1 to the rounding of float64."""


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


def summed_in(dtype: torch.dtype, batch_size: int) -> torch.dtype:
    """Return in which dtype the products of a batch are summed.

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


def moved_to(origin: Tensor, G: Tensor) -> Tensor:
    """Rewrite moments, in place, for rows `[x, 1, residual]`: their last columns become `A·θ − B`.

    With the moments `[[A, B], [Bᵀ, C]]` of rows `[x, 1, y]`, the gradient of the mean squared error
    is `2(A·θ − B)/size`, so that the rows of the result, but the last ones, times `2/size` are the
    gradient as a matrix that acts on `[δ; 1]`.

    Args:
        origin: θ, shape (p, T).
        G: Shape (K, p + T, p + T), float64 and contiguous.
    """
    p, T = origin.shape
    minus_one = -torch.eye(T, dtype=G.dtype, device=G.device)
    width = p + T
    G[:, :, p:] = (G.view(-1, width) @ torch.cat([origin, minus_one])).view(-1, width, T)
    return G


def gradient_from_rows(
    Z: Tensor, origin: Tensor, sample_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what rows contribute to the gradient and the loss at an origin, by their residuals.

    Args:
        Z: Rows `[x, 1, y]`, shape (n_samples, p + T).
        origin: θ, shape (p, T).
        sample_weight: Shape (n_samples,); ones unless given.

    Returns:
        `2·Σ w·[x, 1]ᵀ·r`, shape (p, T), and `Σ w·r²`, shape (): sums, not yet divided.
    """
    p = len(origin)
    r = Z[:, :p] @ origin - Z[:, p:]
    weighted = r if sample_weight is None else r * sample_weight[:, None]
    return 2 * (Z[:, :p].mT @ weighted), (weighted * r).sum()


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
        gradient: Of the squared residuals as a matrix that acts on `[δ; 1]`, for each of K steps,
            or for all of them; shape (K, p, p + T). Rows below the p-th are left aside.
        scale: What the gradient is to be multiplied with, such as 2/size; shape (K,).
        origin: θ, shape (p, T).
        lrs: Shape (K,), float64.
        rule: The update rule, and the L2 penalty, which adds `2·l2·θ` to g, the bias left out.
        first: Whether the first of the steps is the first of a training.
        moments: Whether `gradient` are moments of rows `[x, 1, y]`, which `moved_to` makes it of.
        workspace: For what is returned.

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
    pull = torch.full_like(origin[:, :1], 2 * rule.l2 + rule.weight_decay)
    pull[-1] = rule.weight_decay
    if not rule.momentum:
        J = _times(gradient, -lrs * scale, origin, moments, workspace)
        if rule.l2 or rule.weight_decay:
            _pull(J[:, :p], p, -lrs[:, None] * pull[:, 0], origin)
        J[:, p:] = 0
        J.diagonal(dim1=1, dim2=2).add_(1)
        return J
    g = _times(gradient, scale, origin, moments, workspace)[:, :p]
    if rule.l2 or rule.weight_decay:
        _pull(g, p, pull[:, 0].expand(len(g), p), origin)
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
    """Return gradients times factors in float64, as square matrices; see `step_maps`."""
    width = sum(origin.shape)
    square = workspace("maps", (len(factors), width, width), origin)
    if moments:
        # Converted first: twice as fast as a product of two precisions.
        return moved_to(origin, square.copy_(gradient).mul_(factors[:, None, None]))
    square[:, len(origin) :] = 0
    torch.mul(gradient, factors[:, None, None], out=square[:, : len(origin)])
    return square


def _pull(maps: Tensor, p: int, strength: Tensor, origin: Tensor) -> None:
    """Add `strength·θ`, by parameter, to maps that act on `[δ; 1]`: shape (K, p)."""
    maps[:, :, :p].diagonal(dim1=1, dim2=2).add_(strength)
    maps[:, :, p:] += strength[:, :, None] * origin


class Composed:
    """K maps, and their products over 2, 4, 8, … neighbours: the tree of a scan.

    Args:
        maps: Shape (K, q + T, q + T), in the order of the steps.
        workspace: For their products.

    Example:
        >>> half_and_one = torch.tensor([[[0.5, 1.0], [0.0, 1.0]]]).double()
        >>> Composed(half_and_one.repeat(3, 1, 1)).states(torch.zeros(1, 1).double()).ravel()
        tensor([0.0000, 1.0000, 1.5000, 1.7500], dtype=torch.float64)
    """

    def __init__(self, maps: Tensor, workspace: Workspace | None = None) -> None:
        workspace = workspace or Workspace()
        self._levels = [maps]
        while (K := len(maps)) > 1:
            above = workspace(
                f"products of {2 ** len(self._levels)}", (-(-K // 2), *maps.shape[1:]), maps
            )
            torch.bmm(maps[1::2], maps[:-1:2], out=above[: K // 2])
            if K % 2:
                above[-1] = maps[-1]
            self._levels.append(maps := above)

    def end(self, start: Tensor) -> Tensor:
        """Return the state after the last step, shape (q, T), from the product of all maps."""
        return (self._levels[-1][0] @ _with_ones(start[None])[0])[: len(start)]

    def states(self, start: Tensor) -> Tensor:
        """Return the states before each step and after the last, shape (K + 1, q, T).

        Args:
            start: `[δ; v]` before the first step, shape (q, T).
        """
        before = _with_ones(start[None])
        for maps in reversed(self._levels[:-1]):
            before = _interleave(before, torch.bmm(maps[:-1:2], before[: len(maps) // 2]))
        states = torch.cat([before, torch.bmm(self._levels[0][-1:], before[-1:])])
        return states[:, : len(start)]

    def states_before(self, start: Tensor, steps: Tensor) -> Tensor:
        """Return the states before some steps, by way of the products above each of them.

        Args:
            start: `[δ; v]` before the first step, shape (q, T).
            steps: Their numbers, from 0 to K − 1, on the processor.

        Returns:
            Shape (len(steps), q, T).
        """
        before = _with_ones(start[None]).repeat(len(steps), 1, 1)
        for level in reversed(range(len(self._levels) - 1)):
            # Where the step lies in the right half, the left half comes before it.
            right = torch.nonzero((steps >> level) & 1)[:, 0]
            if len(right):
                left = ((steps[right] >> level) - 1).to(start.device)
                right = right.to(start.device)
                before[right] = torch.bmm(self._levels[level][left], before[right])
        return before[:, : len(start)]

    def responses(self, pushes: Tensor) -> Tensor:
        """Return how a push at each step, added after its map, is felt before the later ones.

        `e ← M·e + push` from e = 0, M being a map without its constant.

        Args:
            pushes: Shape (K, q, T).

        Returns:
            Shape (K + 1, q, T).
        """
        q = pushes.shape[1]
        pushed = [pushes]
        for maps in self._levels[:-1]:
            below = pushed[-1]
            pairs = torch.baddbmm(below[1::2], maps[1::2, :q, :q], below[:-1:2])
            pushed.append(torch.cat([pairs, below[-1:]]) if len(below) % 2 else pairs)
        felt = torch.zeros_like(pushes[:1])
        for maps, own in zip(reversed(self._levels[:-1]), reversed(pushed[:-1]), strict=True):
            upper = felt[: len(maps) // 2]
            felt = _interleave(felt, torch.baddbmm(own[:-1:2], maps[:-1:2, :q, :q], upper))
        last = torch.baddbmm(pushes[-1:], self._levels[0][-1:, :q, :q], felt[-1:])
        return torch.cat([felt, last])

    def residuals(self, states: Tensor) -> Tensor:
        """Return by how much each step misses the state after it, shape (K, q, T)."""
        q = states.shape[1]
        return torch.bmm(self._levels[0], _with_ones(states[:-1]))[:, :q] - states[1:]


class Repeated:
    """One map K times, by its powers 1, 2, 4, …; what `Composed` is of K equal maps.

    Args:
        matrix: The map, shape (q + T, q + T).
        steps: K.

    Example:
        >>> half_and_one = torch.tensor([[0.5, 1.0], [0.0, 1.0]]).double()
        >>> Repeated(half_and_one, 3).states(torch.zeros(1, 1).double()).ravel()
        tensor([0.0000, 1.0000, 1.5000, 1.7500], dtype=torch.float64)
    """

    def __init__(self, matrix: Tensor, steps: int) -> None:
        self.steps = steps
        self._powers = [matrix]
        while 2 ** len(self._powers) <= steps:
            self._powers.append(self._powers[-1] @ self._powers[-1])

    def states(self, start: Tensor) -> Tensor:
        """Return the states before each step and after the last, shape (K + 1, q, T)."""
        states = _with_ones(start[None])
        for power in self._powers:
            left = self.steps + 1 - len(states)
            states = torch.cat([states, power @ states[:left]])
        return states[:, : len(start)]

    def responses(self, pushes: Tensor) -> Tensor:
        """Return how a push at each step is felt before the later ones, see `Composed`."""
        q = pushes.shape[1]
        felt = torch.cat([torch.zeros_like(pushes[:1]), pushes])
        for j, power in enumerate(self._powers):
            earlier = power[:q, :q] @ felt[: -(2**j)]
            felt = torch.cat([felt[: 2**j], felt[2**j :] + earlier])
        return felt

    def residuals(self, states: Tensor) -> Tensor:
        """Return by how much each step misses the state after it, shape (K, q, T)."""
        q = states.shape[1]
        return (self._powers[0] @ _with_ones(states[:-1]))[:, :q] - states[1:]


def one_by_one(
    gradients: Iterable[Callable[[Tensor], Tensor]],
    origin: Tensor,
    buffers: Tensor | None,
    lrs: Tensor,
    rule: Rule,
) -> Tensor:
    """Return the states of K steps that are taken one after another, not composed.

    Where there are so many parameters that a map costs more than what it is made of; the rule is
    that of `step_maps`.

    Args:
        gradients: Of the mean squared error, shape (p, T), as a function of θ; one for each step.
        origin: θ before the first step, shape (p, T), in the dtype that the steps are taken in.
        buffers: Momentum buffers v, in the same shape; None before the first step of a training.
        lrs: Shape (K,).
        rule: The update rule, and the L2 penalty.

    Returns:
        `[θ; v]` before each step and after the last, or θ without momentum: (K + 1, q, T).

    Example:
        >>> of_a_square = [lambda theta: 2 * theta] * 2
        >>> origin, lrs = torch.ones(1, 1), torch.tensor([0.25, 0.25])
        >>> one_by_one(of_a_square, origin, None, lrs, Rule()).ravel()
        tensor([1.0000, 0.5000, 0.2500])
    """
    p, T = origin.shape
    states = origin.new_zeros(len(lrs) + 1, 2 * p if rule.momentum else p, T)
    states[0, :p] = origin
    if buffers is not None and rule.momentum:
        states[0, p:] = buffers
    pull = torch.full_like(origin[:, :1], 2 * rule.l2 + rule.weight_decay)
    pull[-1] = rule.weight_decay
    pulled, first = bool(rule.l2 or rule.weight_decay), buffers is None
    # In memory of its own: the bits of a product may depend on how its factors are aligned.
    theta = origin.clone()
    for before, after, lr, gradient in zip(
        states[:-1].unbind(), states[1:].unbind(), lrs.tolist(), gradients, strict=True
    ):
        g = gradient(theta)
        if pulled:
            g.addcmul_(pull, theta)
        if rule.momentum:
            v = after[p:]
            if first:
                v.copy_(g)
            else:
                torch.mul(before[p:], rule.momentum, out=v).add_(g, alpha=1 - rule.dampening)
            g = g.add_(v, alpha=rule.momentum) if rule.nesterov else v
            first = False
        theta = torch.add(theta, g, alpha=-lr)
        after[:p] = theta
    return states


def polished(maps: Composed | Repeated, start: Tensor) -> Tensor:
    """Return the states of K steps, each right by itself to a few roundings.

    In a tree of products the roundings of many steps come together, and a state may miss the map of
    the one before it by K of them. A refinement takes that back: what the steps miss is pushed
    through the same maps and added, as in the iterative refinement of a triangular system. What is
    left of an error is the share that it was of the states, so that one is enough but where maps
    come near to growing, as with the momentum that suits columns which nearly depend on others.

    Args:
        maps: Of the steps.
        start: `[δ; v]` before the first step, shape (q, T).

    Returns:
        The states before each step and after the last, shape (K + 1, q, T).

    References:
        Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 12.1.

    Example:
        >>> half_and_one = torch.tensor([[0.5, 1.0], [0.0, 1.0]]).double()
        >>> polished(Repeated(half_and_one, 3), torch.zeros(1, 1).double()).ravel()
        tensor([0.0000, 1.0000, 1.5000, 1.7500], dtype=torch.float64)
    """
    states = maps.states(start)
    for _ in range(MOST_REFINEMENTS):
        missed = maps.responses(maps.residuals(states))
        states = states + missed
        if bool((missed.abs().amax(0) <= REFINED * states.abs().amax(0)).all()):
            break
    return states


def _with_ones(states: Tensor) -> Tensor:
    """Append to each state, shape (K, q, T), the identity that a map's constants multiply."""
    K, q, T = states.shape
    joint = states.new_zeros(K, q + T, T)
    joint[:, :q] = states
    joint[:, q:].diagonal(dim1=1, dim2=2).fill_(1)
    return joint


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    """Return even[0], odd[0], even[1], …; there may be one more of the even ones."""
    both = even.new_empty(len(even) + len(odd), *even.shape[1:])
    both[::2], both[1::2] = even, odd
    return both
