"""A step that failed, and the questions that every hypothesis about it asks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.judge import Judge
from trueline.crosscheck.learning_rate import MeantLr
from trueline.crosscheck.rows import arrays_of, n_rows
from trueline.crosscheck.step import Rule, Step
from trueline.errors import RequestError
from trueline.reference.rounding import BFLOAT16, FLOAT32, TF32

Array = NDArray[np.float64]
LOWER_PRECISIONS = {"float32": FLOAT32, "TF32": TF32, "bfloat16 or float16": BFLOAT16}
"""What may have slipped in, the finest first."""


@dataclass(frozen=True)
class Case:
    """All that is known of a step that failed.

    Args:
        judge: What took the step in NumPy.
        step: What training did.
        earlier: The step before it; None at the first one.
        lr: The learning rate that is meant.
    """

    judge: Judge
    step: Step
    earlier: Step | None
    lr: MeantLr


def rule_at(judge: Judge, entry: int) -> Rule:
    """Return the update rule for an entry of the parameters."""
    name = judge.layout.name_at(entry)
    return next(rule for rule in judge.rules if name in rule.names)


def coarser_judges(judge: Judge) -> Iterator[tuple[str, Judge]]:
    """Name the precisions below the one that is judged, each with a judge for it."""
    for name, arithmetic in LOWER_PRECISIONS.items():
        if arithmetic.products > judge.arithmetic.products:
            yield name, judge.varied(arithmetic=arithmetic)


def bounds_of(judge: Judge, before: Array, batch: Any) -> tuple[float, Array]:
    """Return the bounds on loss and gradient; below 0, which nothing is, where there is none."""
    try:
        _, loss_bound, _, bounds = judge.part(before, batch)
        return loss_bound, bounds
    except RequestError:
        return -1.0, np.full_like(before, -1.0)


def factors_of(batch: Any) -> dict[float, str]:
    """Name the factors that a loss or gradient is often off by."""
    n, arrays = n_rows(batch), arrays_of(batch)
    n_targets = arrays[1].shape[1] if len(arrays) > 1 and arrays[1].ndim == 2 else 1
    named = {
        n_targets: "summed over the targets, not averaged",
        n * n_targets: "a sum, not a mean",
        n: "a sum, not a mean",
        1 / n: "divided by the number of rows twice",
        0.5: "halved",
        2.0: "doubled",
        -1.0: "negated",
    }
    return {factor: name for factor, name in named.items() if factor != 1}


def within(found: Array, expected: Array, bound: Array) -> bool:
    """Return whether every entry is within its bound."""
    return bool((np.abs(found - expected) <= bound).all())
