"""Says where a training stopped being finite, and which learning rate would do."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import TensorDataset

from trueline.data import RegressionData
from trueline.errors import CheckFailed, option
from trueline.reference.solve import stable_lr
from trueline.reference.triangle import Triangle, triangle


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


@np.errstate(over="ignore", invalid="ignore")
def stable_limit(rows: Triangle, hyperparameters: Mapping[str, Any]) -> float:
    """Return the largest stable learning rate for all rows and the hyperparameters it depends on.

    Args:
        rows: Rows that are trained on.
        hyperparameters: Hyperparameters by name; those that are missing are taken as 0.

    Returns:
        The limit; 0 for data so large that it cannot be worked out.
    """
    known = inspect.signature(stable_lr).parameters.keys() & hyperparameters.keys()
    curvature = rows.curvature(hyperparameters.get("l2", 0.0))
    curvature += hyperparameters.get("weight_decay", 0.0)
    return stable_lr(curvature, **{name: hyperparameters[name] for name in known})


def _message(module: LightningModule, quantity: str, found: float) -> str:
    trainer, h = module.trainer, module.hparams
    step = trainer.global_step + 1
    message = f"training diverged: expected a finite {quantity}, found {found} at step {step}"
    optimizer: Any = trainer.optimizers[0]
    group = optimizer.param_groups[0]
    rows = _rows(trainer)
    if rows is None:
        return f"{message}; lower {option('model.lr')}"
    # Some schedules change the momentum with the learning rate.
    limit = stable_limit(rows, {**h, "momentum": group["momentum"]})
    if not limit > 0:
        return f"{message}; the data is too large for its squares; scale it"
    rates = _rates(module)
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
    return (
        f"{message}; {below} for this data, {limit:.4g}, so the numbers are too large for "
        f"precision {trainer.precision}; scale the data or take a wider one"
    )


def _rates(module: Any) -> dict[str, float]:
    """Return the learning rates that were asked for, under the names of their options."""
    schedule = module.schedule.options if module.schedule else {}
    name = option("model.schedule")
    bounds = [bound for bound in ("base_lr", "max_lr", "eta_min") if bound in schedule]
    rates = {} if "max_lr" in bounds else {option("model.lr"): module.hparams.lr}
    # A list has an entry for each group of parameters, and here is one group.
    return rates | {f"{bound} of {name}": float(np.max(schedule[bound])) for bound in bounds}


def _rows(trainer: Trainer) -> Triangle | None:
    """Return the rows that are trained on, where they are known."""
    data: Any = getattr(trainer, "datamodule", None)
    if isinstance(data, RegressionData):
        return data.trained_on
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    if not isinstance(dataset, TensorDataset) or len(dataset.tensors) not in (2, 3):
        return None
    return triangle(*(tensor.cpu().numpy() for tensor in dataset.tensors))
