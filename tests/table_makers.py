"""Makers of tables, good and bad: each returns what writes one into a folder.

That returns the path, and the options with which to load it.
"""

import gzip
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from trueline.tables import Rows

LONG = 70_000
"""Rows of the long tables: more than one batch of any format."""


class Case(NamedTuple):
    """One input: how to make it, and what must come of it.

    Args:
        make: Writes into a folder, and returns the path and options of `load`.
        words: That the refusal must hold, by bars; empty if it is to be read.
        X: The features that must come out, in rows.
        y: The target.
    """

    make: Callable[[Path], tuple[Path, dict[str, Any]]]
    words: str
    X: list[list[float]] | None = None
    y: list[float] | None = None


CASES: dict[str, Case] = {}


def text(content: str | bytes, name: str = "t.csv", **options: Any) -> Callable[[Path], Any]:
    """Return what writes a file of text or bytes."""

    def make(folder: Path) -> tuple[Path, dict[str, Any]]:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path, options

    return make


def arrow(columns: dict[str, Any], name: str = "t.parquet", **options: Any) -> Callable[..., Any]:
    """Return what writes columns as Parquet or Feather."""

    def make(folder: Path) -> tuple[Path, dict[str, Any]]:
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        write = parquet.write_table if name.endswith("parquet") else feather.write_feather
        write(table, folder / name)
        return folder / name, options

    return make


def npy(array: Any, **options: Any) -> Callable[..., Any]:
    """Return what writes an array; column_1 is its target unless told otherwise."""

    def make(folder: Path) -> tuple[Path, dict[str, Any]]:
        np.save(folder / "t.npy", array)
        return folder / "t.npy", {"target": "column_1", **options}

    return make


def number(written: str, *words: str, value: float | None = None) -> Case:
    """Return a case of one written number in row 2 of a CSV file."""
    make = text(f"x,y\n1,2\n{written},4\n")
    if value is None:
        return Case(make, "|".join(["t.csv, column 'x', row 2: expected", *words]))
    return Case(make, "", [[1], [value]], [2, 4])


def bad(name: str, make: Callable[[Path], Any], *words: str) -> None:
    assert name not in CASES
    CASES[name] = Case(make, "|".join(words))


def good(name: str, make: Callable[[Path], Any], X: Any, y: Any = (2, 4)) -> None:
    assert name not in CASES
    CASES[name] = Case(make, "", X, list(y))


def cut(make: Callable[[Path], Any], part: float = 0.5) -> Callable[..., Any]:
    """Return what writes a file and leaves its first part."""

    def shorten(folder: Path) -> Any:
        path, options = make(folder)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * part)])
        return path, options

    return shorten


def lengthened(make: Callable[[Path], Any]) -> Callable[..., Any]:
    """Return what writes a file and a number more."""

    def lengthen(folder: Path) -> Any:
        path, options = make(folder)
        path.write_bytes(path.read_bytes() + bytes(8))
        return path, options

    return lengthen


def damaged(make: Callable[[Path], Any], begin: float, end: float) -> Callable[..., Any]:
    """Return what writes a file, and turns some of its bytes around."""

    def damage(folder: Path) -> Any:
        path, options = make(folder)
        content = np.frombuffer(path.read_bytes(), np.uint8).copy()
        content[int(len(content) * begin) : int(len(content) * end)] ^= 0xFF
        path.write_bytes(content.tobytes())
        return path, options

    return damage


def renamed(make: Callable[[Path], Any], name: str) -> Callable[..., Any]:
    def rename(folder: Path) -> Any:
        path, options = make(folder)
        return path.rename(folder / name), options

    return rename


def packed(content: str, name: str = "t.csv.gz") -> Callable[[Path], Any]:
    return text(gzip.compress(content.encode()), name)


def special(make: Callable[[Path], Any], name: str = "t.csv") -> Callable[[Path], Any]:
    """Return what makes something at a path by other means than writing it."""

    def at(folder: Path) -> Any:
        found = make(folder / name)
        return (found if isinstance(found, Path) else folder / name), {}

    return at


def folder_of(*makes: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def fill(folder: Path) -> Any:
        inner = folder / "parts"
        inner.mkdir()
        for make in makes:
            make(inner)
        return inner, {}

    return fill


def device(name: str) -> Callable[[Path], Any]:
    return lambda _: (Path("/dev", name), {})


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        before = Path.cwd()
        os.chdir(path.parent)  # a socket's path must be short
        opened.bind(path.name)
        os.chdir(before)


def lock(path: Path) -> None:
    path.write_text("x,y\n1,2\n")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("the superuser reads all files")


def rows(n: int, changed: dict[int, str] | None = None) -> str:
    """Return n rows `i,2·i` under a header, some of them changed; they count from 1."""
    lines = [f"{i},{2 * i}" for i in range(1, n + 1)]
    for row, line in (changed or {}).items():
        lines[row - 1] = line
    return "x,y\n" + "\n".join(lines) + "\n"


def joined(served: Iterator[Rows]) -> Rows:
    """Put all blocks together."""
    parts = list(served)
    assert all(part.X.flags.c_contiguous for part in parts)
    columns = (None if c[0] is None else np.concatenate(c) for c in zip(*parts, strict=True))
    return Rows(*columns)  # type: ignore[arg-type]
