"""What a training is meant to do, from its hyperparameters and the Trainer's settings.

Never from the torch optimizer or its scheduler, which are among the judged.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from lightning.pytorch import Trainer

from trueline.crosscheck.learning_rate import Interval
from trueline.errors import RequestError
from trueline.reference import SGD, Clipping, LeastSquares
from trueline.reference.plateau import ReduceLROnPlateau
from trueline.reference.schedule_options import schedule_from
from trueline.reference.schedules import Schedule

T = TypeVar("T", SGD, LeastSquares)
AnySchedule = Schedule | ReduceLROnPlateau | None


def meant_schedule(
    hyperparameters: Mapping[str, Any], given: AnySchedule, interval: Interval, monitor: str
) -> tuple[AnySchedule, Interval, str]:
    """Return the schedule, what it counts and what it monitors.

    Args:
        hyperparameters: Whose `schedule` is used where none is given.
        given: To the cross-check.
        interval: That goes with it; Lightning's own default is epochs.
        monitor: That goes with it.

    Raises:
        RequestError: For a schedule that has no counterpart in NumPy.
    """
    options = dict(hyperparameters.get("schedule") or {})
    if given is not None or not options:
        return given, interval, monitor
    interval = options.pop("interval", "epoch")
    monitor = options.pop("monitor", monitor)
    try:
        return schedule_from(options.pop("name"), options), interval, monitor
    except ValueError as error:
        raise RequestError(f"the cross-check cannot follow the {error}") from error


def meant_clipping(trainer: Trainer) -> Clipping | None:
    """Return the clipping that the Trainer was asked for."""
    limit, by_value = trainer.gradient_clip_val, trainer.gradient_clip_algorithm == "value"
    return Clipping(limit, "value" if by_value else "norm") if limit and limit > 0 else None


def from_hyperparameters(cls: type[T], hyperparameters: Mapping[str, Any]) -> T:
    """Build `cls` from the hyperparameters that bear the names of its fields."""
    names = [field.name for field in fields(cls)]
    return cls(**{name: hyperparameters[name] for name in names if name in hyperparameters})
