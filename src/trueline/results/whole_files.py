"""Files that appear whole or not at all, however a process ends while it writes them."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

PARTIAL = ".partial"
"""What is put behind a name until the file is whole."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place, and put it there once it is on the disk.

    Args:
        path: Of the file. One that is there stays as it is until the new one takes its place.
        write: Given the open file, writes its content.

    Raises:
        OSError: When it cannot be written; what was written of it is taken away.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def link_whole(file: Path, path: Path) -> None:
    """Give a whole file a second name, or a copy under it where there are no links.

    What takes the place of one of the two later leaves the other as it is.

    Args:
        file: That was written by `write_whole`.
        path: Its second name, whatever has it now.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)
        os.link(file, partial)
        partial.replace(path)
        # Of two names for one file, replacing one by the other removes neither.
        partial.unlink(missing_ok=True)
    except OSError:
        write_whole(path, lambda new: new.write(file.read_bytes()))
