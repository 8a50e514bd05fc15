"""The schedule of the learning rate that `LinearRegression` is given as plain options."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.optim import lr_scheduler

from trueline.errors import RequestError


class Schedule:
    """A class of `torch.optim.lr_scheduler` with its options.

    `OneCycleLR` leaves the momentum alone unless `cycle_momentum` is true: the momentum is the one
    that was asked for. Everything else is as torch has it.

    Args:
        options: `name`, the class; `interval`, epoch (unless given) or step; `monitor`, the metric
            that a schedule waiting for a plateau watches, train/loss unless given; and the options
            of the class.

    Example:
        >>> schedule = Schedule({"name": "StepLR", "step_size": 30})
        >>> schedule.interval, schedule.options, schedule.problem()
        ('epoch', {'step_size': 30}, None)
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = dict(options)
        self.name = self.options.pop("name", None)
        self.interval = self.options.pop("interval", "epoch")
        self.monitor = self.options.pop("monitor", "train/loss")

    def problem(self) -> str | None:
        """Say what is wrong with the options, if anything."""
        if self.interval not in ("epoch", "step"):
            return f"schedule: interval: expected epoch or step; found {self.interval}"
        if self.interval == "step" and self.monitor != "train/loss":
            return (
                f"schedule: monitor: expected train/loss with interval step; found {self.monitor}"
            )
        scheduler: Any = getattr(lr_scheduler, str(self.name), None)
        base = lr_scheduler.LRScheduler
        if not isinstance(scheduler, type) or scheduler is base or not issubclass(scheduler, base):
            return (
                "schedule: expected under name a class in torch.optim.lr_scheduler, such as "
                f"StepLR; found {self.name}"
            )
        if functions := [name for name, value in self.options.items() if not _is_plain(value)]:
            return (
                f"schedule: expected options of {self.name} that a checkpoint can hold, such as "
                f"numbers and lists; found {functions[0]}; override configure_optimizers in a "
                "subclass instead"
            )
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], momentum=0.5)
        try:
            self.scheduler(optimizer)
        except Exception as error:  # torch raises several types
            return f"schedule: expected options of {self.name}; found {self.options} ({error})"
        return None

    @property
    def cycles_momentum(self) -> bool:
        """Whether the schedule changes the momentum too."""
        return bool(self.options.get("cycle_momentum", self.name == "CyclicLR"))

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """Return the scheduler of torch that changes an optimizer's learning rates."""
        options = dict(self.options)
        if self.name == "OneCycleLR":
            options["cycle_momentum"] = self.cycles_momentum
            if type(options.get("pct_start")) is int:  # which torch does not take
                options["pct_start"] = float(options["pct_start"])
        return getattr(lr_scheduler, self.name)(optimizer, **options)

    @staticmethod
    def tick(scheduler: Any) -> None:
        """Count a step or an epoch; after the last step of a OneCycleLR its learning rate stays.

        There torch divides by 0 where `pct_start` is 1.
        """
        try:
            scheduler.step()
        except ZeroDivisionError:
            if not isinstance(scheduler, lr_scheduler.OneCycleLR):
                raise

    def ahead(
        self, scheduler: Any, group: Mapping[str, Any], first: int, steps: int, per_epoch: int
    ) -> list[tuple[float, float]]:
        """Return learning rate and momentum of steps to come; scheduler and optimizer stay.

        Args:
            scheduler: Scheduler of torch as it stands before the first of these steps.
            group: Parameter group of its optimizer.
            first: Number of the first step in its epoch, from 0.
            steps: Number of steps.
            per_epoch: Steps of an epoch.

        Returns:
            A pair for each step. Beyond the end of a schedule, where no training may go, the last
            one is repeated.
        """
        # A copy of it goes ahead, with an optimizer of nothing.
        optimizer: Any = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=group["lr"])
        copy = self.scheduler(optimizer)
        copy.load_state_dict(deepcopy(scheduler.state_dict()))
        optimizer.param_groups[0].update({n: v for n, v in group.items() if n != "params"})
        optimizer.step()  # torch warns of a schedule that is before the optimizer
        found: list[tuple[float, float]] = []
        for step in range(first + 1, first + steps + 1):
            found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            if self.interval == "step" or step % per_epoch == 0:
                try:
                    self.tick(copy)
                except ValueError:  # beyond its end
                    return found + found[-1:] * (steps - len(found))
        return found

    def monitored(self, metrics: Mapping[str, Tensor]) -> Tensor:
        """Return the metric that a schedule waiting for a plateau watches.

        Args:
            metrics: By name.

        Raises:
            RequestError: When there is none by its name.
        """
        if self.monitor not in metrics:
            raise RequestError(
                f"schedule: expected under monitor a metric, one of {', '.join(metrics)}; found "
                f"{self.monitor}; name one of these"
            )
        return metrics[self.monitor]


def _is_plain(value: Any) -> bool:
    """Return whether a value is a number, text, or a list of plain values."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)


def check_same_schedule(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with another schedule, or with another lr under one.

    Args:
        saved: The hyperparameters of the training to go on with.
        asked: Those of this one.

    Raises:
        ValueError: When where the saved schedule stands would have no meaning here.
    """
    if not (saved.get("schedule") or asked["schedule"]):
        return
    for name in ("schedule", "lr"):
        if saved.get(name) != asked[name]:
            raise ValueError(
                f"{name}: expected that of the checkpoint, {saved.get(name)}, since a schedule "
                f"goes on from where it stands; found {asked[name]}; leave it out, or start anew"
            )
