"""What a turn of Lightning's loop has done: pieces of spans, their end, and what is reported."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trueline.executions.spans import Numbers, Span, State


@dataclass
class Piece:
    """Some steps of a span, with those of their states that were asked for.

    Args:
        span: That they belong to, which may be closed.
        first: The number of the first one within it.
        stop: The number of the one after the last.
        kept: Of steps whose states are known: numbers within the span, from `first` to `stop`.
        parameters: Before each of these, float64, shape (len(kept), p, T).
        buffers: The same; None without momentum.
    """

    span: Span
    first: int
    stop: int
    kept: Numbers
    parameters: Tensor
    buffers: Tensor | None

    def states(self, steps: Numbers) -> tuple[Tensor, Tensor | None]:
        """Return parameters and buffers before some of the kept steps.

        Args:
            steps: Numbers within the span.

        Returns:
            Float64, shape (len(steps), p, T) each; the buffers None without momentum.
        """
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
        """Return what is to be reported of some steps.

        Args:
            steps: From 0, ascending; kept ones.
        """
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
