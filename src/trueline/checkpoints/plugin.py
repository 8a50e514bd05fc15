"""Lightning's plugin for checkpoint files: written whole, and read without running anything."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from trueline.checkpoints.reading import read
from trueline.results.whole_files import write_whole


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
