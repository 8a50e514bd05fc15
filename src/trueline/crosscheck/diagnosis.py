"""The likely cause of a failed cross-check, found by trying hypotheses against the numbers.

A hypothesis says what training would have found had it made one particular mistake, and how far
rounding may take it from there. The first one that agrees with what was found is told.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.expected import ExpectedLr
from trueline.crosscheck.judge import Judge
from trueline.crosscheck.record import Steps, arrays_of, map_arrays
from trueline.errors import RequestError
from trueline.reference import SGD, LeastSquares
from trueline.reference.rounding import BFLOAT16, FLOAT32, TF32, gamma

Array = NDArray[np.float64]
Hypotheses = Iterator[tuple[str, Any, Any]]
"""Causes, each with the numbers that it would have led to and a bound on their errors."""
LOWER_PRECISIONS = {"float32": FLOAT32, "TF32": TF32, "bfloat16 or float16": BFLOAT16}
"""Precisions that may have slipped in, the finest first."""
MOST_ROWS = 1000
"""Rows of a batch up to which each is tried as the one that was left out or counted twice."""


@dataclass(frozen=True)
class Case:
    """All that is known of a step that failed.

    Args:
        judge: Judge that took the step in NumPy.
        step: The step, a stack of one.
        earlier: The step before it; None at the first one.
        lr: Expected learning rates.
    """

    judge: Judge
    step: Steps
    earlier: Steps | None
    lr: ExpectedLr


@np.errstate(all="ignore")
def likely_cause(case: Case, kind: str, entry: int) -> str | None:
    """Return the first hypothesis that the numbers bear out, or None.

    Args:
        case: The step that failed.
        kind: What was out of its bound: `loss`, `gradient`, `lr`, `momentum` or `parameter`.
        entry: Entry of it: a batch of the step for `loss`, else an entry of the parameters.
    """
    judge, step = case.judge, case.step
    if kind == "loss":
        hypotheses, found = _of_loss(case, entry), step.parts[entry].losses
    else:
        name = judge.layout.name_at(entry)
        if name in judge.untrained:
            return f"{name} must stay: it is frozen, or has no gradient"
        at = (..., judge.layout.slices[name])
        if kind == "lr":
            hypotheses, found = _of_lr(case, name), step.lr[0, entry % step.lr.shape[1]]
        elif kind == "gradient":
            hypotheses, found = _of_gradient(case, name, at), step.gradient[at]
        else:
            hypotheses, found = _of_update(case, name, at), step.after[at]
    # A reference of the user's own need not take other batches than those that there are.
    with contextlib.suppress(ValueError, TypeError, IndexError, RequestError):
        return next((c for c, e, bound in hypotheses if (np.abs(found - e) <= bound).all()), None)
    return None


def _factors(batch: Any) -> dict[float, str]:
    """Name the factors that a loss or gradient is often off by."""
    arrays = arrays_of(batch)
    n = arrays[0].shape[1] if arrays[0].ndim > 1 else 1
    targets = arrays[1].shape[2] if len(arrays) > 1 and arrays[1].ndim == 3 else 1
    named = {
        targets: "summed over the targets, not averaged",
        n * targets: "a sum, not a mean",
        n: "a sum, not a mean",
        1 / n: "divided by the number of rows twice",
        0.5: "halved",
        2.0: "doubled",
        -1.0: "negated",
    }
    return {factor: name for factor, name in named.items() if factor != 1}


def _coarser(judge: Judge, before: Array, batch: Any) -> Iterator[tuple[str, Any]]:
    """Name the precisions below the one that is judged, each with its loss, gradient and bounds."""
    for name, arithmetic in LOWER_PRECISIONS.items():
        if arithmetic.products > judge.arithmetic.products:
            with contextlib.suppress(RequestError):
                yield name, judge.varied(arithmetic=arithmetic).evaluate(before, batch)


def _of_loss(case: Case, entry: int) -> Hypotheses:
    """Yield what may be wrong with the loss over one batch of a step."""
    judge, step = case.judge, case.step
    before, batch = step.before, step.parts[entry].batch
    loss, bound = judge.evaluate(before, batch)[:2]
    for factor, name in _factors(batch).items():
        yield f"the loss is {name}", factor * loss, factor * bound
    earlier = step.parts[entry - 1] if entry else case.earlier and case.earlier.parts[-1]
    if earlier and earlier.batch is not None:
        stale = judge.evaluate(before, earlier.batch)[:2]
        yield "the batch of the step before was used again", *stale
    if isinstance(judge.reference, LeastSquares):
        yield from _of_least_squares(judge, before, batch, loss, bound)
    n = arrays_of(batch)[0].shape[1]
    for i in [n - 1, *range(n - 1)] if 1 < n <= MOST_ROWS else []:
        ways = {"left out": np.delete(np.arange(n), i), "counted twice": np.r_[:n, i]}
        for way, rows in ways.items():
            other = map_arrays(lambda array, rows=rows: array[:, rows], batch)
            yield f"row {i} of the batch was {way}", *judge.evaluate(before, other)[:2]
    for name, found in _coarser(judge, before, batch):
        cause = f"the loss was computed in {name}, or an input was altered by as little"
        yield cause, loss, found[1]


def _of_least_squares(
    judge: Judge, before: Array, batch: Any, loss: Array, bound: Array
) -> Hypotheses:
    """Yield what may be wrong with penalty, weights and targets."""
    X, y, *sample_weight = batch
    l1, l2, n = judge.reference.l1, judge.reference.l2, y.shape[1]
    arrays = judge.layout.arrays(before)
    if l1 or l2:
        plain = judge.varied(reference=LeastSquares()).evaluate(before, batch)[0]
        yield "the penalty was left out", plain, bound
        yield "the penalty was applied twice", 2 * loss - plain, 3 * bound
        on_bias = (l1 * np.abs(arrays["bias"]) + l2 * np.square(arrays["bias"])).sum()
        more = gamma(4, judge.arithmetic.stored) * on_bias
        yield "the penalty took in the bias", loss + on_bias, bound + more
    if sample_weight:
        mean, alike = sample_weight[0].mean(), judge.evaluate(before, (X, y))[0]
        yield "the sample weights were left out", alike, bound
        cause = "the sample weights were not divided by their sum"
        yield cause, loss * mean, bound * max(1.0, mean)
    if n > 1 and y.ndim == 2:
        prediction, y = X[0] @ arrays["weight"][0] + arrays["bias"], y[0]
        # mean over i and j of (p_i − y_j)², without the n × n array.
        spread = np.var(prediction) + np.var(y) + (prediction.mean() - y.mean()) ** 2
        broadcast = spread + loss - np.mean(np.square(prediction - y))
        cause = "the targets were broadcast against the predictions to (n, n)"
        yield cause, broadcast, n * bound


def _of_gradient(case: Case, name: str, at: Any) -> Hypotheses:
    """Yield what may be wrong with the gradient of one parameter."""
    judge, step, u = case.judge, case.step, case.judge.arithmetic.parameters
    objective, found = judge.objective(step), step.gradient[at]
    expected, bound = objective.gradient[at], objective.bound[at]
    yield f"{name} is frozen or detached: its gradient is zero", 0.0, 0.0
    if case.earlier is not None:
        last = case.earlier.gradient[at]
        cause = "the gradient of the step before was not zeroed"
        yield cause, expected + last, bound + u * np.abs(last)
    if len(step.parts) > 1 or step.divisor > 1:
        yield from _of_window(judge, step, at)
    if (l1 := getattr(judge.reference, "thresholds", {}).get(name)) is not None:
        cause = "the gradient took in the L1 penalty, which the step's soft threshold has"
        yield cause, expected + l1 * np.sign(step.before[at]), bound + gamma(2, u) * l1
    for factor, factor_name in _factors(step.parts[0].batch).items():
        yield f"the gradient is {factor_name}", factor * expected, max(1.0, factor) * bound
    wider: dict[str, Any] = {}
    for part in step.parts:
        for precision, other in _coarser(judge, step.before, part.batch):
            wider[precision] = wider.get(precision, 0.0) + other[3][at]
    for precision, allowed in wider.items():
        yield f"the gradient was computed in {precision}", expected, allowed
    if found.size > 1:  # the factor that the gradient itself shows
        shown = float(np.vdot(found, expected) / np.vdot(expected, expected))
        cause = f"the gradient is {shown:.4g} times what it should be"
        yield cause, shown * expected, max(1.0, abs(shown)) * bound


def _of_window(judge: Judge, step: Steps, at: Any) -> Hypotheses:
    """Yield what may be wrong with a gradient that is accumulated over batches."""
    parts = [judge.evaluate(step.before, part.batch)[2:] for part in step.parts]
    gradients, bounds = (np.array([part[i][at] for part in parts]) for i in (0, 1))
    n, k, total, last = len(parts), step.divisor, gradients.sum(axis=0), gradients[-1]
    roundings = gamma(n + 3, judge.arithmetic.parameters) * np.abs(gradients).sum(axis=0)
    for cause, gradient in {
        "the mean of the batches' means was taken, not that over all their rows": total / n,
        f"the window of {n} batches was divided by {k}": total / k,
        "the batches of the window were summed, not averaged": total,
        "only the last batch of the window counted": last,
        f"the last batch of the window alone, divided by {k}, counted": last / k,
    }.items():
        yield cause, gradient, bounds.sum(axis=0) + roundings


def _of_lr(case: Case, name: str) -> Hypotheses:
    """Yield what may be wrong with the learning rate of one parameter."""
    judge, step, expected = case.judge, case.step, case.lr
    k = next(i for i, rule in enumerate(judge.rules) if name in rule.names)
    steps, epochs = int(step.numbers[0]) - 1, int(step.epochs[0])
    found, few = step.lr[0, judge.layout.slices[name].start % step.lr.shape[1]], gamma(4, 2.0**-24)
    if expected.schedule is not None:
        base = judge.rules[k].optimizer.lr
        yield "the schedule was left out", base, few * abs(base)
        by_step = expected.interval == "step"
        ticks, others = (steps, epochs) if by_step else (epochs, steps)
        ways = {
            f"is one {expected.interval} ahead": ticks + 1,
            f"is one {expected.interval} behind": ticks - 1,
            f"counts {'epochs' if by_step else 'steps'}": others,
        }
        lrs = {way: expected.at(t, t)[k] for way, t in ways.items() if t >= 0}
        fitting = [w for w, (lr, e) in lrs.items() if abs(found - lr) <= max(e, few * abs(lr))]
        if fitting:
            yield f"the schedule {', or '.join(fitting)}", found, 0.0
    yield f"lr was {found:.6g} where {step.lrs[0, k, 0]:.6g} was meant", found, 0.0


def _of_update(case: Case, name: str, at: Any) -> Hypotheses:
    """Yield what may be wrong with one parameter after the step, or with its momentum."""
    judge, step, l1s = case.judge, case.step, getattr(case.judge.reference, "thresholds", {})
    k = next(i for i, rule in enumerate(judge.rules) if name in rule.names)
    lr, lr_error = step.lrs[0, k].tolist()
    rule = replace(judge.rules[k].optimizer, lr=lr)
    before, after, buffer = step.before[at], step.after[at], step.buffer[at]
    has_buffer = bool(rule.momentum) and not np.isnan(buffer).any()
    objective = judge.objective(step)

    def taken(
        rule: SGD = rule,
        clipping: Any = judge.clipping,
        buffer: Array = buffer,
        l1: float = l1s.get(name, 0.0),
    ) -> tuple[Any, ...]:
        """Return the parameter after a step and the bound on it, and the same of its momentum."""
        gradient, bound = judge.varied(clipping=clipping).clip(objective.gradient, objective.bound)
        state = before, gradient[at], bound[at], buffer, lr_error, l1
        found, momentum, allowed, kept = judge.update(rule, *state)
        return found, allowed, momentum, kept

    yield f"{name} was not updated: is it among the optimizer's parameters?", before, 0.0
    if has_buffer:
        cause = "momentum was left out, or its buffer emptied"
        yield cause, *taken(buffer=np.zeros_like(buffer))[:2]
    if l1s:
        yield from _of_threshold(case, name, at, taken, rule, has_buffer)
    # At the first step, Nesterov's momentum left out is the same as all momentum left out.
    for cause, changes in {
        "Nesterov's momentum was left out": {"nesterov": False},
        "momentum was left out": {"momentum": 0.0, "nesterov": False},
        "dampening was left out": {"dampening": 0.0},
        "Nesterov's momentum was used": {"nesterov": True},
        "weight decay was left out": {"weight_decay": 0.0},
        "weight decay was applied twice": {"weight_decay": 2 * rule.weight_decay},
        "the sign of the step is wrong": {"lr": -lr},
        "the sign of the gradient is wrong": {"maximize": not rule.maximize},
    }.items():
        if (other := replace(rule, **changes)) != rule:  # type: ignore[arg-type]
            yield cause, *taken(other)[:2]
    if not has_buffer and rule.dampening:
        damped = replace(rule, lr=lr * (1 - rule.dampening), dampening=0.0)
        yield "dampening was applied to the first step", *taken(damped)[:2]
    if judge.clipping:
        algorithm: Any = "value" if judge.clipping.algorithm == "norm" else "norm"
        yield "the gradient was not clipped", *taken(clipping=None)[:2]
        clipping = replace(judge.clipping, algorithm=algorithm)
        yield f"the gradient was clipped by {algorithm}", *taken(clipping=clipping)[:2]
    if has_buffer:  # the momentum that the buffer itself shows
        kept = step.buffer_after[at] - taken(buffer=0 * buffer)[2]
        shown = float(np.vdot(kept, buffer) / np.vdot(buffer, buffer))
        cause = f"momentum was {shown:.6g} where {rule.momentum:.6g} was meant"
        yield cause, *taken(replace(rule, momentum=shown))[:2]
    # The learning rate that the update itself shows.
    moved = before - taken(replace(rule, lr=1.0), l1=0.0)[0]
    shown = float(np.vdot(before - after, moved) / np.vdot(moved, moved)) if moved.any() else lr
    cause = f"lr was {shown:.6g} where {lr:.6g} was meant"
    if judge.clipping:
        limit = judge.clipping.limit
        cause = f"the gradient was clipped at {limit * shown / lr:.4g}, not at {limit:.4g}"
    yield cause, *taken(replace(rule, lr=shown))[:2]


def _of_threshold(
    case: Case, name: str, at: Any, taken: Callable[..., Any], rule: SGD, has_buffer: bool
) -> Hypotheses:
    """Yield what may be wrong with the soft threshold of an L1 penalty."""
    thresholds, step = case.judge.reference.thresholds, case.step
    after, title = step.after[at], "the soft threshold of the L1 penalty"
    if (l1 := thresholds.get(name)) is None:
        for other in thresholds.values():
            yield f"{title} took in {name}", *taken(l1=other)[:2]
        return
    without, allowed, kept, kept_bound = taken(l1=0.0)
    if rule.momentum and (np.abs(step.buffer_after[at] - kept) <= kept_bound).all():
        cause = "momentum does not know of the soft threshold: it must be that of the whole move"
        yield cause, after, 0.0
    yield f"{title} was left out", without, allowed
    yield f"{title} was not multiplied by lr", *taken(l1=l1 / rule.lr)[:2]
    # The strength that the update itself shows.
    scale = rule.lr * (1 + rule.momentum if rule.nesterov else 1.0)
    scale *= 1 - rule.dampening if has_buffer else 1.0
    if scale:
        shown = float(np.abs(without - after).max() / scale)
        yield f"l1 was {shown:.4g} where {l1:.4g} was meant", *taken(l1=shown)[:2]
