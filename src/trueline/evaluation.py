"""Validation, test and prediction of a LinearRegression, row by row or not at all."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from trueline.batches import Batch, as_batch
from trueline.epoch_mean import EpochMean
from trueline.errors import RequestError
from trueline.progress import tell
from trueline.terminal.printing import visible

Reasons = NDArray[np.object_]
"""A text for each row, empty where the row has a prediction."""
DIFFERS = "not a number, or another number in a column that was the same in all training rows"


def reasons_of(module: LightningModule, X: Tensor) -> Reasons | None:
    """Say why rows have no prediction; None where all have one, or the data does not know.

    Args:
        module: A LinearRegression.
        X: Features as its Trainer serves them, shape (n_rows, n_features).
    """
    trainer: Any = module._trainer
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "reasons"):
        found: Reasons | None = data.reasons(X, module)
        return found
    if not X.sum().isnan():
        return None  # all rows at once: row by row takes ten times as long
    off = X.isnan().any(dim=1).cpu().numpy()
    return np.where(off, DIFFERS, "").astype(object) if off.any() else None


class LeftOut:
    """Rows for which there is no number.

    Args:
        number: Name of the number.
    """

    def __init__(self, number: str = "prediction") -> None:
        self._number = number
        self._counts = torch.zeros(2, dtype=torch.int64)
        self._reasons: set[str] = set()

    def add(self, reasons: Reasons | None, n_rows: int) -> None:
        """Count the rows of a batch.

        Args:
            reasons: A text for each row; None where all rows have a prediction.
            n_rows: How many rows there are.
        """
        off = [] if reasons is None else [text for text in reasons if text]
        self._counts += torch.tensor([len(off), n_rows])
        self._reasons.update(off)

    def say(self, what: str, trainer: Trainer | None = None) -> None:
        """Say on stderr how many rows there were, and why, if there were any.

        Args:
            what: What became of the rows, after a comma; empty if nothing did.
            trainer: Whose processes have a share of the rows each; without one, the rows of this
                process are all there are.
        """
        counts = self._counts
        if trainer is not None and trainer.world_size > 1:
            here = counts.to(trainer.strategy.root_device)
            counts = trainer.strategy.reduce(here, reduce_op="sum")
        off, n_rows = counts.tolist()
        if off and (trainer is None or trainer.is_global_zero):
            # Another process may have met them.
            because = sorted(self._reasons) or ["another process says why"]
            more = f", and {len(because) - 1:,} other reasons" if len(because) > 1 else ""
            text = f"no {self._number} for {off:,} of {n_rows:,} rows{what}: {because[0]}{more}"
            print(f"trueline: {visible(text)}", file=sys.stderr)


class Evaluation(LightningModule):
    """Losses and predictions of a line, in the units and by the columns of its training.

    Attributes:
        preprocessing: Columns and scaling of the table that the module was trained on, as its
            checkpoints keep them; empty where a checkpoint has none, None before a training on a
            table.
    """

    preprocessing: Mapping[str, Any] | None = None
    loss: Callable[[Batch], Tensor]
    size: Callable[[Batch], float]

    def __init__(self) -> None:
        super().__init__()
        self._mean, self._left_out = EpochMean(), LeftOut()

    def on_validation_epoch_start(self) -> None:
        """Begin a mean."""
        self._check_scaled("test_step" if self.trainer.testing else "validation_step")
        self._mean, self._left_out = EpochMean(), LeftOut()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Take a batch into `val/loss`, the mean over all rows, weighted where those are.

        Rows for which the training rows determine no prediction are left out.
        """
        batch = self._scaled(batch)
        reasons = reasons_of(self, batch[0])
        self._left_out.add(reasons, len(batch[0]))
        if reasons is not None:
            kept = torch.from_numpy(reasons == "").to(batch[0].device)
            batch = tuple(part[kept] for part in batch)
        self._mean.update(self.loss(batch), self.size(batch))

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss`."""
        # During fit, Scalars logs it at the number of steps taken; Lightning would one earlier.
        fitting = self.trainer.state.fn == "fit"
        logged = bool(self.trainer.loggers) and not self.is_logged if fitting else None
        self._log_mean("val/loss", logger=logged)
        if not fitting:
            self._left_out.say(", left out of val/loss", self.trainer)

    def _log_mean(self, name: str, logger: bool | None = None) -> None:
        loss = self._mean.compute(self.trainer)
        if self.trainer.barebones:
            tell(self.trainer, name, loss)  # self.log would warn that it does nothing
        else:
            self.log(name, loss, logger=logger)

    on_test_epoch_start = on_validation_epoch_start

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Take a batch into `test/loss`, see `validation_step`."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log `test/loss`."""
        self._log_mean("test/loss")
        self._left_out.say(", left out of test/loss", self.trainer)

    def on_fit_end(self) -> None:
        """Say which held-out rows counted in no `val/loss`."""
        self._left_out.say(", left out of val/loss", self.trainer)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the predictions, shape (n_samples,) or (n_samples, n_targets).

        They are nan for rows for which the training rows determine none.
        """
        X, *_ = self._scaled(batch)
        found: Tensor = self(X)
        reasons = reasons_of(self, X)
        if reasons is not None:
            found[torch.from_numpy(reasons != "").to(found.device)] = torch.nan
        return found

    def on_predict_start(self) -> None:
        """Refuse what the steps of a subclass would not scale."""
        self._check_scaled("predict_step")

    def _check_scaled(self, step: str) -> None:
        """Refuse features that come from no table where a subclass takes the step.

        Raises:
            RequestError: When the features of the training were scaled, and these would not be.
        """
        own = getattr(type(self), step) is not getattr(Evaluation, step)
        if own and self._scaling is not None:
            raise RequestError(
                f"data: expected a TableData, since the training was on one whose columns were "
                f"scaled and {type(self).__name__} has a {step} of its own; found other data; give "
                "a table"
            )

    @property
    def _scaling(self) -> list[Tensor] | None:
        """Mean and scale of features that nothing has scaled yet; None where there are none."""
        if self.trainer.state.fn == "fit" or is_table(self.trainer):
            return None
        return (self.preprocessing or {}).get("scaling")

    def _scaled(self, batch: Any) -> Batch:
        """Scale features that come from no table as those of the training were.

        A line that was trained on a table is evaluated in the units of that table, wherever the
        rows come from; a `TableData` has scaled its own. What differs in a column that was the same
        in all training rows is nan.
        """
        X, *others = as_batch(batch, self.hparams["n_features"])
        if self._scaling is None:
            return (X, *others)
        mean, scale = (part.to(X.device) for part in self._scaling)
        off = X - mean
        differs = scale.isinf() & (off.abs() > 4 * torch.finfo(off.dtype).eps * mean.abs())
        return ((off / scale).masked_fill(differs, torch.nan), *others)


def is_table(trainer: Any) -> bool:
    """Return whether the rows come from a table that knows columns and scaling."""
    return hasattr(getattr(trainer, "datamodule", None), "learned")
