"""Builds a schedule from plain options, such as a config holds, and says all that is wrong."""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import Any

from trueline.reference.one_cycle import OneCycleLR
from trueline.reference.plateau import ReduceLROnPlateau
from trueline.reference.schedules import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    Schedule,
    StepLR,
)

BY_NAME: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        StepLR,
        MultiStepLR,
        ExponentialLR,
        CosineAnnealingLR,
        LinearLR,
        OneCycleLR,
        ReduceLROnPlateau,
    )
}
"""The schedules that plain options can describe."""

Range = tuple[str, Callable[[Any], bool]]


def _whole(least: int) -> Range:
    def fits(value: Any) -> bool:
        return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least

    return f"a whole number, {least} or more", fits


def _number(what: str, holds: Callable[[float], bool]) -> Range:
    def fits(value: Any) -> bool:
        return isinstance(value, Real) and not isinstance(value, bool) and holds(float(value))

    return what, fits


def _one_of(*choices: Any) -> Range:
    return " or ".join(str(choice).lower() for choice in choices), lambda value: value in choices


POSITIVE = _number("a finite number above 0", lambda v: 0 < v < math.inf)
NOT_NEGATIVE = _number("a finite number, 0 or more", lambda v: 0 <= v < math.inf)
COUNT, FROM_ONE = _whole(0), _whole(1)

RANGES: dict[str, Range] = {
    "step_size": FROM_ONE,
    "milestones": (
        "a list of whole numbers, 0 or more",
        lambda v: isinstance(v, list | tuple) and all(map(COUNT[1], v)),
    ),
    "gamma": NOT_NEGATIVE,
    "T_max": FROM_ONE,
    "eta_min": NOT_NEGATIVE,
    "start_factor": _number("above 0 and at most 1", lambda v: 0 < v <= 1),
    "end_factor": _number("0 to 1", lambda v: 0 <= v <= 1),
    # With 0 torch stays at start_factor for good, which nobody means.
    "total_iters": FROM_ONE,
    "max_lr": POSITIVE,
    "total_steps": FROM_ONE,
    "pct_start": _number("0 to 1", lambda v: 0 <= v <= 1),
    "anneal_strategy": _one_of("cos", "linear"),
    "div_factor": POSITIVE,
    "final_div_factor": POSITIVE,
    "three_phase": ("true or false", lambda v: isinstance(v, bool)),
    "mode": _one_of("min", "max"),
    "factor": _number("above 0 and below 1", lambda v: 0 < v < 1),
    "patience": COUNT,
    "threshold": NOT_NEGATIVE,
    "threshold_mode": _one_of("rel", "abs"),
    "cooldown": COUNT,
    "min_lr": NOT_NEGATIVE,
    "eps": NOT_NEGATIVE,
}
"""What each option may be."""


def schedule_from(name: str, options: Mapping[str, Any]) -> Schedule | ReduceLROnPlateau:
    """Build a schedule by its name in torch.

    Args:
        name: Such as `StepLR`.
        options: Its arguments.

    Returns:
        The schedule.

    Raises:
        ValueError: For an unknown name, or naming all options that are unknown, missing or out of
            range.

    Example:
        >>> schedule_from("StepLR", {"step_size": 10})
        StepLR(step_size=10, gamma=0.1)
        >>> schedule_from("StepLR", {"step_size": 0, "rate": 1})
        Traceback (most recent call last):
        ...
        ValueError: schedule StepLR: expected options among step_size, gamma; found rate; \
schedule StepLR: step_size: expected a whole number, 1 or more; found 0
    """
    if name == "LambdaLR":
        raise ValueError(
            "schedule: LambdaLR is a function, which options cannot hold; in Python, pass the "
            "object LambdaLR(function) as the schedule"
        )
    if name not in BY_NAME:
        raise ValueError(f"schedule: expected one of {', '.join(BY_NAME)}; found {name}")
    known = {field.name: field.default is MISSING for field in fields(BY_NAME[name])}
    options, wrong = dict(options), []
    if name == "OneCycleLR" and options.pop("cycle_momentum", False) is not False:
        wrong.append("cycle_momentum: expected false, by which the momentum stays; found true")
    wrong += [
        f"expected options among {', '.join(known)}; found {option}"
        for option in options
        if option not in known
    ]
    for option, required in known.items():
        what, fits = RANGES[option]
        if option not in options:
            if required:
                wrong.append(f"{option}: expected {what}; found none")
        elif not fits(options[option]):
            wrong.append(f"{option}: expected {what}; found {options[option]!r}")
    if not wrong:
        schedule: Schedule | ReduceLROnPlateau = BY_NAME[name](**options)
        if not isinstance(schedule, OneCycleLR) or _can_begin(schedule):
            return schedule
        wrong.append(
            "pct_start: expected another share than 1/total_steps, which leaves no step to rise "
            f"in; found {schedule.pct_start}"
        )
    raise ValueError("; ".join(f"schedule {name}: {what}" for what in wrong))


def _can_begin(cycle: OneCycleLR) -> bool:
    return cycle.pct_start * cycle.total_steps != 1
