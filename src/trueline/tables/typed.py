"""Files that know the types of their columns: Parquet, one or a folder of them, and Arrow IPC."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from trueline.errors import RequestError
from trueline.tables.table import Batch, Table, on_one_line

ROWS = 2**16
"""Rows of a batch, where the file leaves that open."""

UNNAMED_INDEX = re.compile(r"__index_level_\d+__")
"""Names that pandas gives to index columns without one; they outlast the metadata in some tools."""

BUFFER = 2**20
"""Bytes read ahead in each column of a Parquet file: a row group may be as long as the file."""


class ParquetTable(Table):
    """Parquet files that follow one another, all of one schema.

    Args:
        path: Of the file or folder.
        files: In the order of their rows, at least one.
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.files = files
        schema: Any = None
        index: dict[str, None] = {}
        rows = 0
        for file in files:
            with _open_parquet(file) as opened:
                found = opened.schema_arrow
                rows += opened.metadata.num_rows
            schema = found if schema is None else schema
            if not found.equals(schema):
                raise RequestError(f"{file}: {_difference(schema, found, files[0])}")
            index |= dict.fromkeys(_pandas_index(file, found))
        super().__init__(path, schema.names, rows, schema, tuple(index))

    def _batches(
        self, columns: tuple[str, ...], text: frozenset[str], categorical: frozenset[str]
    ) -> Iterator[Batch]:
        for file in self.files:
            with _open_parquet(file) as opened:
                # Dots lead into nested columns, so more may come than was asked for.
                records = opened.iter_batches(ROWS, columns=list(columns))
                n_rows = opened.metadata.num_rows
                yield from _numbered(file, "Parquet", records, columns, n_rows)


class ArrowTable(Table):
    """An Arrow IPC file, which is what Feather is in its version 2.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        with _told(path, "Arrow"), pa.OSFile(str(path)) as file:
            reader = pa.ipc.open_file(file)
            schema = reader.schema
            index = _pandas_index(path, schema)
            super().__init__(path, schema.names, reader.count_rows(), schema, index)

    def _batches(
        self, columns: tuple[str, ...], text: frozenset[str], categorical: frozenset[str]
    ) -> Iterator[Batch]:
        wanted = sorted(self.positions[name] for name in columns)
        options = pa.ipc.IpcReadOptions(included_fields=wanted)
        with _told(self.path, "Arrow"):
            file = pa.OSFile(str(self.path))
            reader = pa.ipc.open_file(file, options=options)
        with file:
            n_rows = reader.count_rows()
            records = (reader.get_batch(number) for number in range(reader.num_record_batches))
            yield from _numbered(self.path, "Arrow", records, columns, n_rows)


def _pandas_index(file: Path, schema: pa.Schema) -> list[str]:
    """Return the columns that are the index of the pandas frame that the file was written from.

    Raises:
        RequestError: When the file's description of the frame cannot be read.

    References:
        pandas, "Developer: storing pandas DataFrame objects in Apache Parquet format". An index
        without a column, a range, is a dictionary there and not a name.
    """
    try:
        described = (schema.pandas_metadata or {}).get("index_columns", [])
        named = {name for name in described if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError) as error:
        raise RequestError(
            f"{file}: expected pandas metadata in JSON, found: {on_one_line(error)}; write the "
            "file again"
        ) from error
    return [name for name in schema.names if name in named or UNNAMED_INDEX.fullmatch(name)]


def _numbered(
    file: Path, kind: str, records: Iterator[Any], columns: tuple[str, ...], n_rows: int
) -> Iterator[Batch]:
    """Serve record batches with the number of their first row; all n_rows of the file, or tell."""
    row = 1
    while True:
        with _told(file, kind, f", after row {row - 1:,}"):
            if (record := next(records, None)) is None:
                break
            record = _chosen(record, columns)
            # Offsets that lead out of the file are not checked otherwise.
            record.validate(full=True)
        yield Batch(record, file, row)
        row += len(record)
    with _told(file, kind):
        if row - 1 != n_rows:
            raise OSError(f"{row - 1:,} rows, where the file speaks of {n_rows:,}")


@contextlib.contextmanager
def _told(file: Path, kind: str, after: str = "") -> Iterator[None]:
    """Turn what pyarrow says of a damaged file into a message with the place."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = on_one_line(error)
        raise RequestError(
            f"{file}{after}: expected {kind} that can be read, found: {reason}; the file is "
            "damaged, cut short, encrypted or of another kind, so write it again"
        ) from error


@contextlib.contextmanager
def _open_parquet(file: Path) -> Iterator[Any]:
    with (
        _told(file, "Parquet"),
        parquet.ParquetFile(
            file, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True
        ) as opened,
    ):
        yield opened


def _chosen(record: pa.RecordBatch, columns: tuple[str, ...]) -> pa.RecordBatch:
    arrays = [record.column(record.schema.get_field_index(name)) for name in columns]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def _difference(expected: pa.Schema, found: pa.Schema, first: Path) -> str:
    same = "; give all files of the folder the same columns and types, in the same order"
    if expected.names != found.names:
        return f"expected the columns {expected.names} as in {first}, found {found.names}{same}"
    name, wanted, other = next(
        (one.name, one, two)
        for one, two in zip(expected, found, strict=True)
        if not one.equals(two)
    )
    return f"column {name!r}: expected {wanted.type} as in {first}, found {other.type}{same}"
