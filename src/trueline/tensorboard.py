"""What a training leaves in TensorBoard.

The x axis is the number of optimizer steps taken. A point at step k shows the state before the next
step: the parameters after k steps, with the loss and the gradients at those parameters, over the
batch of that step; the last point's loss is over all rows.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from trueline.executions.spans import Execution
from trueline.hooks import FewHooks
from trueline.run_folder import claim_folder, next_folder

AFTER_STEP = ("val/loss", "crosscheck/worst_ratio")
"""Tags whose point at step k is logged before step k + 1 begins, and before a checkpoint at k."""

MOST_WAITING = 10_000
"""Records that wait to be written; with the usual ten, each one waits for the thread's turn."""
HOLD_SECONDS = 1.0
"""How long points may wait to be written; TensorBoard looks every thirty."""


class RunLogger(TensorBoardLogger):
    """Logs into `version_N`, a folder that is made when it is first asked for.

    Args:
        runs: The folder that holds one folder a run.
    """

    def __init__(self, runs: Path) -> None:
        super().__init__(runs.parent, runs.name, default_hp_metric=False, max_queue=MOST_WAITING)
        self.runs = runs
        self._claimed: Path | None = None
        self._held: dict[int, tuple[float, dict[str, float]]] = {}
        self._handed_over = time.monotonic()

    @property
    def version(self) -> str:
        """The name of the run's folder; in processes other than the first it is not the run's."""
        if self._claimed is None:
            first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
            self._claimed = (claim_folder if first else next_folder)(self.runs, "version")
        return self._claimed.name

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers.

        Raises:
            OSError: When they cannot be written; Lightning says that they are not supported.
        """
        self._hand_over()  # what was logged before comes before
        try:
            super().log_metrics(metrics, step)
        except ValueError as error:
            raise (error.__cause__ if isinstance(error.__cause__, OSError) else error) from None

    @rank_zero_only
    def log_points(self, names: list[str], rows: list[list[float]], steps: list[int]) -> None:
        """Log many points, all numbers of a step as one record: a tenth of the time.

        Those of a second are written together, which costs a fraction of writing each by itself:
        the thread that writes would hand the interpreter to and fro with the one that trains.

        Args:
            names: Of the numbers of a point.
            rows: Of each point.
            steps: Of each point.
        """
        now = time.time()
        for step, row in zip(steps, rows, strict=True):
            self._held.setdefault(step, (now, {}))[1].update(zip(names, row, strict=True))
        if time.monotonic() - self._handed_over >= HOLD_SECONDS:
            self._hand_over()

    def _hand_over(self) -> None:
        """Have the points written that are held, and wait until they are."""
        held, self._held = self._held, {}
        if held:
            writer = self.experiment.file_writer
            assert writer is not None
            for step, (at, named) in sorted(held.items()):
                values = [Summary.Value(tag=name, simple_value=x) for name, x in named.items()]
                writer.add_summary(Summary(value=values), step, at)
            writer.flush()
        self._handed_over = time.monotonic()

    @rank_zero_only
    def save(self) -> None:
        """Put on disk what was logged."""
        self._hand_over()
        super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Put on disk what was logged, at the end or at an error, and close it."""
        self._hand_over()
        super().finalize(status)

    @rank_zero_only
    def carry_on(self, run: Path, steps: int) -> None:
        """Begin with the curves of another run, as far as they go before a checkpoint of it.

        Args:
            run: The folder of that run, which stays as it is. Without curves, nothing is carried.
            steps: That it had taken when the checkpoint was made.
        """
        if not any(run.glob("events.out.tfevents.*")):
            return
        events = EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            end = steps + 1 if tag in AFTER_STEP else steps
            for point in events.Scalars(tag):
                if point.step < end:
                    self.experiment.add_scalar(tag, point.value, point.step, point.wall_time)


class Scalars(FewHooks):
    """Logs loss, parameters, gradients and lr, every `log_every_n_steps` steps and at the end."""

    knows_executions = True

    def __init__(self) -> None:
        self._row: dict[str, float] | None = None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Note parameters, gradients and lr before the step, when a point is due."""
        if getattr(pl_module, "execution", None) is not None:
            return
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        step = trainer.global_step
        if step % every == 0:
            named = dict(pl_module.named_parameters())
            self._row = _entries("parameters", named)
            gradients = {n: p.grad for n, p in named.items() if p.grad is not None}
            self._row |= _entries("gradients", gradients)
            self._row["lr"] = optimizer.param_groups[0]["lr"]
            self._step = step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the loss and log the point; of an execution, all points within it."""
        execution = getattr(pl_module, "execution", None)
        logger = trainer.logger
        if execution is not None and logger:
            _log_points(trainer, pl_module, execution)
        if self._row is not None and logger:
            self._row["train/loss"] = pl_module.step_loss.item()  # type: ignore[operator]
            if isinstance(logger, RunLogger):
                logger.log_points([*self._row], [[*self._row.values()]], [self._step])
            else:
                logger.log_metrics(self._row, self._step)
        self._row = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put on disk what was logged, so that a training can go on from here with whole curves."""
        for logger in trainer.loggers:
            logger.save()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation loss at the number of steps taken."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if trainer.logger and fitting and "val/loss" in trainer.callback_metrics:
            loss = trainer.callback_metrics["val/loss"].item()
            trainer.logger.log_metrics({"val/loss": loss}, trainer.global_step)


def _log_points(trainer: Trainer, pl_module: LightningModule, execution: Execution) -> None:
    """Log the points of an execution that are due."""
    points, logger = execution.points, trainer.logger
    assert points is not None
    assert logger is not None
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    first = trainer.global_step - execution.steps
    names = [
        f"{group}/{name}"
        for group in ("parameters", "gradients")
        for name in _names(dict(pl_module.named_parameters()))
    ]
    names += ["lr", "train/loss"]
    values = np.column_stack([points.parameters, points.gradients, points.lrs, points.losses])
    due = (first + points.steps) % every == 0
    rows, steps = values[due].tolist(), (first + points.steps)[due].tolist()
    if isinstance(logger, RunLogger):
        logger.log_points(names, rows, steps)
        return
    for step, row in zip(steps, rows, strict=True):
        logger.log_metrics(dict(zip(names, row, strict=True)), step)


def log_final(
    trainer: Trainer,
    pl_module: LightningModule,
    loss: float,
    metrics: dict[str, float],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Log the point after the last step, the hyperparameters with the final metrics, and texts."""
    if not trainer.logger:
        return
    row = _entries("parameters", dict(pl_module.named_parameters())) | {"train/loss": loss}
    trainer.logger.log_metrics(row, trainer.global_step)
    if isinstance(trainer.logger, TensorBoardLogger):
        trainer.logger.log_hyperparams(dict(pl_module.hparams), metrics, trainer.global_step)
        for name, text in (texts or {}).items():
            trainer.logger.experiment.add_text(name, text, trainer.global_step)
    trainer.logger.save()


def _entries(group: str, named: Mapping[str, Tensor]) -> dict[str, float]:
    """Name the entries of some tensors: `group/weight`, or `group/weight_0` and so on."""
    values = [value for tensor in named.values() for value in tensor.detach().flatten().tolist()]
    return dict(zip((f"{group}/{name}" for name in _names(named)), values, strict=True))


def _names(named: Mapping[str, Tensor]) -> list[str]:
    """Name all entries: `weight`, or `weight_0` and so on.

    Those of a matrix are named by row and column, such as `weight_0_1`: feature 0, target 1.
    """
    return [
        "_".join([name, *map(str, place)])
        for name, tensor in named.items()
        for place in ([()] if tensor.numel() == 1 else np.ndindex(tensor.shape))
    ]
