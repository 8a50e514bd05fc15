"""The tags of curves."""

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

AFTER_STEP = ("val/loss", "crosscheck/worst_ratio")
"""Tags whose point at step k is logged before step k + 1 begins, and before a checkpoint at k."""
CONSTANTS = ("closed_form/", "limits/")
"""What the tags begin with of lines that curves are seen beside."""
GRADIENT_NORM = "gradients/norm"
LOSS_FLOOR = "closed_form/loss"
LR_LIMIT = "limits/lr"
RATIO_LIMIT = "limits/worst_ratio"


def names(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Name all entries of parameters: `weight`, or `weight_0` and so on.

    Those of a matrix are named by row and column, such as `weight_0_1`: feature 0, target 1.

    Args:
        shapes: Of each parameter, by its name.
    """
    return [
        "_".join([name, *map(str, place)])
        for name, shape in shapes.items()
        for place in ([()] if math.prod(shape) == 1 else np.ndindex(shape))
    ]


def shapes(named: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors."""
    return {name: tuple(tensor.shape) for name, tensor in named.items()}


def entries(group: str, named: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the entries of some tensors by their tags, such as `group/weight`."""
    values = [value for tensor in named.values() for value in tensor.detach().flatten().tolist()]
    tags = (f"{group}/{name}" for name in names(shapes(named)))
    return dict(zip(tags, values, strict=True))
