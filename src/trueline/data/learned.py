"""What a training has learned of its table before its first step, kept in its checkpoints."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from trueline.checkpoints.reading import read, refusing
from trueline.errors import RequestError
from trueline.reference.triangle import Triangle
from trueline.scaling import Scaling

if TYPE_CHECKING:
    from trueline.tables import Columns

SAVED_AS = "TableData"
"""In a checkpoint: Lightning saves the state of a DataModule under the name of its class."""


class Learned(NamedTuple):
    """Columns, scaling and triangle of the training rows.

    Args:
        columns: Which columns are what.
        scaling: Of the features; None where they are trained on as they are.
        rows: The training rows as their triangle, in the units of the table.
    """

    columns: "Columns"
    scaling: Scaling | None
    rows: Triangle

    def state(self) -> dict[str, Any]:
        """Return it as plain values and tensors."""
        of_scaling = None if self.scaling is None else [torch.from_numpy(a) for a in self.scaling]
        R, center, *counts = (getattr(self.rows, field.name) for field in fields(self.rows))
        tensors = torch.from_numpy(R), torch.from_numpy(center)
        return {
            "columns": self.columns.to_dict(),
            "scaling": of_scaling,
            "rows": [*tensors, *counts],
        }

    @classmethod
    def of(cls, path: str) -> "Learned":
        """Read it from a checkpoint.

        Args:
            path: Of the checkpoint.

        Raises:
            RequestError: When the checkpoint is not one of a training on a table.
        """
        from trueline.tables import Columns

        state = read(path).get(SAVED_AS)
        if not isinstance(state, Mapping):
            raise RequestError(
                f"--data.like: expected a checkpoint of a training on a table, found none in {path}"
            )
        with refusing(path):
            columns = Columns.from_dict(state["columns"])
            n_features = len(columns.feature_names)
            scaling = None
            if state["scaling"] is not None:
                mean, scale = (_numbers(array, n_features) for array in state["scaling"])
                if not (np.isfinite(mean).all() and (scale > 0).all()):
                    raise ValueError("scales above 0")
                scaling = Scaling(mean, scale)
            R, center, *counts = state["rows"]
            width = 1 + n_features + len(columns.targets)
            R = np.triu(_finite(R, width, width))
            if not all(isinstance(count, int | float) for count in counts):
                raise ValueError("counts of the rows")
            triangle = Triangle(R, _finite(center, width - 1), *counts)
            if triangle.n_targets != len(columns.targets):
                raise ValueError("as many targets as columns")
        return cls(columns, scaling, triangle)


def _finite(array: Any, *shape: int) -> Any:
    found = _numbers(array, *shape)
    if not np.isfinite(found).all():
        raise ValueError("finite numbers")
    return found


def _numbers(array: Any, *shape: int) -> Any:
    found = array.numpy().astype(np.float64)
    if found.shape != shape or np.isnan(found).any():
        raise ValueError(f"numbers of shape {shape}")
    return found
