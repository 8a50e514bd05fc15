"""Closed forms to compare with: the least-squares line, and the largest stable learning rate."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from trueline.reference.linear import Array, hessian, share_of


class Line(NamedTuple):
    """The parameters of `X·weight + bias`.

    Args:
        weight: Shape (n_features,), or (n_features, n_targets) for several targets.
        bias: Shape (), or (n_targets,).
    """

    weight: Array
    bias: Array


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

    This is the article's "matrix calculation". It factors `[X 1]`, under which a row is put for
    each penalised parameter, by QR and solves the triangle; XᵀX, whose condition number is the
    square of that of X, is never formed. A row with a weight is multiplied by its root.

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
    X, y = np.asarray(X, np.float64), np.asarray(y, np.float64)
    n_samples, n_features = X.shape
    A, target, rows = np.column_stack([X, np.ones(n_samples)]), y.T, float(n_samples)
    if sample_weight is not None:
        w = np.asarray(sample_weight, np.float64)
        A, target, rows = np.sqrt(w)[:, None] * A, np.sqrt(w) * target, np.sum(w)
    strength = np.full(n_features + 1, weight_decay / 2)
    strength[:-1] += l2
    # The objective is solved for times n_targets·Σw, which takes the mean out of the residuals.
    penalised = np.diag(np.sqrt(rows * (y.size / n_samples) * strength))[strength > 0]
    A = np.vstack([A, penalised])
    target = np.concatenate([target.T, np.zeros((len(penalised), *y.shape[1:]))])
    # With columns of length 1, neither units nor sizes decide what counts as dependent.
    length = np.linalg.norm(A, axis=0)
    A = A / np.where(length > 0, length, 1)
    rank = np.linalg.matrix_rank(A)
    if rank <= n_features:
        raise ValueError(
            f"expected linearly independent columns in [X 1]; found rank {rank} for "
            f"{n_features + 1} columns over {n_samples} rows; remove constant or collinear "
            "columns, or give an L2 penalty"
        )
    Q, R = np.linalg.qr(A)
    solution = (np.linalg.solve(R, Q.T @ target).T / length).T
    return Line(solution[:-1], np.asarray(solution[-1]))


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


def correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of one feature with the target, in [−1, 1].

    Example:
        >>> round(correlation([0.0, 1.0, 2.0], [1.0, 3.0, 2.0]), 12)
        0.5
    """
    x, y = np.asarray(x, np.float64).reshape(-1), np.asarray(y, np.float64)
    dx, dy = x - x.mean(), y - y.mean()
    return float(np.clip(np.sum(dx * dy) / np.sqrt(np.sum(dx * dx) * np.sum(dy * dy)), -1, 1))


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
    X = np.asarray(X, np.float64)
    weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
    H = hessian(X, share_of(n_targets, len(X), weights), l2)
    if not np.isfinite(H).all():
        return 0.0  # the squares of X are beyond float64
    curvature = float(np.linalg.eigvalsh(H)[-1]) + weight_decay
    if nesterov:
        return 2 * (1 + momentum) / ((1 + 2 * momentum) * curvature)
    if momentum and dampening == 1:
        return math.inf  # only the first gradient ever enters the buffer, which decays
    if momentum:
        return 2 * (1 + momentum) / ((1 - dampening) * curvature)
    return 2 / curvature
