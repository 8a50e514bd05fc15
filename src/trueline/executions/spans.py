"""Runs SGD many steps at a time, in spans whose numbers do not depend on where it is looked at.

A span is up to `SPAN` consecutive steps that are composed together. Where it begins and ends is a
function of the step's number alone, so a training may be stopped, looked at or saved between any
two steps: it goes on within the span, and comes to the same numbers to the bit. What it needs for
that is where the span began: its origin.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.data.blocks import Block
from trueline.executions.rows import Everything, Rows
from trueline.recurrence import Composed, Repeated, Rule, polished, step_maps

SPAN = 8192
"""Most steps of a span: enough that a call of torch costs little a step, and few enough that their
maps stay in the processor's caches."""
SPAN_BYTES = 2**28
"""Of the maps of a span and their products, which are as wide as there are parameters."""
SPAN_ROWS = 2**18
"""Rows of a span of mini-batches; there are a thousand steps even where these have more."""
FEW_EPOCHS_SPAN = 1024
"""Most steps of a span that runs through several epochs, each with an order of rows of its own."""
Numbers = NDArray[np.int64]
Lrs = Callable[[int], Tensor]


class Position(NamedTuple):
    """Where a training stands: batches of an epoch that are done."""

    epoch: int
    batch: int


class State(NamedTuple):
    """Parameters `[weight, bias]` and momentum buffers, shape (p, T); no buffers before a step."""

    parameters: Tensor
    buffers: Tensor | None


class Span:
    """Consecutive steps that are composed together, from where they begin.

    Args:
        rows: Of the training.
        everything: For steps that take in all rows; None where they do not.
        position: Of the first step.
        start: Parameters and buffers before it, float64.
        lrs: Learning rates, one for each step, float64.
        rule: The update rule.
    """

    def __init__(
        self,
        rows: Rows,
        everything: Everything | None,
        position: Position,
        start: State,
        lrs: Tensor,
        rule: Rule,
    ) -> None:
        self.rows = rows
        self.position = position
        self.start = start
        self.lrs = lrs
        self.rule = rule
        origin, buffers = start
        self.p = len(origin)
        delta = torch.zeros_like(origin)
        if rule.momentum:
            delta = torch.cat([delta, torch.zeros_like(delta) if buffers is None else buffers])
        first = buffers is None and bool(rule.momentum)
        self._delta = delta
        self._maps: Composed | Repeated | None
        self._gradient = None
        workspace = rows.workspace
        if everything is not None:
            self._gradient, self._loss = everything.at(origin)
            same = not first and bool((lrs == lrs[0]).all())
            some = lrs[:1] if same else lrs
            one = torch.ones(1, dtype=torch.float64, device=origin.device)
            maps = step_maps(
                self._gradient[None], one, origin, some, rule, first, workspace=workspace
            )
            self._maps = Repeated(maps[0], len(lrs)) if same else Composed(maps, workspace)
        else:
            batches = position.batch + np.arange(len(lrs))
            G, sizes = rows.moments(position.epoch, batches)
            rest: Any = {"moments": True, "workspace": workspace}
            maps = step_maps(G, 2 / sizes, origin, lrs, rule, first, **rest)
            self._maps = Composed(maps, workspace)
        # In float32 the rounding of the moments is a thousand times that of the composition.
        self.summed_in = torch.float64 if everything is not None else rows.summed_in
        self.polished = self.summed_in == torch.float64
        self._states = polished(self._maps, delta) if self.polished else None

    def __len__(self) -> int:
        return len(self.lrs)

    def close(self) -> None:
        """Give the memory of the maps to the next span: states cannot be asked for any more."""
        self._maps = self._states = None

    def states(self, steps: Numbers) -> tuple[Tensor, Tensor | None]:
        """Return parameters and buffers before some steps, or after the last one.

        Args:
            steps: From 0 to the number of steps, ascending.

        Returns:
            Float64, shape (len(steps), p, T) each; the buffers None without momentum.
        """
        at = torch.from_numpy(steps)
        if self._states is not None:
            # Consecutive ones are a view.
            run = len(steps) and steps[-1] - steps[0] == len(steps) - 1
            part = slice(int(steps[0]), int(steps[-1]) + 1) if run else at.to(self._states.device)
            found = self._states[part]
        else:
            assert isinstance(self._maps, Composed)
            inner = at[at < len(self)]
            if 8 * len(inner) > len(self):
                found = self._maps.states(self._delta)[at.to(self._delta.device)]
            else:
                found = self._maps.states_before(self._delta, inner)
                if len(inner) < len(at):
                    found = torch.cat([found, self._maps.end(self._delta)[None]])
        buffers = found[:, self.p :] if self.rule.momentum else None
        return self.start.parameters + found[:, : self.p], buffers

    def losses(self, steps: Numbers, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean squared errors and the gradients of the objective at some steps.

        Args:
            steps: From 0, ascending.
            parameters: Before each.

        Returns:
            In float64, shapes (len(steps),) and (len(steps), p, T).
        """
        penalty = torch.full_like(parameters, 2 * self.rule.l2)
        penalty[:, -1] = 0
        if self._gradient is not None:
            delta = parameters - self.start.parameters
            curved = self._gradient[:, : self.p] @ delta
            constant = self._gradient[:, self.p :]
            losses = self._loss + (delta * (constant + curved / 2)).sum((1, 2))
            gradient = constant + curved
        else:
            losses, gradient = self._by_rows(steps, parameters)
        return losses, gradient + penalty * parameters

    def _by_rows(self, steps: Numbers, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses and gradients from the residuals of each row, as a step by itself does."""
        n, p, T = parameters.shape
        sums = parameters.new_zeros(n, p * T + 2)
        dtype = self.rows.dtype
        theta = parameters.to(dtype)
        for at, Z, weight in self.rows.of(self.position.epoch, self.position.batch + steps):
            Z = Z.to(dtype)
            r = Z[:, :, :p] @ theta[at] - Z[:, :, p:]
            weighted = r if weight is None else r * weight.to(dtype)[..., None]
            sums[at, : p * T] = (Z[:, :, :p].mT @ weighted).flatten(1).double()
            sums[at, p * T] = (weighted * r).sum((1, 2)).double()
            sums[at, p * T + 1] = Z.shape[1] if weight is None else weight.double().sum(1)
        sums = self.rows.add_up(sums)
        by_parameter, squares, size = sums[:, :-2], sums[:, -2], sums[:, -1] * T
        return squares / size, 2 * by_parameter.view_as(parameters) / size[:, None, None]


@dataclass
class Piece:
    """Some steps of a span, of which it knows the states that were asked for.

    Args:
        span: They belong to, which may be closed.
        first: The number of the first one within it.
        stop: The number of the one after the last.
        kept: Numbers within the span, from `first` to `stop`, ascending.
        parameters: Before each of these steps, float64, shape (len(kept), p, T).
        buffers: The same; None without momentum.
    """

    span: Span
    first: int
    stop: int
    kept: Numbers
    parameters: Tensor
    buffers: Tensor | None

    def states(self, steps: Numbers) -> tuple[Tensor, Tensor | None]:
        """Return parameters and buffers before some of the kept steps."""
        at = np.searchsorted(self.kept, steps)
        assert (self.kept[at] == steps).all()
        return self.parameters[at], None if self.buffers is None else self.buffers[at]


class Points(NamedTuple):
    """What is reported of some steps of an execution.

    Args:
        steps: From 0, ascending.
        parameters: Before each, shape (n, P), weight and bias in one vector.
        gradients: Of the objective, shape (n, P).
        losses: Mean squared errors, shape (n,).
        lrs: Learning rates, shape (n,).
    """

    steps: Numbers
    parameters: NDArray[np.float64]
    gradients: NDArray[np.float64]
    losses: NDArray[np.float64]
    lrs: NDArray[np.float64]


@dataclass
class Execution:
    """Consecutive steps that have been taken at once.

    Args:
        pieces: Of spans, one after another.
        steps: Their number.
        end: Parameters and buffers after the last, in the dtype of the training.
        points: What is reported of them.
    """

    pieces: list[Piece]
    steps: int
    end: State
    points: Points | None = None

    def report(self, steps: Numbers) -> Points:
        """Return what is to be reported of some steps."""
        parts = []
        for piece, at in self.within(steps):
            parameters = piece.states(at)[0]
            losses, gradients = piece.span.losses(at, parameters)
            of_span = parameters.flatten(1), gradients.flatten(1), losses, piece.span.lrs[at]
            parts.append([tensor.cpu().numpy() for tensor in of_span])
        return Points(steps, *map(np.concatenate, zip(*parts, strict=True)))

    def within(self, steps: Numbers) -> Iterator[tuple[Piece, Numbers]]:
        """Return the pieces with some steps, and the numbers of these within the span of each.

        Args:
            steps: From 0, ascending.
        """
        before = 0
        for piece in self.pieces:
            n = piece.stop - piece.first
            mine = steps[(before <= steps) & (steps < before + n)]
            if len(mine):
                yield piece, mine - before + piece.first
            before += n


class Executor:
    """Takes the steps of a training, many at once.

    Args:
        rows: Of the training.
        rule: The update rule.
    """

    def __init__(self, rows: Rows, rule: Rule) -> None:
        self.rows = rows
        self.rule = rule
        self._everything: Everything | None = None
        self._span: Span | None = None
        self._left: tuple[Position, State] | None = None
        self._saved: Mapping[str, Any] | None = None

    def run(self, block: Block, state: State, lrs: Lrs, kept: Numbers) -> Execution:
        """Take the steps of a block, one for each of its batches.

        Args:
            block: Of batches.
            state: Before the first of them.
            lrs: Returns the learning rates of so many steps from there on.
            kept: Steps before which the state is to be known, from 0 to their number, ascending.
        """
        if self.rows.full_batch and self._everything is None:
            self._everything = Everything(self.rows)
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
        return Execution(pieces, taken, state)

    def _rounded(self, span: Span, step: int) -> State:
        """Return the state before a step in the precision of the training."""
        found = span.states(np.array([step]))
        return State(*(None if t is None else t[0].to(self.rows.dtype) for t in found))  # type: ignore[arg-type]

    def _after(self, position: Position, steps: int) -> Position:
        epochs, batch = divmod(position.batch + steps, self.rows.per_epoch)
        return Position(position.epoch + epochs, batch)

    def _steps_to_grid(self, position: Position) -> int:
        """Return how many steps are left of the span that a position lies in."""
        per_epoch = self.rows.per_epoch
        width = self.rows.Z.shape[1] + bool(self.rule.momentum) * (
            self.rows.Z.shape[1] - self.rows.n_targets
        )
        room = max(16, SPAN_BYTES // (24 * width**2))
        most = min(room, SPAN if self.rows.full_batch else FEW_EPOCHS_SPAN)
        epochs = max(1, most // per_epoch)
        if epochs > 1:
            return (epochs - position.epoch % epochs) * per_epoch - position.batch
        span = max(FEW_EPOCHS_SPAN, min(SPAN, SPAN_ROWS // self.rows.loader.batch_size))
        span = min(span, room)
        return min(span - position.batch % span, per_epoch - position.batch)

    def _span_from(
        self, position: Position, state: State, lrs: Lrs, taken: int
    ) -> tuple[Span, int]:
        """Return the span that holds a step, and the step's number in it."""
        steps = self._steps_to_grid(position)
        expected = lrs(taken + steps)[taken:]
        if self._saved is not None:
            self._take_up(self._saved, position, state, expected)
            self._saved = None
        span = self._span
        if span is not None and self._left is not None and self._left[0] == position:
            at = len(span) - steps
            same = _equal(self._left[1], state) and torch.equal(span.lrs[at:], expected)
            if 0 < steps < len(span) and same:
                return span, at
        if span is not None:
            span.close()
        start = State(*(None if t is None else t.double() for t in state))  # type: ignore[arg-type]
        return Span(self.rows, self._everything, position, start, expected, self.rule), 0

    def state_dict(self) -> dict[str, Any]:
        """Return where the span at hand began, for a training that goes on inside it."""
        span = self._span
        if span is None or self._left is None or self._steps_to_grid(self._left[0]) >= len(span):
            return {}
        return {
            "epoch": span.position.epoch,
            "batch": span.position.batch,
            "parameters": span.start.parameters,
            "buffers": span.start.buffers,
            "lrs": span.lrs,
            "rule": list(span.rule),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on within the span of a checkpoint, if its steps are still the same."""
        self._saved = state or None

    def _take_up(
        self, saved: Mapping[str, Any], position: Position, state: State, lrs: Tensor
    ) -> None:
        """Compose a saved span anew; leave it where it does not lead to where the training is."""
        began = Position(saved["epoch"], saved["batch"])
        at = len(saved["lrs"]) - len(lrs)
        device = state.parameters.device
        start = State(saved["parameters"].to(device), saved["buffers"])
        if start.buffers is not None:
            start = start._replace(buffers=start.buffers.to(device))
        fits = (
            at > 0
            and list(self.rule) == list(saved["rule"])
            and torch.equal(saved["lrs"][at:], lrs.cpu())
            and self._steps_to_grid(began) == len(saved["lrs"])
            and start.parameters.shape == state.parameters.shape
        )
        if not fits:
            return
        span = Span(self.rows, self._everything, began, start, saved["lrs"].to(device), self.rule)
        if _equal(self._rounded(span, at), state):
            self._span, self._left = span, (position, state)


def _equal(one: State, other: State) -> bool:
    """Return whether two states are the same to the bit."""
    if (one.buffers is None) != (other.buffers is None):
        return False
    return torch.equal(one.parameters, other.parameters) and (
        one.buffers is None or torch.equal(one.buffers, other.buffers)  # type: ignore[arg-type]
    )
