"""What curves are seen beside: the closed form of a training, and the limits of its settings."""

from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from trueline.data import RegressionData
from trueline.planning.closed_form import ClosedForm
from trueline.planning.convergence import CONVERGED_WITHIN
from trueline.tensorboard.names import LOSS_FLOOR, LR_LIMIT, Columns, names
from trueline.unchanged import is_least_squares

Array = NDArray[np.float64]


def constants(found: ClosedForm, columns: Columns | None) -> dict[str, float]:
    """Return what does not change in a training, by tag."""
    line = found.line
    tags = names({"weight": np.shape(line.weight), "bias": np.shape(line.bias)}, columns)
    best = [*np.ravel(line.weight).tolist(), *np.ravel(line.bias).tolist()]
    by_tag = {f"closed_form/{name}": value for name, value in zip(tags, best, strict=True)}
    return {LOSS_FLOOR: found.rows.loss(line)} | by_tag


def too_far(found: ClosedForm, parameters: Array) -> NDArray[np.bool_]:
    """Return which lines have not converged, see `ClosedForm.distances`."""
    with np.errstate(all="ignore"):
        return np.asarray(~(found.distances(parameters) <= CONVERGED_WITHIN).all(axis=1))


def rows_of(trainer: Trainer, module: LightningModule) -> RegressionData | None:
    """Return the data of a training by least squares of ours; None for any other."""
    data: Any = getattr(trainer, "datamodule", None)
    ours = isinstance(data, RegressionData) and {"lr", "l1", "l2"} <= set(module.hparams)
    return data if ours and is_least_squares(module) else None


def limits(data: RegressionData, module: LightningModule) -> dict[str, float]:
    """Return the largest stable learning rate by its tag."""
    limit = data.largest_stable_lr(module.hparams)
    return {LR_LIMIT: limit} if 0 < limit < np.inf else {}
