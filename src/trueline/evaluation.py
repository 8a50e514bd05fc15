"""Rows of an evaluation for which the training rows determine no prediction."""

import sys
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

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
    off = X.isnan().any(dim=1).cpu().numpy() if X.is_floating_point() else np.zeros(len(X), bool)
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
