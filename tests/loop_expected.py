"""What should come of a step of the loop.

`expected` works the step out in NumPy, from the state that the loop says it started from, with the
bounds of `trueline.reference.rounding`. It uses nothing of the loop but its results.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from loop_cases import Case
from trueline.loop.state import StepResult
from trueline.reference import moments
from trueline.reference.clipping import Clipping
from trueline.reference.linear import LeastSquares
from trueline.reference.rounding import DOUBLE, FLOAT32, FLOAT64, step_bound
from trueline.reference.sgd import SGD


def lrs_by_torch(losses: Any, lr: float, **options: Any) -> Any:
    """Return the learning rates that torch's ReduceLROnPlateau gives steps of these losses."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    found = []
    for loss in losses:
        found.append(optimizer.param_groups[0]["lr"])
        scheduler.step(loss)
    return np.array(found)


@dataclass
class Expected:
    """A step as NumPy takes it: each value with a bound on the error of the loop's."""

    loss: tuple[float, float]
    gradient: tuple[Any, Any]
    after: tuple[Any, Any]
    buffer: tuple[Any, Any] | None


def expected(case: Case, result: StepResult, k: int) -> Expected:
    """Take step k from the state that the loop started it from."""
    rule, shape = case.rule, (case.shape.n_features + 1, case.shape.n_targets)
    theta = result.before[k].reshape(shape)
    find = by_rows if result.anchor is None else by_moments
    loss, gradient, bound = find(case, result, k, theta)
    u = DOUBLE if case.dtype == np.float64 else FLOAT32.stored
    gradient, bound = gradient * case.free, bound * case.free
    clipped = gradient.ravel(), bound.ravel()
    for limit, algorithm in ((rule.clip_norm, "norm"), (rule.clip_value, "value")):
        if limit:
            clipped = Clipping(limit, algorithm).clip_steps(*clipped, u)  # type: ignore[arg-type]
    g, error = (a.reshape(shape) for a in clipped)
    l1 = np.full(shape, rule.l1)
    l1[-1] = 0
    sgd = SGD(
        *(result.lrs[k], case.momenta[k], rule.dampening, rule.nesterov and case.momenta[k] > 0),
        weight_decay=rule.weight_decay,
    )
    held = np.full(shape, np.nan) if result.buffer is None else result.buffer[k].reshape(shape)
    first, later = (
        (*sgd.step(theta, g, buffer, l1), *step_bound(sgd, theta, g, error, buffer, u, l1=l1))
        for buffer in (None, np.nan_to_num(held))
    )
    new = np.isnan(held)
    after, after_bound = (np.where(new, first[i], later[i]) for i in (0, 2))
    after, after_bound = np.where(case.free, after, theta), np.where(case.free, after_bound, 0)
    buffer = None
    if result.buffer is not None:
        if not sgd.momentum:
            buffer = held, np.zeros(shape)
        else:
            v, v_bound = (np.where(new, first[i], later[i]) for i in (1, 3))
            buffer = np.where(case.free, v, np.nan), v_bound
    return Expected(loss, (gradient, bound), (after, after_bound), buffer)


def by_rows(case: Case, _: StepResult, k: int, theta: Any) -> tuple[Any, Any, Any]:
    """Return the loss with its bound, the gradient and its bound, of steps from rows."""
    arithmetic = FLOAT64 if case.dtype == np.float64 else FLOAT32
    parameters, batch = {"weight": theta[:-1], "bias": theta[-1]}, case.batch(k)
    plain, smooth = LeastSquares(), LeastSquares(l2=case.rule.l2)
    loss = plain.loss_and_gradient(parameters, batch)[0]
    loss_bound = plain.rounding_bound(parameters, batch, arithmetic)[0]
    gradients = smooth.loss_and_gradient(parameters, batch)[1]
    bounds = smooth.rounding_bound(parameters, batch, arithmetic)[1]
    whole, allowed = (np.vstack([g["weight"], g["bias"]]) for g in (gradients, bounds))
    return (float(loss), float(loss_bound)), whole, allowed


def by_moments(case: Case, result: StepResult, k: int, theta: Any) -> tuple[Any, Any, Any]:
    """Return the same of steps from moments, which are summed in float64 whatever is trained."""
    anchor = result.anchor.reshape(theta.shape)  # type: ignore[union-attr]
    known = moments.moments_of_each(*(part[None] for part in case.batch(k)))
    u = DOUBLE if case.dtype == np.float64 else FLOAT32.stored
    plain = moments.evaluate(known, theta[None], anchor, unit_roundoff=u)
    whole = moments.evaluate(known, theta[None], anchor, l2=case.rule.l2, unit_roundoff=u)
    loss = float(plain.loss[0]), float(plain.loss_bound[0])
    return loss, whole.gradient[0], whole.gradient_bound[0]
