"""NumPy's .npy files: two axes of numbers, or one of records with named fields."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from trueline.errors import RequestError
from trueline.tables.table import Batch, Table, on_one_line, place

ROWS = 2**16
"""Rows of a batch."""


class NpyTable(Table):
    """A .npy file; the columns of a plain array are named column_0, column_1 and so on.

    Args:
        path: Of the file. It is mapped, not read at once; objects in it are never unpickled.
    """

    def __init__(self, path: Path) -> None:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        # The header is a Python literal: a damaged one ends in any of Python's own errors.
        except Exception as error:
            reason = on_one_line(error)
            raise RequestError(
                f"{path}: expected an array that can be read, found: {reason}; save numbers, not "
                "objects, with numpy.save, whole"
            ) from error
        size, told = path.stat().st_size, array.offset + array.nbytes
        if size != told:
            raise RequestError(
                f"{path}: expected {told:,} bytes for shape {array.shape}, found {size:,}; the "
                "file is damaged, so save it again"
            )
        fields = array.dtype.names
        if array.ndim != (1 if fields else 2):
            raise RequestError(
                f"{path}: expected an array of shape (rows, columns), or (rows,) with named "
                f"fields, found shape {array.shape}; reshape it and save it again"
            )
        names = fields or tuple(f"column_{i}" for i in range(array.shape[1]))
        super().__init__(path, names, len(array))
        self._array = array
        self.schema = pa.schema([(name, self._column(name, 0, 0).type) for name in names])

    def _batches(
        self, columns: tuple[str, ...], text: frozenset[str], categorical: frozenset[str]
    ) -> Iterator[Batch]:
        for first in range(0, len(self._array), ROWS):
            arrays = [self._column(name, first, first + ROWS) for name in columns]
            yield Batch(
                pa.RecordBatch.from_arrays(arrays, names=list(columns)), self.path, first + 1
            )

    def _column(self, name: str, first: int, stop: int) -> pa.Array:
        rows = self._array[first:stop]
        column = rows[name] if self._array.dtype.names else rows[:, self.positions[name]]
        native = column.astype(column.dtype.newbyteorder("="), copy=False)
        try:
            return pa.array(native)
        except (pa.ArrowException, TypeError) as error:
            raise RequestError(
                f"{place(self.path, name)}: expected real numbers or texts, found {column.dtype}; "
                "convert it, as with .real or .astype, and save again"
            ) from error
