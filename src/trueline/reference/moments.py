"""Steps of least squares from the moments of their rows, and how far such steps may be off.

A training may replace the rows of a step by the moments `Σ s·zᵀz` of rows `z = [x, 1, r]`, s being
the share of a residual in the mean and r the residuals at an anchor θ₀. The judge works out moments
of its own, of rows `z = [x, 1, y]`. Both are sums over rows in float64, and so are rounded alike:
by γ(n) of `Σ s·|x|·(|X||θ₀| + |X||θ − θ₀| + |y|)`. That is not known row by row any more. By the
inequality of Cauchy and Schwarz it is at most what the squares of the columns give.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.reference.linear import share_of
from trueline.reference.rounding import DOUBLE, gamma

Array = NDArray[np.float64]


class Moments(NamedTuple):
    """Means of the products of all columns of rows `[x, 1, y]`.

    Args:
        second: `Σ s·zᵀz` of each step, or one for all; shape (n_steps or 1, p + T, p + T) with
            p = n_features + 1.
        n_targets: Number of targets T.
        roundings: Number of roundings in a sum over the rows.
    """

    second: Array
    n_targets: int
    roundings: int


class Evaluation(NamedTuple):
    """Mean squared errors and gradients of many steps, with bounds on the rounding of both sides.

    Args:
        loss: Mean squared errors, shape (n_steps,).
        gradient: Gradients, shape (n_steps, p, T).
        loss_bound: Bounds on the difference of the losses, shape (n_steps,).
        gradient_bound: Bounds on the difference of the gradients, shape (n_steps, p, T).
    """

    loss: Array
    gradient: Array
    loss_bound: Array
    gradient_bound: Array


def moments_of_all(parts: Iterable[tuple[Array, ...]]) -> Moments:
    """Read rows once, for steps that take in all of them.

    Args:
        parts: Some rows at a time, as X, y and weights where rows have them; any real dtype.

    Example:
        >>> X, y = np.array([[1.0], [2.0]]), np.array([3.0, 5.0])
        >>> moments_of_all([(X[:1], y[:1]), (X[1:], y[1:])]).second[0, 0]
        array([2.5, 1.5, 6.5])
    """
    sums, total, n, Z = np.zeros(()), 0.0, 0, np.empty((0, 0))
    for X, y, *weight in parts:
        f, targets = X.shape[1], 1 if y.ndim == 1 else y.shape[1]
        if len(Z) < len(X):  # kept, since the system hands out fresh memory slowly
            Z = np.ones((len(X), f + 1 + targets))
        z = Z[: len(X)]
        z[:, :f], z[:, f + 1 :] = X, y.reshape(-1, targets)
        w = weight[0].astype(np.float64) if weight else None
        sums = sums + (z if w is None else z * w[:, None]).T @ z
        total += len(X) if w is None else float(w.sum())
        n += len(X)
    return Moments(sums[None] / (total * targets), targets, _roundings(n, bool(weight)))


def moments_of_each(X: Array, y: Array, *weight: Array) -> Moments:
    """Return the moments of the rows of each step.

    Args:
        X: Features, shape (n_steps, n_samples, n_features).
        y: Targets, shape (n_steps, n_samples) or (n_steps, n_samples, n_targets).
        weight: Weights of the rows where they have any, shape (n_steps, n_samples).
    """
    y = y.reshape(*y.shape[:2], -1)
    z = np.concatenate([X, np.ones_like(y[..., :1]), y], axis=2, dtype=np.float64)
    share = share_of(y.shape[2], y.shape[1], *weight)
    weighed = z * (share[..., None] if weight else share)
    return Moments(weighed.mT @ z, y.shape[2], _roundings(y.shape[1], bool(weight)))


def _roundings(n: int, weighted: bool) -> int:
    """Return the number of roundings in a mean over n rows of a product of three factors."""
    return (2 if weighted else 1) * n + 8


def evaluate(
    moments: Moments,
    parameters: Array,
    anchor: Array,
    l1: float = 0.0,
    l2: float = 0.0,
    unit_roundoff: float = DOUBLE,
) -> Evaluation:
    """Evaluate many steps from moments.

    Args:
        moments: Moments of the rows.
        parameters: Weight over bias before each step, shape (n_steps, p, T).
        anchor: Parameters around which training took its moments, shape (p, T).
        l1: Strength of the L1 penalty, which has no gradient.
        l2: Strength of the L2 penalty.
        unit_roundoff: Unit roundoff of the precision that training brings losses and gradients to.

    Example:
        >>> known = moments_of_all([(np.array([[1.0], [2.0]]), np.array([3.0, 5.0]))])
        >>> theta = np.array([[[2.0], [0.0]], [[2.0], [1.0]]])
        >>> found = evaluate(known, theta, theta[0])
        >>> found.loss, found.gradient[0].ravel()
        (array([1., 0.]), array([-3., -2.]))
    """
    (steps, p, targets), second = parameters.shape, moments.second
    minus_one = np.broadcast_to(-np.eye(targets), (steps, targets, targets))
    s = np.concatenate([parameters, minus_one], axis=1)
    products = second @ s
    length = np.sqrt(second.diagonal(axis1=1, axis2=2))[..., None]
    size = np.abs(anchor) + np.abs(parameters - anchor)
    reach = (length[:, :p] * size).sum(axis=1, keepdims=True) + length[:, p:].mT
    rounding = gamma(moments.roundings + 2 * (p + targets) + 8, DOUBLE)
    loss, gradient = (s * products).sum(axis=(1, 2)), 2 * products[:, :p]
    loss_bound = rounding * (reach * reach).sum(axis=(1, 2))
    bound = rounding * 2 * length[:, :p] * reach
    # Brought to the precision of the training, to which the penalty is then added in it.
    w, pull = parameters[:, :-1], np.zeros_like(parameters)
    pull[:, :-1] = 2 * l2 * w
    loss = loss + (l1 * np.abs(w) + l2 * w * w).sum(axis=(1, 2))
    loss_bound = loss_bound + gamma(w[0].size + 5, unit_roundoff) * loss
    bound = bound + gamma(4, unit_roundoff) * (np.abs(gradient) + bound + np.abs(pull))
    return Evaluation(loss, gradient + pull, loss_bound, bound)
