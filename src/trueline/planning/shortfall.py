"""Why a training has not come to its closed form, and what would help."""

from typing import Any

import numpy as np

from trueline.planning.convergence import epochs, modes, unit_of_distance
from trueline.planning.forecast import MOST_EPOCHS
from trueline.planning.rates import settles
from trueline.planning.with_l1 import epochs_with_l1
from trueline.reference import SGD
from trueline.reference.triangle import Line, Triangle

MORE = "give more epochs, or with mini-batches a smaller lr"


def remedy(rows: Triangle, line: Line, h: Any, within: float, full_batch: bool) -> str:
    """Say what would bring a training to its closed form.

    Args:
        rows: As they are trained on.
        line: The one trained on them.
        h: The hyperparameters.
        within: How near counts as there, as a fraction of the spread of y.
        full_batch: Whether each step was over all rows.

    Example:
        >>> from types import SimpleNamespace
        >>> from trueline.reference.triangle import triangle
        >>> h = SimpleNamespace(lr=0.01, momentum=0.0, dampening=0.0, nesterov=False, l1=0.0,
        ...     l2=0.0, weight_decay=0.0, schedule=None)
        >>> line, x = Line(np.zeros(1), np.zeros(())), np.arange(4.0)
        >>> remedy(triangle(x[:, None], 2 * x), line, h, 1e-6, True)
        'give some 2,052 more epochs'
    """
    p = rows.columns
    weight = np.reshape(line.weight, (p - 1, -1))
    reach = np.abs(rows.center[: p - 1]) @ np.abs(weight) + np.abs(line.bias)
    reach = np.maximum(reach, np.abs(rows.center[p - 1 :]))
    if (np.finfo(np.float64).eps * reach > within * unit_of_distance(rows)).any():
        return (
            "float64 has no more digits for numbers so far from 0 as these, beside how much they "
            "differ; take a constant off the target, or off features that are not standardised"
        )
    if not full_batch or h.schedule:
        return MORE
    sgd = SGD(h.lr, h.momentum, h.dampening, h.nesterov, h.weight_decay)
    found = modes(rows, h.l2, h.weight_decay)
    if h.l1:
        more = epochs_with_l1(rows, line, sgd, h.l1, h.l2, within)
    else:
        more = epochs(rows, line, sgd, h.l2, within)
    if more is not None and more <= MOST_EPOCHS:
        return f"give some {more:,} more epochs"
    if settles(found, MOST_EPOCHS):
        return "give more epochs, or --model.lr auto --model.momentum auto"
    condition = found.largest / found.smallest
    return (
        f"columns nearly depend on each other (condition {condition:.2g}), for which there "
        "are too few epochs; leave one out, add --model.l2, or take the closed form"
    )
