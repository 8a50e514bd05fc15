"""What training did, step after step, and what the judge says of it.

Steps are entered as they happen and judged in groups: NumPy takes about as long for a hundred small
steps at once as for one. The first ones are judged one by one, since most errors show there.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Trainer

from trueline.crosscheck.diagnosis import Case, likely_cause
from trueline.crosscheck.expected import ExpectedLr
from trueline.crosscheck.judge import Judge
from trueline.crosscheck.record import Steps, arrays_of, stacked, step_of
from trueline.crosscheck.row_count import RowCount
from trueline.crosscheck.verdict import Comparison, Failure, WorstRatios
from trueline.tensorboard import log_points

AT_ONCE = 8
"""Number of first steps that are judged one by one."""
MOST_STEPS = 128
MOST_NUMBERS = 100_000
"""Entries are judged when there are so many of them, or so many numbers in their batches."""


class EpochEnd(NamedTuple):
    """The end of an epoch.

    Args:
        epoch: Number of the epoch.
        whole: Whether it ran to its end.
        step: Number of its last step.
    """

    epoch: int
    whole: bool
    step: int


class StepQueue:
    """Keeps steps until they are judged, and the verdict on those that were.

    Args:
        judge: Takes the steps in NumPy.
        lr: Expected learning rates.
        rows: Counts the rows of each epoch by what was served, where that can be done.
        first: Number of steps before those of this training.
    """

    def __init__(self, judge: Judge, lr: ExpectedLr, rows: RowCount | None, first: int) -> None:
        self.judge = judge
        self.lr = lr
        self.rows = rows
        self.worst = WorstRatios(judge.arithmetic)
        self.steps_checked = self.steps_skipped = 0
        self.first_failure: Failure | None = None
        self._entries: list[Steps | EpochEnd] = []
        self._steps = self._numbers_each = self._settled = 0
        self._logged = first
        self._earlier: Steps | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the verdict so far, for a training that goes on; all entries have been judged."""
        failure = self.first_failure
        return {
            "steps_checked": self.steps_checked,
            "steps_skipped": self.steps_skipped,
            "first_failure": failure._asdict() if failure else None,
            "tally": self.worst.state_dict(),
            "lr": self.lr.state_dict(),
            "rows": self.rows.state_dict() if self.rows else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was made."""
        self.steps_checked = int(state["steps_checked"])
        self.steps_skipped = int(state["steps_skipped"])
        self.first_failure = Failure(**state["first_failure"]) if state["first_failure"] else None
        self.worst.load_state_dict(state["tally"])
        self.lr.load_state_dict(state["lr"])
        if self.rows and state["rows"]:
            self.rows.load_state_dict(state["rows"])

    def freeze(self, names: tuple[str, ...]) -> None:
        """Judge what comes as steps that leave some parameters alone.

        Args:
            names: Names of the frozen parameters, all of them.
        """
        if names != self.judge.frozen:
            self.settle()
            self.judge = self.judge.freeze(names)

    def enter(self, entry: Steps | EpochEnd) -> None:
        """Take in steps or the end of an epoch, and judge what there is when it is time to."""
        self._entries.append(entry)
        if isinstance(entry, Steps):
            if not self._steps:  # batches are of about one size, and counting takes its time
                self._numbers_each = sum(a.size for p in entry.parts for a in arrays_of(p.batch))
            self._steps += len(entry)
        early = self._settled < AT_ONCE
        if early or self._steps >= MOST_STEPS or self._steps * self._numbers_each >= MOST_NUMBERS:
            self.settle()

    def fail(self, failure: Failure) -> None:
        """Note a failure that was seen outside, after all entries before it."""
        self.settle()
        self.first_failure = self.first_failure or failure
        self.worst.note(failure.ratio or 0.0)

    def settle(self) -> None:
        """Judge all entries."""
        entries, self._entries, self._steps = self._entries, [], 0
        steps = [entry for entry in entries if isinstance(entry, Steps)]
        self._settled += len(steps)
        failures = self._count(entries) if self.rows else []
        groups = groupby(steps, key=lambda s: s.kind if self.judge.takes_stacks else s.numbers[0])
        failures += [self._judge(stacked(list(group))) for _, group in groups]
        found = [failure for failure in (self.first_failure, *failures) if failure]
        self.first_failure = min(found, key=lambda failure: failure.step, default=None)

    def log(self, trainer: Trainer, at_end: bool = False) -> None:
        """Log the worst ratio of the steps since the last point, every `log_every_n_steps` steps.

        Which steps a point takes in depends on their numbers alone, so that a training that goes on
        from a checkpoint has the same points.
        """
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        step = trainer.global_step
        due = [] if every < 1 else list(range((self._logged // every + 1) * every, step + 1, every))
        if at_end and step != (due or [self._logged])[-1]:
            due.append(step)
        if not due:
            return
        self._logged = due[-1]
        if not trainer.loggers:
            self.worst.worst_up_to(due[-1:])  # which forgets them
            return
        self.settle()
        worst = [[ratio] for ratio in self.worst.worst_up_to(due)]
        log_points(trainer.loggers, ["crosscheck/worst_ratio"], worst, due)

    def _count(self, entries: list[Steps | EpochEnd]) -> list[Failure | None]:
        """Count rows; return what is wrong with them."""
        assert self.rows is not None
        found: list[Failure | None] = []
        for is_step, some in groupby(entries, key=lambda entry: isinstance(entry, Steps)):
            group: Any = list(some)
            if is_step:
                parts = [(step_of(p.batch, 0), int(s.numbers[0])) for s in group for p in s.parts]
                self.rows.serve([batch for batch, _ in parts], [step for _, step in parts])
                continue
            for epoch, whole, step in group:
                if wrong := self.rows.end_epoch(epoch, whole):
                    step = self.rows.foreign_step or step
                    found.append(Failure(step, f"rows of epoch {epoch}", cause=wrong))
        return found

    @np.errstate(all="ignore")  # numbers of a training that diverges overflow
    def _judge(self, steps: Steps) -> Failure | None:
        """Judge steps at once; return the first failure among them.

        Its likely cause is looked for where the step has its rows.
        """
        if steps.skipped:
            self.steps_skipped += len(steps)
        else:
            self.steps_checked += len(steps)
        out = self.worst.add(self.judge.judge(steps), steps.numbers)
        failure = None
        if out is not None:
            k, compared, at, ratio = out
            earlier = steps.one(k - 1) if k else self._earlier
            case = Case(self.judge, steps.one(k), earlier, self.lr)
            entry = at if isinstance(compared.entries, slice) else int(compared.entries[at])
            kind, has_rows = compared.kind, steps.parts[0].batch is not None
            cause = likely_cause(case, kind, entry) if has_rows else None
            found, expected, bound = (float(array[k, at]) for array in compared[1:4])
            name = self._name(compared, entry, len(steps.parts))
            step = int(steps.numbers[k])
            failure = Failure(step, name, found, expected, bound, ratio, cause)
        self._earlier = steps.one(len(steps) - 1)
        return failure

    def _name(self, compared: Comparison, entry: int, parts: int) -> str:
        """Name what was compared, such as "gradient of bias"."""
        if compared.kind == "loss":
            return "loss" if parts == 1 else f"loss of batch {entry + 1} of {parts}"
        name = self.judge.layout.name_at(entry)
        if compared.kind == "parameter":
            return name
        return "lr" if compared.kind == "lr" else f"{compared.kind} of {name}"
