"""What a training is meant to do, from its hyperparameters and the Trainer's settings.

Never from the torch optimizer or its scheduler, which are among the judged.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from lightning.pytorch import Trainer

from trueline.crosscheck.judge import Judge
from trueline.crosscheck.learning_rate import Interval
from trueline.crosscheck.recorder import Recorder
from trueline.crosscheck.refusals import arithmetic_of
from trueline.crosscheck.step import Reference
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


def meant_judge(
    trainer: Trainer,
    reference: Reference | None,
    optimizer: SGD | Mapping[str, SGD] | None,
    recorder: Recorder,
    batch: Any,
) -> Judge:
    """Return the judge of a training.

    Args:
        trainer: Trainer of the model.
        reference: Given to the cross-check; without one, that of the hyperparameters.
        optimizer: Given to the cross-check; without one, that of the hyperparameters.
        recorder: Recorder of the training, which knows its first parameters.
        batch: A batch as arrays, to ask the reference about what it trains.
    """
    hyperparameters = trainer.lightning_module.hparams
    return Judge(
        reference or _from_hyperparameters(LeastSquares, hyperparameters),
        optimizer or _from_hyperparameters(SGD, hyperparameters),
        _meant_clipping(trainer),
        arithmetic_of(trainer),
        recorder.layout,
        example=(recorder.initial, batch),
    )


def _meant_clipping(trainer: Trainer) -> Clipping | None:
    """Return the clipping that the Trainer was asked for."""
    limit, by_value = trainer.gradient_clip_val, trainer.gradient_clip_algorithm == "value"
    return Clipping(limit, "value" if by_value else "norm") if limit and limit > 0 else None


def _from_hyperparameters(cls: type[T], hyperparameters: Mapping[str, Any]) -> T:
    """Build `cls` from the hyperparameters that bear the names of its fields."""
    names = [field.name for field in fields(cls)]
    return cls(**{name: hyperparameters[name] for name in names if name in hyperparameters})
