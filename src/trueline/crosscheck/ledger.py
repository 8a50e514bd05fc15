"""What training did, step after step, and what the judge says of it.

Steps are entered as they happen and judged in groups: NumPy takes about as long for a hundred small
steps at once as for one. The first ones are judged one by one, since most errors show there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trueline.crosscheck.diagnosis import likely_cause
from trueline.crosscheck.diagnosis.case import Case
from trueline.crosscheck.judge import Judge
from trueline.crosscheck.layout import Layout
from trueline.crosscheck.learning_rate import MeantLr
from trueline.crosscheck.rows import RowCount, fingerprints
from trueline.crosscheck.stack import Stack, stack_of
from trueline.crosscheck.step import Step
from trueline.crosscheck.verdict import Failure, Quantity, Tally

AT_ONCE = 8
"""So many first steps are judged one by one."""
MOST_STEPS = 128
MOST_NUMBERS = 100_000
"""Entries are judged when there are so many of them, or so many numbers in their batches."""


@dataclass(frozen=True)
class EpochEnd:
    """The end of an epoch.

    Args:
        epoch: Its number.
        whole: Whether it ran to its end.
        step: The last step of it.
    """

    epoch: int
    whole: bool
    step: int


class Ledger:
    """Keeps steps until they are judged, and the verdict on those that were.

    Args:
        judge: Takes the steps in NumPy.
        lr: The learning rate that is meant.
        rows: Counts the rows of each epoch, if they can be counted.
    """

    def __init__(self, judge: Judge, lr: MeantLr, rows: RowCount | None) -> None:
        self.judge = judge
        self.lr = lr
        self.rows = rows
        self.tally = Tally(judge.arithmetic)
        self.steps_checked = self.steps_skipped = 0
        self.first_failure: Failure | None = None
        self._entries: list[Step | EpochEnd] = []
        self._steps = self._numbers_each = 0
        self._settled = 0
        self._earlier: Step | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the verdict so far, for a training that goes on from a checkpoint.

        All entries must have been judged.
        """
        failure = self.first_failure
        return {
            "steps_checked": self.steps_checked,
            "steps_skipped": self.steps_skipped,
            "first_failure": failure._asdict() if failure else None,
            "tally": self.tally.state_dict(),
            "lr": self.lr.state_dict(),
            "rows": self.rows.state_dict() if self.rows else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was made."""
        self.steps_checked = int(state["steps_checked"])
        self.steps_skipped = int(state["steps_skipped"])
        self.first_failure = Failure(**state["first_failure"]) if state["first_failure"] else None
        self.tally.load_state_dict(state["tally"])
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

    def enter(self, entry: Step | EpochEnd) -> None:
        """Take an entry in, and judge what there is when it is time to."""
        self._entries.append(entry)
        if isinstance(entry, Step):
            # Batches are of about one size, and to count the numbers in each takes its time.
            self._numbers_each = self._numbers_each if self._steps else entry.numbers
            self._steps += 1
        early = self._settled < AT_ONCE
        if early or self._steps >= MOST_STEPS or self._steps * self._numbers_each >= MOST_NUMBERS:
            self.settle()

    def enter_stack(self, stack: Stack) -> None:
        """Judge steps of the loop at once."""
        self.settle()
        self.steps_checked += len(stack.numbers)
        failure = self._judge_stack(stack)
        self.first_failure = self.first_failure or failure

    @np.errstate(all="ignore")  # numbers of a training that diverges overflow
    def _judge_stack(self, stack: Stack) -> Failure | None:
        """Judge many steps; return the first failure among them."""
        compared = self.judge.judge_stack(stack)
        out = self.tally.add(compared, recent=False)
        worst = np.max([self.tally.by_step(quantity) for quantity in compared], axis=0)
        self.tally.add_steps(stack.numbers, worst)
        if out is None:
            return None
        k = int(np.argmax(worst > 1))
        of_step = [
            Quantity(
                q.kind, *(np.atleast_1d(a[k]) for a in (q.found, q.expected, q.bound)), q.entries
            )
            for q in compared
        ]
        if k:
            self._earlier = stack.step(k - 1)
        return self._look(stack.step(k), of_step, stack.moments is None)

    def count_rows(self, stacks: list[Stack], whole: bool, full_batch: bool) -> None:
        """Count the rows of an execution, but leave the end of its last epoch to an `EpochEnd`.

        Args:
            stacks: All its steps.
            whole: Whether an epoch's steps serve all rows.
            full_batch: Whether each step does.
        """
        assert self.rows is not None
        wrong, epoch = None, 0
        if full_batch:
            first, last = stacks[0], stacks[-1]
            epoch, more = int(first.epochs[0]), int(last.epochs[-1] - first.epochs[0])
            [rows] = _fingerprints(first)
            if more:
                wrong = self.rows.repeat(rows, epoch, more, int(first.numbers[0]))
            self.rows.serve([rows], int(last.numbers[-1]))
        else:
            served = sorted(entry for stack in stacks for entry in _served(stack))
            epochs = [epoch for _, epoch, _, _ in served]
            for (number, epoch, _, rows), following in zip(
                served, [*epochs[1:], epochs[-1]], strict=True
            ):
                self.rows.serve([rows], number)
                if following != epoch and (wrong := self.rows.end_epoch(epoch, whole)):
                    break
        if wrong and self.first_failure is None:
            step = self.rows.foreign_step or (int(stacks[0].numbers[0]) if full_batch else number)
            self.first_failure = Failure(step, f"rows of epoch {epoch}", cause=wrong)

    def fail(self, failure: Failure) -> None:
        """Note a failure that was seen outside, after all entries before it."""
        self.settle()
        self.first_failure = self.first_failure or failure
        self.tally.note(failure.ratio or 0.0)

    @np.errstate(all="ignore")  # numbers of a training that diverges overflow
    def settle(self) -> None:
        """Judge all entries."""
        entries, self._entries = self._entries, []
        self._steps = 0
        steps = [entry for entry in entries if isinstance(entry, Step)]
        self._settled += len(steps)
        failures = [self._count(entries, steps)] if self.rows else []
        failures.append(self._judge_steps(steps))
        found = [failure for failure in failures if failure]
        if found and self.first_failure is None:
            self.first_failure = min(found, key=lambda failure: failure.step)

    def _count(self, entries: list[Step | EpochEnd], steps: list[Step]) -> Failure | None:
        """Count rows; return the first thing that is wrong with them."""
        assert self.rows is not None
        served = iter(self.rows.recognise([p.batch for step in steps for p in step.parts]))
        first: Failure | None = None
        for entry in entries:
            if isinstance(entry, Step):
                self.rows.serve([next(served) for _ in entry.parts], entry.number)
            elif wrong := self.rows.end_epoch(entry.epoch, entry.whole):
                step = self.rows.foreign_step or entry.step
                first = first or Failure(step, f"rows of epoch {entry.epoch}", cause=wrong)
        return first

    def _judge_steps(self, steps: list[Step]) -> Failure | None:
        """Judge steps; return the first failure among them."""
        taken = [step for step in steps if not step.skipped]
        self.steps_skipped += len(steps) - len(taken)
        self.steps_checked += len(taken)
        if self.judge.can_stack(steps):
            failure = self._judge_stack(stack_of(steps))
            self._earlier = steps[-1]
            return failure
        first: Failure | None = None
        for step in steps:
            failure = self._judge_step(step)
            first = first or failure
        return first

    def _judge_step(self, step: Step) -> Failure | None:
        if step.skipped:
            # The loss scale was too large: nothing may have moved. The loss was not scaled yet.
            zero = np.zeros_like(step.before)
            compared = [self.judge.losses(step)]
            compared.append(Quantity("parameter", step.after, step.before, zero))
            return self._look(step, compared)
        failure = self._look(step, self.judge.judge(step))
        self._earlier = step
        return failure

    def _look(self, step: Step, compared: list[Quantity], has_rows: bool = True) -> Failure | None:
        """Take comparisons into the tally; make a failure of the first that is out of bounds.

        Its likely cause is looked for where the step has its rows.
        """
        out = self.tally.add(compared)
        if out is None:
            return None
        (kind, *arrays, entries), at, ratio = out
        entry = at if isinstance(entries, slice) else int(entries[at])
        cause = None
        if has_rows:
            cause = likely_cause(Case(self.judge, step, self._earlier, self.lr), kind, entry)
        name = quantity_name(kind, entry, self.judge.layout, len(step.parts))
        found, expected, bound = (float(array[at]) for array in arrays)
        return Failure(step.number, name, found, expected, bound, ratio, cause)


def _served(stack: Stack) -> Any:
    """Return number, epoch, place and fingerprints of each step; no two places are the same."""
    numbers, epochs = stack.numbers.tolist(), stack.epochs.tolist()
    return zip(numbers, epochs, range(len(numbers)), _fingerprints(stack), strict=True)


def _fingerprints(stack: Stack) -> Any:
    """Return those of the rows of each step, shape (n_steps or 1, n_rows)."""
    X, y, *weights = (array.reshape(-1, *array.shape[2:]) for array in stack.batch)
    return fingerprints((X, y, *weights)).reshape(len(stack.batch[0]), -1)


def quantity_name(kind: str, entry: int, layout: Layout, n_parts: int) -> str:
    """Name what was compared.

    Example:
        >>> layout = Layout({"weight": (2,), "bias": ()})
        >>> quantity_name("gradient", 2, layout, 1), quantity_name("parameter", 0, layout, 1)
        ('gradient of bias', 'weight')
    """
    if kind == "loss":
        return kind if n_parts == 1 else f"loss of batch {entry + 1} of {n_parts}"
    name: Any = layout.name_at(entry)
    if kind == "parameter":
        return str(name)
    return kind if kind == "lr" else f"{kind} of {name}"
