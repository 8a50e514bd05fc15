"""The schedule of one rise and one long fall, in closed form."""

import math
from dataclasses import dataclass
from typing import Literal

from trueline.reference.rounding import DOUBLE, gamma


@dataclass(frozen=True)
class OneCycleLR:
    """Rises from `max_lr/div_factor` to `max_lr`, then falls far below where it began.

    The base learning rate of the optimizer does not matter. torch also cycles the momentum unless
    it is told `cycle_momentum=False`, which is what is meant here. It refuses to go on after
    `total_steps` ticks, and to begin where `pct_start·total_steps` is 1.

    Args:
        max_lr: The peak, > 0.
        total_steps: ≥ 1.
        pct_start: In [0, 1]; the rise ends after `pct_start·total_steps − 1` ticks.
        anneal_strategy: Whether the ways up and down are half cosines or lines.
        div_factor: > 0.
        final_div_factor: What the first learning rate is divided by for the last, > 0.
        three_phase: Fall back to the first learning rate as fast as it rose, then to the last.

    References:
        Smith & Topin, "Super-Convergence" (2018), section 4.

    Example:
        >>> cycle = OneCycleLR(max_lr=1.0, total_steps=10)
        >>> [round(cycle.lr(base=1.0, tick=tick), 6) for tick in (0, 2, 9)]
        [0.04, 1.0, 4e-06]
    """

    max_lr: float
    total_steps: int
    pct_start: float = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def lr(self, base: float, tick: int) -> float:
        """Return the learning rate after `tick` ticks."""
        first, last = self._ends()
        peak = self.pct_start * self.total_steps - 1
        points = [(0.0, first), (peak, self.max_lr), (self.total_steps - 1, last)]
        if self.three_phase:
            points.insert(2, (2 * peak, first))
        k = 1
        while tick > points[k][0] and points[k][0] != self.total_steps - 1:
            k += 1
        (start, high), (end, low) = points[k - 1], points[k]
        way = (tick - start) / (end - start)
        if self.anneal_strategy == "linear":
            return high + (low - high) * way
        return low + (high - low) * (1 + math.cos(math.pi * way)) / 2

    def error(self, base: float, tick: int) -> float:
        """Bound the roundings of one evaluation: there is no recursion."""
        return gamma(32, DOUBLE) * max(self.max_lr, *self._ends())

    def _ends(self) -> tuple[float, float]:
        first = self.max_lr / self.div_factor
        return first, first / self.final_div_factor
