"""The learning rate that was meant, worked out from the number of steps or epochs alone."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trueline.reference.plateau import PlateauState, ReduceLROnPlateau
from trueline.reference.rounding import DOUBLE, gamma
from trueline.reference.schedules import Schedule

Array = NDArray[np.float64]
Interval = Literal["step", "epoch"]


class MeantLr:
    """The learning rates that a step should use, one for each update rule.

    Args:
        bases: Each rule's lr, before any schedule.
        schedule: What changes them, if anything does.
        interval: What the schedule counts.
    """

    def __init__(
        self,
        bases: Sequence[float],
        schedule: Schedule | ReduceLROnPlateau | None = None,
        interval: Interval = "epoch",
    ) -> None:
        self.bases = bases
        self.schedule = schedule
        self.interval = interval
        self._plateaus: list[PlateauState] = []
        if isinstance(schedule, ReduceLROnPlateau):
            self._plateaus = [schedule.start(base) for base in bases]
        self._latest = -1, self._without_error(bases)

    @property
    def waits(self) -> bool:
        """Whether the schedule waits for a plateau."""
        return isinstance(self.schedule, ReduceLROnPlateau)

    def at(self, steps: int, epochs: int) -> Array:
        """Return the learning rates after so many steps and epochs, each with a bound on its error.

        torch multiplies its way from one learning rate to the next; each factor may round.

        Returns:
            Shape (n_rules, 2).
        """
        ticks = steps if self.interval == "step" else epochs
        if self.schedule is None or isinstance(self.schedule, ReduceLROnPlateau):
            return self._latest[1]
        if ticks != self._latest[0]:
            lrs = [self._scheduled(self.schedule, base, ticks) for base in self.bases]
            self._latest = ticks, np.array(lrs)
        return self._latest[1]

    @staticmethod
    def _without_error(lrs: Sequence[float]) -> Array:
        return np.array([(lr, 0.0) for lr in lrs])

    def _scheduled(self, schedule: Schedule, base: float, ticks: int) -> tuple[float, float]:
        lr = schedule.lr(base, ticks)
        # A resumed training brings two roundings more: its base may be given anew.
        return lr, schedule.error(base, ticks) + gamma(2, DOUBLE) * abs(lr)

    def observe(self, metric: float) -> None:
        """Tell a schedule that waits for a plateau what it monitors."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self._set([self.schedule.advance(state, metric) for state in self._plateaus])

    def of_steps(self, steps: NDArray[np.int64], epochs: NDArray[np.int64]) -> Array:
        """Return the learning rates of steps, given their numbers and epochs, (n, n_rules, 2)."""
        if self.schedule is None or self.waits:
            return np.repeat(self._latest[1][None], len(steps), axis=0)
        pairs = zip(steps.tolist(), epochs.tolist(), strict=True)
        return np.array([self.at(*pair) for pair in pairs])

    def along(self, losses: Array) -> Array:
        """Return the learning rate of each step, where the schedule waits for their losses."""
        found = np.empty((len(losses), len(self.bases), 2))
        for k, loss in enumerate(losses.tolist()):
            found[k] = self._latest[1]
            self.observe(loss)
        return found

    def state_dict(self) -> list[list[float]]:
        """Return what cannot be worked out from the number of steps: where each plateau stands."""
        return [list(state) for state in self._plateaus]

    def load_state_dict(self, state: Sequence[Sequence[float]]) -> None:
        """Go on where a checkpoint was made."""
        if state:
            self._set([PlateauState(a, b, int(bad), int(cool)) for a, b, bad, cool in state])

    def _set(self, plateaus: list[PlateauState]) -> None:
        self._plateaus = plateaus
        self._latest = -1, self._without_error([state.lr for state in plateaus])
