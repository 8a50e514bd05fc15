"""What may be wrong with a loss."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.diagnosis.case import Case, bounds_of, coarser_judges, factors_of
from trueline.crosscheck.judge import Judge
from trueline.crosscheck.rows import n_rows, take
from trueline.reference import LeastSquares
from trueline.reference.rounding import gamma

Array = NDArray[np.float64]
MOST_ROWS = 1000
"""Up to this many rows, each is tried as the one that was left out or counted twice."""


def causes_in_loss(case: Case, entry: int) -> Iterator[str]:
    """Yield the hypotheses that the loss over one batch of the step bears out."""
    judge, before = case.judge, case.step.before
    part = case.step.parts[entry]
    assert part.loss is not None
    found, batch = part.loss, part.batch

    def agrees(loss: float, bound: float) -> bool:
        return abs(found - loss) <= bound

    loss, bound = judge.part(before, batch)[:2]
    for factor, name in factors_of(batch).items():
        if agrees(factor * loss, factor * bound):
            yield f"the loss is {name}"
    earlier = case.step.parts[entry - 1] if entry else case.earlier and case.earlier.parts[-1]
    if earlier and agrees(*judge.part(before, earlier.batch)[:2]):
        yield "the batch of the step before was used again"
    if isinstance(judge.reference, LeastSquares):
        yield from _causes_in_least_squares(judge, judge.layout.arrays(before), batch, found)
    n = n_rows(batch)
    if 1 < n <= MOST_ROWS:
        for i in [n - 1, *range(n - 1)]:
            if agrees(*judge.part(before, take(batch, np.delete(np.arange(n), i)))[:2]):
                yield f"row {i} of the batch was left out"
            if agrees(*judge.part(before, take(batch, np.append(np.arange(n), i)))[:2]):
                yield f"row {i} of the batch was counted twice"
    for name, coarser in coarser_judges(judge):
        if agrees(loss, bounds_of(coarser, before, batch)[0]):
            yield f"the loss was computed in {name}, or an input was altered by as little"


def _causes_in_least_squares(
    judge: Judge, parameters: Mapping[str, Array], batch: Any, found: float
) -> Iterator[str]:
    reference: Any = judge.reference
    X, y, *sample_weight = batch
    loss = reference.loss_and_gradient(parameters, batch)[0]
    bound = judge.bounds(parameters, batch)[0]
    if reference.l1 or reference.l2:
        plain = LeastSquares().loss_and_gradient(parameters, batch)[0]
        if abs(found - plain) <= bound:
            yield "the penalty was left out"
        if abs(found - 2 * loss + plain) <= 3 * bound:
            yield "the penalty was applied twice"
        bias = parameters["bias"]
        on_bias = reference.l1 * np.abs(bias).sum() + reference.l2 * np.square(bias).sum()
        more = gamma(4, judge.arithmetic.stored) * on_bias
        if abs(found - loss - on_bias) <= bound + more:
            yield "the penalty took in the bias"
    if sample_weight:
        total = float(np.sum(sample_weight[0]))
        if abs(found - reference.loss_and_gradient(parameters, (X, y))[0]) <= bound:
            yield "the sample weights were left out"
        if abs(found - loss * total / len(y)) <= bound * max(1.0, total / len(y)):
            yield "the sample weights were not divided by their sum"
    prediction = X @ parameters["weight"] + parameters["bias"]
    if len(y) > 1 and prediction.ndim == 1:
        # mean over i and j of (p_i − y_j)², without the n × n array.
        spread = np.var(prediction) + np.var(y) + (prediction.mean() - y.mean()) ** 2
        broadcast = spread + loss - np.mean(np.square(prediction - y))
        if abs(found - broadcast) <= len(y) * bound:
            yield "the targets were broadcast against the predictions to (n, n)"
