"""Looks at all that is in a checkpoint before anything is done with it."""

import re
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from lightning.pytorch import LightningModule

from trueline.checkpoints.module_state import CHECKPOINT_FORMAT
from trueline.checkpoints.reading import read, refusing, run_of
from trueline.errors import RequestError
from trueline.module import LinearRegression

IMPORT_PATHS = ("_instantiator", "_class_path", "class_path")
"""Under these names Lightning's own CLI keeps what it would import."""
NEEDED = ("state_dict", "hyper_parameters", "pytorch-lightning_version", "trueline_format")
NEEDED_TO_RESUME = ("optimizer_states", "lr_schedulers", "loops", "epoch", "global_step")
OLDEST = (2, 6)
"""The Lightning that format 1 was first written with."""


def load(path: str, resume: bool) -> dict[str, Any]:
    """Read a checkpoint and look at what is in it.

    Args:
        path: Of a file, or an address.
        resume: Whether training is to go on from it, which takes more than parameters.

    Returns:
        The checkpoint, of which all parts are there.

    Raises:
        RequestError: When it cannot be read, or is not one that `trueline fit` has written.
    """
    checkpoint = read(path)
    with refusing(path):
        _check_parts(path, checkpoint, resume)
    return checkpoint


def _check_parts(path: str, checkpoint: dict[str, Any], resume: bool) -> None:
    """Look whether all parts are there, of this version, and the hyperparameters plain and right.

    Raises:
        RequestError: When they are not.
    """
    for part in (*NEEDED, *NEEDED_TO_RESUME * resume):
        if part not in checkpoint:
            raise RequestError(
                f"ckpt_path: {path} has no {part}; expected a checkpoint written by trueline fit"
            )
    _check_versions(path, checkpoint)
    parameters = checkpoint["hyper_parameters"]
    if not isinstance(parameters, Mapping) or any(name in parameters for name in IMPORT_PATHS):
        raise RequestError(
            f"ckpt_path: expected hyperparameters that are plain values, found in {path} "
            f"{parameters}, of which something would be imported; use another"
        )
    try:
        # Its size is compared with the data's later: what is written here takes no memory.
        LinearRegression(**(dict(parameters) | {"n_features": 1, "n_targets": 1}))
    except (ValueError, TypeError) as error:
        raise RequestError(
            f"ckpt_path: expected hyperparameters of LinearRegression, found in {path}: "
            f"{parameters} ({error}); use another"
        ) from error


def _check_versions(path: str, checkpoint: Mapping[str, Any]) -> None:
    """Refuse what a later version has written.

    Raises:
        RequestError: Naming both versions.
    """
    ours, theirs = checkpoint["trueline_format"], checkpoint["pytorch-lightning_version"]
    if ours != CHECKPOINT_FORMAT:
        raise RequestError(
            f"ckpt_path: expected a checkpoint of format {CHECKPOINT_FORMAT}, found format {ours} "
            f"in {path}; use the version of Trueline that wrote it"
        )
    if not OLDEST <= _major_minor(theirs) <= _major_minor(lightning.__version__):
        raise RequestError(
            f"ckpt_path: expected a checkpoint of Lightning {lightning.__version__} or a little "
            f"earlier, found {theirs} in {path}; install that version"
        )


def _major_minor(version: Any) -> tuple[int, ...]:
    found = re.fullmatch(r"(\d+)\.(\d+)[\w.+]*", str(version))
    return tuple(map(int, found.groups())) if found else ()


def check_trained_on(path: str, checkpoint: Mapping[str, Any], data: str, default: str) -> None:
    """Refuse the default data, which nobody asked for, where a line was trained on other.

    Args:
        path: Of the checkpoint.
        checkpoint: As loaded.
        data: The name of the class of data that is at hand.
        default: That which is taken unless told otherwise.

    Raises:
        RequestError: Saying on what it was trained.
    """
    trained_on = str(checkpoint.get("data", data))
    if data != default or trained_on == data:
        return
    trained_on = trained_on if trained_on.isidentifier() else "other data"
    config = run_of(path) / "config.yaml"
    give = f"--config {config}" if config.is_file() else f"--data {trained_on} and its options"
    raise RequestError(
        f"--data: expected {trained_on}, which {path} was trained on, found {data}, the default; "
        f"give {give}, or --data {data} if that is meant"
    )


def check_fits(path: str, checkpoint: dict[str, Any], module: LightningModule) -> None:
    """Compare the parameters of a checkpoint with those of the module that will load them.

    Args:
        path: Of the checkpoint, for messages.
        checkpoint: As loaded.
        module: With parameters of the shapes that are expected.

    Raises:
        RequestError: When names or shapes differ, or they are not finite real numbers.
    """
    with refusing(path):
        _check_state(path, checkpoint["state_dict"], module)


def _check_state(path: str, state: Any, module: LightningModule) -> None:
    """Do the work of `check_fits`."""
    state = dict(state) if isinstance(state, Mapping) else {}
    found = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if found != expected or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise RequestError(
            f"ckpt_path: expected a state_dict with tensors of shapes {expected}, as model and "
            f"data have; found {found} in {path}; use the data that the checkpoint was trained on"
        )
    for name, value in state.items():
        if value.layout != torch.strided or value.is_meta or not value.is_floating_point():
            raise RequestError(
                f"ckpt_path: expected finite real parameters, found in {path} {name} of "
                f"{value.dtype}, {value.layout} on {value.device}; use another"
            )
        if not torch.isfinite(value).all():
            raise RequestError(
                f"ckpt_path: expected finite real parameters, found in {path} {name} "
                f"{value.tolist()}; use another"
            )
