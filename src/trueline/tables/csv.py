"""CSV and TSV files: pieces of whole rows, which pyarrow turns into columns.

pyarrow is quick, and lenient where a wrong number could come through: it reads `"1"2` as 12, rounds
9007199254740993, and lets a quote that is never closed swallow the rest of the file. So quotes are
checked before it sees a piece, and numbers that it may have rounded after it. Where it refuses, a
second, slower reading of the same piece finds the row.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from trueline.errors import RequestError
from trueline.tables.csv_pieces import BrokenError, pieces, split_header
from trueline.tables.table import Batch, Table, on_one_line, place, shown
from trueline.tables.values import EXACT

MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
"""Texts that stand for no value, in quotes or not; nothing else does."""

BLOCK = 2**20
"""Bytes that one thread parses at a time; pyarrow's default."""

INTEGER = r"^[ \t]*[+-]?[0-9]+[ \t]*$"

PLAIN = "write a plain number such as -1234.5, name the column as categorical, or leave it out"


class CsvTable(Table):
    """A CSV file: a header, then rows; UTF-8, with or without a byte order mark, gzipped or not.

    Missing is what is empty or one of NA, N/A, NaN, nan, NULL, null. A number may be padded with
    spaces and may begin with a plus; `1_000`, `1,000`, `1.2%`, `0x1F` and `True` are none. Empty
    lines are left out; in a table of one column they are rows without a value.

    Args:
        path: Of the file.
        delimiter: Between fields.
    """

    def __init__(self, path: Path, delimiter: str) -> None:
        try:
            names, _ = split_header(next(pieces(path, delimiter), b""), delimiter)
        except BrokenError as error:
            raise RequestError(f"{place(path)}, header: {error}") from error
        for other, told in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (",", "commas")):
            if len(names) == 1 and other in names[0] and other != delimiter:
                raise RequestError(
                    f"{path}: expected {'commas' if delimiter == ',' else 'tabs'} between names, "
                    f"found {told} in {shown(names[0])}; save it with commas as .csv (and decimal "
                    "points), or with tabs as .tsv"
                )
        self.delimiter = delimiter
        super().__init__(path, names)

    def _batches(self, columns: tuple[str, ...], text: frozenset[str]) -> Iterator[Batch]:
        types = {
            str(self.names.index(name)): pa.string() if name in text else pa.float64()
            for name in columns
        }
        rows = 0
        header = True
        try:
            for piece in pieces(self.path, self.delimiter):
                if header:
                    _, piece = split_header(piece, self.delimiter)
                    header = False
                # Most pieces are no space: asked first, as to strip one is to copy it.
                if not piece or (
                    len(self.names) > 1 and piece.isspace() and not piece.strip(b"\r\n")
                ):
                    continue
                for record in self._columns(piece, types, rows).to_batches():
                    named = pa.RecordBatch.from_arrays(record.columns, names=list(columns))
                    yield Batch(named, self.path, rows + 1)
                    rows += len(record)
        except BrokenError as error:
            raise RequestError(f"{place(self.path, row=rows + 1)}: {error}") from error

    def _columns(self, piece: bytes, types: Mapping[str, pa.DataType], rows: int) -> pa.Table:
        """Turn a piece into columns, or say what is wrong in it; `rows` come before it."""
        try:
            table = self._parse(piece, types)
        except pa.ArrowInvalid:
            table = self._parse_slowly(piece, types, rows)
        for position, type_ in types.items():
            column = table[position]
            if type_ == pa.float64() and not _surely_exact(column):
                texts = self._parse(piece, {position: pa.binary()}, [])[position]
                self._check_rounding(position, column, texts, rows)
        return table

    def _parse(
        self, piece: bytes, types: Mapping[str, pa.DataType], ragged: list[Any] | None = None
    ) -> pa.Table:
        """Let pyarrow parse a piece.

        Args:
            piece: Whole rows.
            types: By the position of the column.
            ragged: Gets the rows with too many or too few fields, which are then left out; for the
                sake of their numbers a single thread does it all. Without, they are an error.
        """

        def note(row: Any) -> str:
            assert ragged is not None
            ragged.append(row)
            return "skip"

        slowly = ragged is not None
        return csv.read_csv(
            pa.BufferReader(piece),
            csv.ReadOptions(
                column_names=[str(i) for i in range(len(self.names))],
                use_threads=not slowly,
                block_size=len(piece) + 1 if slowly else BLOCK,
            ),
            csv.ParseOptions(
                delimiter=self.delimiter,
                newlines_in_values=b'"' in piece,
                ignore_empty_lines=len(self.names) > 1,
                invalid_row_handler=note if slowly else None,
            ),
            csv.ConvertOptions(
                column_types=dict(types),
                include_columns=list(types),
                null_values=MISSING,
                strings_can_be_null=True,
            ),
        )

    def _parse_slowly(self, piece: bytes, types: Mapping[str, pa.DataType], rows: int) -> pa.Table:
        """Find what made pyarrow refuse a piece; where only a row was long, parse it in one go."""
        ragged: list[Any] = []
        texts = self._parse(piece, dict.fromkeys(types, pa.binary()), ragged)
        if ragged:
            row = ragged[0]
            raise RequestError(
                f"{place(self.path, row=rows + row.number)}: expected {row.expected_columns} "
                f"fields as in the header, found {row.actual_columns} in {shown(row.text)}; quote "
                "fields that hold the delimiter, and write every field"
            )
        wrong = [
            (index, position)
            for position, type_ in types.items()
            if (index := _first_wrong(texts[position].combine_chunks(), type_)) is not None
        ]
        if not wrong:
            try:
                return self._parse(piece, types, ragged)
            except pa.ArrowInvalid as error:
                where = f"{self.path}, after row {rows:,}"
                reason = on_one_line(error)
                raise RequestError(
                    f"{where}: expected CSV, found: {reason}; correct it, or save it as Parquet"
                ) from error
        index, position = min(wrong)
        found = texts[position][index].as_py()
        if types[position] == pa.string():
            raise self._refused(position, rows + index, "UTF-8", found, "save the file as UTF-8")
        raise self._refused(position, rows + index, "a number", found, PLAIN)

    def _check_rounding(
        self, position: str, numbers: pa.ChunkedArray, texts: pa.ChunkedArray, rows: int
    ) -> None:
        """Refuse what is not finite, and integers that float64 does not have."""
        values = numbers.to_numpy()
        valid = numbers.is_valid().to_numpy()
        integers = pc.match_substring_regex(texts, INTEGER).fill_null(False).to_numpy()
        doubted = valid & (~np.isfinite(values) | (integers & (np.abs(values) >= EXACT)))
        for index in np.flatnonzero(doubted).tolist():
            text, value = texts[index].as_py(), values[index]
            if np.isnan(value):
                raise self._refused(position, rows + index, "a number", text, PLAIN)
            if np.isinf(value):
                what = f"a finite number, up to {np.finfo(np.float64).max:.2g}"
                remedy = "correct it, or leave the row out"
                raise self._refused(position, rows + index, what, text, remedy)
            if Decimal(text.decode().strip()) != value:
                what = "an integer that float64 has exactly, as all up to 2**53"
                remedy = f"round it, as to {value:.0f}, or leave the column out"
                raise self._refused(position, rows + index, what, text, remedy)

    def _refused(
        self, position: str, index: int, expected: str, found: str | bytes, remedy: str
    ) -> RequestError:
        where = place(self.path, self.names[int(position)], index + 1)
        return RequestError(f"{where}: expected {expected}, found {shown(found)}; {remedy}")


def _surely_exact(column: pa.ChunkedArray) -> bool:
    """Whether all numbers are finite and so small that none was an integer that was rounded."""
    return bool(pc.all(pc.less(pc.abs(column), EXACT), min_count=0).as_py())


def _first_wrong(texts: pa.Array, type_: pa.DataType) -> int | None:
    """Return the index of the first text that is not of a type; None if all are."""

    def fit(start: int, stop: int) -> bool:
        try:
            some = texts.slice(start, stop - start).cast(pa.string())
            if type_ != pa.string():
                pc.ascii_trim(some, " \t").cast(type_)
        except pa.ArrowInvalid:
            return False
        return True

    if fit(0, len(texts)):
        return None
    first, stop = 0, len(texts)
    while stop - first > 1:
        middle = (first + stop) // 2
        if fit(first, middle):
            first = middle
        else:
            stop = middle
    return first
