"""Rows of numbers in a file, for data that is larger than memory."""

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

AT_ONCE = 2**22
"""Bytes that are read at once where all rows are."""


class Spool:
    """Rows of equal width in a temporary file without a name, which goes with the process.

    It is read with as few calls as there are runs of consecutive rows among those asked for.

    Args:
        width: Numbers in a row.
        dtype: Of the numbers.

    Example:
        >>> spool = Spool(2, np.dtype(np.float64))
        >>> spool.append(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        >>> len(spool), spool.rows(np.array([2, 0])).tolist()
        (3, [[5.0, 6.0], [1.0, 2.0]])
    """

    def __init__(self, width: int, dtype: np.dtype[Any]) -> None:
        self._fd, path = tempfile.mkstemp(prefix="trueline-")
        weakref.finalize(self, os.close, self._fd)
        Path(path).unlink()
        self._n = 0
        self.width = width
        self.dtype = dtype

    def __len__(self) -> int:
        return self._n

    def __deepcopy__(self, memo: Any) -> "Spool":
        """Return this one: its rows stay as they are once they are trained on."""
        return self

    def __getstate__(self) -> Any:
        """Refuse to be pickled: the file goes with this process.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "expected rows in memory to pickle, found rows in a temporary file; make the data anew "
            "where it is needed, or raise its in_memory"
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and numbers in each."""
        return self._n, self.width

    def append(self, rows: NDArray[Any]) -> None:
        """Write rows at the end.

        Raises:
            OSError: When there is no room for them.
        """
        self._write(self._n, rows)
        self._n += len(rows)

    def read(self, start: int, out: NDArray[Any]) -> NDArray[Any]:
        """Read consecutive rows into an array, and return it.

        Args:
            start: Number of the first.
            out: Array of as many rows as are read, shape (n, width), contiguous.
        """
        flat: Any = out.reshape(-1)
        left, at = memoryview(flat).cast("B"), start * self.row_bytes
        while left:
            n = os.preadv(self._fd, [left], at)
            if not n:
                raise OSError(f"expected {len(left)} more bytes of rows, found the end of the file")
            left, at = left[n:], at + n
        return out

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return rows by their numbers.

        Args:
            numbers: Row numbers, shape (n,), in any order.

        Returns:
            Shape (n, width), in the order of the numbers.
        """
        out = np.empty((len(numbers), self.width), self.dtype)
        ends = (np.flatnonzero(np.diff(numbers) != 1) + 1).tolist()
        for start, stop in zip([0, *ends], [*ends, len(numbers)], strict=True):
            if start < stop:
                self.read(int(numbers[start]), out[start:stop])
        return out

    def chunks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Return all rows, some at a time, with the number of the first; good until the next."""
        at_once = max(1, AT_ONCE // (self.width * self.dtype.itemsize))
        held = np.empty((min(at_once, self._n), self.width), self.dtype)
        for first in range(0, self._n, at_once):
            yield first, self.read(first, held[: self._n - first])

    def change(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        """Change all rows, some at a time.

        Args:
            function: Of some rows, shape (n, width), to those that take their place.
        """
        for first, rows in self.chunks():
            self._write(first, function(rows))

    def _write(self, start: int, rows: NDArray[Any]) -> None:
        whole: Any = np.ascontiguousarray(rows).reshape(-1)
        left = memoryview(whole).cast("B")
        at = start * self.row_bytes
        while left:
            n = os.pwrite(self._fd, left, at)
            left, at = left[n:], at + n

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.width * self.dtype.itemsize


def columns(rows: Any, n_features: int, n_targets: int) -> tuple[Any, Any, Any]:
    """Return the columns of rows as X, y and weights, the last None where they have none: views.

    Args:
        rows: Rows `[x, y]` or `[x, y, weight]`.
        n_features: Columns of x.
        n_targets: Columns of y; a single one has no axis of its own.

    Example:
        >>> columns(np.array([[2.0, 5.0, 0.5]]), 1, 1)
        (array([[2.]]), array([5.]), array([0.5]))
    """
    stop = n_features + n_targets
    y = rows[:, n_features:stop]
    weight = rows[:, stop] if rows.shape[1] > stop else None
    return rows[:, :n_features], y[:, 0] if n_targets == 1 else y, weight


class SpooledRows(torch.utils.data.Dataset[Any]):
    """The rows of a spool as a dataset: `[x, y]`, or `[x, y, weight]`.

    Args:
        spool: That holds them.
        n_features: Columns of x.
        n_targets: Columns of y; one is served without an axis of its own.
    """

    def __init__(self, spool: Spool, n_features: int, n_targets: int) -> None:
        self.spool = spool
        self.n_features = n_features
        self.n_targets = n_targets
        self.weighted = spool.width > n_features + n_targets

    def __len__(self) -> int:
        return len(self.spool)

    def blocks(self) -> Iterator[tuple[Any, Any, Any]]:
        """Return all rows as arrays X, y and weights or None, some at a time."""
        for _, rows in self.spool.chunks():
            yield columns(rows, self.n_features, self.n_targets)

    def split(self, rows: NDArray[Any]) -> tuple[torch.Tensor, ...]:
        """Return rows as a batch: X, y, and weights where they have them."""
        X, y, weight = columns(torch.from_numpy(rows), self.n_features, self.n_targets)
        return (X, y) if weight is None else (X, y, weight)
