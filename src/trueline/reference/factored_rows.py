"""Rows that come some at a time, factored by QR as they come.

However the rows are split, what comes out is the same to the bit: they are gathered until there
are as many as are factored at once.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

NUMBERS_AT_ONCE = 2**13
"""Measured: with more, OpenBLAS wakes other threads, which bring less than they cost on idle cores
and take ten times as long on busy ones. The numbers stay in the processor's caches too."""


def rows_at_once(width: int) -> int:
    """Return how many rows of `width` columns are factored at once, four times as many at least."""
    return max(NUMBERS_AT_ONCE // width - width, 4 * width)


class Columns(NamedTuple):
    """What rows consist of.

    Args:
        n_features: Columns of X, ≥ 0.
        n_targets: Columns of y, ≥ 1.
        single: Whether y has one axis.
    """

    n_features: int
    n_targets: int
    single: bool

    def __str__(self) -> str:
        """Say how many there are."""
        return f"{self.n_features} of X and {'one y' if self.single else f'{self.n_targets} of y'}"


def check_same(one: Columns, other: Columns) -> None:
    """Refuse rows that are not of one table.

    Raises:
        ValueError: When their columns differ.
    """
    if one != other:
        raise ValueError(
            f"expected the same columns in all rows; found {one}, and then {other}; put rows of "
            "one table together"
        )


class FactoredRows:
    """R of the rows `[1, x − cₓ, y − c_y]`, each times the root of its weight.

    c is the median of the rows factored first.

    Attributes:
        columns: What the rows consist of, once there are some.
        n_samples: Rows that are factored.
        weights: The sum of their weights.
        log_weights: The sum of the logarithms of their weights.
        weighted: Whether any came with weights.
    """

    columns: Columns

    def __init__(self) -> None:
        self.n_samples = 0
        self.weights = self.log_weights = 0.0
        self.weighted = False
        self._gathered = 0
        self._center: Array | None = None

    def add(
        self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> None:
        """Add rows, see `triangle.triangle`; where only some have weights, the others count 1.

        Raises:
            ValueError: When they have other columns than the rows before, or not as many rows as
                each other.
        """
        X = np.asarray(X)
        n_samples, n_features = X.shape
        y = np.zeros(n_samples) if y is None else np.asarray(y)
        for name, given in (("y", y), ("sample_weight", sample_weight)):
            if given is not None and len(np.asarray(given)) != n_samples:
                raise ValueError(
                    f"expected {name} with as many rows as X, {n_samples}; found "
                    f"{len(np.asarray(given))}; give one for each row"
                )
        targets = y[:, None] if y.ndim == 1 else y
        columns = Columns(n_features, targets.shape[1], y.ndim == 1)
        if not hasattr(self, "columns"):
            self._begin(columns)
        check_same(self.columns, columns)
        w = None if sample_weight is None else np.asarray(sample_weight)
        self.weighted |= w is not None
        first = 0
        while first < n_samples:
            if self._gathered == len(self._rows):
                self._make_room()
            room = len(self._rows) - self._gathered
            part = slice(first, min(first + room, n_samples))
            first = part.stop
            rows = self._rows[self._gathered :][: part.stop - part.start]
            rows[:, 0] = 1 if w is None else w[part]
            rows[:, 1 : n_features + 1] = X[part]
            rows[:, n_features + 1 :] = targets[part]
            self._gathered += len(rows)
            if self._gathered == rows_at_once(self._R.shape[1]):
                self._factor()

    def factored(self) -> tuple[Array, Array]:
        """Return R and `[cₓ, c_y]` of the rows so far; more may follow.

        Of fewer rows than columns, R has as many rows as there are.

        Raises:
            ValueError: When there were none.
        """
        if self._gathered:
            self._factor()
        if self._center is None:
            raise ValueError("expected at least one row; found none; give rows")
        return self._R.copy(), self._center

    def _begin(self, columns: Columns) -> None:
        self.columns = columns
        self._R = self._rows = np.empty((0, 1 + columns.n_features + columns.n_targets))

    def _make_room(self) -> None:
        """Make room for twice as many rows, up to those that are factored at once.

        A table of many columns may have few rows.
        """
        height, width = self._R.shape
        room = max(2 * len(self._rows), NUMBERS_AT_ONCE // width, 1)
        # Above the rows at hand stands the triangle of those before. Each column lies in one piece,
        # as LAPACK wants it.
        self._Z = np.empty((height + min(room, rows_at_once(width)), width), order="F")
        self._Z[:height] = self._R
        gathered = self._rows[: self._gathered]
        self._rows = self._Z[height:]
        self._rows[: self._gathered] = gathered

    @np.errstate(over="ignore", invalid="ignore")  # of numbers that are refused for their size
    def _factor(self) -> None:
        rows, height = self._rows[: self._gathered], len(self._R)
        if self._center is None:
            middle = len(rows) // 2
            self._center = np.partition(rows[:, 1:], middle, axis=0)[middle].copy()
        rows[:, 1:] -= self._center
        if self.weighted:
            self.weights += float(rows[:, 0].sum())
            self.log_weights += float(np.log(rows[:, 0]).sum())
            np.sqrt(rows[:, 0], out=rows[:, 0])
            rows[:, 1:] *= rows[:, :1]
        else:
            self.weights += len(rows)
        stacked, width = self._Z[: height + len(rows)], self._Z.shape[1]
        if not height and len(rows) >= width:
            # Zeros leave R as it is. LAPACK's reflections round less where they begin with one.
            stacked = np.concatenate([np.zeros((width, width)), stacked])
        self._R = np.asarray(np.linalg.qr(stacked, mode="r"))
        self.n_samples += len(rows)
        self._gathered = 0
        if len(self._R) == height:
            self._Z[:height] = self._R
        else:
            self._rows = self._rows[:0]
