"""How fast SGD converges on an objective with an L1 penalty, and the settings that suit it.

A step with a soft threshold is not affine, so that its powers have no closed form. The training is
run in advance instead: the same update rule, on a root of the Hessian in the place of the rows.
"""

import math
from dataclasses import replace

import numpy as np

from trueline.planning.convergence import Modes, unit_of_distance
from trueline.reference import SGD
from trueline.reference.lasso import ROUNDING, lasso
from trueline.reference.triangle import Array, Line, Triangle

MOST_STEPS = 50_000
"""Steps that are tried, in NumPy one after another: a second where there are few features."""
OPERATIONS = 5e9
"""Multiplications in all these steps: seconds."""
WAIT = 0.25
"""Share of the steps so far during which the training must stay near the minimum."""
NOT_IN_TIME = "not soon"
"""The note of a training that has not converged after `most_steps`."""


def hessian_root(rows: Triangle, l2: float, weight_decay: float) -> Array:
    """Return A, where AᵀA is the Hessian of the squares and L2 penalties by bias and weight.

    The bias comes first. Along a direction that changes no prediction `‖AΔ‖²` is 0 to rounding
    squared, `ΔᵀHΔ` to rounding alone.
    """
    strength = np.full(rows.columns, 2 * l2 + weight_decay)
    strength[0] = weight_decay
    plain = math.sqrt(2 / (rows.rows * rows.n_targets)) * rows.plain[: rows.columns]
    return np.concatenate([plain, np.diag(np.sqrt(strength))[strength > 0]])


def local_modes(rows: Triangle, l1: float, l2: float, weight_decay: float) -> Modes:
    """Return the curvatures that a training meets near the minimum, where some weights stay 0.

    The largest one is that of all weights, for on its way there a training moves all of them.

    Args:
        rows: Rows, as they are trained on.
        l1: Strength of the L1 penalty, > 0.
        l2: Strength of the L2 penalty, ≥ 0.
        weight_decay: Weight decay of the optimizer, ≥ 0.
    """
    weight = np.reshape(lasso(rows, l1, l2, weight_decay).line.weight, (-1, rows.n_targets))
    A = hessian_root(rows, l2, weight_decay)
    H = A.T @ A
    parts = [np.linalg.eigvalsh(H)[-1:]]
    for support in np.unique(weight.T != 0, axis=0):
        free = np.append(True, support)  # the bias too
        parts.append(np.linalg.eigvalsh(H[free][:, free]))
    curvature = np.sort(np.concatenate(parts))[::-1]
    return Modes(np.where(curvature > ROUNDING * curvature[0], curvature, 0.0), np.eye(0))


def most_steps(rows: Triangle) -> int:
    """Return how many steps are tried at most."""
    return int(min(MOST_STEPS, 1000 + OPERATIONS / (rows.columns**2 * rows.n_targets)))


def epochs_with_l1(
    rows: Triangle,
    start: Line,
    sgd: SGD,
    l1: float,
    l2: float,
    accuracy: float,
    most: float = math.inf,
) -> int | None:
    """Return how many full-batch steps a training needs until it has converged for good.

    Args:
        rows: Rows, as they are trained on.
        start: Initial parameters.
        sgd: Update rule.
        l1: Strength of the L1 penalty, > 0.
        l2: Strength of the L2 penalty, ≥ 0.
        accuracy: Distance that counts as converged, see `ClosedForm.distance`.
        most: Steps that are tried, and no more than `most_steps`.

    Returns:
        The number of steps; None where it is more than are tried, or there is none.

    Example:
        >>> from trueline.reference.triangle import triangle
        >>> X = np.array([[1.0, 0.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, 0.0]])
        >>> start = Line(np.ones(2), np.zeros(()))
        >>> epochs_with_l1(triangle(X, 3 * X[:, 0] + 5), start, SGD(lr=0.3), 0.5, 0.0, 1e-6)
        16
    """
    minimum = lasso(rows, l1, l2, sgd.weight_decay)
    A, T = hessian_root(rows, l2, sgd.weight_decay), rows.n_targets
    # From the bias of the minimum on, beside whose size its changes might have few digits.
    best = _joined(minimum.line.weight, np.zeros(T))
    theta = _joined(start.weight, start.bias - minimum.line.bias)
    sgd, buffer = replace(sgd, weight_decay=0.0), None  # which is in the Hessian
    on_weight = np.full((rows.columns, 1), l1)
    on_weight[0] = 0
    pull = _joined(minimum.pull, np.zeros(T))
    limit = (accuracy * unit_of_distance(rows)) ** 2 / T
    late = -1
    for step in range(int(min(most, most_steps(rows)))):
        moved = A @ (theta - best)
        above = np.sum(moved**2, axis=0) / 2 + minimum.bend(theta[1:])
        if not np.isfinite(above).all():
            return None
        if (above > limit).any():
            late = step
        elif step - late > 10 + WAIT * late:
            return late + 1
        theta, buffer = sgd.step(theta, A.T @ moved - pull, buffer, on_weight)
    return None


def _joined(weight: Array, bias: Array) -> Array:
    """Return the bias over the weights, shape (1 + n_features, n_targets)."""
    T = np.size(bias)
    return np.concatenate([np.reshape(bias, (1, T)), np.reshape(weight, (-1, T))])
