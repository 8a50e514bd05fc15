"""Many steps of a training as arrays with an axis for the steps in front: the judge's record."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.served import FEW_NUMBERS, Served
from trueline.crosscheck.step import Part, Step
from trueline.loop.state import StepResult
from trueline.reference.moments import Moments

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
ExpectedLrs = Callable[[Numbers, Numbers], Array]

EARLY = 8
"""Steps on larger data that are compared at the beginning of a training, where most errors show."""
SAMPLE_EVERY = 503
"""Of the later steps on larger data, one in so many is compared. To take a step once more in NumPy
costs some hundred times what it cost in the loop."""


@dataclass
class Stack:
    """Steps with batches of one size; vectors are laid out by a `Layout`.

    Args:
        numbers: Numbers of the steps, counted from 1.
        epochs: Epoch of each, counted from 0.
        before: Parameters before each step, (n, P); so all that have no other shape.
        gradient: Gradient of each, as the optimizer got it, before clipping.
        after: Parameters after each step.
        buffer: Momentum buffers before each step, nan where there is none yet; None without any.
        buffer_after: Momentum buffers after each step; nan where there is none.
        lr: Learning rate that was used.
        lrs: Learning rate of each rule that is expected, with a bound on its error, (n, n_rules, 2).
        losses: Objective at each step, (n,).
        batch: X, y, and weights where rows have them, with an axis for the steps in front, of one
            entry where all have the same rows.
        anchor: Parameters that training took moments around, (P,); None for steps from rows.
        moments: Moments of the batch by the judge, where all steps share it and it is large; of
            `batch`, then, the shapes alone are right.
    """

    numbers: Numbers
    epochs: Numbers
    before: Array
    gradient: Array
    after: Array
    buffer: Array | None
    buffer_after: Array
    lr: Array
    lrs: Array
    losses: Array
    batch: tuple[Array, ...]
    anchor: Array | None = None
    moments: Moments | None = None

    def step(self, k: int) -> Step:
        """Return one of the steps."""
        rows = (array[k if len(array) > 1 else 0] for array in self.batch)
        batch = tuple(array.astype(np.float64) for array in rows)
        return Step(
            number=int(self.numbers[k]),
            epoch=int(self.epochs[k]),
            parts=[Part(batch, float(self.losses[k]))],
            before=self.before[k],
            gradient=self.gradient[k],
            after=self.after[k],
            buffer=None if self.buffer is None else self.buffer[k],
            buffer_after=self.buffer_after[k],
            lr=self.lr[k],
            lrs=self.lrs[k],
        )


def stack_of(steps: list[Step]) -> Stack:
    """Return single steps, of one batch each, as a stack."""

    def all_of(name: str) -> Any:
        return np.array([getattr(step, name) for step in steps])

    arrays = ("before", "gradient", "after", "buffer_after", "lr", "lrs")
    return Stack(
        numbers=all_of("number"),
        epochs=all_of("epoch"),
        buffer=None if steps[0].buffer is None else all_of("buffer"),
        losses=np.array([step.parts[0].loss for step in steps]),
        batch=tuple(map(np.array, zip(*(step.parts[0].batch for step in steps), strict=True))),
        **{name: all_of(name) for name in arrays},
    )


def chosen(served: Served, first: int, steps: int, began: int) -> Numbers:
    """Return which steps of the loop are compared, from 0.

    Of large data these are the first ones, one in `SAMPLE_EVERY`, the last one, and those around
    the places where the rows of another pool begin.

    Args:
        served: The rows of the training.
        first: Number of steps before these.
        steps: Number of steps.
        began: Number of steps before the first one that is checked.
    """
    if served.n_numbers <= FEW_NUMBERS or served.full_batch:
        return np.arange(steps)
    numbers = served.numbers_of_step
    every = SAMPLE_EVERY * max(1, numbers // FEW_NUMBERS)
    few = max(1, min(EARLY, EARLY * FEW_NUMBERS // numbers))
    early = np.arange(first, min(began + few, first + steps)) - first
    picked = np.arange(-first % every, steps, every)
    last = [steps - 1] if first == began or steps >= every else []
    return np.unique(np.concatenate([early, picked, last]).astype(np.int64))


def stacks_of(
    served: Served,
    result: StepResult,
    where: tuple[int, int, int],
    around: tuple[Array | None, Array],
    expected: ExpectedLrs,
    compared: Numbers,
    reference: Any,
) -> Iterator[Stack]:
    """Return the steps of the loop that are compared.

    Args:
        served: Rows of the training, by their numbers.
        result: What the loop has done.
        where: Epoch of the first step, its number within the epoch, and the number of steps before.
        around: Momentum buffers that the steps before have left, None for none; and the module's
            parameters now.
        expected: Learning rates that are expected at steps, given their numbers from 0 and epochs.
        compared: Numbers of the steps that are compared, from 0.
        reference: Reference of the judge, a LeastSquares; its penalty is no part of the losses.
    """
    epoch, step, first = where
    moments = served.moments() if served.full_batch else None
    for at, batch in served.batches(epoch, step + compared, len(compared)):
        steps = compared[at]
        part = result.select(steps)
        before, after, buffer = result.before[part], result.after[part], result.buffer
        if steps[-1] == result.steps - 1:
            after[-1] = around[1]  # what is left in the module
        if buffer is not None:
            buffer = buffer[part]
            if steps[0] == 0:  # what the loop should have taken up
                buffer[0] = np.nan if around[0] is None else around[0]
        w = before[:, : len(before[0]) - served.n_targets]
        numbers, epochs = first + steps, epoch + (step + steps) // served.steps_per_epoch
        yield Stack(
            numbers=numbers + 1,
            epochs=epochs,
            before=before,
            gradient=result.gradient[part],
            after=after,
            buffer=buffer,
            buffer_after=np.full_like(after, np.nan)
            if result.buffer_after is None
            else result.buffer_after[part],
            lr=np.repeat(result.lrs[steps, None], after.shape[1], axis=1),
            lrs=expected(numbers, epochs),
            losses=result.losses[steps]
            + reference.l1 * np.abs(w).sum(1)
            + reference.l2 * (w * w).sum(1),
            batch=batch,
            anchor=result.anchor,
            moments=moments,
        )
