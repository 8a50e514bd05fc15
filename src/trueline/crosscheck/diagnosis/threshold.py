"""What may be wrong with the soft threshold of an L1 penalty."""

from collections.abc import Callable, Iterator

import numpy as np

from trueline.crosscheck.diagnosis.case import Case, within
from trueline.reference import SGD
from trueline.reference.rounding import step_bound


def causes_in_threshold(
    case: Case, at: slice, meant: SGD, agrees: Callable[[float], bool]
) -> Iterator[str]:
    """Yield the hypotheses about its soft threshold that one parameter after the step bears out.

    Args:
        case: The step that failed.
        at: Entries of the parameter.
        meant: Update rule that is meant, with the lr of the step.
        agrees: Whether the parameter after the step is that of a given strength of the penalty.
    """
    judge, step = case.judge, case.step
    name, strengths = judge.layout.name_at(at.start), judge.reference.thresholds  # type: ignore[attr-defined]
    if (l1 := strengths.get(name)) is None:
        if any(map(agrees, strengths.values())):
            yield f"the soft threshold of the L1 penalty took in {name}"
        return
    gradient, bound = judge.clip(*judge.window(step)[2:])
    buffer = None if step.buffer is None else step.buffer[at]
    unthresholded, kept = meant.step(step.before[at], gradient[at], buffer)
    if kept is not None:
        state = meant, step.before[at], gradient[at], bound[at], buffer
        allowed = step_bound(*state, judge.arithmetic.parameters)[1]
        if within(step.buffer_after[at], kept, allowed):
            yield "momentum does not know of the soft threshold: it must be that of the whole move"
    if agrees(0.0):
        yield "the soft threshold of the L1 penalty was left out"
    if agrees(l1 / meant.lr):
        yield "the soft threshold of the L1 penalty was not multiplied by lr"
    # The strength that the update itself shows.
    scale = meant.lr * (1 + meant.momentum if meant.nesterov else 1.0)
    if meant.momentum and buffer is not None:
        scale *= 1 - meant.dampening
    if scale:
        shown = float(np.abs(unthresholded - step.after[at]).max() / scale)
        if agrees(shown):
            yield f"l1 was {shown:.4g} where {l1:.4g} was meant"
