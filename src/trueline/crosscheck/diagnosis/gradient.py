"""What may be wrong with a gradient."""

from collections.abc import Iterator

import numpy as np

from trueline.crosscheck.diagnosis.case import Case, bounds_of, coarser_judges, factors_of, within
from trueline.reference.rounding import gamma


def causes_in_gradient(case: Case, at: slice) -> Iterator[str]:
    """Yield the hypotheses that the gradient of one parameter bears out."""
    judge, step = case.judge, case.step
    found = step.gradient[at]
    _, _, gradient, allowed = judge.window(step)
    expected, bound = gradient[at], allowed[at]
    name = judge.layout.name_at(at.start)
    if not found.any():
        yield f"{name} is frozen or detached: its gradient is zero"
    if case.earlier is not None:
        last = case.earlier.gradient[at]
        more = judge.arithmetic.parameters * np.abs(last)
        if within(found, expected + last, bound + more):
            yield "the gradient of the step before was not zeroed"
    if len(step.parts) > 1 or step.divisor > 1:
        yield from _causes_in_window(case, at)
    if (l1 := getattr(judge.reference, "thresholds", {}).get(name)) is not None:
        twice = l1 * np.sign(step.before[at])
        more = gamma(2, judge.arithmetic.parameters) * l1
        if within(found, expected + twice, bound + more):
            yield "the gradient took in the L1 penalty, which the step's soft threshold has"
    for factor, factor_name in factors_of(step.parts[0].batch).items():
        if within(found, factor * expected, max(1.0, factor) * bound):
            yield f"the gradient is {factor_name}"
    for precision, coarser in coarser_judges(judge):
        wider = np.array([bounds_of(coarser, step.before, p.batch)[1] for p in step.parts])
        if within(found, expected, wider.sum(axis=0)[at]):
            yield f"the gradient was computed in {precision}"


def _causes_in_window(case: Case, at: slice) -> Iterator[str]:
    judge, step = case.judge, case.step
    parts = [judge.part(step.before, part.batch) for part in step.parts]
    gradients = np.array([gradient[at] for _, _, gradient, _ in parts])
    bounds = np.array([bound[at] for _, _, _, bound in parts])
    n = len(parts)
    total, bound = gradients.sum(axis=0), bounds.sum(axis=0)
    bound = bound + gamma(n + 3, judge.arithmetic.parameters) * np.abs(gradients).sum(axis=0)
    hypotheses = {
        "the mean of the batches' means was taken, not that over all their rows": total / n,
        f"the window of {n} batches was divided by {step.divisor}": total / step.divisor,
        "the batches of the window were summed, not averaged": total,
        "only the last batch of the window counted": gradients[-1],
        f"the last batch of the window alone, divided by {step.divisor}, counted": gradients[-1]
        / step.divisor,
    }
    for cause, gradient in hypotheses.items():
        if within(step.gradient[at], gradient, bound):
            yield cause
