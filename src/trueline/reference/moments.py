"""How far steps from moments may be from the same steps by the residuals of their rows.

The moments `Zᵀ·diag(s)·Z` of rows `z = [x, 1, r]`, r being residuals at an anchor θ₀, replace the
rows of a step. What is compared is one step: NumPy takes it by the residuals of its rows, or for
many rows by moments of its own.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.reference.rounding import DOUBLE, gamma

Array = NDArray[np.float64]

ROWS_AT_ONCE = 2**15
"""So that what is worked out of them stays in the processor's caches."""


class Evaluation(NamedTuple):
    """The gradients of many steps, and what their rounding errors are in proportion to.

    Args:
        loss: Mean squared errors, shape (n_steps,).
        gradient: Of them, by weight and bias, shape (n_steps, n_features + 1, n_targets).
        loss_reach: `Σ s·(|X||θ₀| + |X||δ| + |y|)²`, shape (n_steps,).
        gradient_reach: `2·|X|ᵀ·s·(|X||θ₀| + |X||δ| + |y|)`, in the shape of the gradient.
    """

    loss: Array
    gradient: Array
    loss_reach: Array
    gradient_reach: Array


def evaluate(
    X: Array, y: Array, share: Array | float, parameters: Array, anchor: Array
) -> Evaluation:
    """Evaluate the mean squared errors and gradients of many steps.

    Args:
        X: Features, shape (n_steps, n_samples, n_features); or (1, …) where all steps share them.
        y: Targets, shape (n_steps or 1, n_samples, n_targets).
        share: Of each residual in the mean: a number, or shape (n_steps or 1, n_samples, 1).
        parameters: Weight over bias before each step, shape (n_steps, n_features + 1, n_targets).
        anchor: θ₀, from which deviations are counted, in the shape of the parameters.

    Example:
        >>> X, y = np.array([[[1.0], [2.0]]]), np.array([[[3.0], [5.0]]])
        >>> theta = np.array([[[2.0], [0.0]], [[2.0], [1.0]]])
        >>> found = evaluate(X, y, 0.5, theta, theta)
        >>> found.loss, found.gradient[0].ravel()
        (array([1., 0.]), array([-3., -2.]))
    """
    if X.shape[1] > ROWS_AT_ONCE:  # all that is returned are sums over rows
        parts = []
        for first in range(0, X.shape[1], ROWS_AT_ONCE):
            some = slice(first, first + ROWS_AT_ONCE)
            part = share[:, some] if isinstance(share, np.ndarray) else share
            parts.append(evaluate(X[:, some], y[:, some], part, parameters, anchor))
        return Evaluation(*(np.sum(sums, axis=0) for sums in zip(*parts, strict=True)))
    X, y = X.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
    steps, p, targets = parameters.shape
    size = np.abs(anchor) + np.abs(parameters - anchor)
    if shared := len(X) == 1:
        # The steps as so many targets of one step: two large products in the place of many small.
        parameters, size = (
            a.transpose(1, 0, 2).reshape(1, p, steps * targets) for a in (parameters, size)
        )
        y = np.tile(y, (1, 1, steps))
    weight, bias, magnitude = parameters[:, :-1], parameters[:, -1:], np.abs(X)
    r = X @ weight + bias - y
    reach = magnitude @ size[:, :-1] + size[:, -1:] + np.abs(y)
    part, reached = 2 * share * r, 2 * share * reach
    by_loss = [(half * whole).sum(axis=1) / 2 for half, whole in ((part, r), (reached, reach))]
    by_parameter = [
        np.concatenate([X_T @ s, s.sum(axis=1, keepdims=True)], axis=1)
        for X_T, s in ((X.swapaxes(1, 2), part), (magnitude.swapaxes(1, 2), reached))
    ]
    if shared:
        by_loss = [loss.reshape(steps, targets) for loss in by_loss]
        by_parameter = [g.reshape(p, steps, targets).transpose(1, 0, 2) for g in by_parameter]
    losses = [loss.sum(axis=1) for loss in by_loss]
    return Evaluation(losses[0], by_parameter[0], losses[1], by_parameter[1])


class Moments(NamedTuple):
    """Means of the products of all columns of rows `[x, 1, y]`.

    Args:
        second: `Σ s·zᵀz`, s being the share of a residual in the mean: shape (p + T, p + T), with
            p = n_features + 1.
        n_targets: T.
    """

    second: Array
    n_targets: int


def moments(parts: Iterable[tuple[Array, ...]]) -> Moments:
    """Read rows once, for what steps over all of them need.

    Args:
        parts: Some rows at a time, as X, y of shape (n_samples, n_targets), and weights where rows
            have them; any real dtype. What is returned is in float64.

    Example:
        >>> X, y = np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]])
        >>> moments([(X[:1], y[:1]), (X[1:], y[1:])]).second[0]
        array([2.5, 1.5, 6.5])
    """
    sums, total, Z = None, 0.0, np.empty((0, 0))
    for X, y, *weight in parts:
        n, n_features = X.shape
        width = n_features + 1 + y.shape[1]
        if len(Z) < n:
            Z = np.ones((n, width))
        z = Z[:n]
        z[:, :n_features], z[:, n_features + 1 :] = X, y
        products = (z * weight[0][:, None]).T @ z if weight else z.T @ z
        sums = products if sums is None else sums + products
        total += float(weight[0].sum(dtype=np.float64)) if weight else n
        targets = y.shape[1]
    return Moments(sums / (total * targets), targets)


def evaluate_all_rows(known: Moments, parameters: Array, anchor: Array) -> Evaluation:
    """Evaluate many steps that take in all rows, from the moments of these.

    What rounding is in proportion to is not known row by row; by the inequality of Cauchy and
    Schwarz it is at most what is returned.

    Args:
        known: Of the rows.
        parameters: Weight over bias before each step, shape (n_steps, n_features + 1, n_targets).
        anchor: θ₀, from which deviations are counted, in the shape of the parameters.

    Example:
        >>> known = moments([(np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]]))])
        >>> theta = np.array([[[2.0], [0.0]], [[2.0], [1.0]]])
        >>> found = evaluate_all_rows(known, theta, theta)
        >>> found.loss, found.gradient[0].ravel()
        (array([1., 0.]), array([-3., -2.]))
    """
    steps, p, targets = parameters.shape
    minus_one = np.broadcast_to(-np.eye(targets), (steps, targets, targets))
    s = np.concatenate([parameters, minus_one], axis=1)
    products = known.second @ s
    length = np.sqrt(np.diag(known.second))
    size = np.abs(anchor) + np.abs(parameters - anchor)
    reach = np.einsum("j,kjt->kt", length[:p], size) + length[p:]
    return Evaluation(
        (s * products).sum(axis=(1, 2)),
        2 * products[:, :p],
        (reach * reach).sum(axis=1),
        2 * length[:p, None] * reach[:, None],
    )


def gradient_bound(
    found: Evaluation, n_samples: int, weighted: bool, unit_roundoff: float
) -> Array:
    """Bound the rounding error of a gradient that comes from moments.

    An entry of the moments is a sum of so many products, each rounded where it is weighted; their
    product with the parameters is in float64, and so is the division by rows and targets.

    Args:
        found: What is judged.
        n_samples: Rows of a step.
        weighted: Whether rows have weights.
        unit_roundoff: In which the moments are summed.
    """
    p = found.gradient.shape[1]
    sums = gamma((2 if weighted else 1) * n_samples + 4, unit_roundoff)
    return (sums + gamma(p + 8, DOUBLE)) * found.gradient_reach
