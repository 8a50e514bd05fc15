"""Opens tables, whatever their format, as record batches."""

import re
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv, ipc, parquet

from trueline.errors import RequestError

ROWS_AT_ONCE = 2**16
CSV_BYTES = 2**22
"""Of a CSV file that are read at once."""
MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
"""What a CSV file may write for a missing value."""
CSV_FORMATS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
FORMATS = (*CSV_FORMATS, ".parquet", ".pq", ".feather", ".arrow", ".ipc", ".npy")


class Batch(NamedTuple):
    """Consecutive rows of a table.

    Args:
        path: Of the file that they are in.
        first: The number of the first in that file, from 1.
        columns: Those that were asked for, as an `pyarrow.RecordBatch`.
    """

    path: Path
    first: int
    columns: Any


class Table:
    """A table in a file, or in the files of a folder.

    Args:
        path: Of the file or folder.
        files: That it is made of, all of one format.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path = path
        self.files = list(files)
        self.is_csv = _format(self.files[0]) in CSV_FORMATS
        self._readers = [_reader(file) for file in self.files]
        self.names: tuple[str, ...] = tuple(self._readers[0].names)
        for file, reader in zip(self.files, self._readers, strict=True):
            if tuple(reader.names) != self.names:
                raise RequestError(
                    f"{file}: expected the columns of {self.files[0].name}, {_listed(self.names)}; "
                    f"found {_listed(reader.names)}"
                )

    def check(self, names: Sequence[str]) -> None:
        """Refuse columns that are not there, or there twice.

        Raises:
            RequestError: Naming them, and those that there are.
        """
        for name in names:
            found = self.names.count(name)
            if found == 1:
                continue
            if found > 1:
                raise RequestError(
                    f"{self.path}: expected one column {name!r}, found {found}; rename them"
                )
            near = _near(name, self.names)
            hint = f"; did you mean {near}?" if near else f"; it has {_listed(self.names)}"
            if len(self.names) == 1 and re.search(r"[;\t|]", self.names[0]):
                hint = "; its fields seem to be separated by something else than commas"
            raise RequestError(f"{self.path}: expected a column {name!r}, found none{hint}")

    def batches(self, names: Sequence[str], text: Collection[str] | None = None) -> Iterator[Batch]:
        """Return all rows, in the order of files and rows, some at a time.

        Args:
            names: Of the columns.
            text: Those of them that are not numbers; of a CSV file the others are read as numbers.
                All unless given.

        Raises:
            RequestError: Where a file cannot be read so, naming file, column and row.
        """
        self.check(names)
        for file, reader in zip(self.files, self._readers, strict=True):
            first = 1
            with _telling(file):
                for columns in reader.batches(list(names), names if text is None else text):
                    if columns.num_rows:
                        yield Batch(file, first, columns)
                    first += columns.num_rows


def open_table(path: str | Path) -> Table:
    """Open a table: a file, or a folder of Parquet files, in the order of their names.

    Raises:
        RequestError: When there is none, or it cannot be read.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        link = "a link to nothing" if path.is_symlink() else error.strerror
        raise RequestError(f"{path}: expected a table, found: {link}; give another path") from error
    except ValueError as error:  # such as a NUL byte in the name
        raise RequestError(f"{path!r}: expected the path of a table ({error})") from error
    if stat.S_ISDIR(mode):
        return Table(path, _files_of(path))
    _check_file(path, mode)
    return Table(path, [path])


def _files_of(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder; what begins with a dot or underline is left aside."""
    with _telling(folder):
        entries = sorted(p for p in folder.iterdir() if p.name[0] not in "._")
    others = [p.name for p in entries if _format(p) not in (".parquet", ".pq")]
    if others or not entries:
        found = f"{_listed(others)} in it" if others else "none"
        raise RequestError(
            f"{folder}: expected a folder of Parquet files alone, found {found}; give a file, or "
            "move the others away"
        )
    for path in entries:
        _check_file(path, path.stat().st_mode)
    return entries


def _check_file(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISCHR: "a device", stat.S_ISSOCK: "a socket"}
        kind = next((name for is_one, name in kinds.items() if is_one(mode)), "something else")
        raise RequestError(f"{path}: expected a file, found {kind}; write it into a file first")
    if _format(path) not in FORMATS:
        raise RequestError(
            f"{path}: expected a name that ends in {', '.join(FORMATS)}; rename or convert it"
        )
    if path.stat().st_size == 0:
        raise RequestError(f"{path}: expected a table, found an empty file")


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def _reader(path: Path) -> Any:
    found = _format(path)
    with _telling(path):
        if found in CSV_FORMATS:
            return _Csv(path, CSV_FORMATS[found])
        if found in (".parquet", ".pq"):
            return _Parquet(path)
        return _Npy(path) if found == ".npy" else _Arrow(path)


class _Csv:
    """A file of comma-separated values with a header, in UTF-8, perhaps compressed.

    Args:
        path: Of the file.
        delimiter: Between fields.
    """

    n_rows = None

    def __init__(self, path: Path, delimiter: str) -> None:
        self._path = path
        self._parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        # Read as text: nothing is wrong with it yet but what is wrong with the header.
        self.names = self._open({}, None).schema.names

    def _open(self, types: dict[str, Any], names: list[str] | None) -> Any:
        return csv.open_csv(
            str(self._path),
            # In one thread, so that errors know their row.
            read_options=csv.ReadOptions(use_threads=False, block_size=CSV_BYTES),
            parse_options=self._parse,
            convert_options=csv.ConvertOptions(
                column_types=types,
                include_columns=names,
                null_values=list(MISSING),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                auto_dict_encode=False,
            ),
        )

    def batches(self, names: list[str], text: Collection[str]) -> Iterator[Any]:
        types = {name: pa.string() if name in text else pa.float64() for name in names}
        first = 1
        for batch in self._open(types, names):
            for name in names:
                if name not in text:
                    self._check_integers(name, batch.column(name), first)
            first += batch.num_rows
            yield batch

    def _check_integers(self, name: str, column: Any, first: int) -> None:
        """Refuse integers that float64 rounds, which as numbers look like any other.

        Raises:
            RequestError: With the row.
        """
        values = column.to_numpy(zero_copy_only=False)
        if not (np.abs(values) >= 2**53).any():
            return
        skip, row = first - 1, 0
        for batch in self._open({name: pa.string()}, [name]):
            for written in batch.column(0).to_pylist():
                row += 1
                if row <= skip or written is None:
                    continue
                if row > skip + len(values):
                    return
                exact = re.fullmatch(r"[+-]?\d+", written.strip())
                if exact and int(float(written)) != int(written):
                    raise RequestError(
                        f"{self._path}: column {name!r}, row {row}: expected an integer that "
                        f"float64 can hold, up to 2^53; found {written}; subtract an offset, or "
                        "name the column in --data.categorical"
                    )


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._path = path
        with parquet.ParquetFile(path) as file:
            self.names = file.schema_arrow.names
            self.n_rows = file.metadata.num_rows

    def batches(self, names: list[str], text: Collection[str]) -> Iterator[Any]:
        with parquet.ParquetFile(self._path) as file:
            yield from file.iter_batches(ROWS_AT_ONCE, columns=names)


class _Arrow:
    def __init__(self, path: Path) -> None:
        self._path = path
        with pa.memory_map(str(path)) as source:
            self.names = ipc.open_file(source).schema.names

    def batches(self, names: list[str], text: Collection[str]) -> Iterator[Any]:
        with pa.memory_map(str(self._path)) as source:
            file = ipc.open_file(source)
            for k in range(file.num_record_batches):
                batch = file.get_batch(k).select(names)
                for first in range(0, batch.num_rows, ROWS_AT_ONCE):
                    yield batch.slice(first, ROWS_AT_ONCE)


class _Npy:
    """An array of two axes, whose columns are column_0 and so on, or one with named fields."""

    def __init__(self, path: Path) -> None:
        self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        array = self._array
        if array.dtype.names:
            self.names = list(array.dtype.names)
        elif array.ndim == 2:
            self.names = [f"column_{j}" for j in range(array.shape[1])]
        if array.ndim != (1 if array.dtype.names else 2) or array.dtype.kind not in "biufV":
            raise RequestError(
                f"{path}: expected a real array of two axes, or of one with named fields; found "
                f"shape {array.shape} of {array.dtype}"
            )

    def batches(self, names: list[str], text: Collection[str]) -> Iterator[Any]:
        named = self._array.dtype.names
        for first in range(0, len(self._array), ROWS_AT_ONCE):
            rows = self._array[first : first + ROWS_AT_ONCE]
            columns = [rows[name] if named else rows[:, self.names.index(name)] for name in names]
            # In this machine's order of bytes, which Arrow wants.
            native = [np.array(c, dtype=c.dtype.newbyteorder("=")) for c in columns]
            yield pa.RecordBatch.from_arrays([pa.array(c) for c in native], names=names)


class _telling:  # noqa: N801 - used as a function
    """Turns what goes wrong in a file into one message.

    Raises:
        RequestError: With file, and column and row where they are known.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RequestError) or not isinstance(error, Exception):
            return
        raise RequestError(f"{self._path}: {_told(str(error))}") from error


def _told(message: str) -> str:
    """Say in our words what Arrow says of a file."""
    found = re.search(
        r"CSV column #(\d+).*?Row #(\d+).*?conversion error to \w+: invalid value '(.*)'",
        message,
        re.S,
    )
    if found:
        column, row, value = int(found[1]) + 1, int(found[2]) - 1, found[3]
        return (
            f"column {column}, row {row}: expected a number, found {value!r}; mend it, leave the "
            "column out of --data.features, or name it in --data.categorical"
        )
    found = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", message)
    if found:
        return (
            f"row {int(found[1]) - 1}: expected {found[2]} fields, as the header has; found "
            f"{found[3]}; mend the row, or put quotes around fields with commas in them"
        )
    return f"expected to read it as its name says, found: {' '.join(message.split())[:300]}"


def _near(name: str, names: Sequence[str]) -> str | None:
    import difflib

    folded = {other.strip().casefold(): other for other in names}
    close = difflib.get_close_matches(name.strip().casefold(), folded, n=1)
    return repr(folded[close[0]]) if close else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
