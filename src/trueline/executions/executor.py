"""Takes the steps of a training in spans, whose numbers do not depend on where it is looked at.

Where a span begins and ends is a function of the step's number alone, so a training may be stopped,
looked at or saved between any two steps: it goes on within the span, and comes to the same numbers
to the bit. What it needs for that is where the span began: its origin.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trueline.data.blocks import Block
from trueline.executions.execution import Execution, Piece
from trueline.executions.full_batch import FullBatch
from trueline.executions.rows import Rows
from trueline.executions.spans import Numbers, Position, Span, State
from trueline.recurrence import Rule

SPAN = 8192
"""Most steps of a span: enough that a call of torch costs little a step, and few enough that their
maps stay in the processor's caches."""
SPAN_BYTES = 2**28
"""Of the maps of a span and their products, which are as wide as there are parameters."""
SPAN_ROWS = 2**18
"""Rows of a span of mini-batches; there are a thousand steps even where these have more."""
FEW_EPOCHS_SPAN = 1024
"""Most steps of a span that runs through several epochs, each with an order of rows of its own."""
Lrs = Callable[[int], Tensor]
"""Returns the learning rates of so many steps, float64."""


class Executor:
    """Takes the steps of a training, many at once.

    Args:
        rows: Of the training.
        rule: The update rule.
        composed: Whether steps are composed, or taken one by one.
    """

    def __init__(self, rows: Rows, rule: Rule, composed: bool) -> None:
        self.rows = rows
        self.rule = rule
        self.composed = composed
        self._full_batch: FullBatch | None = None
        self._span: Span | None = None
        self._left: tuple[Position, State] | None = None
        self._saved: Mapping[str, Any] | None = None

    def run(self, block: Block, state: State, lrs: Lrs, kept: Numbers) -> Execution:
        """Take the steps of a block, one for each of its batches.

        After a span that leaves parameters which are not finite, no more steps are taken.

        Args:
            block: Of batches.
            state: Before the first of them.
            lrs: Of so many steps from there on.
            kept: Steps before which the state is to be known, from 0 to their number, ascending.

        Returns:
            The steps, and the state after the last in the precision of the training.
        """
        if self.rows.full_batch and self._full_batch is None:
            self._full_batch = FullBatch(self.rows)
        position, left, taken = Position(block.epoch, block.batch), block.batches, 0
        pieces = []
        while left:
            span, at = self._span_from(position, state, lrs, taken)
            stop = min(at + left, len(span))
            mine = kept[(taken <= kept) & (kept <= taken + stop - at)] - taken + at
            pieces.append(Piece(span, at, stop, mine, *span.states(mine)))
            left -= stop - at
            taken += stop - at
            # By itself: its last bit must not depend on what else is asked for.
            state = self._rounded(span, stop)
            position = self._after(position, stop - at)
            self._span, self._left = span, (position, state)
            if not torch.isfinite(state.parameters).all():
                break
        return Execution(pieces, taken, state)

    def _rounded(self, span: Span, step: int) -> State:
        """Return the state before a step in the precision of the training."""
        parameters, buffers = span.states(np.array([step]))
        state = State(parameters[0], None if buffers is None else buffers[0])
        return state.to(self.rows.dtype)

    def _after(self, position: Position, steps: int) -> Position:
        epochs, batch = divmod(position.batch + steps, self.rows.per_epoch)
        return Position(position.epoch + epochs, batch)

    def _steps_between(self, one: Position, other: Position) -> int:
        return (other.epoch - one.epoch) * self.rows.per_epoch + other.batch - one.batch

    def _steps_to_span_end(self, position: Position) -> int:
        """Return how many steps are left of the span that a position lies in."""
        per_epoch = self.rows.per_epoch
        width = self.rows.width
        width += bool(self.rule.momentum) * (width - self.rows.n_targets)
        # Of maps and their products, or of states.
        numbers = 3 * width**2 if self.composed else 2 * width * self.rows.n_targets
        room = max(16, SPAN_BYTES // (8 * numbers))
        most = min(room, SPAN if self.rows.full_batch else FEW_EPOCHS_SPAN)
        epochs = max(1, most // per_epoch)
        if epochs > 1:
            return (epochs - position.epoch % epochs) * per_epoch - position.batch
        span = max(FEW_EPOCHS_SPAN, min(SPAN, SPAN_ROWS // self.rows.loader.batch_size))
        span = min(span, room)
        to_end = min(per_epoch - position.batch, self.rows.loader.to_end_of_pool(position.batch))
        return min(span - position.batch % span, to_end)

    def _span_from(
        self, position: Position, state: State, lrs: Lrs, taken: int
    ) -> tuple[Span, int]:
        """Return the span that holds a step, and the step's number in it."""
        steps = self._steps_to_span_end(position)
        expected = lrs(taken + steps)[taken:]
        if self._saved is not None:
            self._take_up(self._saved, position, state, expected)
            self._saved = None
        span = self._span
        if span is not None and self._left is not None:
            at = self._steps_between(span.position, position)
            same = self._left[0] == position and _equal(self._left[1], state)
            same = same and span.rule == self.rule
            if at + steps == len(span) and same and torch.equal(span.lrs[at:], expected):
                return span, at
            span.close()
        return self._span_at(position, state.to(torch.float64), expected), 0

    def _span_at(self, position: Position, start: State, lrs: Tensor) -> Span:
        return Span(self.rows, self._full_batch, position, start, lrs, self.rule, self.composed)

    def state_dict(self) -> dict[str, Any]:
        """Return where the span at hand began, for a training that goes on inside it."""
        span = self._span
        if span is None or self._left is None:
            return {}
        if self._steps_between(span.position, self._left[0]) == len(span):
            return {}  # the next step begins one
        return {
            "epoch": span.position.epoch,
            "batch": span.position.batch,
            "parameters": span.start.parameters,
            "buffers": span.start.buffers,
            "lrs": span.lrs,
            "rule": list(span.rule),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on within the span of a checkpoint, if its steps are still the same.

        Args:
            state: What `state_dict` has returned.
        """
        self._saved = state or None

    def _take_up(
        self, saved: Mapping[str, Any], position: Position, state: State, lrs: Tensor
    ) -> None:
        """Compose a saved span anew; leave it where it does not lead to where the training is."""
        began = Position(saved["epoch"], saved["batch"])
        at = self._steps_between(began, position)
        device = state.parameters.device
        start = State(saved["parameters"], saved["buffers"]).to(device)
        fits = (
            0 < at == len(saved["lrs"]) - len(lrs)
            and list(self.rule) == list(saved["rule"])
            and torch.equal(saved["lrs"][at:], lrs.cpu())
            and self._steps_to_span_end(began) == len(saved["lrs"])
            and start.parameters.shape == state.parameters.shape
        )
        if not fits:
            return
        span = self._span_at(began, start, saved["lrs"].to(device))
        if _equal(self._rounded(span, at), state):
            self._span, self._left = span, (position, state)


def _equal(one: State, other: State) -> bool:
    """Return whether two states are the same to the bit."""
    if (one.buffers is None) != (other.buffers is None):
        return False
    return torch.equal(one.parameters, other.parameters) and (
        one.buffers is None or torch.equal(one.buffers, other.buffers)  # type: ignore[arg-type]
    )
