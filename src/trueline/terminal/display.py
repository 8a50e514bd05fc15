"""A bar in a terminal or a notebook; a line now and then where there is neither."""

import datetime
import importlib.util
import math
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trueline.terminal.printing import to_whoever_reads

REFRESH_SECONDS = 0.1
"""Faster than that, nobody reads it."""
LINE_SECONDS = 10.0
"""Between lines in a pipe, so that a log file of an hour stays under 400 lines."""
ROUNDING = 1e-9
"""Of a fraction of an epoch."""
WIDE = 90
"""Columns of a terminal from which on the rate is shown beside other facts."""


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

    def show(self, done: float, facts: list[str], rate: str = "") -> None:
        """Show where it stands: in a terminal, the rate only where there is room."""
        self._shown = time.monotonic()
        rates = [rate] if rate else []
        if self.is_live:
            roomy = self._progress.console.width >= WIDE or not facts
            text = "  ".join([*facts, *rates] if roomy else facts)
            now = {"completed": done, "place": self._place(done), "facts": text}
            self._progress.update(self._task, refresh=True, **now)  # type: ignore[arg-type]
            return
        with to_whoever_reads():
            place = f"{self._unit} {self._place(done)}"
            print(", ".join([place, *facts, *rates, *self._left(done)]))

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
