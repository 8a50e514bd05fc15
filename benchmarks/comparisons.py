"""Works that several do in turns, what is asked of the times, and the tables of a report."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from reports import number, rounded, time_of, times, verdict

Run = Callable[[], dict[str, float]]
"""Does the work once and returns seconds by name: of itself, or of several parts that it timed."""
OURS = "Trueline"
ALONE = "Trueline, its steps alone"
IN_SHORT = {
    "loop by hand": ("NumPy loop", "PyTorch loop"),
    "SGDRegressor": ("SGDRegressor",),
    "Lightning, everything off": ("stock Lightning, everything off", "bare Lightning"),
    "Lightning's defaults": ("stock Lightning, defaults", "Lightning's defaults"),
}
"""Columns of the short table, by the peers in them."""


@dataclass(frozen=True)
class Target:
    """What is asked of two times, by the median of their ratio over the rounds.

    Args:
        who: Name of the first time.
        than: Name of the second time.
        faster: Least ratio of the second time to the first; None unless that is asked.
        share: Largest ratio of the first time to the second; None unless that is asked.
        within: Largest difference of that ratio from 1; None unless that is asked.
    """

    who: str
    than: str
    faster: float | None = None
    share: float | None = None
    within: float | None = None

    def cells(self, seconds: dict[str, list[float]]) -> list[str]:
        """Return the cells of the table: who, beside whom, asked, found, met."""
        shares = [a / b for a, b in zip(seconds[self.who], seconds[self.than], strict=True)]
        if self.faster is not None:
            ratios = [1 / share for share in shares]
            met = statistics.median(ratios) >= self.faster
            asked, found = f"{self.faster:,g} x as fast", times(ratios, "as fast")
        else:
            middle, found = statistics.median(shares), times(shares, "its time")
            if self.share is not None:
                asked, met = f"at most {self.share:g} x its time", middle <= self.share
            else:
                asked = f"within {self.within:.0%} of its time"
                met = abs(middle - 1) <= (self.within or 0)
        return [self.who, self.than, asked, found, verdict(met)]


@dataclass
class Work:
    """What all do.

    Args:
        title: Title in the report.
        runs: Functions that do the work, in their order.
        targets: What is asked of their times.
        partly: How much of the work a peer ran, by its name; a peer that is missing ran all.
    """

    title: str
    runs: list[Run]
    targets: list[Target] = field(default_factory=list)
    partly: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def turn(self, back: bool) -> None:
        """Have each do the work once, in order or from the last to the first."""
        for run in reversed(self.runs) if back else self.runs:
            for name, seconds in run().items():
                self.seconds.setdefault(name, []).append(seconds)


def timed(name: str, run: Callable[[], float]) -> Run:
    """Return a run with one time."""
    return lambda: {name: run()}


def _table(head: str, works: Iterable[tuple[Work, list[list[str]]]]) -> list[str]:
    """Return a table with the title of each work in its first row alone."""
    lines = [f"| work | {head} |", "|---" * (2 + head.count("|")) + "|"]
    for work, rows in works:
        for k, cells in enumerate(rows):
            title = "" if k else f"**{work.title}**"
            lines.append(f"| {' | '.join([title, *cells])} |")
    return lines


def _range(seconds: list[float]) -> str:
    """Return the range of times in milliseconds."""
    return f"{number(1e3 * min(seconds))} to {number(1e3 * max(seconds))}"


def report(works: list[Work]) -> list[str]:
    """Return the tables: what is asked, and all times."""
    asked = [(w, [target.cells(w.seconds) for target in w.targets]) for w in works]
    measured = [
        (
            w,
            [
                [who, w.partly.get(who, "all"), time_of(s), _range(s)]
                for who, s in w.seconds.items()
            ],
        )
        for w in works
    ]
    return [
        "## What is asked",
        "",
        *_table("who | beside | asked | found | met", asked),
        "",
        "## Times",
        "",
        *_table("who | ran | median | range in ms", measured),
    ]


def in_short(works: list[Work]) -> list[str]:
    """Return the short table: how many times as fast as whom."""
    lines = ["## In short", "", f"| work | Trueline | {' | '.join(IN_SHORT)} |"]
    lines.append("|---" + "|--:" * (1 + len(IN_SHORT)) + "|")
    for work in (work for work in works if OURS in work.seconds):
        cells = []
        for names in IN_SHORT.values():
            found = [work.seconds[name] for name in names if name in work.seconds]
            ratios = [b / a for s in found for a, b in zip(work.seconds[OURS], s, strict=True)]
            cells.append(f"{rounded(statistics.median(ratios))} x" if ratios else "")
        if any(cells):
            ours = time_of(work.seconds[OURS])
            lines.append(f"| {work.title} | {ours} | {' | '.join(cells)} |")
    return lines
