"""The columns of `[1, x]` that depend on none before them; of the others, rounding is left.

As R does, the later one of dependent columns is left out. How small a remainder is rounding alone
follows from the numbers that it is the difference of, not from a fixed share of the column: a
polynomial of degree 10, whose columns agree to nine digits, is solved.

References:
    Golub & Van Loan, "Matrix Computations" (2013), section 5.4: the staircase of a QR factorisation
    where columns depend on earlier ones.
"""

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueline.reference.triangle import KEPT, Line, Triangle

Array = NDArray[np.float64]

DOUBTFUL = 1e-3
"""Remainders below this share of their column are held against the rounding. Those above, which
only columns with fewer than three digits of their own could make doubtful, spare the time."""


@dataclasses.dataclass(frozen=True)
class Independent:
    """The least-squares problem `‖R·θ − y‖` of the columns kept.

    Args:
        kept: Which columns of `[1, x]`, 0 for the intercept, which always is.
        R: Upper triangular, of the columns about their center, shape (rank, rank).
        y: Targets in the same coordinates, shape (rank, n_targets).
        center: Of the columns kept, 0 for the intercept, shape (rank,).
        residual: Lengths of the residuals, shape (n_targets,).
        exact: Whether they are rounding alone, shape (n_targets,).
        left_out: The other columns of `[1, x]`.
        shares: Multiples of the columns kept that add up to each column left out, both about their
            center; shape (rank, n_left_out).
        rounding: Bound on the length of what rounding adds to these sums, shape (n_left_out,).
    """

    kept: list[int]
    R: Array
    y: Array
    center: Array
    residual: Array
    exact: NDArray[np.bool_]
    left_out: list[int]
    shares: Array
    rounding: Array

    @functools.cached_property
    def parameters(self) -> Array:
        """Intercept and weights kept, for y about its center; shape (rank, n_targets)."""
        return self._back(solve_triangular(self.R, self.y))

    def line(self, rows: Triangle) -> Line:
        """Return the line in the units and shapes of the rows, with 0 for columns left out."""
        theta = np.zeros((rows.columns, rows.n_targets))
        theta[self.kept] = self.parameters
        theta[0] += rows.center[rows.columns - 1 :]
        return Line(theta[1:, 0], theta[0, 0]) if rows.single else Line(theta[1:], theta[0])

    @functools.cached_property
    def errors(self) -> Array:
        """Standard errors of the parameters, as multiples of σ; shape (rank,)."""
        return np.asarray(np.linalg.norm(self._inverse, axis=1))

    @property
    def condition_number(self) -> float:
        """Of the columns kept of `[1, x]`, each scaled to length 1.

        It is `‖A‖·‖A⁻¹‖`, with A⁻¹ from the centered columns: far from zero, those of A agree in
        digits that an SVD would lose.
        """
        A = self.R + np.outer(self.R[:, 0], self.center)
        length = np.linalg.norm(A, axis=0)
        inverse = self._inverse * length[:, None]
        return float(np.linalg.norm(A / length, 2) * np.linalg.norm(inverse, 2))

    @functools.cached_property
    def _inverse(self) -> Array:
        return self._back(solve_triangular(self.R, np.eye(len(self.R))))

    def _back(self, theta: Array) -> Array:
        """Turn parameters about the center into those of `[1, x]`; the weights are the same."""
        plain = theta.copy()
        plain[0] -= self.center @ theta
        return plain

    @functools.cached_property
    def plain_shares(self) -> Array:
        """The same multiples of the columns of `[1, x]`, but for the center of those left out."""
        return self._back(self.shares)


def solve_triangular(R: Array, y: ArrayLike, transposed: bool = False) -> Array:
    """Solve `R·θ = y`, or `Rᵀ·θ = y`, by substitution.

    Args:
        R: Upper triangular, shape (n, n).
        y: Shape (n,) or (n, n_targets).
        transposed: Whether it is Rᵀ.

    Returns:
        θ, in the shape of y.
    """
    from scipy import linalg

    return np.asarray(linalg.solve_triangular(R, y, trans="T" if transposed else "N"))


@functools.lru_cache(maxsize=KEPT)
def independent(rows: Triangle) -> Independent:
    """Leave out the columns that depend on earlier ones.

    Args:
        rows: As their triangle.

    Returns:
        The least-squares problem of the columns that are left.

    Raises:
        ValueError: When the rows are not finite.

    Example:
        >>> from trueline.reference.triangle import triangle
        >>> x = np.arange(5.0)
        >>> independent(triangle(np.column_stack([x, 2 * x + 1, x**2]), x)).kept
        [0, 1, 3]
    """
    if not np.isfinite(rows.R).all():
        raise ValueError(
            "expected finite rows; found nan or inf in their triangle; remove such rows, or scale "
            "columns whose squares are beyond float64"
        )
    A, p = rows.R.copy(), rows.columns
    rounding = _Rounding(rows)
    kept: list[int] = []
    left_out: dict[int, tuple[Array, float]] = {}
    for j in range(p):
        k = len(kept)
        left = A[k : j + 1, j]
        length = np.linalg.norm(left)
        if k and (found := rounding.explains(float(length), A, kept, j)):
            left_out[j] = found
            continue
        if j > k:  # a column was left out, and this one reaches below the diagonal
            mirror = left.copy()
            mirror[0] += math.copysign(length, left[0])
            below = A[k : j + 1, j:]
            below -= np.outer(mirror, 2 / (mirror @ mirror) * (mirror @ below))
        kept.append(j)
    rank = len(kept)
    residual = np.linalg.norm(A[rank:, p:], axis=0)
    exact = [bool(rounding.explains(r, A, kept, p + t)) for t, r in enumerate(residual.tolist())]
    center = np.array([0.0, *rows.center])[kept]
    shares = np.zeros((rank, len(left_out)))
    for column, (share, _) in zip(shares.T, left_out.values(), strict=True):
        column[: len(share)] = share
    return Independent(
        kept,
        A[:rank, kept],
        A[:rank, p:],
        center,
        np.asarray(residual),
        np.array(exact),
        [*left_out],
        shares,
        np.array([bound for _, bound in left_out.values()]),
    )


class _Rounding:
    """How large a remainder the rounding of numbers and of their factorisation leaves."""

    def __init__(self, rows: Triangle) -> None:
        eps = np.finfo(np.float64).eps
        sizes = np.linalg.norm(rows.R, axis=0)
        # A number may have come by a few operations, each rounded to half an eps of its size.
        numbers = 4 * math.sqrt(rows.rows) * np.abs([0.0, *rows.center])
        # Rounding errors of a sum of n terms grow with its root (Higham & Mary 2019).
        self._of_column = eps * ((8 + math.sqrt(rows.n_samples)) * sizes + numbers)
        self._doubtful = DOUBTFUL * (sizes + numbers)

    def explains(
        self, length: float, A: Array, kept: list[int], j: int
    ) -> tuple[Array, float] | None:
        """Say whether a remainder of column j, less its share of those kept, is rounding.

        Returns:
            The share and a bound on the rounding; None where the remainder is more than that.
        """
        if length > self._doubtful[j]:
            return None
        k = len(kept)
        share = solve_triangular(A[:k, kept], A[:k, j])
        bound = float(self._of_column[j] + np.abs(share) @ self._of_column[kept])
        return (share, bound) if length <= bound else None
