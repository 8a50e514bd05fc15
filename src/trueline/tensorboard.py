"""What a training leaves in TensorBoard.

The x axis is the number of optimizer steps taken. A point at step k shows the state before the next
step: the parameters after k steps, with the loss and the gradients at those parameters, over the
batch of that step; the last point's loss is over all rows.
"""

from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor


class Scalars(Callback):
    """Logs loss, parameters, gradients and lr, every `log_every_n_steps` steps and at the end."""

    def __init__(self) -> None:
        self._row: dict[str, float] | None = None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Note parameters, gradients and lr before the step, when a point is due."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % every == 0:
            self._row = _entries("parameters", dict(pl_module.named_parameters()))
            gradients = {n: p.grad for n, p in pl_module.named_parameters() if p.grad is not None}
            self._row |= _entries("gradients", gradients)
            self._row["lr"] = optimizer.param_groups[0]["lr"]
            self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the loss and log the point; let callbacks such as EarlyStopping know the loss."""
        loss = outputs.get("mse", outputs["loss"])
        # Lightning's self.log would do this too, at the price of a whole step each time.
        trainer.callback_metrics["train/loss"] = loss
        if self._row is not None and trainer.logger:
            self._row["train/loss"] = loss.item()
            trainer.logger.log_metrics(self._row, self._step)
        self._row = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation loss at the number of steps taken."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if trainer.logger and fitting and "val/loss" in trainer.callback_metrics:
            loss = trainer.callback_metrics["val/loss"].item()
            trainer.logger.log_metrics({"val/loss": loss}, trainer.global_step)


def log_final(
    trainer: Trainer, pl_module: LightningModule, loss: float, metrics: dict[str, float]
) -> None:
    """Log the point after the last step, and the hyperparameters with the final metrics."""
    if not trainer.logger:
        return
    row = _entries("parameters", dict(pl_module.named_parameters())) | {"train/loss": loss}
    trainer.logger.log_metrics(row, trainer.global_step)
    if isinstance(trainer.logger, TensorBoardLogger):
        trainer.logger.log_hyperparams(dict(pl_module.hparams), metrics, trainer.global_step)
    trainer.logger.save()


def _entries(group: str, named: dict[str, Tensor]) -> dict[str, float]:
    """Name the entries of some tensors: `group/weight`, or `group/weight_0` and so on.

    Those of a matrix are named by row and column, such as `group/weight_0_1`: feature 0, target 1.
    """
    row: dict[str, float] = {}
    for name, tensor in named.items():
        values = tensor.detach().flatten().tolist()
        places = [()] if len(values) == 1 else np.ndindex(tensor.shape)
        for place, value in zip(places, values, strict=True):
            row["_".join([f"{group}/{name}", *map(str, place)])] = value
    return row
