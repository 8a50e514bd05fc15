"""CSV and TSV files: pieces of whole rows, which pyarrow turns into columns.

pyarrow is quick, and lenient where a wrong number could come through: it reads `"1"2` as 12, rounds
9007199254740993, and lets a quote that is never closed swallow the rest of the file. So quotes are
checked before it sees a piece, and numbers that it may have rounded after it. Where it refuses, a
second, slower reading of the same piece finds the row.
"""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from trueline.errors import RequestError
from trueline.tables.csv_pieces import BrokenError, pieces, split_header
from trueline.tables.table import Batch, Table, on_one_line, place, shown
from trueline.tables.values import EXACT

MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
"""Texts that stand for no value in a column of numbers or categories."""


class Kind(NamedTuple):
    """How a column is read.

    Args:
        type: Type of its values.
        nulls: Texts that stand for no value.
        quoted: Whether they do so in quotes too. The empty text of a category always does.
    """

    type: pa.DataType
    nulls: tuple[str, ...]
    quoted: bool


NUMBER = Kind(pa.float64(), MISSING, True)
CATEGORY = Kind(pa.string(), MISSING, False)
TEXT = Kind(pa.string(), ("",), False)
BYTES = Kind(pa.binary(), MISSING, True)

BLOCK = 2**20
"""Bytes that one thread parses at a time; pyarrow's default."""

MANY = 2**10
"""Columns from which on a piece is parsed as a whole, since each column of a block takes time."""

INTEGER = r"^[ \t]*[+-]?[0-9]+[ \t]*$"

PLAIN = "write a plain number such as -1234.5, name the column as categorical, or leave it out"


class CsvTable(Table):
    """A CSV file: a header, then rows; UTF-8, with or without a byte order mark, gzipped or not.

    Missing is what is empty or one of NA, N/A, NaN, nan, NULL, null. In a category `"NA"` in quotes
    is a text; so is NA in a column that is copied. A number may be padded with spaces and may begin
    with a plus; `1_000`, `1,000`, `1.2%`, `0x1F` and `True` are none. Empty lines are left out; in
    a table of one column they are rows without a value.

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

    def _batches(
        self, columns: tuple[str, ...], text: frozenset[str], categorical: frozenset[str]
    ) -> Iterator[Batch]:
        kinds = {
            str(self.positions[name]): (
                TEXT if name in text else CATEGORY if name in categorical else NUMBER
            )
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
                for record in self._columns(piece, kinds, rows).to_batches():
                    named = pa.RecordBatch.from_arrays(record.columns, names=list(columns))
                    yield Batch(named, self.path, rows + 1)
                    rows += len(record)
        except BrokenError as error:
            raise RequestError(f"{place(self.path, row=rows + 1)}: {error}") from error

    def _columns(self, piece: bytes, kinds: Mapping[str, Kind], rows: int) -> pa.Table:
        """Turn a piece into columns, or say what is wrong in it; `rows` come before it."""
        try:
            table = self._parse(piece, kinds)
        except pa.ArrowInvalid:
            table = self._parse_slowly(piece, kinds, rows)
        doubted = [
            position
            for position, kind in kinds.items()
            if kind is NUMBER and not _surely_exact(table[position])
        ]
        if doubted:
            texts = self._parse(piece, dict.fromkeys(doubted, BYTES), [])
            for position in doubted:
                self._check_rounding(position, table[position], texts[position], rows)
        return table

    def _parse(
        self, piece: bytes, kinds: Mapping[str, Kind], ragged: list[Any] | None = None
    ) -> pa.Table:
        """Parse a piece once for each rule about what is missing.

        Args:
            piece: Whole rows.
            kinds: How each column is read, by its position.
            ragged: Gets the rows with too many or too few fields, as `_parse_alike` has it.
        """
        quotes = b'"' in piece
        rules = {p: (kind.nulls, kind.quoted or not quotes) for p, kind in kinds.items()}
        read: dict[str, pa.ChunkedArray] = {}
        for nulls, quoted in dict.fromkeys(rules.values()):
            types = {p: kinds[p].type for p, rule in rules.items() if rule == (nulls, quoted)}
            table = self._parse_alike(piece, types, nulls, quoted, ragged)
            read |= dict(zip(types, table.columns, strict=True))
        for position, kind in kinds.items():
            if kind is CATEGORY and quotes:
                texts = read[position]
                read[position] = pc.if_else(pc.equal(texts, ""), None, texts)
        return pa.table({position: read[position] for position in kinds})

    def _parse_alike(
        self,
        piece: bytes,
        types: Mapping[str, pa.DataType],
        nulls: Sequence[str],
        quoted: bool,
        ragged: list[Any] | None,
    ) -> pa.Table:
        """Let pyarrow parse columns of a piece.

        Args:
            piece: Whole rows.
            types: Type of each column, by its position.
            nulls: Texts that stand for no value.
            quoted: Whether they do so in quotes too.
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
                block_size=len(piece) + 1 if slowly or len(self.names) >= MANY else BLOCK,
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
                null_values=nulls,
                strings_can_be_null=True,
                quoted_strings_can_be_null=quoted,
            ),
        )

    def _parse_slowly(self, piece: bytes, kinds: Mapping[str, Kind], rows: int) -> pa.Table:
        """Find what made pyarrow refuse a piece; where only a row was long, parse it in one go."""
        ragged: list[Any] = []
        texts = self._parse(piece, dict.fromkeys(kinds, BYTES), ragged)
        if ragged:
            row = ragged[0]
            raise RequestError(
                f"{place(self.path, row=rows + row.number)}: expected {row.expected_columns} "
                f"fields as in the header, found {row.actual_columns} in {shown(row.text)}; quote "
                "fields that hold the delimiter, and write every field"
            )
        wrong = [
            (index, position)
            for position, kind in kinds.items()
            if (index := _first_wrong(texts[position].combine_chunks(), kind.type)) is not None
        ]
        if not wrong:
            try:
                return self._parse(piece, kinds, ragged)
            except pa.ArrowInvalid as error:
                where = f"{self.path}, after row {rows:,}"
                reason = on_one_line(error)
                raise RequestError(
                    f"{where}: expected CSV, found: {reason}; correct it, or save it as Parquet"
                ) from error
        index, position = min(wrong)
        found = texts[position][index].as_py()
        if kinds[position] is not NUMBER:
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
