"""Checkpoints: `last.ckpt` holds the end of the run, and a given file is looked at before use."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from trueline.errors import RequestError
from trueline.module import LinearRegression

LAST = "last"
"""What `--ckpt_path` takes for the newest run's `last.ckpt`."""


def save_last(trainer: Trainer) -> None:
    """Save the end of a training as `last.ckpt`, wherever it falls between two savings.

    Only into the run's own log directory: elsewhere it might be the `last.ckpt` of another run.
    """
    saver = trainer.checkpoint_callback
    if not isinstance(saver, ModelCheckpoint) or not (saver.dirpath and trainer.log_dir):
        return
    if Path(saver.dirpath).resolve().is_relative_to(Path(trainer.log_dir).resolve()):
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


def load(path: Path, resume: bool) -> dict[str, Any]:
    """Load a checkpoint, tensors and plain values only.

    Args:
        path: Of the file.
        resume: Whether training is to go on from it, which takes more than parameters.

    Raises:
        RequestError: When the file is missing, cannot be read, or is no Lightning checkpoint.
    """
    if not path.is_file():
        found = f"the directory {path}" if path.is_dir() else f"nothing at {path}"
        raise RequestError(f"ckpt_path: expected a checkpoint file, found {found}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a file it cannot read
        raise RequestError(
            f"ckpt_path: expected a checkpoint, found in {path} what cannot be read as one: a file "
            "cut short, of another kind, or holding more than tensors and plain values; use another"
        ) from error
    parts = checkpoint if isinstance(checkpoint, dict) else {}
    needed = ["state_dict", "hyper_parameters", "pytorch-lightning_version"]
    for part in needed + ["optimizer_states", "loops"] * resume:
        if part not in parts:
            raise RequestError(
                f"ckpt_path: {path} has no {part}; expected a checkpoint written by trueline fit"
            )
    try:
        LinearRegression(**parts["hyper_parameters"])
    except (ValueError, TypeError) as error:
        raise RequestError(
            f"ckpt_path: expected hyperparameters of LinearRegression, found in {path}: "
            f"{parts['hyper_parameters']} ({error}); use another"
        ) from error
    return parts


def check_shapes(path: Path, checkpoint: dict[str, Any], module: LightningModule) -> None:
    """Compare the parameters of a checkpoint with those of the module that will load them.

    Raises:
        RequestError: When names or shapes differ.
    """
    state = dict(checkpoint["state_dict"])
    found = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if found != expected or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise RequestError(
            f"ckpt_path: expected a state_dict with tensors of shapes {expected}, as model and "
            f"data have; found {found} in {path}; use the data that the checkpoint was trained on"
        )


def check_unfinished(path: Path, checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Refuse to go on where nothing is left to do, or where the rest of an epoch would be lost.

    Raises:
        RequestError: When the checkpoint has all the epochs or steps that are asked for, or was
            made where `max_steps` cut an epoch short, which Lightning counts as a whole one.
    """
    fit = checkpoint["loops"]["fit_loop"]
    counted = fit["epoch_progress"]["current"]
    whole = fit["epoch_loop.batch_progress"]["is_last_batch"]
    if counted["processed"] == counted["ready"] and not whole:
        raise RequestError(
            f"ckpt_path: expected the end of an epoch or a step inside one, found in {path} an "
            "epoch that --trainer.max_steps cut short, whose other rows would be left out; train "
            "again with --trainer.max_epochs instead"
        )
    epochs, steps = checkpoint["epoch"], checkpoint["global_step"]
    for option, asked, done in (
        ("max_epochs", trainer.max_epochs, epochs),
        ("max_steps", trainer.max_steps, steps),
    ):
        if asked is not None and 0 < asked <= done:
            raise RequestError(
                f"--trainer.{option}: expected more than the {done:,} that {path} has, found "
                f"{asked:,}; raise it to go on"
            )
