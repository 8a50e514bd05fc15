"""One bar for the whole training, in epochs; a line now and then where there is no terminal."""

import datetime
import importlib.util
import math
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trueline.closed_form import ClosedForm, closed_form, is_cheap, line_of
from trueline.data import RegressionData
from trueline.hooks import FewHooks

REFRESH_SECONDS = 0.1
"""Faster than that, nobody reads it."""
LINE_SECONDS = 10.0
"""Between lines in a pipe, so that a log file of an hour stays under 400 lines."""
ROUNDING = 1e-9
"""Of a fraction of an epoch."""
WIDE = 90
"""Columns of a terminal from which on the rate is shown too."""


class TrainingBar(FewHooks, ProgressBar):
    """Shows epochs, steps per second, loss, distance to the closed form and time left.

    The distance is that of predictions, in root mean square, as a fraction of the spread of y.
    Drawing costs nothing per step: the bar looks at the clock, and at the loss only when it draws.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._display: Display | None = None
        self._closed_form: ClosedForm | None = None
        self._asked: tuple[Any, Any] | None = None

    def disable(self) -> None:
        """Show nothing, as on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the empty bar."""
        if not self._enabled:
            return
        self._first_step, self._closed_form = trainer.global_step, None
        self._validating = 0.0
        batches = trainer.num_training_batches / trainer.accumulate_grad_batches
        self._per_epoch = math.ceil(batches) if math.isfinite(batches) else None
        ends = [trainer.max_epochs or -1, _epochs(trainer.max_steps, self._per_epoch)]
        total = min((end for end in ends if end > 0), default=None)
        data: Any = getattr(trainer, "datamodule", None)
        # Rows that are not factored yet are only where that takes no time.
        known = isinstance(data, RegressionData) and is_cheap(data)
        self._asked = (data, pl_module.hparams) if known and "l1" in pl_module.hparams else None
        self._display = Display("epoch", total, self._done(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraw when it is time to."""
        if self._display is not None:
            self._loss = outputs["loss"]
            if self._display.is_due():
                self._draw(self._display, trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock by which steps are counted."""
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start it again."""
        if self._display is not None:
            self._validating += time.monotonic() - self._validation_began

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar a last time and leave it standing."""
        if self._display is not None and self._display.is_live and hasattr(self, "_loss"):
            self._draw(self._display, trainer, pl_module)
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        self._close()

    def _draw(self, display: "Display", trainer: Trainer, pl_module: LightningModule) -> None:
        taken = trainer.global_step - self._first_step
        rate = taken / max(display.seconds - self._validating, 1e-9)
        facts = [f"loss {self._loss.item():.6g}"]
        if (to_go := self._to_go(pl_module)) is not None:
            facts.append(f"{to_go:.2g} to go")
        display.show(self._done(trainer), facts, f"{rate:,.0f} steps/s")

    def _done(self, trainer: Trainer) -> float:
        """Return how many epochs are done, with what is done of the one at hand."""
        if self._per_epoch is None:
            return trainer.current_epoch
        return trainer.global_step / self._per_epoch

    def _to_go(self, pl_module: LightningModule) -> float | None:
        """Return the distance to the closed form, None where it is not known."""
        if self._closed_form is None and self._asked is not None:
            self._closed_form = closed_form(*self._asked)
            self._asked = None
        if self._closed_form is None:
            return None
        return float(self._closed_form.distance(line_of(pl_module)).max())

    def _close(self) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None


def _epochs(steps: int, per_epoch: int | None) -> float:
    return steps / per_epoch if per_epoch and steps > 0 else -1


class Display:
    """A bar in a terminal or a notebook, and lines now and then elsewhere.

    Args:
        unit: Of what there is to do.
        total: How many there are; None where that is not known.
        done: How many were done before.
    """

    def __init__(self, unit: str, total: float | None, done: float) -> None:
        self._unit, self._total, self._before = unit, total, done
        self._started = self._shown = time.monotonic()
        console = Console(file=sys.stdout)
        notebook = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        # Not by what rich takes for a terminal: with FORCE_COLOR a log file is one, too.
        self.is_live = notebook or (sys.stdout.isatty() and not console.is_dumb_terminal)
        self._wide = console.width >= WIDE
        if not self.is_live:
            return
        self._progress = Progress(
            TextColumn(f"{unit} {{task.fields[place]}}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
            expand=True,
            redirect_stderr=sys.stderr.isatty(),
        )
        place = self._place(done)
        self._task = self._progress.add_task("", total=total, place=place, facts="")
        self._progress.update(self._task, completed=done)
        self._progress.start()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return max(time.monotonic() - self._started, 1e-9)

    def is_due(self) -> bool:
        """Return whether it is time to show something new."""
        every = REFRESH_SECONDS if self.is_live else LINE_SECONDS
        return time.monotonic() - self._shown >= every

    def show(self, done: float, facts: list[str], rate: str) -> None:
        """Show where it stands."""
        self._shown = time.monotonic()
        if self.is_live:
            text = "  ".join([*facts, rate] if self._wide else facts)
            now = {"completed": done, "place": self._place(done), "facts": text}
            self._progress.update(self._task, refresh=True, **now)  # type: ignore[arg-type]
            return
        print(", ".join([f"{self._unit} {self._place(done)}", *facts, rate, *self._left(done)]))
        sys.stdout.flush()

    def close(self) -> None:
        """Leave what is shown standing."""
        if self.is_live:
            self._progress.refresh()
            self._progress.stop()

    def _place(self, done: float) -> str:
        done = int(done + ROUNDING)
        return f"{done:,}" if self._total is None else f"{done:,}/{math.ceil(self._total):,}"

    def _left(self, done: float) -> list[str]:
        """Say how long the rest takes, if it goes on as before."""
        if self._total is None or done <= self._before:
            return []
        seconds = round(self.seconds * (self._total - done) / (done - self._before))
        return [f"{datetime.timedelta(seconds=max(seconds, 0))} left"]
