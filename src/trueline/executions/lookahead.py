"""How many steps a training may take at once: up to whatever is due next, and why not more.

What is due are validations, checkpoints, the limits of epochs and steps, and the ends of epochs
where a callback waits for them. An execution ends there, so none of them is passed.
"""

import math
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
    Timer,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from trueline.data.blocks import BatchLoader
from trueline.hooks import has_hook
from trueline.progress import validates_every

MOST_NUMBERS = 2**26
"""Entries of rows an execution takes in: about a fifth of a second's work, so that a progress bar
moves and Ctrl-C is heard."""
MOST_STEPS = 2**17
LARGEST = {"64-true": 1e140, "32-true": 1e15}
"""Of what is squared and summed in these precisions; in others, steps are taken one by one."""
TURN = 5_000_000
"""Operations in the time of one turn of Lightning's loop, half a millisecond."""
INSIDE_A_STEP = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
AFTER_A_STEP = ("on_train_batch_start", "on_train_batch_end")
WITHOUT_EVERY_STEP = (
    *(DeviceStatsMonitor, EarlyStopping, LearningRateMonitor),
    *(ModelCheckpoint, ModelSummary, ProgressBar, Timer),
)
"""Lightning's callbacks that do with seeing some of the steps."""


def reason_for_single_steps(trainer: Trainer, module: LightningModule, own: type) -> str | None:
    """Say why the steps of a training are taken one by one, if they are.

    Args:
        trainer: At the start of its training.
        module: What it trains.
        own: The class whose training step is known to be affine.
    """
    h: Any = module.hparams
    asked = h.steps_per_execution
    if asked == 1:
        return "--model.steps_per_execution 1"
    if h.l1:
        return "an L1 penalty is not affine"
    if trainer.gradient_clip_val:
        return "gradient clipping is not affine"
    schedule = h.schedule or {}
    if schedule.get("name") == "ReduceLROnPlateau" and schedule.get("interval") == "step":
        return "the schedule waits for the loss of each step"
    if trainer.accumulate_grad_batches > 1:
        return "batches are accumulated"
    if str(trainer.precision) not in LARGEST:
        return f"precision {trainer.precision} rounds each step"
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return f"of {type(trainer.strategy).__name__}"
    if trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
        return "the data is loaded anew"
    loader = trainer.train_dataloader
    if type(loader) is not BatchLoader or loader.joined is None:
        return "the data does not come from a RegressionData"
    if loader.largest > LARGEST[str(trainer.precision)]:
        return "the data is too large for its squares"
    if _composing_costs_more(h, loader):
        return "with so many features, composing them costs more"
    if type(module) is not own:
        return f"{type(module).__name__} may do other steps than {own.__name__}"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if wants := _wants_every_step(callback, asked):
            return f"{type(callback).__name__} looks into each ({wants})"
    return None


def _composing_costs_more(h: Any, loader: BatchLoader) -> bool:
    """Count the operations of a step either way."""
    width = h.n_features + 1 + h.n_targets
    state = width + (h.n_features + 1) * bool(h.momentum)
    if loader.batch_size >= len(loader.dataset) and not h.schedule:
        composed = 40 * state**2  # the powers of one map, applied and refined
    else:
        composed = 2 * state**3 + 2 * loader.batch_size * width**2
    return bool(composed > 4 * loader.batch_size * width * h.n_targets + TURN)


def _wants_every_step(callback: Callback, asked: int | Literal["auto"]) -> str | None:
    """Return the hook for which a callback must see each step, if it has one."""
    if isinstance(callback, WITHOUT_EVERY_STEP) or getattr(callback, "knows_executions", False):
        return None
    hooks = INSIDE_A_STEP if asked != "auto" else (*INSIDE_A_STEP, *AFTER_A_STEP)
    return next((name for name in hooks if has_hook(callback, name)), None)


class Lookahead:
    """How many batches the next execution takes.

    Args:
        trainer: At the start of its training.
        asked: `steps_per_execution`.
        per_epoch: Batches an epoch.
        numbers: Entries of the rows of a batch.
    """

    def __init__(
        self, trainer: Trainer, asked: int | Literal["auto"], per_epoch: int, numbers: int
    ) -> None:
        self._trainer = trainer
        self.per_epoch = per_epoch
        self.asked = asked
        self.most = max(1, min(MOST_STEPS, MOST_NUMBERS // numbers)) if asked == "auto" else asked
        self._intervals = [
            every
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            for every in (_step_interval(callback),)
            if every
        ]
        self._every_epoch = self._epoch_interval()

    def _epoch_interval(self) -> int | None:
        """Return after how many epochs something waits for the end of one; None for never."""
        trainer = self._trainer
        schedule = trainer.lightning_module.hparams["schedule"] or {}
        every = [1] if schedule.get("name") == "ReduceLROnPlateau" else []
        if self.asked == "auto":  # else as many steps as are asked for may pass
            every += [n for c in trainer.callbacks if (n := _epoch_interval(c))]  # type: ignore[attr-defined]
        return math.gcd(*every) or None

    def __call__(self, epoch: int, batch: int) -> int:
        """Return how many batches may be taken at once from here on, at least 1."""
        trainer, per_epoch = self._trainer, self.per_epoch
        step = trainer.global_step
        most = self.most if self.asked == "auto" else self.most - batch % self.most
        most = min([most, *(n - step % n for n in self._intervals)])
        if trainer.max_steps > 0:
            most = min(most, trainer.max_steps - step)
        to_end = per_epoch - batch
        in_epochs, in_batches = validates_every(trainer)
        if in_batches:
            most = min(
                most, in_batches - (batch if in_epochs else epoch * per_epoch + batch) % in_batches
            )
        if most < to_end or batch:
            return max(1, min(most, to_end))
        epochs = most // per_epoch
        if trainer.max_epochs and trainer.max_epochs > 0:
            epochs = min(epochs, trainer.max_epochs - epoch)
        for every in (in_epochs, self._every_epoch):
            if every:
                epochs = min(epochs, every - epoch % every)
        if self.asked != "auto":
            epochs = min(epochs, max(1, self.most // per_epoch))
        return max(1, epochs) * per_epoch


def _epoch_interval(callback: Callback) -> int | None:
    """Return after how many epochs a callback waits for the end of one."""
    if getattr(callback, "knows_executions", False) or isinstance(callback, ProgressBar | Timer):
        return None
    if isinstance(callback, ModelCheckpoint):
        return callback._every_n_epochs or None
    if isinstance(callback, EarlyStopping) and not callback._check_on_train_epoch_end:
        return None
    hooks = ("on_train_epoch_start", "on_train_epoch_end")
    return 1 if any(has_hook(callback, name) for name in hooks) else None


def _step_interval(callback: Callback) -> int | None:
    """Return after how many steps a callback saves."""
    every = getattr(callback, "every_n_steps", None)
    return every or getattr(callback, "_every_n_train_steps", None) or None
