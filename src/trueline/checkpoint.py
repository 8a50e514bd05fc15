"""Checkpoints: `last.ckpt` holds the end of the run, and a given file is looked at before use."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from trueline.errors import RequestError

LAST = "last"
"""What `--ckpt_path` takes for the newest run's `last.ckpt`."""


def save_last(trainer: Trainer) -> None:
    """Save the end of a training as `last.ckpt`, wherever it falls between two savings."""
    saver = trainer.checkpoint_callback
    if isinstance(saver, ModelCheckpoint) and saver.dirpath and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        trainer.save_checkpoint(Path(saver.dirpath) / f"{LAST}.ckpt")


def find_last(root: Path) -> Path:
    """Return `last.ckpt` of the newest run under `root` that has one.

    Raises:
        RequestError: When there is none.
    """
    found = list(root.glob(f"version_*/checkpoints/{LAST}.ckpt"))
    if not found:
        raise RequestError(
            f"ckpt_path: expected a run with checkpoints/last.ckpt under {root}, found none; "
            "train first with trueline fit, or give --ckpt_path FILE"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint, tensors and plain values only.

    Raises:
        RequestError: When the file is missing, cannot be read, or is no Lightning checkpoint.
    """
    if not path.is_file():
        raise RequestError(f"ckpt_path: expected a checkpoint file, found nothing at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a file it cannot read
        raise RequestError(
            f"ckpt_path: expected a checkpoint, found in {path} what cannot be read as one: a file "
            "cut short, of another kind, or holding more than tensors and plain values; use another"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise RequestError(
            f"ckpt_path: {path} has no state_dict; expected a checkpoint written by trueline fit"
        )
    return checkpoint


def check_shapes(path: Path, checkpoint: dict[str, Any], module: LightningModule) -> None:
    """Compare the parameters of a checkpoint with those of the module that will load them.

    Raises:
        RequestError: When names or shapes differ.
    """
    found = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if found != expected:
        raise RequestError(
            f"ckpt_path: expected parameters {expected}, as this model and data have; found "
            f"{found} in {path}; use the data that the checkpoint was trained on"
        )
