"""Turns columns into arrays of numbers, or says why they are none."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from trueline.errors import RequestError
from trueline.tables.columns import Columns, as_text
from trueline.tables.formats import Batch, Table

Array = NDArray[Any]
EXACT = 2**53
"""Up to it every integer is a float64."""


class Rows(NamedTuple):
    """Rows as numbers.

    Args:
        X: Features, shape (n, n_features).
        y: Targets, shape (n, n_targets); None where they were not asked for.
        weight: Shape (n,); None where rows have none.
        numbers: Of the rows in the table, from 0; shape (n,).
    """

    X: Array
    y: Array | None
    weight: Array | None
    numbers: NDArray[np.int64]


def read(
    table: Table,
    columns: Columns,
    missing: Literal["error", "drop"] = "error",
    targets: bool = True,
    dtype: Literal["float64", "float32"] = "float64",
) -> Iterator[Rows]:
    """Read a table as numbers, some rows at a time.

    Args:
        table: To read.
        columns: Which of its columns are what.
        missing: What to do with rows in which a value is missing.
        targets: Whether to read targets and weights, too.
        dtype: Of the numbers.

    Raises:
        RequestError: Where a value is no number that the dtype can hold, with file, column and row.
    """
    features = [feature.name for feature in columns.features]
    others = [*columns.targets, columns.weight] if targets else []
    names = [*features, *(name for name in others if name is not None)]
    first = 0
    for batch in table.batches(names, columns.text):
        n, wide = batch.columns.num_rows, len(columns.feature_names)
        X, place = np.empty((n, wide), dtype), 0
        for feature in columns.features:
            column = batch.columns.column(feature.name)
            if feature.levels is None:
                X[:, place] = _numbers(batch, feature.name, column, dtype)
                place += 1
                continue
            stop = place + len(feature.levels) - 1
            which = _which_level(table, batch, feature.name, column, feature.levels)
            X[:, place:stop] = which[:, None] == np.arange(1, len(feature.levels))
            X[np.isnan(which), place:stop] = np.nan
            absent = np.isnan(which) if stop == place else None
            place = stop
            if absent is not None and absent.any():
                X[absent] = np.nan  # a column of one level has none to be missing in
        y, weight = None, None
        if targets:
            y = np.empty((n, len(columns.targets)), dtype)
            for t, name in enumerate(columns.targets):
                y[:, t] = _numbers(batch, name, batch.columns.column(name), dtype)
            if columns.weight is not None:
                weight = _weights(batch, columns.weight, dtype)
        numbers = np.arange(first, first + n)
        first += n
        gone = np.isnan(X).any(axis=1)
        for more in (y, None if weight is None else weight[:, None]):
            gone |= False if more is None else np.isnan(more).any(axis=1)
        if gone.any():
            if missing == "error":
                raise RequestError(_missing(table, names))
            X, numbers = X[~gone], numbers[~gone]
            y = None if y is None else y[~gone]
            weight = None if weight is None else weight[~gone]
        if len(X):
            yield Rows(X, y, weight, numbers)


def _numbers(batch: Batch, name: str, column: Any, dtype: str) -> Array:
    """Return a column as floats, nan for what is missing.

    Raises:
        RequestError: With the row of what is no number.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif pa.types.is_decimal(kind):
        exact = [np.nan if v is None else float(v) for v in column.to_pylist()]
        column = pa.array(exact, pa.float64(), from_pandas=False)
    elif pa.types.is_integer(kind):
        _check_exact(batch, name, column)
    elif not pa.types.is_floating(kind):
        raise RequestError(
            f"{batch.path}: column {name!r}: expected numbers, found {kind}; leave it out of "
            "--data.features, or name it in --data.categorical if it is text"
        )
    values = column.to_numpy(zero_copy_only=False)
    if not np.isfinite(values).all() and np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise _refused(batch, name, row, "a finite number", f"{values[row]}")
    if dtype == "float32" and (np.abs(values) > np.finfo(np.float32).max).any():
        row = int(np.flatnonzero(np.abs(values) > np.finfo(np.float32).max)[0])
        what = "a number that float32 can hold, up to 3.4e38"
        raise _refused(batch, name, row, what, f"{values[row]:g}", "scale it, or use float64")
    return np.asarray(values)


def _check_exact(batch: Batch, name: str, column: Any) -> None:
    """Refuse integers that float64 rounds.

    Raises:
        RequestError: With the row of the first.
    """
    ends = compute.min_max(column).as_py()
    if ends["max"] is None or max(abs(ends["max"]), abs(ends["min"])) <= EXACT:
        return
    for row, value in enumerate(column.to_pylist()):
        if value is not None and int(float(value)) != value:
            what = "an integer that float64 can hold, up to 2^53"
            remedy = "subtract an offset, or name the column in --data.categorical"
            raise _refused(batch, name, row, what, f"{value}", remedy)


def _weights(batch: Batch, name: str, dtype: str) -> Array:
    """Return the weights of rows.

    Raises:
        RequestError: With the row of one that is not above 0.
    """
    values = _numbers(batch, name, batch.columns.column(name), dtype).astype(dtype)
    wrong = np.flatnonzero(values <= 0)
    if len(wrong):
        row = int(wrong[0])
        remedy = "remove the rows that are not to count"
        raise _refused(batch, name, row, "a weight above 0", f"{values[row]:g}", remedy)
    return values


def _which_level(
    table: Table, batch: Batch, name: str, column: Any, levels: tuple[str, ...]
) -> NDArray[np.float64]:
    """Return the number of each row's level; nan for what is missing.

    Raises:
        RequestError: With the row of one that training has not seen.
    """
    text = as_text(column, table, name)
    which = compute.index_in(text, value_set=pa.array(levels, pa.string()))
    found = which.cast(pa.float64()).to_numpy(zero_copy_only=False)
    there = text.is_valid().to_numpy(zero_copy_only=False)
    unknown = np.flatnonzero(np.isnan(found) & there)
    if len(unknown):
        row = int(unknown[0])
        known = ", ".join(levels[:10]) + (", …" if len(levels) > 10 else "")
        remedy = "train with it, or leave the row out"
        raise _refused(batch, name, row, f"one of {known}", repr(text[row].as_py()), remedy)
    return np.asarray(found)


def _refused(
    batch: Batch, name: str, row: int, expected: str, found: str, remedy: str = "mend it"
) -> RequestError:
    return RequestError(
        f"{batch.path}: column {name!r}, row {batch.first + row}: expected {expected}; found "
        f"{found}; {remedy}"
    )


def _missing(table: Table, names: list[str]) -> str:
    """Say how many values are missing in which columns."""
    counts, first = dict.fromkeys(names, 0), ""
    for batch in table.batches(names):
        for name in names:
            column = batch.columns.column(name)
            gone = column.is_null(nan_is_null=pa.types.is_floating(column.type))
            n = compute.sum(gone).as_py() or 0
            counts[name] += n
            if n and not first:
                row = batch.first + int(np.flatnonzero(gone.to_numpy(zero_copy_only=False))[0])
                first = f"the first in column {name!r}, row {row}"
                first += f" of {batch.path.name}" if len(table.files) > 1 else ""
    listed = ", ".join(f"{n:,} in {name!r}" for name, n in counts.items() if n)
    return (
        f"{table.path}: expected no missing values, found {listed}; {first}; fill them in, or "
        "leave their rows out with --data.missing drop"
    )
