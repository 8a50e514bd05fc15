"""Finds and reads checkpoints, as tensors and plain values.

A checkpoint is data, and may come from anywhere: nothing in it is ever imported or run.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import torch

from trueline.errors import RequestError

LAST = "last"
"""What `--ckpt_path` takes for the newest run's `last.ckpt`."""
LAST_NAME = "last.ckpt"
PREPROCESSING = "TableData"
"""Key of columns and scaling in a checkpoint, whatever the class of the data; Lightning saves those
of a TableData under its name too."""
FOLDER = "checkpoints"
"""Of a run, where its checkpoints lie."""


def find_last(*folders: Path) -> str:
    """Return `last.ckpt` of the newest run that has one.

    Args:
        folders: Folders that hold one folder a run.

    Raises:
        RequestError: When there is none.
    """
    found = [path for runs in folders for path in runs.glob(f"*/{FOLDER}/{LAST_NAME}")]
    if not found:
        places = " or ".join(str(folder) for folder in folders)
        raise RequestError(
            f"ckpt_path: expected a run with {FOLDER}/{LAST_NAME} under {places}, found none; "
            "train first with trueline fit, give the --trainer.default_root_dir that it had, or "
            "--ckpt_path FILE"
        )
    return str(max(found, key=lambda path: path.stat().st_mtime))


def run_of(path: str) -> Path:
    """Return the folder of the run that a checkpoint is from; of an address, the one at hand."""
    if "://" in path:
        return Path()
    folder = Path(path).parent
    return folder.parent if folder.name == FOLDER else folder


def read(path: str) -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only, onto the CPU.

    Args:
        path: Of a file, or an address such as https://.

    Raises:
        RequestError: When there is no such file, or it cannot be read so.
    """
    if "://" not in path and not Path(path).is_file():
        found = f"the directory {path}" if Path(path).is_dir() else f"nothing at {path}"
        raise RequestError(f"ckpt_path: expected a checkpoint file, found {found}")
    try:
        with fsspec.open(path, "rb") as file:
            content = file.read()
    except Exception as error:  # each kind of address has errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(
            f"ckpt_path: expected to read {path}, found: {reason}; give another"
        ) from error
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a file it cannot read
        raise RequestError(
            f"ckpt_path: expected a checkpoint, found in {path} what cannot be read as one: a file "
            "cut short, of another kind, or holding more than tensors and plain values; use another"
        ) from error
    return checkpoint if isinstance(checkpoint, dict) else {}


@contextlib.contextmanager
def refusing(path: str) -> Iterator[None]:
    """Turn whatever goes wrong in looking at a checkpoint into one message.

    Raises:
        RequestError: For anything that a part of another kind than expected may raise.
    """
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise RequestError(
            f"ckpt_path: expected what trueline fit writes, found in {path} something else "
            f"({type(error).__name__}: {reason}); use another"
        ) from error
