"""What an execution did, step by step, as arrays: many steps in the place of one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.crosscheck.learning_rate import MeantLr
from trueline.crosscheck.served import FEW_NUMBERS, Served, with_axis
from trueline.crosscheck.step import Part, Step
from trueline.data.blocks import Block
from trueline.data.spool import SpooledRows
from trueline.executions.execution import Execution, Piece
from trueline.executions.rows import Rows
from trueline.reference.composed import Moments
from trueline.reference.rounding import DOUBLE, SINGLE

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

EARLY = 8
"""Steps of larger data that are compared at the beginning of a training, where a batch is small."""
ONE_IN = 503
"""Of its later steps, so many are stood for by one; odd, so that no level of the tree of products
is left out. To take a step once more in NumPy costs some ten times what it cost to compose it."""


@dataclass
class Trace:
    """Steps of one span with batches of one size; vectors are laid out by a `Layout`.

    Args:
        numbers: Of the steps, counted from 1.
        epochs: Of each, counted from 0.
        before: Parameters before each step, (n, P); so all that have no other shape.
        after: Parameters after it.
        origin: Where the span began, (1, P).
        buffer: Momentum buffers before each step; None at the first of a training.
        buffer_after: Those after it; nan where there is none.
        lr: That was used.
        lrs: That is meant, with a bound on its error, (n, n_rules, 2).
        batch: X, y, and weights where rows have them, with an axis for the steps in front, of one
            entry where all have the same rows.
        summed: Unit roundoff of the sums over rows.
        composed: Unit roundoff to which a composed step is right.
        rounded: Unit roundoff of the parameters after each step, (n, 1).
        reported: Which of the steps have a loss and a gradient, which are as follows.
        losses: (len(reported),).
        gradients: (len(reported), P).
        by_residuals: Whether they come from the residuals of each row.
        moments: Of the batch, where all steps share it and it is large.
        has_rows: Whether `batch` holds the numbers of the rows, and not only their shapes.
    """

    numbers: Numbers
    epochs: Numbers
    before: Array
    after: Array
    origin: Array
    buffer: Array | None
    buffer_after: Array
    lr: Array
    lrs: Array
    batch: tuple[Array, ...]
    summed: float
    composed: float
    rounded: Array
    reported: Numbers
    losses: Array
    gradients: Array
    by_residuals: bool
    moments: Moments | None
    has_rows: bool

    def step(self, k: int, gradient: Array) -> Step:
        """Return one of the steps, with a gradient in the place of one that was not reported."""
        one = slice(k, k + 1)
        rows = (array[k if len(array) > 1 else 0] for array in self.batch)
        X, y, *weights = (array.astype(np.float64, copy=False) for array in rows)
        batch = X, y[:, 0] if y.shape[1] == 1 else y, *weights
        at = np.flatnonzero(self.reported == k)
        loss = float(self.losses[at[0]]) if len(at) else None
        return Step(
            number=int(self.numbers[k]),
            epoch=int(self.epochs[k]),
            parts=[Part(batch, loss)],
            before=self.before[k],
            gradient=self.gradients[at[0]] if len(at) else gradient,
            after=self.after[k],
            buffer=None if self.buffer is None else self.buffer[k],
            buffer_after=self.buffer_after[k],
            lr=self.lr[k],
            lrs=self.lrs[one][0],
        )


def chosen(rows: Rows, first: int, steps: int, began: int) -> Numbers:
    """Return which steps of an execution are compared, from 0.

    Args:
        rows: Of the training.
        first: How many steps came before.
        steps: Of the execution.
        began: How many steps came before those that are checked.
    """
    if rows.numbers <= FEW_NUMBERS or rows.full_batch:
        return np.arange(steps)
    numbers = rows.loader.batch_size * rows.width
    one_in = ONE_IN * max(1, numbers // FEW_NUMBERS)
    few = max(1, min(EARLY, EARLY * FEW_NUMBERS // numbers))
    early = np.arange(first, min(began + few, first + steps))
    picked = np.arange(-first % one_in, steps, one_in)
    # Of the last span of an execution, too, which may be a short one.
    last = [steps - 1] if first == began or steps >= one_in else []
    return np.unique(np.concatenate([early - first, picked, last]).astype(np.int64))


def read(
    served: Served,
    execution: Execution,
    block: Block,
    first: int,
    buffers: Array | None,
    after: Array,
    meant: MeantLr,
    compared: Numbers,
) -> Iterator[Trace]:
    """Return the steps of an execution that are compared.

    Args:
        served: The rows of each batch.
        execution: The latest.
        block: The batches that were served for it.
        first: How many steps came before it.
        buffers: The momentum buffers that the steps before have left.
        after: The module's parameters now.
        meant: The learning rates that are meant.
        compared: Which steps are compared, from 0.
    """
    rows = execution.pieces[0].span.rows
    moments = served.moments(rows)
    begun = 0
    for piece in execution.pieces:
        span, start, n = piece.span, piece.first, piece.stop - piece.first
        mine = compared[(begun <= compared) & (compared < begun + n)]
        within = mine - begun + start
        groups = [(slice(None), _all_rows(rows, moments))] if rows.full_batch else None
        # What was served, and not what the span says that it has taken.
        batches = block.batch + mine
        for at, batch in groups or (
            (at, served.rows(rows, numbers)) for at, numbers in served.numbers(block.epoch, batches)
        ):
            steps, numbers = within[at], first + mine[at]
            if not len(steps):
                continue
            first_of_all = span.start.buffers is None and span.rule.momentum and steps[0] == 0
            parts = [slice(0, 1), slice(1, None)] if first_of_all else [slice(None)]
            epochs = block.epoch + batches[at] // rows.per_epoch
            for part in parts:
                if len(steps[part]):
                    alone = batch if len(batch[0]) == 1 else tuple(a[part] for a in batch)
                    ends = after if begun + n == execution.steps else None
                    left = buffers if numbers[part][0] == first else None
                    which = steps[part], numbers[part], epochs[part]
                    yield _trace(
                        piece, which, alone, execution.points, first, (left, ends), meant, moments
                    )
        begun += n


def _all_rows(rows: Rows, moments: Moments | None) -> tuple[Array, ...]:
    """Return X, y and weights; where there are moments of them, as they are stored."""
    dataset = rows.loader.dataset
    if isinstance(dataset, SpooledRows):
        # Their moments say what they are; of the rows only the shapes are asked for.
        n, one = len(dataset), with_axis(rows.loader.example())
        return tuple(np.broadcast_to(array, (1, n, *array.shape[1:])) for array in one)
    tensors = dataset.tensors if moments else [t.to(rows.dtype) for t in dataset.tensors]
    return tuple(array[None] for array in with_axis(tuple(tensors)))


def _vectors(states: Tensor | None) -> Any:
    return None if states is None else np.array(states.flatten(1).cpu().numpy())


def _trace(
    piece: Piece,
    which: tuple[Numbers, Numbers, Numbers],
    batch: tuple[Array, ...],
    points: Any,
    first: int,
    around: tuple[Array | None, Array | None],
    meant: MeantLr,
    moments: Moments | None,
) -> Trace:
    """Return some steps of a span as a trace.

    Args:
        piece: The steps of the execution in the span.
        which: The steps, numbered within the span, how many came before each, and their epochs.
        batch: Of the steps.
        points: That were reported.
        first: How many steps came before the execution.
        around: The momentum buffers before the first step, where it is the execution's first; the
            parameters after the last, where it may be the execution's last.
        meant: The learning rates that are meant.
        moments: Of all rows, where each step takes in many.
    """
    span, stop = piece.span, piece.stop
    steps, numbers, epochs = which
    left, ends = around
    before, buffer = map(_vectors, piece.states(steps))
    after, buffer_after = map(_vectors, piece.states(steps + 1))
    rounded = np.zeros((len(steps), 1))
    dtype = span.rows.dtype
    if steps[-1] + 1 == stop and (ends is not None or stop == len(span)):
        # There the states were brought to the precision of the training.
        after[-1] = torch.from_numpy(after[-1]).to(dtype).double().numpy()
        if buffer_after is not None:
            buffer_after[-1] = torch.from_numpy(buffer_after[-1]).to(dtype).double().numpy()
        rounded[-1] = DOUBLE if dtype == torch.float64 else SINGLE
        if ends is not None:
            after[-1] = ends
    if steps[0] == 0 and left is not None and buffer is not None:
        buffer[0] = left  # which the span should have taken up
    elif steps[0] == 0 and span.start.buffers is None:
        buffer = None
    reported = np.flatnonzero(np.isin(numbers, first + points.steps))
    at = np.searchsorted(first + points.steps, numbers[reported])
    schedule = zip(numbers.tolist(), epochs.tolist(), strict=True)
    by_itself = meant.schedule is not None and not meant.waits
    lrs = [meant.at(*when) for when in schedule] if by_itself else [meant.at(0, 0)] * len(steps)
    return Trace(
        numbers=numbers + 1,
        epochs=epochs,
        before=before,
        after=after,
        origin=span.start.parameters.reshape(1, -1).cpu().numpy(),
        buffer=buffer,
        buffer_after=np.full_like(after, np.nan) if buffer_after is None else buffer_after,
        lr=np.repeat(span.lrs.cpu().numpy()[steps][:, None], after.shape[1], axis=1),
        lrs=np.array(lrs),
        batch=batch,
        summed=SINGLE if span.summed_in == torch.float32 else DOUBLE,
        composed=0.0 if span.exact else SINGLE,
        rounded=rounded,
        reported=reported,
        losses=points.losses[at],
        gradients=points.gradients[at],
        by_residuals=not span.rows.full_batch,
        moments=moments,
        has_rows=moments is None or not isinstance(span.rows.loader.dataset, SpooledRows),
    )
