"""What a training has learned of its table before its first step, kept in its checkpoints."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from trueline.checkpoints.reading import PREPROCESSING, read, refusing
from trueline.errors import RequestError
from trueline.reference.triangle import Triangle
from trueline.scaling import Scaling

if TYPE_CHECKING:
    from trueline.tables import Columns


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

    def prepares_as(self, other: "Learned") -> bool:
        """Return whether both turn a table into the same features."""
        if (self.scaling is None) != (other.scaling is None):
            return False
        scalings = zip(self.scaling or (), other.scaling or (), strict=True)
        return self.columns == other.columns and all(np.array_equal(*pair) for pair in scalings)

    @classmethod
    def of(cls, path: str) -> "Learned":
        """Read it from a checkpoint.

        Args:
            path: Of the checkpoint.

        Raises:
            RequestError: When the checkpoint is not one of a training on a table.
        """
        state = read(path).get(PREPROCESSING)
        if not isinstance(state, Mapping):
            raise RequestError(
                f"--data.like: expected a checkpoint of a training on a table, found none in {path}"
            )
        return cls.from_state(state, path)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], path: str) -> "Learned":
        """Return what `state` was called on.

        Args:
            state: Plain values and tensors, which may come from anywhere.
            path: Name of the checkpoint, for messages.

        Raises:
            RequestError: When the state is not what `state` gives.
        """
        from trueline.tables import Columns

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
            R = np.triu(_finite(R, min(counts[0], width), width))
            if not all(isinstance(count, int | float) for count in counts):
                raise ValueError("counts of the rows")
            triangle = Triangle(R, _finite(center, width - 1), *counts)
            if triangle.n_targets != len(columns.targets):
                raise ValueError("as many targets as columns")
        return cls(columns, scaling, triangle)


class Asked(NamedTuple):
    """Options of a table that say how it becomes features; None where nothing was said.

    Args:
        target: Columns to predict.
        features: Columns to predict from, in the order of the coefficients.
        weight: Column that says how much each row counts.
        categorical: Features that are categories, in any order.
        standardize: Whether features are scaled.
    """

    target: list[str] | None
    features: list[str] | None
    weight: str | None
    categorical: list[str] | None
    standardize: bool | None

    def check(self, learned: Learned) -> None:
        """Refuse options that a training did not have.

        Raises:
            RequestError: Naming each such option, with the value of the training.
        """
        columns = learned.columns
        trained = {
            "target": list(columns.targets),
            "features": [feature.name for feature in columns.features],
            "weight": columns.weight,
            "categorical": sorted(columns.categorical),
            "standardize": learned.scaling is not None,
        }
        asked = self._asdict()
        if self.categorical is not None:
            asked["categorical"] = sorted(self.categorical)
        wrong = [
            f"--data.{name}: expected that of the checkpoint, {_shown(trained[name])}; found "
            f"{_shown(value)}; leave it out, or train anew"
            for name, value in asked.items()
            if value is not None and value != trained[name]
        ]
        if wrong:
            raise RequestError("; ".join(wrong))


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, list) and value else str(value or "none")


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
