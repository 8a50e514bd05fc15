"""Files that appear whole or not at all, however a process ends while it writes them."""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from trueline.checkpoints.reading import read

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


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoint files, written by `write_whole` and read without running anything.

    Args:
        loaded: A checkpoint that was looked at already, with the path that it came from: what is
            used is then what was looked at, even where another file has taken its place.
    """

    def __init__(self, loaded: tuple[str, dict[str, Any]] | None = None) -> None:
        self.loaded = loaded

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint. To an address such as s3://, Lightning does."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # By way of memory: torch does not say why it could not write to a file.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), lambda file: file.write(content.getbuffer()))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain values; a file with anything else is refused, whatever is asked.

        Raises:
            RequestError: When the file is missing or cannot be read so.
        """
        if self.loaded and self.loaded[0] == str(path):
            return self.loaded[1]
        return read(str(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint file, and nothing else: the path may come out of a checkpoint."""
        if Path(path).suffix == ".ckpt" and Path(path).is_file():
            Path(path).unlink()
