"""The likely cause of a failed cross-check, found by trying hypotheses against the numbers.

A hypothesis says what training would have found had it made one particular mistake. It is accepted
when that agrees with what was found to within the rounding bound, so a cause is told only where the
numbers bear it out. The first one that does is told.
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
from trueline.reference import SGD, Clipping, LeastSquares
from trueline.reference.rounding import BFLOAT16, FLOAT32, TF32, gamma

Array = NDArray[np.float64]
Causes = Iterator[str]
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
    name = "" if kind == "loss" else case.judge.layout.name_at(entry)
    if kind == "parameter" and name in case.judge.untrained:
        return f"{name} must stay: it is frozen, or has no gradient"
    causes = {"loss": _in_loss, "gradient": _in_gradient, "lr": _in_lr}.get(kind, _in_update)
    # A reference of the user's own need not take other batches than those that there are.
    with contextlib.suppress(ValueError, TypeError, IndexError, RequestError):
        return next(causes(case, entry), None)
    return None


def _within(found: Any, expected: Any, bound: Any) -> bool:
    return bool((np.abs(found - expected) <= bound).all())


def _coarser(judge: Judge) -> Iterator[tuple[str, Judge]]:
    """Name the precisions below the one that is judged, each with a judge for it."""
    for name, arithmetic in LOWER_PRECISIONS.items():
        if arithmetic.products > judge.arithmetic.products:
            yield name, judge.varied(arithmetic=arithmetic)


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


def _in_loss(case: Case, entry: int) -> Causes:
    """Yield the hypotheses that the loss over one batch of the step bears out."""
    judge, step = case.judge, case.step
    batch, found = step.parts[entry].batch, step.parts[entry].losses

    def agrees(batch: Any, judge: Judge = judge) -> bool:
        return _within(found, *judge.evaluate(step.before, batch)[:2])

    loss, bound = judge.evaluate(step.before, batch)[:2]
    for factor, name in _factors(batch).items():
        if _within(found, factor * loss, factor * bound):
            yield f"the loss is {name}"
    earlier = step.parts[entry - 1] if entry else case.earlier and case.earlier.parts[-1]
    if earlier and earlier.batch is not None and agrees(earlier.batch):
        yield "the batch of the step before was used again"
    if isinstance(judge.reference, LeastSquares):
        yield from _in_least_squares(judge, step.before, batch, found, loss, bound)
    n = arrays_of(batch)[0].shape[1]
    for i in [n - 1, *range(n - 1)] if 1 < n <= MOST_ROWS else []:
        others, twice = np.delete(np.arange(n), i), np.append(np.arange(n), i)
        if agrees(map_arrays(lambda a, rows=others: a[:, rows], batch)):
            yield f"row {i} of the batch was left out"
        if agrees(map_arrays(lambda a, rows=twice: a[:, rows], batch)):
            yield f"row {i} of the batch was counted twice"
    for name, coarser in _coarser(judge):
        with contextlib.suppress(RequestError):
            if _within(found, loss, coarser.evaluate(step.before, batch)[1]):
                yield f"the loss was computed in {name}, or an input was altered by as little"


def _in_least_squares(
    judge: Judge, before: Array, batch: Any, found: Array, loss: Array, bound: Array
) -> Causes:
    """Yield the hypotheses about penalty, weights and targets that a loss bears out."""
    X, y, *sample_weight = batch
    l1, l2, n = judge.reference.l1, judge.reference.l2, y.shape[1]
    arrays = judge.layout.arrays(before)
    if l1 or l2:
        plain = judge.varied(reference=LeastSquares()).evaluate(before, batch)[0]
        if _within(found, plain, bound):
            yield "the penalty was left out"
        if _within(found, 2 * loss - plain, 3 * bound):
            yield "the penalty was applied twice"
        bias = arrays["bias"]
        on_bias = l1 * np.abs(bias).sum() + l2 * np.square(bias).sum()
        if _within(found, loss + on_bias, bound + gamma(4, judge.arithmetic.stored) * on_bias):
            yield "the penalty took in the bias"
    if sample_weight:
        mean = sample_weight[0].sum() / n
        if _within(found, judge.evaluate(before, (X, y))[0], bound):
            yield "the sample weights were left out"
        if _within(found, loss * mean, bound * max(1.0, mean)):
            yield "the sample weights were not divided by their sum"
    if n > 1 and y.ndim == 2:
        prediction, y = X[0] @ arrays["weight"][0] + arrays["bias"], y[0]
        # mean over i and j of (p_i − y_j)², without the n × n array.
        spread = np.var(prediction) + np.var(y) + (prediction.mean() - y.mean()) ** 2
        broadcast = spread + loss - np.mean(np.square(prediction - y))
        if _within(found, broadcast, n * bound):
            yield "the targets were broadcast against the predictions to (n, n)"


def _in_gradient(case: Case, entry: int) -> Causes:
    """Yield the hypotheses that the gradient of one parameter bears out."""
    judge, step = case.judge, case.step
    name, u = judge.layout.name_at(entry), judge.arithmetic.parameters
    at = (..., judge.layout.slices[name])
    objective, found = judge.objective(step), step.gradient[at]
    expected, bound = objective.gradient[at], objective.bound[at]
    if not found.any():
        yield f"{name} is frozen or detached: its gradient is zero"
    if case.earlier is not None:
        last = case.earlier.gradient[at]
        if _within(found, expected + last, bound + u * np.abs(last)):
            yield "the gradient of the step before was not zeroed"
    if len(step.parts) > 1 or step.divisor > 1:
        yield from _in_window(judge, step, at)
    if (l1 := getattr(judge.reference, "thresholds", {}).get(name)) is not None and _within(
        found, expected + l1 * np.sign(step.before[at]), bound + gamma(2, u) * l1
    ):
        yield "the gradient took in the L1 penalty, which the step's soft threshold has"
    for factor, factor_name in _factors(step.parts[0].batch).items():
        if _within(found, factor * expected, max(1.0, factor) * bound):
            yield f"the gradient is {factor_name}"
    for precision, coarser in _coarser(judge):
        with contextlib.suppress(RequestError):
            wider = sum(coarser.evaluate(step.before, part.batch)[3] for part in step.parts)
            if _within(found, expected, wider[at]):  # type: ignore[index]
                yield f"the gradient was computed in {precision}"
    if found.size > 1:  # the factor that the gradient itself shows
        shown = float(np.vdot(found, expected) / np.vdot(expected, expected))
        if _within(found, shown * expected, max(1.0, abs(shown)) * bound):
            yield f"the gradient is {shown:.4g} times what it should be"


def _in_window(judge: Judge, step: Steps, at: Any) -> Causes:
    """Yield the hypotheses about accumulated batches that a gradient bears out."""
    parts = [judge.evaluate(step.before, part.batch)[2:] for part in step.parts]
    gradients, bounds = (np.array([part[i][at] for part in parts]) for i in (0, 1))
    n, total = len(parts), gradients.sum(axis=0)
    roundings = gamma(n + 3, judge.arithmetic.parameters) * np.abs(gradients).sum(axis=0)
    hypotheses = {
        "the mean of the batches' means was taken, not that over all their rows": total / n,
        f"the window of {n} batches was divided by {step.divisor}": total / step.divisor,
        "the batches of the window were summed, not averaged": total,
        "only the last batch of the window counted": gradients[-1],
        f"the last batch of the window alone, divided by {step.divisor}, counted": gradients[-1]
        / step.divisor,
    }
    for cause, gradient in hypotheses.items():
        if _within(step.gradient[at], gradient, bounds.sum(axis=0) + roundings):
            yield cause


def _in_lr(case: Case, entry: int) -> Causes:
    """Yield the hypotheses that the learning rate of one entry bears out."""
    judge, step, expected = case.judge, case.step, case.lr
    name, u = judge.layout.name_at(entry), judge.arithmetic.parameters
    k = next(i for i, rule in enumerate(judge.rules) if name in rule.names)
    steps, epochs = int(step.numbers[0]) - 1, int(step.epochs[0])
    found = step.lr[0, entry if step.lr.shape[1] > 1 else 0]

    def agrees(lr: float, bound: float) -> bool:
        return bool(abs(found - lr) <= max(bound, gamma(4, u) * abs(lr)))

    if expected.schedule is not None:
        by_step = expected.interval == "step"
        ticks, others = (steps, epochs) if by_step else (epochs, steps)
        ways = {
            f"is one {expected.interval} ahead": ticks + 1,
            f"is one {expected.interval} behind": ticks - 1,
            f"counts {'epochs' if by_step else 'steps'}": others,
        }
        if agrees(judge.rules[k].optimizer.lr, 0.0):
            yield "the schedule was left out"
        fitting = [way for way, t in ways.items() if t >= 0 and agrees(*expected.at(t, t)[k])]
        if fitting:
            yield f"the schedule {', or '.join(fitting)}"
    yield f"lr was {found:.6g} where {step.lrs[0, k, 0]:.6g} was meant"


def _in_update(case: Case, entry: int) -> Causes:
    """Yield the hypotheses that one parameter and its momentum after the step bear out."""
    judge, step = case.judge, case.step
    name = judge.layout.name_at(entry)
    at = (..., judge.layout.slices[name])
    k = next(i for i, rule in enumerate(judge.rules) if name in rule.names)
    lr, lr_error = step.lrs[0, k].tolist()
    expected = replace(judge.rules[k].optimizer, lr=lr)
    thresholds = getattr(judge.reference, "thresholds", {})
    before, after, buffer = step.before[at], step.after[at], step.buffer[at]
    has_buffer = bool(expected.momentum) and not np.isnan(buffer).any()
    objective = judge.objective(step)

    def taken(
        rule: SGD = expected,
        clipping: Clipping | None = judge.clipping,
        buffer: Array = buffer,
        l1: float = thresholds.get(name, 0.0),
    ) -> tuple[Any, ...]:
        """Return parameter and momentum after a step, and bounds on both."""
        gradient, bound = judge.varied(clipping=clipping).clip(objective.gradient, objective.bound)
        return judge.update(rule, before, gradient[at], bound[at], buffer, lr_error, l1)

    def agrees(**changes: Any) -> bool:
        result = taken(**changes)
        return _within(after, result[0], result[2])

    if np.array_equal(before, after):
        yield f"{name} was not updated: is it among the optimizer's parameters?"
    if has_buffer and agrees(buffer=np.zeros_like(buffer)):
        yield "momentum was left out, or its buffer emptied"
    if thresholds:
        yield from _in_threshold(step.buffer_after[at], after, expected, thresholds, name, taken)
    # At the first step, Nesterov's momentum left out is the same as all momentum left out.
    variations = {
        "Nesterov's momentum was left out": {"nesterov": False},
        "momentum was left out": {"momentum": 0.0, "nesterov": False},
        "dampening was left out": {"dampening": 0.0},
        "Nesterov's momentum was used": {"nesterov": True},
        "weight decay was left out": {"weight_decay": 0.0},
        "weight decay was applied twice": {"weight_decay": 2 * expected.weight_decay},
        "the sign of the step is wrong": {"lr": -lr},
        "the sign of the gradient is wrong": {"maximize": not expected.maximize},
    }
    for cause, changes in variations.items():
        rule = replace(expected, **changes)  # type: ignore[arg-type]
        if rule != expected and agrees(rule=rule):
            yield cause
    damped = replace(expected, lr=lr * (1 - expected.dampening), dampening=0.0)
    if not has_buffer and expected.dampening and agrees(rule=damped):
        yield "dampening was applied to the first step"
    if judge.clipping:
        by_norm = judge.clipping.algorithm == "norm"
        other = replace(judge.clipping, algorithm="value" if by_norm else "norm")
        if agrees(clipping=None):
            yield "the gradient was not clipped"
        if agrees(clipping=other):
            yield f"the gradient was clipped by {other.algorithm}"
    if has_buffer:  # the momentum that the buffer itself shows
        kept = step.buffer_after[at] - taken(buffer=0 * buffer)[1]
        shown = float(np.vdot(kept, buffer) / np.vdot(buffer, buffer))
        if agrees(rule=replace(expected, momentum=shown)):
            yield f"momentum was {shown:.6g} where {expected.momentum:.6g} was meant"
    # The learning rate that the update itself shows.
    moved = before - taken(rule=replace(expected, lr=1.0), l1=0.0)[0]
    shown = float(np.vdot(before - after, moved) / np.vdot(moved, moved)) if moved.any() else lr
    if moved.any() and agrees(rule=replace(expected, lr=shown)):
        if judge.clipping:
            limit = judge.clipping.limit
            yield f"the gradient was clipped at {limit * shown / lr:.4g}, not at {limit:.4g}"
        yield f"lr was {shown:.6g} where {lr:.6g} was meant"


def _in_threshold(
    buffer_after: Array,
    after: Array,
    expected: SGD,
    thresholds: dict[str, float],
    name: str,
    taken: Callable[..., tuple[Any, ...]],
) -> Causes:
    """Yield the hypotheses about the soft threshold of an L1 penalty."""

    def agrees(l1: float) -> bool:
        result = taken(l1=l1)
        return _within(after, result[0], result[2])

    if (l1 := thresholds.get(name)) is None:
        if any(map(agrees, thresholds.values())):
            yield f"the soft threshold of the L1 penalty took in {name}"
        return
    unthresholded, kept, _, allowed = taken(l1=0.0)
    if kept is not None and _within(buffer_after, kept, allowed):
        yield "momentum does not know of the soft threshold: it must be that of the whole move"
    if agrees(0.0):
        yield "the soft threshold of the L1 penalty was left out"
    if agrees(l1 / expected.lr):
        yield "the soft threshold of the L1 penalty was not multiplied by lr"
    # The strength that the update itself shows.
    scale = expected.lr * (1 + expected.momentum if expected.nesterov else 1.0)
    first = taken(l1=0.0, buffer=np.full_like(after, np.nan))[1]
    if expected.momentum and not np.array_equal(first, kept):
        scale *= 1 - expected.dampening
    if scale:
        shown = float(np.abs(unthresholded - after).max() / scale)
        if agrees(shown):
            yield f"l1 was {shown:.4g} where {l1:.4g} was meant"
