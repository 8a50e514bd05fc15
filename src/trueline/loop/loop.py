"""Many steps of SGD in one call: from rows, or from moments where those are fewer numbers."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trueline.loop import kernels
from trueline.loop.moments import Moments
from trueline.loop.rows import Rows
from trueline.loop.state import WIDEST, Float64, Rule, State, StepResult, Steps

MOMENT_BYTES = 2**26
"""Moments of steps that are held at once."""

MomentsOfSteps = Callable[[int, int, int], Float64]
"""Returns the means of `zᵀz` over the rows of steps, given epoch, first step and their number."""


class Loop:
    """Takes the steps of a training.

    Args:
        rows: Rows of the training, and their order.
        moments: Moments of all rows, for full batches or the anchor of `of_steps`; None for steps
            from rows.
        of_steps: Moments of the rows of each step, where several processes share them; None where
            this process has all rows.
    """

    def __init__(
        self,
        rows: Rows,
        moments: Moments | None = None,
        of_steps: MomentsOfSteps | None = None,
    ) -> None:
        self.rows = rows
        self.moments = moments
        self.of_steps = of_steps

    @property
    def kernel(self) -> Any:
        """The compiled function that takes the steps."""
        return kernels.over_rows if self.moments is None else kernels.over_moments

    def compile(self, state: State, rule: Rule) -> None:
        """Compile the kernel, or read it from its cache, by a call of no steps."""
        at = np.empty(0, np.int64)
        steps = Steps.of(np.empty(0), np.empty(0), at, self.rows.shape.n_parameters)
        given = tuple(self.rows.shape), tuple(state), tuple(rule), tuple(steps)
        if self.moments is None:
            self.kernel(tuple(self.rows.no_rows()), *given)
        else:
            self.kernel(self.moments.mean, self.moments.anchor, 0, 0, *given)

    def run(self, state: State, rule: Rule, steps: Steps, epoch: int, step: int) -> StepResult:
        """Take consecutive steps.

        Args:
            state: State before the first step; it is changed in place.
            rule: The update rule.
            steps: Options of each step, and memory for its results.
            epoch: Epoch of the first step, from 0.
            step: Number of the first step in its epoch.
        """
        taken, n = 0, len(steps.lrs)
        given = tuple(self.rows.shape), tuple(state), tuple(rule), tuple(steps)
        if self.moments is None:
            for piece in self.rows.pieces(epoch, step, n):
                taken += (done := kernels.over_rows(tuple(piece), *given))
                if done < piece.complete:
                    break
        else:
            for first, M in self._moments(epoch, step, n):
                some = len(M) if self.of_steps else n
                args = M, self.moments.anchor, first, some
                taken += (done := kernels.over_moments(*args, *given))
                if done < some:
                    break
        anchor = None if self.moments is None else self.moments.anchor
        return steps.result(taken, anchor, state, self.rows.shape.n_targets)

    @property
    def of_all_rows(self) -> bool:
        """Whether the same moments are those of each step."""
        return self.moments is not None and self.of_steps is None

    def _moments(self, epoch: int, step: int, steps: int) -> Iterator[tuple[int, Float64]]:
        """Return moments, and the number of the first step that they are for."""
        assert self.moments is not None
        if self.of_steps is None:
            yield 0, self.moments.mean
            return
        width = self.moments.mean.shape[1]
        at_once = max(1, MOMENT_BYTES // (8 * width**2))
        for first in range(0, steps, at_once):
            epochs, within = divmod(step + first, self.rows.steps_per_epoch)
            yield first, self.of_steps(epoch + epochs, within, min(at_once, steps - first))


def takes_moments(rows: Rows) -> bool:
    """Return whether full batches are replaced by their moments: where those are fewer numbers."""
    width = rows.shape.n_features + 1 + rows.shape.n_targets
    return rows.full_batch and width <= min(WIDEST, max(rows.matrix.shape[0], 16))
