"""Rows of a table to predict: every row of the file, in its order, beside what it came from."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor

from trueline.data.learned import Learned
from trueline.terminal.printing import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from trueline.tables import Table


class Origin(NamedTuple):
    """The rows of a batch as the table has them.

    Args:
        record: Key columns of the same rows, no columns where none were asked for.
        notes: Reason why a row cannot be predicted, shape (n,); empty where it can.
    """

    record: "pa.Table"
    notes: NDArray[np.object_]


class TableBatch(NamedTuple):
    """A batch of rows to predict.

    Args:
        X: Features as they are trained on, shape (n, n_features); NaN in a row with a note.
        origin: The same rows in the table.
    """

    X: Tensor
    origin: Origin


class TableRows:
    """Serves every row of a table in batches; the prediction dataloader of `TableData`.

    Args:
        table: Table to predict; it needs the columns of the features alone.
        learned: Columns and scaling of the training.
        missing: What to do about a row that misses a value: refuse the table, or serve the row
            without features, with a note.
        dtype: Dtype of the features.
        keys: Columns to serve beside the features, as they are.
    """

    def __init__(
        self,
        table: "Table",
        learned: Learned,
        missing: Literal["error", "drop"],
        dtype: Literal["float64", "float32"],
        keys: Sequence[str] = (),
    ) -> None:
        self.table = table
        self.learned = learned
        self.missing = missing
        self.dtype = dtype
        self.keys = list(keys)

    def __iter__(self) -> Iterator[TableBatch]:
        from trueline.tables import count_missing, read_every_row

        columns, scaling = self.learned.columns, self.learned.scaling
        if self.missing == "drop":
            found = count_missing(self.table, columns, targets=False)
            if found.incomplete:
                rank_zero_only(print)(visible(f"{self.table.path}: {found}"))
        keys = _Keys(self.table, self.keys)
        for X, notes in read_every_row(self.table, columns, self.missing, self.dtype):
            features = X if scaling is None else scaling.applied_to(X)
            yield TableBatch(torch.from_numpy(features), Origin(keys.take(len(X)), notes))


class _Keys:
    """Reads key columns in the order of the rows.

    Args:
        table: Table that has the columns.
        names: Names of the columns.
    """

    def __init__(self, table: "Table", names: list[str]) -> None:
        self._batches = table.batches(names, text=names) if names else None
        self._read: list[Any] = []

    def take(self, n: int) -> "pa.Table":
        """Return the next n rows."""
        import pyarrow as pa

        if self._batches is None:
            return pa.table({})
        while sum(map(len, self._read)) < n:
            self._read.append(next(self._batches).record)
        rows = pa.Table.from_batches(self._read)
        self._read = rows.slice(n).to_batches()
        return rows.slice(0, n)
