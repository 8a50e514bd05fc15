"""Files that appear whole or not at all, however a process ends while it writes them."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

PARTIAL = ".partial"
"""What is put behind a name until the file is whole."""


class WholeFile:
    """A file that is written piece by piece beside its place, and put there once it is whole.

    Args:
        path: Path of the file. One that is there stays as it is until the new one takes its place.

    Attributes:
        file: The open file to write to.

    Raises:
        OSError: When it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self.file = self._partial.open("wb")

    def finish(self) -> None:
        """Put the file in its place, once it is on the disk.

        Raises:
            OSError: When there is no room for it.
        """
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._partial.replace(self.path)

    def discard(self) -> None:
        """Take away what was written."""
        with contextlib.suppress(OSError):
            self.file.close()  # which writes what is left to write, where there is room
        with contextlib.suppress(OSError):
            self._partial.unlink()


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place, and put it there once it is on the disk.

    Args:
        path: Of the file. One that is there stays as it is until the new one takes its place.
        write: Given the open file, writes its content.

    Raises:
        OSError: When it cannot be written; what was written of it is taken away.
    """
    whole = WholeFile(path)
    try:
        write(whole.file)
        whole.finish()
    except BaseException as error:
        whole.discard()
        if isinstance(error, OSError):
            error.filename = str(path)  # a write that fails names none
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
