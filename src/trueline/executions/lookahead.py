"""How many steps a training may take at once: up to whatever is due next.

What is due are validations, checkpoints, the limits of epochs and steps, and the ends of epochs
where a callback waits for them. An execution ends there, so none of them is passed.
"""

import math
from typing import Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar, Timer

from trueline.data.blocks import BatchLoader
from trueline.hooks import has_hook
from trueline.progress import validates_every

MOST_NUMBERS = 2**26
"""Entries of rows an execution takes in: about a fifth of a second's work, so that a progress bar
moves and Ctrl-C is heard."""
MOST_STEPS = 2**17
BETWEEN_LOOKS = 0.1
"""Seconds in which an execution is done at most, where a Timer may end the training after it."""


class Lookahead:
    """How many batches the next execution takes.

    Args:
        trainer: At the start of its training.
        asked: `steps_per_execution`.
        loader: Of the training rows.
        per_epoch: Batches an epoch.
        numbers: Entries of the rows of a batch.
    """

    def __init__(
        self,
        trainer: Trainer,
        asked: int | Literal["auto"],
        loader: BatchLoader,
        per_epoch: int,
        numbers: int,
    ) -> None:
        self._trainer = trainer
        self._loader = loader
        self.per_epoch = per_epoch
        self._asked = asked
        self._most = max(1, min(MOST_STEPS, MOST_NUMBERS // numbers)) if asked == "auto" else asked
        self._intervals = [
            every
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            for every in (_step_interval(callback),)
            if every
        ]
        self._every_epoch = self._epoch_interval()
        self._is_timed = any(isinstance(c, Timer) for c in trainer.callbacks)  # type: ignore[attr-defined]
        self._in_time = 1

    def _epoch_interval(self) -> int | None:
        """Return after how many epochs something waits for the end of one; None for never."""
        trainer = self._trainer
        schedule = trainer.lightning_module.hparams["schedule"] or {}
        every = [1] if schedule.get("name") == "ReduceLROnPlateau" else []
        every += [n for c in trainer.callbacks if (n := _epoch_interval(c))]  # type: ignore[attr-defined]
        return math.gcd(*every) or None

    def __call__(self, epoch: int, batch: int) -> int:
        """Return how many batches may be taken at once from here on, at least 1."""
        trainer, per_epoch = self._trainer, self.per_epoch
        step = trainer.global_step
        most = self._most if self._asked == "auto" else self._most - batch % self._most
        if self._is_timed:
            most = min(most, self._in_time)
        most = min([most, *(n - step % n for n in self._intervals)])
        if trainer.max_steps > 0:
            most = min(most, trainer.max_steps - step)
        to_end = per_epoch - batch
        if (of_pool := self._loader.to_end_of_pool(batch)) < to_end:
            most = min(most, of_pool)
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
        if self._asked != "auto":
            epochs = min(epochs, max(1, self._most // per_epoch))
        return max(1, epochs) * per_epoch

    def note(self, batches: int, seconds: float) -> None:
        """Learn from an execution how many batches the next one may take before a look at a Timer.

        Args:
            batches: Batches of the execution.
            seconds: Time that they took, in this process.
        """
        if self._is_timed:
            seconds = self._trainer.strategy.broadcast(seconds)
            grown = 2 * batches if seconds < BETWEEN_LOOKS / 2 else batches
            self._in_time = max(1, grown if seconds < BETWEEN_LOOKS else batches // 2)


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
