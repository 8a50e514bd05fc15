"""How many steps a training may take at once: up to whatever is due next.

Validations, checkpoints, the limits of epochs and steps, and the ends of epochs where a callback
waits for them are due. Steps that are taken at once end there.
"""

import math
import sys
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar, Timer

from trueline.hooks import has_hook
from trueline.progress import validates_every

MOST_NUMBERS = 2**26
"""Entries of rows that are taken in at once: about a tenth of a second of work, so that the
progress bar moves and Ctrl-C is heard."""
MOST_STEPS = 2**17
BETWEEN_LOOKS = 0.1
"""Seconds of steps that are taken at once where a Timer may end the training after them."""


class StepsUntilDue:
    """Counts the batches that a training may take before something is due.

    Args:
        trainer: Trainer at the start of its training.
        asked: The option `steps_per_execution`.
        per_epoch: Number of batches in an epoch.
        numbers: Entries of the rows of a step.
    """

    def __init__(
        self, trainer: Trainer, asked: int | Literal["auto"], per_epoch: int, numbers: int
    ) -> None:
        self._trainer = trainer
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
        schedule: Any = trainer.lightning_module.schedule
        waits = schedule and schedule.name == "ReduceLROnPlateau" and schedule.interval == "epoch"
        every = [1] if waits else []
        every += [n for c in trainer.callbacks if (n := _epoch_interval(c))]  # type: ignore[attr-defined]
        return math.gcd(*every) or None

    def __call__(self, epoch: int, batch: int) -> int | None:
        """Return how many batches may be taken from here on; None where none may.

        Args:
            epoch: Number of the epoch.
            batch: Number of the next batch in it. A step takes in a window of batches, so none
                begins inside a window.
        """
        window, trainer = self._trainer.accumulate_grad_batches, self._trainer
        if batch % window:
            return None
        steps, left = self._steps(batch // window), self.per_epoch - batch
        in_epochs, in_batches = validates_every(trainer)
        allowed = sys.maxsize
        if in_batches:
            done = batch if in_epochs else epoch * self.per_epoch + batch
            allowed = in_batches - done % in_batches
        if steps * window < left or allowed < left:
            return min(steps, allowed // window) * window or None
        if batch:
            return left
        epochs = min(steps // -(-left // window), allowed // left)
        if trainer.max_epochs and trainer.max_epochs > 0:
            epochs = min(epochs, trainer.max_epochs - epoch)
        if trainer.should_stop and trainer.min_epochs and trainer.min_epochs > epoch:
            epochs = min(epochs, trainer.min_epochs - epoch)
        for every in (in_epochs, self._every_epoch):
            if every:
                epochs = min(epochs, every - epoch % every)
        return max(1, epochs) * left

    def _steps(self, step: int) -> int:
        """Return how many steps may be taken, at least 1.

        Args:
            step: Number of the next step in its epoch.
        """
        taken, max_steps = self._trainer.global_step, self._trainer.max_steps
        most = self._most if self._asked == "auto" else self._most - step % self._most
        if self._is_timed:
            most = min(most, self._in_time)
        most = min([most, *(n - taken % n for n in self._intervals)])
        least = self._trainer.min_steps if self._trainer.should_stop else None
        if least and least > taken:
            most = min(most, least - taken)
        return max(1, min(most, max_steps - taken) if max_steps > 0 else most)

    def note(self, steps: int, seconds: float) -> None:
        """Learn how many steps may be taken before the next look at a Timer.

        Args:
            steps: Number of steps that were taken.
            seconds: Time that they took, in this process.
        """
        if self._is_timed:
            seconds = self._trainer.strategy.broadcast(seconds)
            grown = 2 * steps if seconds < BETWEEN_LOOKS / 2 else steps
            self._in_time = max(1, grown if seconds < BETWEEN_LOOKS else steps // 2)


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
