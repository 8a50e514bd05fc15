"""All rows in as many numbers as a few of them: the triangle R of their QR factorisation.

With the rows `Z = [1, x − cₓ, y − c_y]`, each times the root of its weight, and `Z = Q·R`, lengths
stay as they are: `‖Z·s‖ = ‖R·s‖` for every s. c is from the middle of the data, so that numbers
that differ little, such as times, keep the digits in which they do. R knows the loss of every line,
the line of the least one, the curvature and the correlations, without a difference of large sums:
XᵀX, whose condition number is the square of that of X, is never formed. The rows are read once,
some at a time.

References:
    Golub & Van Loan, "Matrix Computations" (2013), section 5.3; Demmel, Grigori, Hoemmen & Langou,
    "Communication-optimal Parallel and Sequential QR and LU Factorizations" (2012): R of many rows
    from the R of some at a time.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueline.reference.factored_rows import Columns, FactoredRows, check_same

Array = NDArray[np.float64]

KEPT = 4
"""Triangles whose rank and curvature are known: with a thousand columns each takes seconds."""

Block = tuple[ArrayLike, ArrayLike | None, ArrayLike | None]
"""Some of the rows: X, y and their weights, as `triangle` takes them."""


class Line(NamedTuple):
    """The parameters of `X·weight + bias`.

    Args:
        weight: Shape (n_features,), or (n_features, n_targets) for several targets.
        bias: Shape (), or (n_targets,).
    """

    weight: Array
    bias: Array


@dataclass(frozen=True, eq=False)
class Triangle:
    """R of rows `[1, x − cₓ, y − c_y]`, and how many they were.

    Args:
        R: Upper triangular, shape (height, 1 + n_features + n_targets), with as many rows as
            columns, or as there are rows in the data where these are fewer.
        center: `[cₓ, c_y]`.
        n_samples: Number of rows.
        rows: The sum of their weights; their number where they have none.
        n_targets: Columns of y, ≥ 1.
        single: Whether y had one axis, and the parameters have.
        log_weights: The sum of the logarithms of their weights; 0 where they have none.

    Example:
        >>> t = triangle(np.array([[1.0], [2.0], [3.0]]), np.array([5.0, 7.0, 9.0]))
        >>> line = t.least_squares()
        >>> line.weight.round(12), line.bias.round(12), round(t.loss(Line(np.ones(1), np.ones(()))))
        (array([2.]), np.float64(3.0), 17)
    """

    R: Array
    center: Array
    n_samples: int
    rows: float
    n_targets: int
    single: bool
    log_weights: float = 0.0

    @property
    def columns(self) -> int:
        """Columns of `[1, x]`."""
        return int(self.R.shape[1]) - self.n_targets

    def loss(self, line: Line) -> float:
        """Return the mean squared error of a line."""
        theta = self._joined(line)
        theta[0] -= self.center[self.columns - 1 :]
        s = np.concatenate([theta, -np.eye(self.n_targets)])
        return float(np.sum((self.R @ s) ** 2) / (self.rows * self.n_targets))

    def apart(self, one: Line, other: Line) -> Array:
        """Return how far two lines' predictions are apart, in root mean square; by target."""
        difference = self.R[:, : self.columns] @ (self._joined(one) - self._joined(other))
        return np.asarray(np.linalg.norm(difference, axis=0) / math.sqrt(self.rows))

    @property
    def spread(self) -> Array:
        """The standard deviation of y over all rows, by target; 0 where y is the same in all."""
        lengths = np.linalg.norm(self.without_mean(self.columns), axis=0)
        return np.asarray(lengths / math.sqrt(self.rows))

    @property
    def correlation(self) -> float | None:
        """Pearson's, of one feature with one target; None where either is the same in all rows."""
        x, y = self.without_mean(1).T
        lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
        return float(np.clip(x @ y / lengths, -1, 1)) if lengths else None

    def of_target(self, target: int) -> "Triangle":
        """Return the same rows with one of their targets alone, by its number."""
        p = self.columns
        R = np.asarray(np.linalg.qr(self.R[:, [*range(p), p + target]], mode="r"))
        center = self.center[[*range(p - 1), p - 1 + target]]
        return replace(self, R=R, center=center, n_targets=1, single=True)

    def of_features(self, features: NDArray[np.int64]) -> "Triangle":
        """Return the same rows with some of their features alone, by their numbers."""
        p, numbers = self.columns, np.asarray(features, np.int64)
        own = [*numbers, *range(p - 1, self.R.shape[1] - 1)]
        R = np.asarray(np.linalg.qr(self.R[:, [0, *(1 + j for j in own)]], mode="r"))
        return replace(self, R=R, center=self.center[own])

    def gradient(self, line: Line) -> Array:
        """Return the gradient of `loss` by the bias and the weights; (columns, n_targets)."""
        theta = self._joined(line)
        theta[0] -= self.center[self.columns - 1 :]
        residual = self.R @ np.concatenate([theta, -np.eye(self.n_targets)])
        factor = 2 / (self.rows * self.n_targets)
        return np.asarray(factor * self.plain.T @ residual)

    def without_mean(self, first: int) -> Array:
        """Return columns as deviations from their means; zeros where all there is is rounding."""
        found, means = self.R[1:, first:], self.R[0, first:]
        rounding = 8 * np.finfo(np.float64).eps * math.sqrt(self.n_samples) * np.abs(means)
        return np.where(np.linalg.norm(found, axis=0) > rounding, found, 0.0)

    def least_squares(self, l2: float = 0.0, weight_decay: float = 0.0) -> Line:
        """Return the line of the least loss with its penalties, see `solve.least_squares`.

        Raises:
            ValueError: When the columns of `[1, x]` are linearly dependent.
        """
        A, y = self.penalised(l2, weight_decay)
        p = self.columns
        length, rank = self._lengths_and_rank(A)
        if rank < p:
            raise ValueError(
                f"expected linearly independent columns in [X 1]; found rank {rank} for {p} "
                f"columns over {self.n_samples} rows; remove constant or collinear columns, or "
                "give an L2 penalty"
            )
        Q, R = np.linalg.qr(A / length)
        solution = np.linalg.solve(R, Q.T @ y) / length[:, None]
        weight = solution[1:]
        bias = solution[0] - self.center[: p - 1] @ weight + self.center[p - 1 :]
        return Line(weight[:, 0], np.asarray(bias[0])) if self.single else Line(weight, bias)

    def rank(self, l2: float = 0.0, weight_decay: float = 0.0) -> int:
        """Return how many columns of `[1, x]`, over their penalties, are linearly independent."""
        return _rank(self, l2, weight_decay)

    def penalised(self, l2: float, weight_decay: float) -> tuple[Array, Array]:
        """Return `[1, x − cₓ]` and y, each over a row for each penalised parameter."""
        p = self.columns
        if not (l2 or weight_decay):
            return self.R[:, :p], self.R[:, p:]
        strength = np.full(p, l2 + weight_decay / 2)
        strength[0] = weight_decay / 2
        # The objective is solved for times n_targets·Σw, which takes the mean out of the residuals.
        penalised = np.diag(np.sqrt(self.rows * self.n_targets * strength))[strength > 0]
        # The bias of the centered rows is b + cₓ·w − c_y, and b is what is penalised.
        back = np.eye(p)
        back[0, 1:] = -self.center[: p - 1]
        center = np.zeros((p, self.n_targets))
        center[0] = self.center[p - 1 :]
        return (
            np.concatenate([self.R[:, :p], penalised @ back]),
            np.concatenate([self.R[:, p:], -penalised @ center]),
        )

    def _lengths_and_rank(self, A: Array) -> tuple[Array, int]:
        """Return the lengths of the columns of `penalised` rows, and their rank."""
        p = self.columns
        # With columns of length 1, neither units nor sizes decide what counts as dependent.
        length = np.linalg.norm(A, axis=0)
        # Below these are the roundings of the numbers as they came, and of a QR factorisation.
        rounding = 4 * np.finfo(np.float64).eps * np.abs(self.center[: p - 1])
        rounding *= math.sqrt(self.rows)
        A = np.where(length > np.append(0, rounding), A, 0.0)
        length[~A.any(axis=0)] = 1
        singular = np.linalg.svd(A / length, compute_uv=False)
        height = self.n_samples + len(A) - len(self.R)
        # Rounding errors of a sum of n terms grow with its root (Higham & Mary 2019).
        least = (8 + math.sqrt(max(height, p))) * singular.max() * np.finfo(np.float64).eps
        least += (rounding / length[1:])[A[:, 1:].any(axis=0)].max(initial=0)
        return length, int(np.sum(singular > least))

    def curvature(self, l2: float = 0.0) -> float:
        """Return the largest eigenvalue of the Hessian of loss and L2 penalty, by one target.

        It is inf where it is beyond float64.
        """
        return _curvature(self, l2)

    @property
    def plain(self) -> Array:
        """R of rows `[1, x]`, but for its orthogonal factor."""
        p = self.columns
        plain = self.R[:, :p].copy()
        plain[:, 1:] += np.outer(plain[:, 0], self.center[: p - 1])
        return plain

    def _joined(self, line: Line) -> Array:
        """Return the bias of the rows with centered x, over the weight."""
        weight = np.reshape(line.weight, (-1, self.n_targets))
        bias = np.reshape(line.bias, (1, -1)) + self.center[: self.columns - 1] @ weight
        return np.concatenate([bias, weight])


@lru_cache(maxsize=KEPT)
def _rank(rows: Triangle, l2: float, weight_decay: float) -> int:
    return rows._lengths_and_rank(rows.penalised(l2, weight_decay)[0])[1]


@lru_cache(maxsize=KEPT)
def _curvature(rows: Triangle, l2: float) -> float:
    A = rows.plain * math.sqrt(2 / (rows.rows * rows.n_targets))
    if l2:
        A = np.concatenate([A, math.sqrt(2 * l2) * np.eye(rows.columns)[1:]])
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(A, 2) ** 2)


def triangle(
    X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
) -> Triangle:
    """Factor the rows `[1, x, y]`.

    Args:
        X: Features, shape (n_samples, n_features), any real dtype.
        y: Targets, shape (n_samples,) or (n_samples, n_targets); zeros unless given.
        sample_weight: How much each row counts, shape (n_samples,), > 0; alike unless given.

    Returns:
        The triangle, from which all closed forms come.

    Raises:
        ValueError: When there are no rows.

    Example:
        >>> rows = triangle([[1.0], [2.0], [3.0]], [3.0, 5.0, 7.0])
        >>> line = rows.least_squares()
        >>> line.weight.round(9), line.bias.round(9)
        (array([2.]), np.float64(1.0))
    """
    return triangle_of([(X, y, sample_weight)])


def triangle_of(blocks: Iterable[Block]) -> Triangle:
    """Factor rows that come some at a time: the same, to the bit, as of all at once.

    Args:
        blocks: Of X, y and sample_weight, each as `triangle` takes them.

    Returns:
        The triangle of all rows.

    Raises:
        ValueError: When there are no rows, or some with other columns.

    Example:
        >>> parts = triangle_of([([[1.0]], [3.0], None), ([[2.0]], [5.0], None)])
        >>> whole = triangle([[1.0], [2.0]], [3.0, 5.0])
        >>> bool((parts.R == whole.R).all()), parts.n_samples
        (True, 2)
    """
    rows = FactoredRows()
    for X, y, sample_weight in blocks:
        rows.add(X, y, sample_weight)
    R, center = rows.factored()
    _, n_targets, single = rows.columns
    return Triangle(R, center, rows.n_samples, rows.weights, n_targets, single, rows.log_weights)


def merged(one: Triangle, other: Triangle) -> Triangle:
    """Return the triangle of the rows of both, such as two files or two processes have.

    Both are written about the mean of all rows first: `[1, x − c] = [1, x − c′]` with `c′ − c`
    times the column of ones added to the rest, which changes the first row of R alone.

    Args:
        one: Of some rows.
        other: Of others with the same columns.

    Returns:
        The triangle of all of them.

    Raises:
        ValueError: When they have different columns.

    Example:
        >>> one, other = triangle([[1.0], [2.0]], [3.0, 5.0]), triangle([[3.0]], [7.0])
        >>> merged(one, other).least_squares().weight.round(9)
        array([2.])
    """
    check_same(*(Columns(t.columns - 1, t.n_targets, t.single) for t in (one, other)))
    parts = (one, other)
    rows = one.rows + other.rows
    means = [t.center + t.R[0, 1:] / t.R[0, 0] for t in parts]
    center = means[0] + other.rows / rows * (means[1] - means[0])
    moved = [t.R.copy() for t in parts]
    for R, t in zip(moved, parts, strict=True):
        R[0, 1:] += R[0, 0] * (t.center - center)
    return replace(
        one,
        R=np.asarray(np.linalg.qr(np.concatenate(moved), mode="r")),
        center=center,
        n_samples=one.n_samples + other.n_samples,
        rows=rows,
        log_weights=one.log_weights + other.log_weights,
    )
