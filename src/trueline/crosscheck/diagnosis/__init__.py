"""The likely cause of a failed cross-check, found by trying hypotheses against the numbers.

A hypothesis says what training would have found had it made one particular mistake. It is accepted
when that agrees with what was found to within the rounding bound, so a cause is told only where the
numbers bear it out.
"""

import numpy as np

from trueline.crosscheck.diagnosis.case import Case
from trueline.crosscheck.diagnosis.gradient import causes_in_gradient
from trueline.crosscheck.diagnosis.loss import causes_in_loss
from trueline.crosscheck.diagnosis.update import causes_in_lr, causes_in_update


def likely_cause(case: Case, kind: str, entry: int) -> str | None:
    """Return the first hypothesis that the numbers bear out, or None.

    Args:
        case: The step that failed.
        kind: What was out of its bound: `loss`, `gradient`, `lr`, `momentum` or `parameter`.
        entry: Which entry of it: a part of the step for `loss`, else an entry of the parameters.
    """
    layout = case.judge.layout
    if kind == "parameter" and layout.name_at(entry) in case.judge.untrained:
        return f"{layout.name_at(entry)} must stay: it is frozen, or has no gradient"
    at = layout.slices[layout.name_at(entry)] if kind != "loss" else slice(None)
    causes = {
        "loss": lambda: causes_in_loss(case, entry),
        "gradient": lambda: causes_in_gradient(case, at),
        "lr": lambda: causes_in_lr(case, entry),
        "momentum": lambda: causes_in_update(case, at),
        "parameter": lambda: causes_in_update(case, at),
    }
    if kind not in causes:
        return None
    with np.errstate(all="ignore"):
        return next(causes[kind](), None)
