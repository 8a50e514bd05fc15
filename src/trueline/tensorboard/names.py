"""The tags of curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Trainer
from torch import Tensor

from trueline.terminal.printing import visible

AFTER_STEP = ("val/loss", "crosscheck/worst_ratio")
"""Tags whose point at step k is logged before step k + 1 begins, and before a checkpoint at k."""
CONSTANTS = ("closed_form/", "limits/")
"""What the tags begin with of lines that curves are seen beside."""
GRADIENT_NORM = "gradients/norm"
LOSS_FLOOR = "closed_form/loss"
LR_LIMIT = "limits/lr"
RATIO_LIMIT = "limits/worst_ratio"


class Columns(NamedTuple):
    """Names of the columns that a line is trained on.

    Args:
        features: One name for each column of X.
        targets: One name for each column of y.
    """

    features: Sequence[str]
    targets: Sequence[str]


def columns_of(trainer: Trainer) -> Columns | None:
    """Return the names of the columns that are trained on; None where they have none."""
    data: Any = getattr(trainer, "datamodule", None)
    features, targets = (getattr(data, f"{kind}_names", None) for kind in ("feature", "target"))
    return Columns(features, targets) if features and targets else None


def names(shapes: Mapping[str, tuple[int, ...]], columns: Columns | None = None) -> list[str]:
    """Name all entries of parameters by their columns, such as `weight/area`; or by numbers.

    Without columns an entry is `weight`, or `weight_0` and so on. Entries of a matrix are named by
    row and column, such as `weight_0_1` for feature 0 and target 1.

    Args:
        shapes: Shape of each parameter, by its name.
        columns: Names of the columns; None where they have none.

    Example:
        >>> names({"weight": (2,), "bias": ()}, Columns(["area", "rooms"], ["price"]))
        ['weight/area', 'weight/rooms', 'bias']
    """
    of_columns = {} if columns is None else _by_column(columns)
    return [
        name
        for parameter, shape in shapes.items()
        for name in of_columns.get(parameter) or _by_number(parameter, shape)
    ]


def _by_column(columns: Columns) -> dict[str, list[str]]:
    """Name the entries of weight and bias; names that look the same in print name nothing."""
    several = len(columns.targets) > 1
    ends = [f" → {target}" if several else "" for target in columns.targets]
    found = {
        "weight": [f"weight/{feature}{end}" for feature in columns.features for end in ends],
        "bias": [f"bias/{target}" for target in columns.targets] if several else ["bias"],
    }
    visible_names = {key: [visible(name) for name in named] for key, named in found.items()}
    return {key: named for key, named in visible_names.items() if len({*named}) == len(named)}


def _by_number(parameter: str, shape: tuple[int, ...]) -> list[str]:
    places = [()] if math.prod(shape) == 1 else np.ndindex(shape)
    return ["_".join([parameter, *map(str, place)]) for place in places]


def shapes(named: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors."""
    return {name: tuple(tensor.shape) for name, tensor in named.items()}


def entries(
    group: str, named: Mapping[str, Tensor], columns: Columns | None = None
) -> dict[str, float]:
    """Return the entries of some tensors by their tags, such as `group/weight`."""
    values = [value for tensor in named.values() for value in tensor.detach().flatten().tolist()]
    tags = (f"{group}/{name}" for name in names(shapes(named), columns))
    return dict(zip(tags, values, strict=True))
