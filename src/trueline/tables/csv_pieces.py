"""The text of a CSV file in pieces of whole rows, whose quotes are where they belong.

A row ends at a newline outside quotes. Where quotes are right, that is one with an even number of
quotes before it: in `"a ""b"" c"` the pair within counts as one that closes and one that opens.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from trueline.errors import RequestError
from trueline.tables.table import shown

PIECE = 2**23
"""Bytes read at a time: some of pyarrow's own blocks, so that its threads share a piece."""

LONGEST = 2**25
"""Bytes of a row. A quote that is never closed makes one row of all that follows."""

UTF8 = "save the file as UTF-8"


class BrokenError(ValueError):
    """The row after those served so far is not CSV; the message says how."""


def pieces(path: Path, delimiter: str) -> Iterator[bytes]:
    """Read the text of a file, without its byte order mark, in pieces of whole rows.

    Args:
        path: Of the file; one that ends in .gz is unpacked on the way.
        delimiter: Between fields, one ASCII character.

    Raises:
        RequestError: When it cannot be read or unpacked.
        BrokenError: When the next row is not CSV.
    """
    rest, started = b"", False
    with _open(path) as file:
        while True:
            chunk = _read(file, path)
            text = rest + chunk if started else _without_mark(chunk)
            started = True
            cut, wrong = _whole(text, delimiter.encode(), ended=not chunk)
            if cut:
                yield text[:cut]
            if wrong:
                raise BrokenError(wrong)
            if not chunk:
                return
            rest = text[cut:]


def split_header(text: bytes, delimiter: str) -> tuple[list[str], bytes]:
    """Return the names in the first row that is not empty, and the rows after it.

    Args:
        text: Whole rows from the beginning of a file.
        delimiter: Between fields.

    Raises:
        BrokenError: When there is none, or it is not CSV.
    """
    text = text.lstrip(b"\r\n")
    ends = (m.end() for m in re.finditer(rb"\r\n|\r|\n", text))
    end = next((end for end in ends if text.count(b'"', 0, end) % 2 == 0), len(text))
    try:
        header = text[:end].decode("utf-8")
    except UnicodeDecodeError:
        raise BrokenError(f"expected UTF-8, found {shown(text[:end])}; {UTF8}") from None
    try:
        (names,) = csv.reader(io.StringIO(header, newline=""), delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        reason = f"expected a row of names, found {shown(header)} ({error})"
        raise BrokenError(f"{reason}; write the names into the first row") from None
    return names, text[end:]


def _open(path: Path) -> gzip.GzipFile | BinaryIO:
    try:
        return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}; check the file and its rights") from error


def _read(file: gzip.GzipFile | BinaryIO, path: Path) -> bytes:
    try:
        return file.read(PIECE)
    except (EOFError, zlib.error, OSError) as error:
        raise RequestError(
            f"{path}: expected to read it to its end, found: {error}; it is cut short or damaged, "
            "so copy or pack it again"
        ) from error


def _without_mark(text: bytes) -> bytes:
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BrokenError(f"expected UTF-8, found UTF-16; {UTF8}")
    return text.removeprefix(b"\xef\xbb\xbf")


def _whole(text: bytes, delimiter: bytes, ended: bool) -> tuple[int, str]:
    """Return how many bytes are whole rows, and what is wrong with the row after them, if it is."""
    limit, wrong = len(text), ""
    if (zero := text.find(b"\0")) >= 0:
        limit, wrong = zero, f"expected text, found a zero byte; {UTF8}, or remove the byte"
    quotes = np.empty(0, np.intp)
    if b'"' in text:
        quotes = np.flatnonzero(np.frombuffer(text, np.uint8) == ord('"'))
        found = _misplaced(text, quotes, delimiter, ended)
        if found is not None and found < limit:
            limit = found
            wrong = (
                "expected quotes around whole fields, found another in "
                f"{_around(text, found)}; close it, or write a quote within a field twice"
            )
    if ended and not wrong:
        return limit, ""
    cut = _last_end(text, quotes, limit)
    if not cut and not wrong and len(text) >= LONGEST:
        wrong = (
            f"expected rows of {LONGEST >> 20} MiB at most, found one longer: {_around(text, 0)}; "
            "close its quotes, or end its lines with a newline"
        )
    return cut, wrong


def _around(text: bytes, position: int) -> str:
    return shown(text[position : position + 24])


def _misplaced(text: bytes, quotes: NDArray[np.intp], delimiter: bytes, ended: bool) -> int | None:
    """Return the place of the first quote that opens within a field or does not end one."""
    edges = np.zeros(256, bool)
    edges[list(delimiter + b"\r\n")] = True
    # What stands before the text and after it ends a field.
    codes = np.frombuffer(b"\n" + text + b"\n", np.uint8)
    opening, closing = quotes[::2], quotes[1::2]
    twice = closing[: len(opening[1:])] + 1 == opening[1:]
    opens = edges[codes[opening]]
    opens[1:] |= twice
    closes = edges[codes[closing + 2]]
    closes[: len(twice)] |= twice
    good = opens.copy()
    good[: len(closing)] &= closes
    if ended and len(opening) > len(closing):
        good[-1] = False
    return None if good.all() else int(opening[np.argmin(good)])


def _last_end(text: bytes, quotes: NDArray[np.intp], limit: int) -> int:
    """Return where the last row ends that ends before a limit; 0 if none does."""
    for newline in (b"\n", b"\r"):
        # A carriage return at the very end may be half of a newline.
        stop = limit - (newline == b"\r" and limit == len(text))
        if not len(quotes):
            if end := text.rfind(newline, 0, stop) + 1:
                return end
        else:
            codes = np.frombuffer(text, np.uint8)[:stop]
            ends = np.flatnonzero(codes == newline[0])
            outside = ends[np.searchsorted(quotes, ends) % 2 == 0]
            if len(outside):
                return int(outside[-1]) + 1
    return 0
