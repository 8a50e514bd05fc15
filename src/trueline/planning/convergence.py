"""How fast SGD converges on the mean squared error, worked out before a training.

A full-batch step of SGD is an affine map. In the eigenvectors of the objective's Hessian, with
eigenvalues λ, the distance from the optimum falls apart into modes that do not know of each other:
each is multiplied by 1 − lr·λ, or with momentum by a map of two numbers, the distance and the
buffer. The k-th power of such a map has a closed form, so that the state after a billion steps
costs as much as that after one. λ and the modes come from a singular value decomposition of the
triangle of the rows, never from XᵀX.

References:
    Polyak, "Some methods of speeding up the convergence of iteration methods" (1964).
    Goh, "Why Momentum Really Works" (2017): the modes, with and without momentum.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.reference import SGD
from trueline.reference.triangle import KEPT, Array, Line, Triangle

Complex = NDArray[np.complex128]

CONVERGED_WITHIN = 1e-6
"""A run has converged when its predictions are, in root mean square, this close to those of the
closed form, as a fraction of the spread of y, for each target: six digits of the line are then
right."""
SAMPLES = 2**10
"""Steps that are looked at in one round of the search for the last one above the accuracy."""
MOST_STEPS = 10**15
"""Beyond it a step's number times a rate's rounding error, 1e-16, is no longer small."""
LOG_OF_0 = -700.0
"""What stands for log(0): the smallest float64 is e⁻⁷⁴⁵."""


class Modes(NamedTuple):
    """The Hessian of the objective, `mean(r²) + l2·Σweight² + weight_decay/2·Σθ²`, in modes.

    Args:
        curvature: Its eigenvalues λ, descending, shape (1 + n_features,); 0 for each column of
            `[1, x]` that depends on others.
        left: By columns, what each mode changes in the rows of the triangle, and under them in the
            residuals of the penalties; orthonormal, but for zeros where there are more modes than
            rows.
    """

    curvature: Array
    left: Array

    @property
    def largest(self) -> float:
        """The curvature of the stiffest mode."""
        return float(self.curvature[0])

    @property
    def smallest(self) -> float:
        """The curvature of the slowest mode that is not flat."""
        return float(self.curvature[self.curvature > 0][-1])

    @property
    def condition(self) -> float:
        """The largest curvature over the smallest; inf where columns are dependent."""
        return self.largest / self.smallest if self.curvature[-1] > 0 else math.inf


@lru_cache(maxsize=KEPT)
def modes(rows: Triangle, l2: float = 0.0, weight_decay: float = 0.0) -> Modes:
    """Decompose the Hessian of the objective.

    Args:
        rows: As they are trained on.
        l2: Strength of the L2 penalty, ≥ 0.
        weight_decay: Of the optimizer, ≥ 0.

    Returns:
        The modes, the stiffest first.

    Example:
        >>> from trueline.reference import article
        >>> from trueline.reference.triangle import triangle
        >>> modes(triangle(article.X, article.y)).curvature.round(4)
        array([404.9928,   0.4738])
    """
    A, p = _root(rows, l2, weight_decay), rows.columns
    found, singular, _ = np.linalg.svd(A, full_matrices=False)
    curvature, left = np.zeros(p), np.zeros((len(A), p))
    rank = rows.rank(l2, weight_decay)
    curvature[:rank], left[:, : len(singular)] = singular[:rank] ** 2, found
    return Modes(curvature, left)


def condition(rows: Triangle, l2: float = 0.0, weight_decay: float = 0.0) -> float:
    """Return the condition number of the Hessian, as `modes` have it, in a fraction of the time.

    Args:
        rows: Rows to train on.
        l2: Strength of the L2 penalty, ≥ 0.
        weight_decay: Weight decay of the optimizer, ≥ 0.
    """
    if rows.rank(l2, weight_decay) < rows.columns:
        return math.inf
    singular = np.linalg.svd(_root(rows, l2, weight_decay), compute_uv=False)
    return float(np.square(singular[0] / singular[-1]))


def _root(rows: Triangle, l2: float, weight_decay: float) -> Array:
    """Return A with the Hessian AᵀA: rows of the triangle over those of the penalties."""
    p = rows.columns
    return np.concatenate([rows.plain[:p] * _scale(rows), _penalties(p, l2, weight_decay)])


def unit_of_distance(rows: Triangle) -> Array:
    """Return what the distance of predictions from the closed form is divided by.

    Returns:
        The spread of y, or 1 where y is the same in all rows; in units of y, shape (n_targets,).
    """
    spread = rows.spread
    return np.where(spread > 0, spread, 1.0)


def _scale(rows: Triangle) -> float:
    """Return what makes the squares of the rows those in the Hessian."""
    return math.sqrt(2 / (rows.rows * rows.n_targets))


def _penalties(p: int, l2: float, weight_decay: float) -> Array:
    """Return the rows under `[1, x]` that stand for the penalties, without zeros."""
    strength = np.array([weight_decay] + [2 * l2 + weight_decay] * (p - 1))
    (which,) = np.nonzero(strength)
    penalties = np.zeros((len(which), p))
    penalties[np.arange(len(which)), which] = np.sqrt(strength[which])
    return penalties


def epochs(
    rows: Triangle, start: Line, sgd: SGD, l2: float = 0.0, accuracy: float = CONVERGED_WITHIN
) -> int | None:
    """Return how many full-batch steps a training needs until it has converged for good.

    It has converged when its predictions are, in root mean square, within `accuracy` of the spread
    of y of those of the closed form, for each target. With momentum the distance swings: what is
    returned is the step after the last one that is further away. Up to a thousand steps all are
    looked at; of more, a thousand at a time, so that a swing shorter than a thousandth of the
    training may be missed.

    Args:
        rows: As they are trained on.
        start: The initial parameters.
        sgd: The update rule.
        l2: Strength of the L2 penalty, ≥ 0.
        accuracy: As a fraction of the spread of y, > 0.

    Returns:
        The number of steps; None where it never converges, or takes more than 10¹⁵ steps.

    Example:
        >>> from trueline.reference import article
        >>> from trueline.reference.triangle import triangle
        >>> zero = Line(np.zeros(1), np.zeros(()))
        >>> epochs(triangle(article.X, article.y), zero, SGD(lr=0.001))
        29852
    """
    found = modes(rows, l2, sgd.weight_decay)
    moving = found.curvature > 0
    height = min(len(rows.R), rows.columns)
    curvature, directions = found.curvature[moving], found.left[:height, moving]
    offset = (found.left.T @ _residuals(rows, start, l2, sgd.weight_decay))[moving]
    # In the units of the criterion: one is on the line between converged and not.
    offset *= math.sqrt(rows.n_targets / 2) / (accuracy * unit_of_distance(rows))
    if not np.isfinite(offset).all() or log_rate(curvature, sgd).max() >= 0:
        return None

    def above(steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which of some steps are too far away."""
        factor = decay(curvature, sgd, steps)
        far = [np.linalg.norm((factor * e) @ directions.T, axis=1) > 1 for e in offset.T]
        return np.flatnonzero(np.any(far, axis=0))

    end = 1
    while len(above(_spaced(end, 4 * end))):
        end *= 2
        if end > MOST_STEPS:
            return None
    low, high = -1, end
    while high - low > 1:
        steps = _spaced(low + 1, high)
        late = above(steps)
        if not len(late):
            return low + 1
        low = int(steps[late[-1]])
        high = int(steps[late[-1] + 1])
    return high


def _residuals(rows: Triangle, start: Line, l2: float, weight_decay: float) -> Array:
    """Return `[1, x]·θ − y`, in the rows of the triangle, over the penalties' residuals."""
    p, T = rows.columns, rows.n_targets
    weight, bias = np.reshape(start.weight, (-1, T)), np.reshape(start.bias, (1, T))
    center_x, center_y = rows.center[: p - 1], rows.center[p - 1 :]
    s = np.concatenate([bias + center_x @ weight - center_y, weight, -np.eye(T)])
    penalties = _penalties(p, l2, weight_decay) @ np.concatenate([bias, weight])
    return np.concatenate([rows.R[:p] @ s * _scale(rows), penalties])


def _spaced(first: int, last: int) -> NDArray[np.int64]:
    """Return whole numbers from first to last, all of them where they are few."""
    count = min(SAMPLES, last - first) + 1
    return first + np.arange(count, dtype=np.int64) * (last - first) // max(count - 1, 1)


def decay(curvature: Array, sgd: SGD, steps: NDArray[np.int64]) -> Array:
    """Return what is left of each mode after some steps, as a multiple of what it was.

    With momentum, c after k steps obeys `c_k = (x₁ + x₂)·c_{k−1} − x₁·x₂·c_{k−2}` from the third
    on, where x are the eigenvalues of its map; the first step has its own rule in torch, for the
    buffer begins as the first gradient, undamped.

    Args:
        curvature: λ of each mode, > 0, shape (n_modes,).
        sgd: The update rule; its weight decay is in the curvature.
        steps: How many were taken, shape (n,).

    Returns:
        Shape (n, n_modes).
    """
    a, m, k = sgd.lr * curvature, sgd.momentum, steps[:, None]
    if not m:
        log = _log_of_one_less(a.astype(complex))
        return np.where(k == 0, 1.0, np.exp(k * log).real)
    s_1, s_2, gap = _roots(a, sgd)
    # The first step, from a buffer that holds the gradient: a; then the second one.
    first = 1 - a * (1 + m) if sgd.nesterov else 1 - a
    buffer = m * a + (a if sgd.nesterov else a * (1 - sgd.dampening)) * first
    second = first - (a * first + m * buffer if sgd.nesterov else buffer)
    determinant = m * (1 - a) if sgd.nesterov else np.full_like(a, m)
    powers = [_quotient(np.maximum(k - j, 0), s_1, s_2, gap) for j in (1, 2)]
    later = second * powers[0] - determinant * first * powers[1]
    return np.where(k == 0, 1.0, np.where(k == 1, first, later))


def log_rate(curvature: Array, sgd: SGD) -> Array:
    """Return the logarithm of what a step multiplies each mode by, in the end; above 0 it diverges.

    It is the logarithm of the spectral radius of the mode's map, and keeps its digits near 0.

    Args:
        curvature: λ of each mode, > 0, shape (n_modes,).
        sgd: The update rule; its weight decay is in the curvature.

    Returns:
        Shape (n_modes,).
    """
    a = (sgd.lr * curvature).astype(complex)
    near = _roots(a.real, sgd)[:2] if sgd.momentum else (a, a)
    return np.asarray(np.maximum(*(_log_of_one_less(s).real for s in near)))


def _roots(a: Array, sgd: SGD) -> tuple[Complex, Complex, Complex]:
    """Return what the eigenvalues of the maps lack of 1, and the difference of the two.

    They solve `s² − q·s + b = 0`. Its discriminant is taken in factors, for at the best learning
    rate it is 0.

    Args:
        a: lr·λ.
        sgd: With momentum.

    Returns:
        s₁ and s₂ = 1 − x₁ and 1 − x₂, and s₁ − s₂; each of the shape of `a`.
    """
    m = sgd.momentum
    if sgd.nesterov:
        b, q = a, 1 - m + a * (1 + m)
        stiff = (1 + m) * np.sqrt(a)
        discriminant = (1 - a) * ((1 - m) - stiff) * ((1 - m) + stiff)
    else:
        b = a * (1 - sgd.dampening)
        q = 1 - m + b
        root, drag = np.sqrt(b), math.sqrt(m)
        discriminant = (1 - root - drag) * (1 - root + drag) * (1 + root - drag)
        discriminant = discriminant * (1 + root + drag)
    gap = np.sqrt(discriminant.astype(complex))
    far = (q + gap) / 2
    return far, b / far, gap


def _log_of_one_less(s: Complex) -> Complex:
    """Return log(1 − s), with all its digits where s is small; where s is 1, `LOG_OF_0`."""
    x = 1 - s
    size = np.abs(x)
    near = np.abs(s) < 0.5
    lost = np.where(near, s.real * (s.real - 2) + s.imag**2, 0.0)
    with np.errstate(divide="ignore"):
        log = np.where(near, np.log1p(lost) / 2, np.log(size))
    return np.asarray(np.maximum(log, LOG_OF_0) + 1j * np.angle(x))


def _quotient(n: Any, s_1: Complex, s_2: Complex, gap: Complex) -> Array:
    """Return `(x₁ⁿ − x₂ⁿ)/(x₁ − x₂)` of eigenvalues x = 1 − s, also where the two are one."""
    log_1, log_2 = _log_of_one_less(s_1), _log_of_one_less(s_2)
    swap = log_1.real > log_2.real
    low, high = np.where(swap, log_2, log_1), np.where(swap, log_1, log_2)
    gap = np.where(swap, -gap, gap)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = -np.exp(n * high) * np.expm1(n * (low - high)) / gap
    equal = n * np.exp((n - 1) * high)
    return np.asarray(np.where(gap == 0, equal, quotient).real)
