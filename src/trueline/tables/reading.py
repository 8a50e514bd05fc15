"""From a path to a table: what kind of file it is, by its name, and whether it is one."""

import difflib
import stat
from collections.abc import Callable
from pathlib import Path

from trueline.errors import RequestError
from trueline.tables.csv import CsvTable
from trueline.tables.npy import NpyTable
from trueline.tables.table import Table, shown
from trueline.tables.typed import ArrowTable, ParquetTable

PARQUET = (".parquet", ".pq")
KINDS: dict[str, tuple[str, Callable[[Path], Table]]] = {
    ".csv": ("CSV", lambda path: CsvTable(path, ",")),
    ".tsv": ("CSV", lambda path: CsvTable(path, "\t")),
    ".csv.gz": ("gzip", lambda path: CsvTable(path, ",")),
    ".tsv.gz": ("gzip", lambda path: CsvTable(path, "\t")),
    ".parquet": ("Parquet", lambda path: ParquetTable(path, [path])),
    ".pq": ("Parquet", lambda path: ParquetTable(path, [path])),
    ".feather": ("Arrow", ArrowTable),
    ".arrow": ("Arrow", ArrowTable),
    ".ipc": ("Arrow", ArrowTable),
    ".npy": ("NumPy", NpyTable),
}
"""What the end of a name stands for, and what opens it."""

MAGIC = {
    b"PAR1": "Parquet",
    b"PARE": "encrypted Parquet",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"FEA1": "Feather version 1",
    b"\x93NUMPY": "NumPy",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip file or spreadsheet",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\xfd7zXZ": "xz",
    b"SQLite format 3": "a database",
    b"\x89HDF": "HDF5",
}
"""How files of a kind begin, as their formats lay down; CSV begins with anything else."""


def open_table(path: str | Path) -> Table:
    """Open a table, and read the names of its columns.

    Args:
        path: CSV (.csv, .tsv, or these with .gz), Parquet (.parquet, .pq), Arrow IPC or Feather
            (.feather, .arrow, .ipc), NumPy (.npy), or a folder of Parquet files of one schema,
            taken in the order of their names. In a folder, names that begin with `_` or `.` are
            left out.

    Raises:
        RequestError: When there is no table, or it is not what its name says.
    """
    path = Path(path)
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        return ParquetTable(path, _files(path))
    _check_file(path, mode)
    return KINDS[_ending(path)][1](path)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            found = f"a link to {path.readlink()}, which does not exist"
            raise RequestError(f"{path}: expected a table, found {found}; correct it") from None
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        remedy = f"did you mean {near[0]}?" if near else "check the path"
        raise RequestError(f"{path}: expected a table, found no such file; {remedy}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestError(
            f"{path}: expected a table, found: {reason}; check the path, its links and rights"
        ) from error


def _ending(path: Path) -> str:
    name = path.name.lower()
    return next((end for end in sorted(KINDS, key=len, reverse=True) if name.endswith(end)), "")


def _check_file(path: Path, mode: int) -> None:
    """Refuse what is no regular file, is empty, or begins otherwise than its name says."""
    if not stat.S_ISREG(mode):
        names = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
        found = names.get(stat.S_IFMT(mode), "a device")
        raise RequestError(f"{path}: expected a file, found {found}; save the table to a file")
    if not (ending := _ending(path)):
        raise RequestError(
            f"{path}: expected a name that ends in {', '.join(KINDS)}; found {path.suffix!r}; "
            "save it as one of these, or rename it"
        )
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise RequestError(
            f"{path}: expected a file that can be read, found: {error.strerror}; check its rights"
        ) from error
    if not head:
        raise RequestError(f"{path}: expected a table, found an empty file; write it again")
    found = next((kind for start, kind in MAGIC.items() if head.startswith(start)), "CSV")
    if found == (expected := KINDS[ending][0]):
        return
    told = f"what begins with {shown(head)}" if found == "CSV" else found
    ends = [end for end, (kind, _) in KINDS.items() if kind == found]
    remedy = "save it as CSV or Parquet"
    if ends:
        remedy = f"if that is right, rename it to {ends[0]}; otherwise write it again"
    raise RequestError(f"{path}: expected {expected}, by its name, found {told}; {remedy}")


def _files(folder: Path) -> list[Path]:
    """List the Parquet files of a folder; anything else in it must be meant to be left out."""
    try:
        found = sorted(p for p in folder.iterdir() if not p.name.startswith(("_", ".")))
    except OSError as error:
        raise RequestError(
            f"{folder}: expected a folder that can be read, found: {error.strerror}; check its "
            "rights"
        ) from error
    if not found:
        raise RequestError(f"{folder}: expected Parquet files, found none; name a file or a folder")
    for path in found:
        mode = _mode(path)
        if stat.S_ISDIR(mode) or _ending(path) not in PARQUET:
            kind = "a folder" if stat.S_ISDIR(mode) else "another file"
            raise RequestError(
                f"{folder}: expected Parquet files alone, found {kind}: {path.name}; name that, or "
                "move it away (names that begin with _ or . are left out)"
            )
        _check_file(path, mode)
    return found
