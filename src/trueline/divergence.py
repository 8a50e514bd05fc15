"""Stops a training where it stops being finite, and says which learning rate would do."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from trueline.data import RegressionData
from trueline.errors import CheckFailed
from trueline.hooks import FewHooks
from trueline.reference.solve import stable_lr
from trueline.reference.triangle import Triangle


class StopWhenNotFinite(FewHooks):
    """Fails a run whose loss or parameters are not finite, before another step is taken.

    Raises:
        CheckFailed: Naming the step and the largest stable learning rate for the data.
    """

    knows_executions = True

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the loss before the step, the same in all processes."""
        loss: Any = pl_module.step_loss
        if not math.isfinite(loss.item()):  # on a GPU this waits for the step, as printing does
            raise CheckFailed(_message(trainer, pl_module, trainer.global_step + 1, "loss", loss))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what the last step left."""
        for name, value in pl_module.named_parameters():
            if not torch.isfinite(value).all():
                raise CheckFailed(_message(trainer, pl_module, trainer.global_step, name, value))


@np.errstate(over="ignore", invalid="ignore")
def stable_limit(rows: Triangle, hyperparameters: Mapping[str, Any]) -> float:
    """Return the largest stable learning rate for all rows and the hyperparameters it depends on.

    Args:
        rows: That are trained on.
        hyperparameters: By name; those that are missing are taken as 0.

    Returns:
        The limit; 0 for data so large that it cannot be worked out.
    """
    known = inspect.signature(stable_lr).parameters.keys() & hyperparameters.keys()
    curvature = rows.curvature(hyperparameters.get("l2", 0.0))
    curvature += hyperparameters.get("weight_decay", 0.0)
    return stable_lr(curvature, **{name: hyperparameters[name] for name in known})


def _message(
    trainer: Trainer, pl_module: LightningModule, step: int, quantity: str, value: Tensor
) -> str:
    found = value.detach().flatten()[~torch.isfinite(value.detach().flatten())][0].item()
    message = f"training diverged: expected a finite {quantity}, found {found} at step {step}"
    data: Any = getattr(trainer, "datamodule", None)
    h: Any = pl_module.hparams
    if not isinstance(data, RegressionData) or "lr" not in h:
        return f"{message}; lower the learning rate"
    limit = stable_limit(data.trained_on, h)
    if not limit:
        return f"{message}; the data is too large for its squares; scale it"
    if h.lr < limit:
        return (
            f"{message}; lr {h.lr} is below the largest stable one for the whole data, "
            f"{limit:.4g}, but single batches can need less; lower --model.lr"
        )
    return (
        f"{message}; lr {h.lr} is above the largest stable one for this data, {limit:.4g}; "
        f"set --model.lr below {limit:.4g}"
    )
