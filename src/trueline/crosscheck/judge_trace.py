"""Steps that were composed, each taken once more by the residuals of its rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.judge import Judge, refuse_unbounded
from trueline.crosscheck.trace import Trace
from trueline.crosscheck.verdict import Quantity
from trueline.reference import composed
from trueline.reference.linear import share_of
from trueline.reference.rounding import DOUBLE, FLOAT64, gamma

Array = NDArray[np.float64]


def judge_trace(judge: Judge, trace: Trace) -> tuple[list[Quantity], Array]:
    """Put what should have come of composed steps beside what training found.

    Args:
        judge: Of the training.
        trace: The steps.

    Returns:
        Comparisons, stacked; those of loss and gradient are of the reported steps alone. And
        the gradients of all steps.
    """
    reference: Any = judge.reference
    X, y, *weights = trace.batch
    n, targets = X.shape[1], y.shape[2]
    shape = (-1, X.shape[2] + 1, targets)
    theta, origin = (a.reshape(shape) for a in (trace.before, trace.origin))
    origins = np.broadcast_to(origin, theta.shape)
    if trace.moments is None:
        weights = [weight.astype(np.float64, copy=False) for weight in weights]
        share = share_of(targets, n, *weights)
        share = share[..., None] if weights else share
        found = composed.evaluate(X, y, share, theta, origins)
    else:
        found = composed.evaluate_all_rows(trace.moments, theta, origins)
    penalty = np.full(theta.shape[1:], 2 * reference.l2)
    penalty[-1] = 0
    pulled = penalty * (np.abs(origin) + np.abs(theta - origin))
    gradient = (found.gradient + penalty * theta).reshape(len(theta), -1)
    bound = composed.gradient_bound(found, n, bool(weights), trace.summed)
    if trace.moments is not None:  # these too are sums over the rows
        bound = bound + composed.gradient_bound(found, n, bool(weights), DOUBLE)
    few = gamma(shape[1] * targets + 8, DOUBLE)
    bound = (bound + few * (found.gradient_reach + pulled)).reshape(gradient.shape)
    refuse_unbounded(gradient, bound)
    updates = judge.varied(arithmetic=FLOAT64).updates(trace, gradient, bound)
    reach = (found.gradient_reach + pulled).reshape(gradient.shape)
    return [
        *_reported(judge, trace, found, gradient, bound),
        *(_loosened(judge, quantity, trace, reach) for quantity in updates),
    ], gradient


def _loosened(judge: Judge, quantity: Quantity, trace: Trace, reach: Array) -> Quantity:
    """Add to the bound what composing loses."""
    if quantity.kind not in ("parameter", "momentum"):
        return quantity
    rule = judge.rules[0].optimizer
    columns = trace.before.shape[1] * (2 if rule.momentum else 1) + 1
    decay = rule.weight_decay * (np.abs(trace.origin) + np.abs(trace.before - trace.origin))
    buffer = np.abs(trace.buffer) if trace.buffer is not None else np.zeros_like(reach)
    force = reach + decay + buffer
    if quantity.kind == "momentum":
        slack = composed.step_slack(np.abs(trace.buffer_after), force, columns, trace.composed)
    else:
        size = np.abs(trace.origin) + np.abs(trace.before - trace.origin)
        size = size + np.abs(trace.after - trace.origin)
        moved = 2 * trace.lrs[:, 0, :1] * force
        slack = composed.step_slack(size, moved, columns, trace.composed)
    slack = slack + trace.rounded * np.abs(quantity.found)
    return quantity._replace(bound=quantity.bound + slack)


def _reported(
    judge: Judge, trace: Trace, found: composed.Steps, gradient: Array, bound: Array
) -> list[Quantity]:
    """Compare the losses and gradients that were reported."""
    at, u = trace.reported, judge.arithmetic.stored
    if not len(at):
        return []
    n = trace.batch[0].shape[1]
    # From residuals they come in the precision of the training, else from sums in float64.
    sums = gamma((2 if len(trace.batch) > 2 else 1) * n + 2 * gradient.shape[1] + 16, DOUBLE)
    # Of the moments that the steps were composed from, and of those of the reference.
    times = 2 if trace.moments is None else 3
    loss_bound = times * sums * found.loss_reach[at] + gamma(4, u) * found.loss[at]
    if trace.by_residuals:
        few = gamma(trace.batch[0].shape[2] + 2 * n + 10, u)
        loss_bound = loss_bound + 2 * few * np.sqrt(found.loss[at] * found.loss_reach[at])
        loss_bound += few * few * found.loss_reach[at] + few * found.loss[at]
        reach = found.gradient_reach.reshape(gradient.shape)[at]
        bound = bound[at] + few * (reach + np.abs(gradient[at]))
    else:
        bound = bound[at] + gamma(2, u) * np.abs(gradient[at])
    return [
        Quantity("loss", trace.losses, found.loss[at], loss_bound),
        Quantity("gradient", trace.gradients, gradient[at], bound),
    ]
