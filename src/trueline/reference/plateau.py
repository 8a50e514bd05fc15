"""The schedule that waits for a plateau: it depends on what was measured, not on ticks alone."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple


class PlateauState(NamedTuple):
    """Where a schedule stands: plain numbers, fit for a checkpoint.

    Args:
        lr: The learning rate now.
        best: The best metric so far.
        bad: Ticks in a row without improvement.
        cooldown: Ticks for which bad ones do not count yet.
    """

    lr: float
    best: float
    bad: int = 0
    cooldown: int = 0


@dataclass(frozen=True)
class ReduceLROnPlateau:
    """Multiplies the learning rate by `factor` when a metric has not improved for `patience` ticks.

    The rule and the names are those of `torch.optim.lr_scheduler.ReduceLROnPlateau`. There is one
    way to evaluate it, so the learning rate is the same to the bit. A metric that is not a number
    is no improvement.

    Args:
        mode: Whether a smaller or a larger metric is better.
        factor: In (0, 1).
        patience: Bad ticks in a row that are let pass, ≥ 0.
        threshold: By how much a metric must be better than the best to count, ≥ 0.
        threshold_mode: Whether that is a fraction of the best, or a difference.
        cooldown: Ticks after a reduction in which bad ones do not count, ≥ 0.
        min_lr: The smallest learning rate, ≥ 0.
        eps: A change that is not larger than this is not made, ≥ 0.

    Example:
        >>> plateau = ReduceLROnPlateau(patience=0, factor=0.5)
        >>> state = plateau.advance(plateau.start(base=1.0), metric=3.0)
        >>> plateau.advance(state, metric=3.0).lr
        0.5
    """

    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8

    def start(self, base: float) -> PlateauState:
        """Return the state before the first metric."""
        return PlateauState(lr=base, best=math.inf if self.mode == "min" else -math.inf)

    def advance(self, state: PlateauState, metric: float) -> PlateauState:
        """Return the state after one more metric."""
        lr, best, bad, cooldown = state
        if self._is_better(metric, best):
            best, bad = metric, 0
        else:
            bad += 1
        if cooldown > 0:
            cooldown, bad = cooldown - 1, 0
        if bad > self.patience:
            reduced = max(lr * self.factor, self.min_lr)
            lr = reduced if lr - reduced > self.eps else lr
            cooldown, bad = self.cooldown, 0
        return PlateauState(lr, best, bad, cooldown)

    def _is_better(self, metric: float, best: float) -> bool:
        relative = self.threshold_mode == "rel"
        if self.mode == "min":
            return metric < (best * (1 - self.threshold) if relative else best - self.threshold)
        return metric > (best * (1 + self.threshold) if relative else best + self.threshold)
