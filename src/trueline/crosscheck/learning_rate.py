"""The learning rate that was meant, worked out from the number of steps or epochs alone."""

from collections.abc import Sequence
from typing import Literal

from trueline.reference.plateau import PlateauState, ReduceLROnPlateau
from trueline.reference.rounding import DOUBLE, gamma
from trueline.reference.schedules import Schedule

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
        self._latest: tuple[int, list[tuple[float, float]]] = (-1, [])

    def at(self, steps: int, epochs: int) -> list[tuple[float, float]]:
        """Return the learning rates after so many steps and epochs, each with a bound on its error.

        torch multiplies its way from one learning rate to the next; each factor may round.
        """
        if self.schedule is None:
            return [(base, 0.0) for base in self.bases]
        if isinstance(self.schedule, ReduceLROnPlateau):
            return [(state.lr, 0.0) for state in self._plateaus]
        ticks = steps if self.interval == "step" else epochs
        if ticks != self._latest[0]:
            self._latest = ticks, [self._scheduled(self.schedule, b, ticks) for b in self.bases]
        return self._latest[1]

    def _scheduled(self, schedule: Schedule, base: float, ticks: int) -> tuple[float, float]:
        lr = schedule.lr(base, ticks)
        # A resumed training brings two roundings more: its base may be given anew.
        return lr, schedule.error(base, ticks) + gamma(2, DOUBLE) * abs(lr)

    def after_ticks(self, ticks: int) -> list[tuple[float, float]]:
        """Return the learning rates after so many ticks; those now, for one without a formula."""
        return self.at(ticks, ticks)

    def observe(self, metric: float) -> None:
        """Tell a schedule that waits for a plateau what it monitors."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self._plateaus = [self.schedule.advance(state, metric) for state in self._plateaus]

    def state_dict(self) -> list[list[float]]:
        """Return what cannot be worked out from the number of steps: where each plateau stands."""
        return [list(state) for state in self._plateaus]

    def load_state_dict(self, state: Sequence[Sequence[float]]) -> None:
        """Go on where a checkpoint was made."""
        self._plateaus = [
            PlateauState(lr, best, int(bad), int(cooldown)) for lr, best, bad, cooldown in state
        ]
