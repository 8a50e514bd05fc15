"""Says where a training stopped being finite, and which learning rate would do."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from trueline.errors import CheckFailed, option


def check_loss(module: LightningModule, loss: Tensor) -> None:
    """Refuse to take a step whose loss is not finite.

    Args:
        module: Module in training, with the hyperparameters of LinearRegression.
        loss: Loss of the step, the same in all processes, shape ().

    Raises:
        CheckFailed: When the loss is infinite or nan, with the step and the largest stable lr.
    """
    found = loss.item()  # on a GPU this waits for the step, as printing does
    if not math.isfinite(found):
        raise CheckFailed(_message(module, "loss", found))


def check_parameters(module: LightningModule) -> None:
    """Refuse to go on from a step that left parameters which are not finite.

    Args:
        module: Module in training, with the hyperparameters of LinearRegression.

    Raises:
        CheckFailed: When a parameter is infinite or nan, with the step and the largest stable lr.
    """
    # A sum is quicker than a look at each entry. It can overflow where no entry has.
    if math.isfinite(sum(value.detach().sum().item() for value in module.parameters())):
        return
    for name, value in module.named_parameters():
        entries = value.detach().flatten()
        wrong = entries[~torch.isfinite(entries)]
        if len(wrong):
            raise CheckFailed(_message(module, name, wrong[0].item()))


def _message(module: LightningModule, quantity: str, found: float) -> str:
    trainer, h = module.trainer, module.hparams
    step = trainer.global_step + 1
    message = f"training diverged: expected a finite {quantity}, found {found} at step {step}"
    optimizer: Any = trainer.optimizers[0]
    group = optimizer.param_groups[0]
    rates = _rates(module)
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "largest_stable_lr"):
        return f"{message}; lower {' and '.join(rates)}"
    # Some schedules change the momentum with the learning rate.
    limit = data.largest_stable_lr({**h, "momentum": group["momentum"]})
    if not limit > 0:
        return f"{message}; the data is too large for its squares; scale it"
    if above := {name: rate for name, rate in rates.items() if rate > limit}:
        given = ", ".join(f"{name} {rate}" for name, rate in above.items())
        return (
            f"{message}; {given} is above the largest stable one for this data, {limit:.4g}; "
            f"set {' and '.join(above)} below {limit:.4g}"
        )
    if group["lr"] > limit:
        return (
            f"{message}; the schedule had raised the learning rate to {group['lr']:.4g}, above the "
            f"largest stable one for this data, {limit:.4g}; change {option('model.schedule')}"
        )
    names = " and ".join(rates)
    given = ", ".join(f"{name} {rate}" for name, rate in rates.items())
    below = f"{given} is below the largest stable one"
    if trainer.num_training_batches > trainer.accumulate_grad_batches:
        return (
            f"{message}; {below} for the whole data, {limit:.4g}, but single batches can need "
            f"less; lower {names}"
        )
    wider = f" or set {option('trainer.precision')} 64-true"
    return (
        f"{message}; {below} for this data, {limit:.4g}, so the numbers are too large for "
        f"precision {trainer.precision}; scale the data{wider * (trainer.precision != '64-true')}"
    )


def _rates(module: Any) -> dict[str, float]:
    """Return the learning rates that were asked for, under the names of their options."""
    schedule = module.schedule.options if module.schedule else {}
    name = option("model.schedule")
    bounds = [bound for bound in ("base_lr", "max_lr", "eta_min") if bound in schedule]
    rates = {} if "max_lr" in bounds else {option("model.lr"): module.hparams.lr}
    # A list has an entry for each group of parameters, and here is one group.
    asked = {
        bound: torch.as_tensor(schedule[bound], dtype=torch.float64).max().item()
        for bound in bounds
    }
    return rates | {f"{bound} of {name}": rate for bound, rate in asked.items()}
