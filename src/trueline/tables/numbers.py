"""The numbers of a table, in blocks of rows: each exactly what the file says, or a refusal."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trueline.errors import RequestError
from trueline.tables.blocks import LONGEST, Block, Floats, Rows, fill_features
from trueline.tables.columns import Columns, wrong_types
from trueline.tables.table import Batch, Table, place
from trueline.tables.values import Holes, ValueRefusedError, Values, codes, numbers, weights


class Missing(NamedTuple):
    """What is missing in a table.

    Args:
        n_rows: Rows in all.
        incomplete: Rows that miss something; `missing="drop"` leaves these out.
        by_column: How many values each column misses, of columns that miss any.
    """

    n_rows: int
    incomplete: int
    by_column: dict[str, int]

    def __str__(self) -> str:
        columns = ", ".join(f"{name!r} {count:,}" for name, count in self.by_column.items())
        return f"{self.incomplete:,} of {self.n_rows:,} rows miss something ({columns or 'none'})"


def read(
    table: Table,
    columns: Columns,
    missing: Literal["error", "drop"] = "error",
    targets: bool = True,
    dtype: Literal["float64", "float32"] = "float64",
    rows_at_once: int = 65_536,
) -> Iterator[Rows]:
    """Read a table as numbers, in the order of its rows, with bounded memory.

    Booleans become 0 and 1; a category becomes a feature for each level but the first.

    Args:
        table: That `columns` were chosen from, or another with columns of these names.
        columns: What is what.
        missing: What to do about a row that misses a value: refuse the table or leave the row out.
        targets: Whether to read targets and weight too; without, the table need not have them.
        dtype: Of the numbers.
        rows_at_once: Rows of a block; the last has what is left, and blocks of more than 64 MiB
            are made shorter.

    Raises:
        RequestError: When a value is missing, is no number, is not finite, is an integer that
            float64 does not have or is beyond `dtype`, a weight is not above 0, a level is not
            among those chosen, or no row is left.
    """
    if rows_at_once < 1:
        raise RequestError(f"rows_at_once: expected 1 or more, found {rows_at_once}; raise it")
    if missing not in ("error", "drop"):
        raise RequestError(f"missing: expected error or drop, found {missing}; choose one of them")
    if dtype not in ("float64", "float32"):
        raise RequestError(f"dtype: expected float64 or float32, found {dtype}; choose one of them")
    return _read(table, columns, missing == "drop", targets, np.dtype(dtype), rows_at_once)


def read_every_row(
    table: Table,
    columns: Columns,
    missing: Literal["error", "drop"] = "error",
    dtype: Literal["float64", "float32"] = "float64",
) -> Iterator[tuple[Floats, NDArray[np.object_]]]:
    """Read the features of every row of a table, in the order of the file, none left out.

    Args:
        table: Table with columns of these names; it needs neither targets nor weight.
        columns: What is what.
        missing: What to do about a row that misses a value: refuse the table, or serve NaN with a
            note that names the columns.
        dtype: Dtype of the numbers.

    Returns:
        Consecutive rows: features of shape (n, n_features), and a note for each row, shape (n,),
        which says why the row has no features; empty where it has them.

    Raises:
        RequestError: When a value is no number that `read` would take, or is missing and may not,
            or there are no rows.
    """
    n_rows = 0
    number = np.dtype(dtype)
    width = len(columns.feature_names)
    at_once = max(1, LONGEST // (number.itemsize * max(1, width)))
    for batch, values in _values(table, columns, False, number):
        n_rows += len(batch.record)
        notes = np.full(len(batch.record), "", dtype=object)
        if (holes := _holes(values)) is not None:
            if missing == "error":
                raise _refused_hole(table, columns, False, batch, values)
            for index in np.flatnonzero(holes).tolist():
                empty = [
                    repr(feature.name)
                    for feature, value in zip(columns.features, values, strict=True)
                    if value.holes is not None and value.holes[index]
                ]
                notes[index] = f"no value in {', '.join(empty)}"
        for first in range(0, len(notes), at_once):
            part = slice(first, first + at_once)
            X = np.empty((len(notes[part]), width), number)
            fill_features(X, columns, [value.data[part] for value in values])
            X[notes[part] != ""] = np.nan
            yield X, notes[part]
    if not n_rows:
        raise RequestError(f"{table.path}: expected rows, found none; add some")


def count_missing(table: Table, columns: Columns, targets: bool = True) -> Missing:
    """Count what is missing, in one pass.

    Args:
        table: As `read` takes it.
        columns: What is what.
        targets: Whether targets and weight count.

    Raises:
        RequestError: When a value is there but no number that `read` would take as float64.
    """
    used = columns.used(targets)
    counts = dict.fromkeys(used, 0)
    n_rows = incomplete = 0
    for batch, values in _values(table, columns, targets, np.dtype(np.float64)):
        n_rows += len(batch.record)
        if (holes := _holes(values)) is not None:
            incomplete += int(holes.sum())
            for name, value in zip(used, values, strict=True):
                counts[name] += 0 if value.holes is None else int(value.holes.sum())
    return Missing(n_rows, incomplete, {name: count for name, count in counts.items() if count})


def _read(
    table: Table,
    columns: Columns,
    drop: bool,
    targets: bool,
    dtype: np.dtype[Any],
    rows_at_once: int,
) -> Iterator[Rows]:
    block = Block(columns, targets, dtype, rows_at_once)
    rows = left = 0
    for batch, values in _values(table, columns, targets, dtype):
        row_numbers = np.arange(rows + 1, rows + 1 + len(batch.record))
        rows += len(batch.record)
        data = [value.data for value in values]
        if (holes := _holes(values)) is not None:
            if not drop:
                raise _refused_hole(table, columns, targets, batch, values)
            kept = np.flatnonzero(~holes)
            data = [column[kept] for column in data]
            row_numbers = row_numbers[kept]
        left += len(row_numbers)
        yield from block.fill(data, row_numbers)
    if not left:
        found = f"none left, as {count_missing(table, columns, targets)}" if rows else "none"
        remedy = "fill them in, or leave out a column" if rows else "add some"
        raise RequestError(f"{table.path}: expected rows, found {found}; {remedy}")
    yield from block.rest()


def _values(
    table: Table, columns: Columns, targets: bool, dtype: np.dtype[Any]
) -> Iterator[tuple[Batch, list[Values]]]:
    """Read batches, and turn each column that is used into values."""
    used = columns.used(targets)
    if wrong := wrong_types(table, used, columns.categorical):
        raise RequestError("; ".join(wrong))
    levels = {f.name: pa.array(f.levels, pa.string()) for f in columns.features if f.levels}
    for batch in table.batches(used, categorical=columns.categorical):
        values = []
        for name, column in zip(used, batch.record.columns, strict=True):
            try:
                if name in levels:
                    values.append(codes(column, levels[name]))
                elif name == columns.weight:
                    values.append(weights(column, dtype))
                else:
                    values.append(numbers(column, dtype))
            except ValueRefusedError as error:
                where = place(batch.file, name, batch.first + error.index)
                raise RequestError(f"{where}: {error}") from error
        yield batch, values


def _holes(values: Sequence[Values]) -> Holes | None:
    """Return which rows miss something; None if none does."""
    found = [value.holes for value in values if value.holes is not None]
    return np.logical_or.reduce(found) if found else None


def _refused_hole(
    table: Table, columns: Columns, targets: bool, batch: Batch, values: Sequence[Values]
) -> RequestError:
    index, name = min(
        (int(np.argmax(value.holes)), name)
        for name, value in zip(columns.used(targets), values, strict=True)
        if value.holes is not None
    )
    where = place(batch.file, name, batch.first + index)
    counts = count_missing(table, columns, targets)
    return RequestError(
        f"{where}: expected a value, found none; {counts}; fill them in, or leave such rows out "
        "with missing=drop"
    )
