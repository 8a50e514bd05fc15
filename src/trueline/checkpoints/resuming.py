"""Refuses to go on with a training where that could not be to the bit."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer

from trueline.checkpoints.reading import refusing
from trueline.data.blocks import BatchLoader
from trueline.errors import RequestError

DTYPES = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}
"""Of the parameters, by precision; float32 under any other."""


def check_resumable(
    path: str, checkpoint: dict[str, Any], trainer: Trainer, data: LightningDataModule
) -> None:
    """Refuse to go on where nothing is left to do, or where it could not be to the bit.

    Args:
        path: Of the checkpoint, for messages.
        checkpoint: As loaded.
        trainer: That is to go on.
        data: That it is to train on.

    Raises:
        RequestError: When the checkpoint has all the epochs or steps that are asked for; was made
            between the batches of one step, or where `max_steps` cut an epoch short; is of another
            precision; has an optimizer that does not fit its parameters; or stands inside an epoch
            that `data` would go on with in other batches.
    """
    with refusing(path):
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
