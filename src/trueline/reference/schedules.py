"""Learning-rate schedules in closed form: the lr that is meant after so many ticks.

The names and arguments are those of `torch.optim.lr_scheduler`. torch gets from one learning rate
to the next by a factor or a summand, and each rounds; `error` bounds how far that takes it from the
closed form here, which rounds too. A tick is an optimizer step or an epoch, whichever the schedule
counts; none has passed before the first one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trueline.reference.rounding import DOUBLE, gamma

SMALLEST_NORMAL = 2.0**-1022
"""In float64; below it a rounding errs by 2⁻¹⁰⁷⁵, however small the number."""


class Schedule(Protocol):
    """A learning rate as a function of the number of ticks."""

    def lr(self, base: float, tick: int) -> float:
        """Return the learning rate after `tick` ticks, from the optimizer's own `base`."""

    def error(self, base: float, tick: int) -> float:
        """Bound how far a correct evaluation tick by tick may be from `lr`."""


@dataclass(frozen=True)
class StepLR:
    """Multiplies by `gamma` every `step_size` ticks: `base·gamma^⌊tick/step_size⌋`.

    Args:
        step_size: Ticks from one product to the next, ≥ 1.
        gamma: ≥ 0.

    Example:
        >>> StepLR(step_size=2, gamma=0.5).lr(base=1.0, tick=5)
        0.25
    """

    step_size: int
    gamma: float = 0.1

    def lr(self, base: float, tick: int) -> float:
        """Return the learning rate after `tick` ticks."""
        return base * _power(self.gamma, tick // self.step_size)

    def error(self, base: float, tick: int) -> float:
        """Bound one rounding for each factor, and those of the power."""
        return _product_error(tick // self.step_size + 4, base, self.lr(base, tick))


@dataclass(frozen=True)
class MultiStepLR:
    """Multiplies by `gamma` at each of the milestones; one that is named twice counts twice.

    Args:
        milestones: Numbers of ticks, in any order; torch never comes to one below 0.
        gamma: ≥ 0.

    Example:
        >>> MultiStepLR(milestones=(3, 4), gamma=0.5).lr(base=1.0, tick=4)
        0.25
    """

    milestones: Sequence[int]
    gamma: float = 0.1

    def lr(self, base: float, tick: int) -> float:
        """Return the learning rate after `tick` ticks."""
        return base * _power(self.gamma, self._passed(tick))

    def error(self, base: float, tick: int) -> float:
        """Bound three roundings for each milestone, which torch takes a power for."""
        return _product_error(2 * self._passed(tick) + 4, base, self.lr(base, tick))

    def _passed(self, tick: int) -> int:
        return sum(0 <= milestone <= tick for milestone in self.milestones)


@dataclass(frozen=True)
class ExponentialLR:
    """Multiplies by `gamma` at every tick: `base·gamma^tick`.

    Args:
        gamma: ≥ 0.

    Example:
        >>> ExponentialLR(gamma=0.5).lr(base=1.0, tick=3)
        0.125
    """

    gamma: float

    def lr(self, base: float, tick: int) -> float:
        """Return the learning rate after `tick` ticks."""
        return base * _power(self.gamma, tick)

    def error(self, base: float, tick: int) -> float:
        """Bound one rounding for each factor, and those of the power."""
        return _product_error(tick + 4, base, self.lr(base, tick))


@dataclass(frozen=True)
class CosineAnnealingLR:
    """Falls from `base` to `eta_min` along half a cosine in `T_max` ticks, and up again.

    `eta_min + (base − eta_min)·(1 + cos(π·tick/T_max))/2`, with period 2·T_max, as torch has it.

    Args:
        T_max: Ticks from `base` to `eta_min`, ≥ 1.
        eta_min: ≥ 0.

    References:
        Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017),
        equation 5, without the restarts.

    Example:
        >>> round(CosineAnnealingLR(T_max=4).lr(base=1.0, tick=2), 12)
        0.5
    """

    T_max: int
    eta_min: float = 0.0

    def lr(self, base: float, tick: int) -> float:
        """Return the learning rate after `tick` ticks."""
        return self.eta_min + (base - self.eta_min) * self._share(tick)

    def error(self, base: float, tick: int) -> float:
        """Bound the roundings of each tick since the last minimum, and what the minimum cost.

        torch multiplies by quotients of neighbouring 1 + cos, which cancel from tick to tick, and
        is at `eta_min` to the bit at each minimum. From there it takes the first tick by another
        formula; 1 + cos is about (π/T_max)²/2 there, known to a rounding of 1 and to the rounding
        of the angle π·tick/T_max. Relative to what it has risen by, that is up to T_max² and
        3·tick roundings, and it shrinks with the rise on the way down.
        """
        roundings = 8 * min(tick, 2 * self.T_max) + 16 * (1 + tick // self.T_max)
        if tick > self.T_max:
            roundings += math.ceil(self._share(tick) * (self.T_max**2 + 4 * tick))
        return gamma(roundings, DOUBLE) * max(abs(base), abs(self.eta_min))

    def _share(self, tick: int) -> float:
        # Less whole periods: the angle then rounds alike however far the training has come.
        angle = math.pi * (tick % (2 * self.T_max)) / self.T_max
        return (1 + math.cos(angle)) / 2


@dataclass(frozen=True)
class LinearLR:
    """Goes from `start_factor·base` to `end_factor·base` on a line, in `total_iters` ticks.

    Args:
        start_factor: In (0, 1].
        end_factor: In [0, 1].
        total_iters: ≥ 1; at 0 torch never leaves `start_factor`.

    Example:
        >>> LinearLR(start_factor=0.5, total_iters=4).lr(base=1.0, tick=2)
        0.75
    """

    start_factor: float = 1 / 3
    end_factor: float = 1.0
    total_iters: int = 5

    def lr(self, base: float, tick: int) -> float:
        """Return the learning rate after `tick` ticks."""
        way = min(tick, self.total_iters) / self.total_iters if self.total_iters else 0.0
        return base * (self.start_factor + (self.end_factor - self.start_factor) * way)

    def error(self, base: float, tick: int) -> float:
        """Bound eight roundings a tick, of the larger end of the way so far.

        torch's divisor is T times the factor before, as a difference of terms of up to T times
        `start_factor`: on the way down it loses that much, j ticks before the end 1/j of it, which
        is less than one each.
        """
        largest = max(abs(self.lr(base, 0)), abs(self.lr(base, tick)))
        return gamma(8 * min(tick, self.total_iters) + 8, DOUBLE) * largest


@dataclass(frozen=True)
class LambdaLR:
    """Multiplies `base` by a function of the tick.

    Args:
        lr_lambda: Of the number of ticks.

    Example:
        >>> LambdaLR(lambda tick: 1 / (1 + tick)).lr(base=1.0, tick=3)
        0.25
    """

    lr_lambda: Callable[[int], float]

    def lr(self, base: float, tick: int) -> float:
        """Return the learning rate after `tick` ticks."""
        return base * self.lr_lambda(tick)

    def error(self, base: float, tick: int) -> float:
        """Bound the one rounding of the product."""
        return gamma(1, DOUBLE) * abs(self.lr(base, tick))


def _power(factor: float, exponent: int) -> float:
    """Return the power; infinite where it overflows, as repeated products are."""
    try:
        return float(factor**exponent)
    except OverflowError:
        return math.inf


def _product_error(roundings: int, base: float, lr: float) -> float:
    """Bound the error of a product, also where it or its power underflows."""
    return gamma(roundings, DOUBLE) * max(abs(lr), SMALLEST_NORMAL * max(1.0, abs(base)))
