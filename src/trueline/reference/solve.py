"""Closed forms to compare with: the least-squares line, and the largest stable learning rate."""

import math

import numpy as np
from numpy.typing import ArrayLike

from trueline.reference.triangle import Line, triangle


def least_squares(
    X: ArrayLike,
    y: ArrayLike,
    l2: float = 0.0,
    weight_decay: float = 0.0,
    sample_weight: ArrayLike | None = None,
) -> Line:
    """Minimise `mean(r²) + l2·Σweight² + weight_decay/2·(Σweight² + Σbias²)` exactly.

    The mean is over all rows and targets, or where rows have weights
    `Σ_i w_i·Σ_t r_it² / (n_targets·Σ_i w_i)`.

    This is the article's "matrix calculation". It factors the rows, under which one is put for each
    penalised parameter, by QR and solves the triangle; XᵀX, whose condition number is the square of
    that of X, is never formed. A row with a weight is multiplied by its root.

    Args:
        X: Features, shape (n_samples, n_features).
        y: Targets, shape (n_samples,) or (n_samples, n_targets).
        l2: Strength of the L2 penalty on the weights, ≥ 0.
        weight_decay: As in SGD: its gradient is weight_decay·θ, for the weights and the bias.
        sample_weight: How much each row counts, shape (n_samples,), > 0; alike unless given.

    Returns:
        The minimiser.

    Raises:
        ValueError: When the columns of `[X 1]` are linearly dependent, so that there is no single
            minimiser.

    References:
        Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 20.2.

    Example:
        >>> from trueline.reference import article
        >>> line = least_squares(article.X, article.y)
        >>> line.weight.round(8), line.bias.round(8)
        (array([1.81878822]), np.float64(36.64702613))
    """
    return triangle(X, y, sample_weight).least_squares(l2, weight_decay)


def simple_regression(x: ArrayLike, y: ArrayLike) -> Line:
    """Fit one input: `weight = cov(x, y)/var(x)`, `bias = mean(y) − weight·mean(x)`.

    Args:
        x: One feature, shape (n_samples,) or (n_samples, 1).
        y: Targets, shape (n_samples,).

    Returns:
        The least-squares line.

    Example:
        >>> line = simple_regression([0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
        >>> line.weight, line.bias
        (array([2.]), array(1.))
    """
    x, y = np.asarray(x, np.float64).reshape(-1), np.asarray(y, np.float64)
    dx, dy = x - x.mean(), y - y.mean()
    weight = np.mean(dx * dy) / np.mean(dx * dx)
    return Line(np.array([weight]), np.asarray(y.mean() - weight * x.mean()))


def largest_stable_lr(
    X: ArrayLike,
    l2: float = 0.0,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    n_targets: int = 1,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Return the learning rate above which full-batch SGD diverges: `2/λmax` for plain SGD.

    λmax is the largest eigenvalue of the objective's Hessian `2/n·[X 1]ᵀ[X 1]` plus the penalties.
    With several targets it is `2/(n·n_targets)·[X 1]ᵀ[X 1]`, the same for each of them; with sample
    weights `[X 1]ᵀ diag(w) [X 1]`, over Σw in the place of n.

    Momentum raises the limit to `2(1 + momentum)/((1 − dampening)·λmax)`, Nesterov's momentum to
    `2(1 + momentum)/((1 + 2·momentum)·λmax)`: where an eigenvalue of the two-by-two map of
    (parameter, buffer) along the stiffest direction reaches −1.

    Args:
        X: Features, shape (n_samples, n_features).
        l2: Strength of the L2 penalty on the weights, ≥ 0.
        weight_decay: As in SGD, ≥ 0.
        momentum: In [0, 1).
        dampening: Of momentum, in [0, 1].
        nesterov: Whether the momentum is Nesterov's.
        n_targets: Columns of y, ≥ 1.
        sample_weight: How much each row counts, shape (n_samples,), > 0; alike unless given.

    Returns:
        The limit, > 0; inf where nothing diverges.

    References:
        Polyak, "Some methods of speeding up the convergence of iteration methods" (1964).

    Example:
        >>> from trueline.reference import article
        >>> round(largest_stable_lr(article.X), 6)
        0.004938
    """
    rows = triangle(X, np.zeros((len(np.asarray(X)), n_targets)), sample_weight)
    return stable_lr(rows.curvature(l2) + weight_decay, momentum, dampening, nesterov)


def stable_lr(
    curvature: float, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False
) -> float:
    """Return the learning rate above which full-batch SGD diverges, as `largest_stable_lr` does.

    Args:
        curvature: The largest eigenvalue λmax of the objective's Hessian, > 0.
        momentum: In [0, 1).
        dampening: Of momentum, in [0, 1].
        nesterov: Whether the momentum is Nesterov's.

    Returns:
        The limit, > 0; inf where nothing diverges.

    Example:
        >>> stable_lr(4.0), stable_lr(4.0, momentum=0.5)
        (0.5, 0.75)
    """
    if nesterov:
        return 2 * (1 + momentum) / ((1 + 2 * momentum) * curvature)
    if momentum and dampening == 1:
        return math.inf  # only the first gradient ever enters the buffer, which decays
    if momentum:
        return 2 * (1 + momentum) / ((1 - dampening) * curvature)
    return 2 / curvature
