"""What every table offers, whatever its files: names of columns, and batches of rows."""

import difflib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from trueline.errors import RequestError

SHOWN = 12
"""So many names or characters of a long list are put into a message."""


class Batch(NamedTuple):
    """Consecutive rows of one file.

    Args:
        record: The columns asked for, in that order.
        file: That they are from.
        first: The number of the first row in that file, from 1; a header is no row.
    """

    record: pa.RecordBatch
    file: Path
    first: int


class Table(ABC):
    """A table in a file or in the files of a folder, see `open_table`.

    Args:
        path: Of the file or folder.
        names: Of the columns, in their order; not all need differ.
        n_rows: Rows in it; None where only reading tells, as with CSV.
        schema: Types of the columns; None for CSV, whose texts become what is asked for.
        index: Names of the columns that are the index of a pandas frame. They can be asked for, but
            are no features otherwise.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        n_rows: int | None = None,
        schema: pa.Schema | None = None,
        index: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.names = tuple(names)
        self.n_rows = n_rows
        self.schema = schema
        self.index = tuple(index)
        self.positions = {name: i for i, name in enumerate(self.names)}

    def batches(
        self, columns: Sequence[str], text: Sequence[str] = (), categorical: Sequence[str] = ()
    ) -> Iterator[Batch]:
        """Read some columns, in the order of files and rows, with bounded memory.

        Args:
            columns: Names, none twice.
            text: Columns of a CSV file to leave as they are written; the others become float64.
            categorical: Columns of a CSV file to read as texts or as missing.

        Raises:
            RequestError: When a column is not there, or a file cannot be read to its end.
        """
        if wrong := self.problems(columns):
            raise RequestError("; ".join(wrong))
        return self._batches(tuple(columns), frozenset(text), frozenset(categorical))

    @abstractmethod
    def _batches(
        self, columns: tuple[str, ...], text: frozenset[str], categorical: frozenset[str]
    ) -> Iterator[Batch]:
        """Read columns that are there, once each."""

    def problems(self, columns: Sequence[str]) -> list[str]:
        """Say which columns are not in the table, or in it twice; none if all is well."""
        wrong: list[str] = []
        there = Counter(self.names)
        for name, asked in Counter(columns).items():
            if len(wrong) == SHOWN:
                wrong.append("and more")
                break
            if (found := there[name]) == 0:
                wrong.append(f"{self.path}: expected a column {name!r}, found {self._near(name)}")
            elif found > 1:
                wrong.append(
                    f"{self.path}: expected one column {name!r}, found {found} of that name; "
                    "rename all but one"
                )
            if asked > 1:
                wrong.append(f"column {name!r}: expected once, found named twice; name it once")
        return wrong

    def _near(self, name: str) -> str:
        plain = {other.strip().casefold(): other for other in self.names}
        near = difflib.get_close_matches(name.strip().casefold(), plain, n=1)
        listed = ", ".join(map(repr, self.names[:SHOWN]))
        more = f" and {len(self.names) - SHOWN} more" if len(self.names) > SHOWN else ""
        meant = f"did you mean {plain[near[0]]!r}?" if near else "name one of these"
        return f"{listed or 'no columns'}{more}; {meant}"


def place(file: Path, column: str | None = None, row: int | None = None) -> str:
    """Say where something is.

    Example:
        >>> place(Path("a.csv"), "age", 70000)
        "a.csv, column 'age', row 70,000"
    """
    parts = [str(file)]
    parts += [] if column is None else [f"column {column!r}"]
    parts += [] if row is None else [f"row {row:,}"]
    return ", ".join(parts)


def shown(text: str | bytes, length: int = 40) -> str:
    """Quote a text from a file for a message, cut where it is long.

    Example:
        >>> shown("1_000"), shown("9" * 100, 5)
        ("'1_000'", "'99999'… (100 characters)")
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return repr(text) if len(text) <= length else f"{text[:length]!r}… ({len(text)} characters)"


def on_one_line(error: Exception) -> str:
    r"""Return what another library says of a file, for the middle of a message.

    Example:
        >>> on_one_line(OSError("not a table:\n  no header"))
        'not a table: no header'
    """
    return " ".join(str(error).split())[:200]
