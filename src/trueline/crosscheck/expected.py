"""What a training is expected to do, from its hyperparameters and the Trainer's settings.

Never from the torch optimizer or its scheduler: those are among the judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypeVar

import numpy as np
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from trueline.crosscheck.judge import Judge
from trueline.crosscheck.parameter_vector import ParameterVector
from trueline.crosscheck.record import Reference
from trueline.crosscheck.unsupported import arithmetic_of
from trueline.errors import RequestError
from trueline.reference import SGD, Clipping, LeastSquares
from trueline.reference.plateau import PlateauState, ReduceLROnPlateau
from trueline.reference.rounding import DOUBLE, gamma
from trueline.reference.schedule_options import schedule_from
from trueline.reference.schedules import Schedule

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
Interval = Literal["step", "epoch"]
AnySchedule = Schedule | ReduceLROnPlateau | None
T = TypeVar("T", SGD, LeastSquares)


def expected_schedule(
    hyperparameters: Mapping[str, Any], given: AnySchedule, interval: Interval, monitor: str
) -> tuple[AnySchedule, Interval, str]:
    """Return the schedule, what it counts and what it monitors.

    Args:
        hyperparameters: Hyperparameters, whose `schedule` is used where none is given.
        given: Schedule given to the cross-check.
        interval: What the given schedule counts; Lightning's own default is epochs.
        monitor: What the given schedule monitors.

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


def expected_judge(
    trainer: Trainer,
    reference: Reference | None,
    optimizer: SGD | Mapping[str, SGD] | None,
    layout: ParameterVector,
    example: tuple[Array, Any],
) -> Judge:
    """Return the judge of a training.

    Args:
        trainer: Trainer of the model.
        reference: Reference given to the cross-check; without one, that of the hyperparameters.
        optimizer: Update rules given to it; without any, that of the hyperparameters.
        layout: Layout of the parameters.
        example: Parameters and a batch, to ask the reference about what it trains.
    """
    h, limit = trainer.lightning_module.hparams, trainer.gradient_clip_val
    by_value = trainer.gradient_clip_algorithm == "value"
    return Judge(
        reference or _from_hyperparameters(LeastSquares, h),
        optimizer or _from_hyperparameters(SGD, h),
        Clipping(limit, "value" if by_value else "norm") if limit and limit > 0 else None,
        arithmetic_of(trainer),
        layout,
        example,
    )


def _from_hyperparameters(cls: type[T], hyperparameters: Mapping[str, Any]) -> T:
    """Build `cls` from the hyperparameters that bear the names of its fields."""
    names = [field.name for field in fields(cls)]
    return cls(**{name: hyperparameters[name] for name in names if name in hyperparameters})


class ExpectedLr:
    """The learning rates that steps should use, one for each update rule.

    torch multiplies its way from one learning rate to the next, and each factor may round. So each
    learning rate has a bound on its error.

    Args:
        bases: Each rule's lr, before any schedule.
        schedule: What changes them, if anything does.
        interval: What the schedule counts.
    """

    def __init__(
        self, bases: Sequence[float], schedule: AnySchedule = None, interval: Interval = "epoch"
    ) -> None:
        self.schedule = schedule
        self.interval = interval
        self._bases = bases
        self._plateaus: list[PlateauState] = []
        self._formula: Schedule | None = None
        if isinstance(schedule, ReduceLROnPlateau):
            self._plateaus = [schedule.start(base) for base in bases]
        else:
            self._formula = schedule
        self._latest = -1, self._constant

    @property
    def _constant(self) -> Array:
        """Learning rates that do not depend on the number of steps."""
        lrs = [plateau.lr for plateau in self._plateaus] or self._bases
        return np.array([(lr, 0.0) for lr in lrs])

    @property
    def waits(self) -> bool:
        """Whether the schedule waits for a plateau."""
        return isinstance(self.schedule, ReduceLROnPlateau)

    def at(self, steps: int, epochs: int) -> Array:
        """Return learning rates and bounds after so many steps and epochs, shape (n_rules, 2)."""
        ticks = steps if self.interval == "step" else epochs
        if self._formula and ticks != self._latest[0]:
            lrs = np.array([self._formula.lr(base, ticks) for base in self._bases])
            errors = np.array([self._formula.error(base, ticks) for base in self._bases])
            # A resumed training brings two roundings more: its base may be given anew.
            self._latest = ticks, np.column_stack([lrs, errors + gamma(2, DOUBLE) * np.abs(lrs)])
        return self._latest[1]

    def of_steps(self, steps: Numbers, epochs: Numbers) -> Array:
        """Return learning rates and bounds at many steps, shape (n_steps, n_rules, 2)."""
        if self._formula is None:
            return np.repeat(self._latest[1][None], len(steps), axis=0)
        return np.array(
            [self.at(*pair) for pair in zip(steps.tolist(), epochs.tolist(), strict=True)]
        )

    def along(self, losses: Array) -> Array:
        """Return what `of_steps` does, where a schedule waits for a plateau of steps' losses."""
        found = np.empty((len(losses), len(self._bases), 2))
        for k, loss in enumerate(losses.tolist()):
            found[k] = self._latest[1]
            self.observe(loss)
        return found

    def observe(self, metric: float) -> None:
        """Tell a schedule that waits for a plateau what it monitors."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self._plateaus = [self.schedule.advance(state, metric) for state in self._plateaus]
            self._latest = -1, self._constant

    def state_dict(self) -> list[list[float]]:
        """Return what cannot be worked out from the number of steps: where each plateau stands."""
        return [list(state) for state in self._plateaus]

    def load_state_dict(self, state: Sequence[Sequence[float]]) -> None:
        """Go on where a checkpoint was made."""
        if state:
            self._plateaus = [PlateauState(a, b, int(c), int(d)) for a, b, c, d in state]
            self._latest = -1, self._constant
