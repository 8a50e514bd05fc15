"""One bar for the whole training, in epochs; a line now and then where there is no terminal."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trueline.hooks import FewHooks

REFRESH_SECONDS = 0.1
"""Faster than that, nobody reads it."""

LINE_SECONDS = 10.0
"""Between lines in a pipe, so that a log file of an hour stays under 400 lines."""


class TrainingBar(FewHooks, ProgressBar):
    """Shows epochs, steps per second, loss and time left while training.

    Drawing costs nothing per step: the bar looks at the clock, and at the loss only when it draws.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._progress: Progress | None = None

    def disable(self) -> None:
        """Show nothing, as on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the empty bar."""
        self._started = self._drawn = time.monotonic()
        self._first_step = trainer.global_step
        self._to_terminal = sys.stdout.isatty()
        if not self._enabled or not self._to_terminal:
            return
        self._progress = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=Console(),
            auto_refresh=False,
        )
        self._task = self._progress.add_task(
            "",
            total=self._total(trainer),
            completed=trainer.current_epoch,
            status="",
        )
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraw when it is time to."""
        now = time.monotonic()
        every = REFRESH_SECONDS if self._to_terminal else LINE_SECONDS
        if self._enabled and now - self._drawn >= every:
            self._drawn = now
            self._draw(trainer, trainer.current_epoch, outputs["loss"].item())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar a last time and leave it standing."""
        if self._progress is not None:
            self._progress.update(self._task, completed=trainer.current_epoch)
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        self._close()

    def _draw(self, trainer: Trainer, epoch: int, loss: float) -> None:
        rate = (trainer.global_step - self._first_step) / (self._drawn - self._started)
        if self._progress is not None:
            status = f"{rate:,.0f} steps/s  loss {loss:.6g} "
            self._progress.update(self._task, completed=epoch, status=status, refresh=True)
        else:
            total = self._total(trainer)
            of = f" of {total:,}" if total else ""
            print(f"epoch {epoch:,}{of}, {rate:,.0f} steps/s, loss {loss:.6g}", flush=True)

    @staticmethod
    def _total(trainer: Trainer) -> int | None:
        return trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.refresh()
            self._progress.stop()
            self._progress = None
