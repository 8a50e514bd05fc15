"""Which hyperparameters `LinearRegression` takes, and what to say of others."""

import math
from collections.abc import Callable
from typing import Any

from trueline.schedule import Schedule


def problems(h: Any) -> list[str]:
    """Say which hyperparameters are out of range, and what was expected; none if all are well.

    Args:
        h: Those of LinearRegression, by attribute and by key.
    """
    ranges = (
        ("n_features", "1 or more", h.n_features >= 1),
        ("n_targets", "1 or more", h.n_targets >= 1),
        ("lr", "a finite number above 0", _is_auto_or(h.lr, lambda lr: 0 < lr < math.inf)),
        ("momentum", "at least 0 and below 1", _is_auto_or(h.momentum, _is_momentum)),
        ("dampening", "0 to 1", 0 <= h.dampening <= 1),
        ("weight_decay", "a finite number of 0 or more", 0 <= h.weight_decay < math.inf),
        ("l1", "a finite number of 0 or more", 0 <= h.l1 < math.inf),
        ("l2", "a finite number of 0 or more", 0 <= h.l2 < math.inf),
        ("init", "normal or zeros", h.init in ("normal", "zeros")),
        ("steps_per_execution", "auto, or 1 or more", _is_count(h.steps_per_execution)),
    )
    wrong = [
        f"{name}: expected {what}; found {h[name]}" for name, what, holds in ranges if not holds
    ]
    if h.schedule and (problem := Schedule(h.schedule).problem()):
        wrong.append(problem)
    if "auto" in (h.lr, h.momentum) and h.dampening == 1:
        wrong.append(
            "dampening: expected below 1 with lr or momentum auto, since with 1 no gradient after "
            f"the first has an effect; found {h.dampening}"
        )
    if h.nesterov and (h.momentum == "auto" or h.momentum <= 0 or h.dampening != 0):
        wrong.append(
            "nesterov: expected momentum above 0 and dampening 0 with it; "
            f"found momentum {h.momentum} and dampening {h.dampening}"
        )
    return wrong


def _is_auto_or(value: Any, holds: Callable[[float], bool]) -> bool:
    return value == "auto" if isinstance(value, str) else holds(value)


def _is_momentum(value: float) -> bool:
    return 0 <= value < 1


def _is_count(steps: Any) -> bool:
    return steps == "auto" or (type(steps) is int and steps >= 1)
