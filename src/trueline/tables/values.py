"""The values of one column in one batch: exact numbers, or the codes of levels."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from trueline.tables.columns import as_texts
from trueline.tables.table import shown

Holes = NDArray[np.bool_]
"""Which values are missing."""

EXACT = 2.0**53
"""Up to here float64 has every integer."""


class Values(NamedTuple):
    """A column of a batch.

    Args:
        data: Numbers, or codes of levels; shape (n,).
        holes: Which of them are missing, shape (n,); None if none is.
    """

    data: NDArray[Any]
    holes: Holes | None


class ValueRefusedError(ValueError):
    """A value has no place in the numbers; says expected, found and remedy, and where it is.

    Args:
        index: Of the value in its column.
        message: Expected, found, remedy.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


def numbers(column: pa.Array, dtype: np.dtype[Any]) -> Values:
    """Return a column as floating-point numbers; those missing are NaN.

    Args:
        column: Of numbers, booleans or nothing.
        dtype: float64 or float32; a column of fewer digits may keep its own.

    Raises:
        ValueRefusedError: When a number is not finite, beyond dtype, or rounded though an integer.
    """
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    data = _floats(column)
    if np.isfinite(data).all():
        holes = None
    else:
        infinite = np.isinf(data)
        if infinite.any():
            index = int(np.argmax(infinite))
            found = f"expected a finite number, found {data[index]}"
            raise ValueRefusedError(index, f"{found}; correct it, or leave the row out")
        holes = np.isnan(data)
    if data.dtype.itemsize > dtype.itemsize:
        with np.errstate(over="ignore"):
            short = data.astype(dtype)
        beyond = np.isinf(short)
        if beyond.any():
            index = int(np.argmax(beyond))
            limit = f"expected a number up to {np.finfo(dtype).max:.3g}, the range of {dtype}"
            raise ValueRefusedError(
                index, f"{limit}, found {data[index]}; read it as float64, or divide the column"
            )
        data = short
    return Values(data, holes)


def weights(column: pa.Array, dtype: np.dtype[Any]) -> Values:
    """Return a column as numbers above 0; those missing are NaN.

    Args:
        column: As `numbers` takes it.
        dtype: The same.

    Raises:
        ValueRefusedError: As `numbers` does, and when one is 0 or less.
    """
    found = numbers(column, dtype)
    low = found.data <= 0
    if low.any():
        index = int(np.argmax(low))
        raise ValueRefusedError(
            index,
            f"expected a weight above 0 in {dtype}, found {column[index].as_py()}; leave out rows "
            "that must not count",
        )
    return found


def codes(column: pa.Array, levels: pa.Array) -> Values:
    """Return the place of each value among the levels; -1 where it is missing.

    Args:
        column: Of texts, booleans or integers.
        levels: Of the category, as texts.

    Raises:
        ValueRefusedError: When a value is none of the levels.
    """
    texts = as_texts(column)
    places = pc.index_in(texts, levels)
    new = places.is_null().to_numpy(zero_copy_only=False) & texts.is_valid().to_numpy(
        zero_copy_only=False
    )
    if new.any():
        index = int(np.argmax(new))
        known = ", ".join(map(repr, levels.slice(0, 5).to_pylist()))
        more = f" and {len(levels) - 5} more" if len(levels) > 5 else ""
        raise ValueRefusedError(
            index,
            f"expected one of the levels that were trained on, {known}{more}; found "
            f"{shown(texts[index].as_py())}; leave the row out, or train with such rows",
        )
    holes = texts.is_null().to_numpy(zero_copy_only=False) if texts.null_count else None
    return Values(places.fill_null(-1).to_numpy(), holes)


def _floats(column: pa.Array) -> NDArray[np.floating[Any]]:
    """Return numbers without rounding, but for decimals, which round once; NaN for nothing."""
    type_ = column.type
    if types.is_floating(type_):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if types.is_decimal(type_):
        # By way of its digits: the direct way may round twice.
        column = column.cast(pa.string()).cast(pa.float64())
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if types.is_null(type_):
        return np.full(len(column), np.nan)
    if types.is_boolean(type_):
        column = column.cast(pa.uint8())
    integers = column.fill_null(0).to_numpy()
    data = integers.astype(np.float64)
    if integers.dtype.itemsize == 8:
        _check_exact(integers, data)
    if column.null_count:
        data[column.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return np.asarray(data)


def _check_exact(integers: NDArray[Any], data: NDArray[np.float64]) -> None:
    for index in np.flatnonzero(np.abs(data) >= EXACT).tolist():
        if int(data[index]) != int(integers[index]):
            raise ValueRefusedError(
                index,
                "expected an integer that float64 has exactly, as all up to 2**53, found "
                f"{integers[index]}; round it, or leave the column out",
            )
