"""What curves are seen beside: the closed form of a training, and the limits of its settings."""

from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from trueline.convergence import CONVERGED_WITHIN
from trueline.data import RegressionData
from trueline.divergence import stable_limit
from trueline.reference.triangle import Line, Triangle
from trueline.tensorboard.names import LOSS_FLOOR, LR_LIMIT, names

Array = NDArray[np.float64]

FEW_NUMBERS = 2**17
"""Of rows: they are factored in a millisecond, before the training instead of after it."""


class ClosedForm:
    """The best line for the objective of a training, in the units of the training.

    Args:
        rows: As they are trained on.
        line: The best one.

    Attributes:
        loss: Its mean squared error.
    """

    def __init__(self, rows: Triangle, line: Line) -> None:
        self.rows = rows
        self.line = line
        self.loss = rows.loss(line)
        self._best = np.concatenate([np.ravel(line.weight), np.ravel(line.bias)])
        self._center = rows.center[: rows.columns - 1]
        self._R = rows.R[:, : rows.columns]
        self._spread = np.where(rows.spread > 0, rows.spread, 1.0) * np.sqrt(rows.rows)

    def constants(self) -> dict[str, float]:
        """Return what does not change in a training, by tag."""
        shapes = {"weight": np.shape(self.line.weight), "bias": np.shape(self.line.bias)}
        tags = [f"closed_form/{name}" for name in names(shapes)]
        return {LOSS_FLOOR: self.loss} | dict(zip(tags, self._best.tolist(), strict=True))

    def distances(self, parameters: Array) -> Array:
        """Return how far lines are, in root mean square of predictions over the spread of y.

        Args:
            parameters: Weight and bias of each in one vector, shape (n_lines, n_entries).

        Returns:
            That of the target that is furthest, shape (n_lines,).
        """
        shape = len(parameters), self.rows.columns, self.rows.n_targets
        apart = (parameters - self._best).reshape(shape)
        weight, bias = apart[:, :-1], apart[:, -1:]
        bias = bias + self._center[None, None] @ weight
        moved = self._R @ np.concatenate([bias, weight], axis=1)
        return np.asarray((np.linalg.norm(moved, axis=1) / self._spread).max(axis=1))

    def too_far(self, parameters: Array) -> NDArray[np.bool_]:
        """Return which lines have not converged, see `distances`."""
        with np.errstate(all="ignore"):
            return np.asarray(~(self.distances(parameters) <= CONVERGED_WITHIN))


def rows_of(trainer: Trainer, module: LightningModule) -> RegressionData | None:
    """Return the data of a training of ours; None where it is another."""
    data: Any = getattr(trainer, "datamodule", None)
    ours = isinstance(data, RegressionData) and {"lr", "l1", "l2"} <= set(module.hparams)
    return data if ours else None


def is_cheap(data: RegressionData) -> bool:
    """Return whether the triangle of the rows is known, or worked out in no time."""
    return "triangle" in vars(data) or data.n_samples * (data.n_features + 1) <= FEW_NUMBERS


def has_closed_form(module: LightningModule) -> bool:
    """Return whether the objective may have a closed form: not with an L1 penalty."""
    return not module.hparams["l1"]


@np.errstate(over="ignore", invalid="ignore")
def closed_form(data: RegressionData, module: LightningModule) -> ClosedForm | None:
    """Work out the best line; None where there is no single one."""
    h: Any = module.hparams
    if not has_closed_form(module):
        return None
    rows = data.trained_on
    try:
        best = rows.least_squares(h.l2, h.weight_decay)
    except (ValueError, np.linalg.LinAlgError):
        return None  # collinear columns
    return ClosedForm(rows, best)


def limits(data: RegressionData, module: LightningModule) -> dict[str, float]:
    """Return the largest stable learning rate by its tag."""
    limit = stable_limit(data.trained_on, module.hparams)
    return {LR_LIMIT: limit} if 0 < limit < np.inf else {}
