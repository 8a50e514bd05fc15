"""Blocks of rows, each filled in place from as many batches as it takes."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.tables.columns import Columns

Floats = NDArray[np.floating[Any]]

LONGEST = 2**26
"""Bytes of X: a table of many columns has fewer rows a block."""


class Rows(NamedTuple):
    """Consecutive rows as numbers.

    Args:
        X: Features, shape (n, n_features), C-contiguous.
        y: Targets, shape (n, n_targets); None where they were not asked for.
        weight: How much each row counts, shape (n,), > 0; None where there is none.
        numbers: Of the rows in the table, from 1, shape (n,).
    """

    X: Floats
    y: Floats | None
    weight: Floats | None
    numbers: NDArray[np.int64]


class Block:
    """Collects rows until there are enough of them.

    Args:
        columns: What is what.
        targets: Whether targets and weight are among the values.
        dtype: Of the numbers.
        rows: Of a full block; fewer where they would be too long.
    """

    def __init__(self, columns: Columns, targets: bool, dtype: np.dtype[Any], rows: int) -> None:
        self._columns = columns
        self._targets = targets
        self._dtype = dtype
        self._width = len(columns.feature_names)
        self._size = min(rows, max(1, LONGEST // (dtype.itemsize * max(1, self._width))))
        self._begin()

    def _begin(self) -> None:
        X = np.empty((self._size, self._width), self._dtype)
        y = weight = None
        if self._targets:
            y = np.empty((self._size, len(self._columns.targets)), self._dtype)
            weight = None if self._columns.weight is None else np.empty(self._size, self._dtype)
        self._rows = Rows(X, y, weight, np.empty(self._size, np.int64))
        self._length = 0

    def fill(self, values: Sequence[NDArray[Any]], numbers: NDArray[np.int64]) -> Iterator[Rows]:
        """Take rows in; serve each block that they fill.

        Args:
            values: By column, as `Columns.used` names them.
            numbers: Of the rows.
        """
        start = 0
        while start < len(numbers):
            stop = min(len(numbers), start + self._size - self._length)
            self._put([column[start:stop] for column in values], numbers[start:stop])
            start = stop
            if self._length == self._size:
                yield from self.rest()

    def rest(self) -> Iterator[Rows]:
        """Serve the rows that are there, if any, and begin anew."""
        if self._length:
            served = self._rows
            n = self._length
            yield Rows(*(None if a is None else a[:n] for a in served))  # type: ignore[arg-type]
            self._begin()

    def _put(self, values: Sequence[NDArray[Any]], numbers: NDArray[np.int64]) -> None:
        part = slice(self._length, self._length + len(numbers))
        X, y, weight, row_numbers = self._rows
        row_numbers[part] = numbers
        fill_features(X[part], self._columns, values)
        after = values[len(self._columns.features) :]
        if y is not None:
            for j in range(y.shape[1]):
                y[part, j] = after[j]
        if weight is not None:
            weight[part] = after[-1]
        self._length = part.stop


def fill_features(X: Floats, columns: Columns, values: Sequence[NDArray[Any]]) -> None:
    """Write features into X; a category becomes a 1 in the column of its level, if not the base.

    Args:
        X: Array to fill, shape (n, n_features).
        columns: What is what.
        values: Numbers or codes of levels, one array for each of `columns.features`, shape (n,).
    """
    first = 0
    for feature, column in zip(columns.features, values, strict=False):
        if feature.levels is None:
            X[:, first] = column
        else:
            indicators = X[:, first : first + feature.width]
            indicators[:] = 0
            (others,) = np.nonzero(column > 0)
            indicators[others, column[others] - 1] = 1
        first += feature.width
