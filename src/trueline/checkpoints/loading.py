"""Finds a checkpoint, and looks at all that is in it before anything is done with it.

A checkpoint is data, and may come from anywhere: it is read as tensors and plain values, and
nothing in it is ever imported or run.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import lightning
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from trueline.data.blocks import BatchLoader
from trueline.errors import RequestError
from trueline.module import CHECKPOINT_FORMAT, LinearRegression

LAST = "last"
"""What `--ckpt_path` takes for the newest run's `last.ckpt`."""
LAST_NAME = "last.ckpt"
IMPORT_PATHS = ("_instantiator", "_class_path", "class_path")
"""Under these names Lightning's own CLI keeps what it would import."""
NEEDED = ("state_dict", "hyper_parameters", "pytorch-lightning_version", "trueline_format")
NEEDED_TO_RESUME = ("optimizer_states", "lr_schedulers", "loops", "epoch", "global_step")
OLDEST = (2, 6)
"""The Lightning that format 1 was first written with."""
DTYPES = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}
"""Of the parameters, by precision; float32 under any other."""


def find_last(root: Path) -> str:
    """Return `last.ckpt` of the newest run under `root` that has one.

    Raises:
        RequestError: When there is none.
    """
    found = list(root.glob(f"version_*/checkpoints/{LAST_NAME}"))
    if not found:
        raise RequestError(
            f"ckpt_path: expected a run with checkpoints/{LAST_NAME} under {root}, found none; "
            "train first with trueline fit, or give --ckpt_path FILE"
        )
    return str(max(found, key=lambda path: path.stat().st_mtime))


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


def load(path: str, resume: bool) -> dict[str, Any]:
    """Read a checkpoint and look at what is in it.

    Args:
        path: Of a file, or an address.
        resume: Whether training is to go on from it, which takes more than parameters.

    Raises:
        RequestError: When it cannot be read, or is not one that `trueline fit` has written.
    """
    checkpoint = read(path)
    with _refusing(path):
        _check_parts(path, checkpoint, resume)
    return checkpoint


@contextlib.contextmanager
def _refusing(path: str) -> Iterator[None]:
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


def check_fits(path: str, checkpoint: dict[str, Any], module: LightningModule) -> None:
    """Compare the parameters of a checkpoint with those of the module that will load them.

    Raises:
        RequestError: When names or shapes differ, or they are not finite real numbers.
    """
    with _refusing(path):
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


def check_resumable(
    path: str, checkpoint: dict[str, Any], trainer: Trainer, data: LightningDataModule
) -> None:
    """Refuse to go on where nothing is left to do, or where it could not be to the bit.

    Raises:
        RequestError: When the checkpoint has all the epochs or steps that are asked for; was made
            between the batches of one step, or where `max_steps` cut an epoch short; is of another
            precision; has an optimizer that does not fit its parameters; or stands inside an epoch
            that `data` would go on with in other batches.
    """
    with _refusing(path):
        _check_resumable(path, checkpoint, trainer, data)


def _check_resumable(
    path: str, checkpoint: dict[str, Any], trainer: Trainer, data: LightningDataModule
) -> None:
    """Do the work of `check_resumable`."""
    _check_optimizer(path, checkpoint, trainer)
    try:
        fit = checkpoint["loops"]["fit_loop"]
        counted = fit["epoch_progress"]["current"]
        ended = counted["processed"] == counted["ready"]
        cut_short = ended and not fit["epoch_loop.batch_progress"]["is_last_batch"]
        batches = fit["epoch_loop.batch_progress"]["total"]
        before_end = not ended and batches["completed"] < batches["processed"]
        before_end &= fit["epoch_loop.batch_progress"]["is_last_batch"]
        loaders = fit["state_dict"].get("combined_loader", [])
        done = {
            "max_epochs": max(int(checkpoint["epoch"]), int(counted["processed"])),
            "max_steps": int(checkpoint["global_step"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"ckpt_path: expected where Lightning's loops stood, found no such numbers in {path}; "
            "use another"
        ) from error
    if checkpoint.get("inside_step"):
        raise RequestError(
            f"ckpt_path: expected the end of an optimizer step, found in {path} a place between "
            "the batches that are accumulated for one; use a checkpoint that trueline fit makes by "
            "itself"
        )
    if before_end:
        raise RequestError(
            f"ckpt_path: expected the end of an epoch or a step inside one, found in {path} the "
            "last step of an epoch whose end, with its validation, would be left out; use a "
            "checkpoint that trueline fit makes by itself"
        )
    if cut_short:
        raise RequestError(
            f"ckpt_path: expected the end of an epoch or a step inside one, found in {path} an "
            "epoch that max_steps cut short, or EarlyStopping, whose other rows would be left "
            "out; train again with --trainer.max_epochs instead"
        )
    for option, asked in (("max_epochs", trainer.max_epochs), ("max_steps", trainer.max_steps)):
        if asked is not None and 0 < asked <= done[option]:
            raise RequestError(
                f"--trainer.{option}: expected more than the {done[option]:,} that {path} has, "
                f"found {asked:,}; raise it to go on"
            )
    if (rows := checkpoint.get("rows")) and rows != getattr(data, "digest", rows):
        raise RequestError(
            f"data: expected the rows that {path} was trained on, found others; give the same "
            "--data and its options"
        )
    for state in loaders:
        if isinstance(loader := data.train_dataloader(), BatchLoader):
            loader.load_state_dict(state)


def _check_optimizer(path: str, checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Look whether the optimizer's state fits the parameters, and both the precision.

    Raises:
        RequestError: When one of them does not.
    """
    precision = str(trainer.precision)
    expected = DTYPES.get(precision, torch.float32)
    parameters = {n: torch.nn.Parameter(v) for n, v in checkpoint["state_dict"].items()}
    for name, value in parameters.items():
        if value.dtype != expected:
            raise RequestError(
                f"ckpt_path: expected {name} of {expected}, as --trainer.precision {precision} "
                f"has it; found {value.dtype} in {path}; go on in the precision it was trained in"
            )
    try:
        [state] = checkpoint["optimizer_states"]
        optimizer = torch.optim.SGD(parameters.values(), lr=1.0)
        optimizer.load_state_dict(state)
        buffers = [optimizer.state[p].get("momentum_buffer") for p in parameters.values()]
        held = zip(parameters.values(), buffers, strict=True)
        shapes = [p.shape if b is None else b.shape for p, b in held]
        if shapes != [p.shape for p in parameters.values()]:
            raise ValueError(f"momentum buffers of shapes {[tuple(shape) for shape in shapes]}")
        if not all(torch.isfinite(buffer).all() for buffer in buffers if buffer is not None):
            raise ValueError("momentum buffers that are not finite")
    except Exception as error:  # torch looks at little of it, and raises several types
        raise RequestError(
            f"ckpt_path: expected the state of one SGD optimizer for {', '.join(parameters)}, "
            f"found in {path} another ({' '.join(str(error).split())}); use another"
        ) from error
