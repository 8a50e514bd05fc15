"""What may be wrong with a learning rate, a momentum buffer or a parameter after the step."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.diagnosis.case import Case, rule_at, within
from trueline.crosscheck.diagnosis.threshold import causes_in_threshold
from trueline.reference import SGD, Clipping
from trueline.reference.rounding import gamma, step_bound

Array = NDArray[np.float64]


def causes_in_lr(case: Case, entry: int) -> Iterator[str]:
    """Yield the hypotheses that the learning rate of one entry bears out."""
    rule = rule_at(case.judge, entry)
    k = case.judge.rules.index(rule)
    steps, epochs = case.step.number - 1, case.step.epoch
    found = case.step.lr[entry]
    meant = case.step.lrs[k, 0]

    def agrees(lr: float, bound: float) -> bool:
        return bool(
            abs(found - lr) <= max(bound, gamma(4, case.judge.arithmetic.parameters) * abs(lr))
        )

    if case.lr.schedule is not None:
        by_step = case.lr.interval == "step"
        ticks, others = (steps, epochs) if by_step else (epochs, steps)
        ways = {
            f"is one {case.lr.interval} ahead": ticks + 1,
            f"is one {case.lr.interval} behind": ticks - 1,
            f"counts {'epochs' if by_step else 'steps'}": others,
        }
        if agrees(rule.optimizer.lr, 0.0):
            yield "the schedule was left out"
        fitting = [way for way, t in ways.items() if t >= 0 and agrees(*case.lr.at(t, t)[k])]
        if fitting:
            yield f"the schedule {', or '.join(fitting)}"
    yield f"lr was {found:.6g} where {meant:.6g} was meant"


def causes_in_update(case: Case, at: slice) -> Iterator[str]:
    """Yield the hypotheses that one parameter after the step bears out."""
    judge, step = case.judge, case.step
    before, after = step.before[at], step.after[at]
    rule = rule_at(judge, at.start)
    lr, lr_error = step.lrs[judge.rules.index(rule)]
    meant = replace(rule.optimizer, lr=lr)
    gradient, bound = judge.window(step)[2:]
    buffer = None if step.buffer is None else step.buffer[at]
    u = judge.arithmetic.parameters
    name = judge.layout.name_at(at.start)
    thresholds = getattr(judge.reference, "thresholds", {})
    l1 = thresholds.get(name, 0.0)

    def agrees(
        optimizer: SGD = meant,
        clipping: Clipping | None = judge.clipping,
        buffer: Array | None = buffer,
        by: float = l1,
    ) -> bool:
        clipped, allowed = judge.varied(clipping=clipping).clip(gradient, bound)
        expected, _ = optimizer.step(before, clipped[at], buffer, by)
        arguments = (before, clipped[at], allowed[at], buffer, u, lr_error, by)
        return within(after, expected, step_bound(optimizer, *arguments)[0])

    if np.array_equal(before, after):
        yield f"{name} was not updated: is it among the optimizer's parameters?"
    if buffer is not None and agrees(meant, judge.clipping, np.zeros_like(buffer)):
        yield "momentum was left out, or its buffer emptied"
    if thresholds:
        yield from causes_in_threshold(case, at, meant, lambda l1: agrees(by=l1))
    # At the first step, Nesterov's momentum left out is the same as all momentum left out.
    alternatives = {
        "Nesterov's momentum was left out": replace(meant, nesterov=False),
        "momentum was left out": replace(meant, momentum=0.0, nesterov=False),
        "dampening was left out": replace(meant, dampening=0.0),
        "Nesterov's momentum was used": replace(meant, nesterov=True),
        "weight decay was left out": replace(meant, weight_decay=0.0),
        "weight decay was applied twice": replace(meant, weight_decay=2 * meant.weight_decay),
        "the sign of the step is wrong": replace(meant, lr=-meant.lr),
        "the sign of the gradient is wrong": replace(meant, maximize=not meant.maximize),
    }
    for cause, optimizer in alternatives.items():
        if optimizer != meant and agrees(optimizer, judge.clipping, buffer):
            yield cause
    if buffer is None and meant.dampening:
        damped = replace(meant, lr=meant.lr * (1 - meant.dampening), dampening=0.0)
        if agrees(damped, judge.clipping, buffer):
            yield "dampening was applied to the first step"
    if judge.clipping:
        by_norm = judge.clipping.algorithm == "norm"
        other = replace(judge.clipping, algorithm="value" if by_norm else "norm")
        if agrees(meant, None, buffer):
            yield "the gradient was not clipped"
        if agrees(meant, other, buffer):
            yield f"the gradient was clipped by {other.algorithm}"
    if buffer is not None and meant.momentum:
        # The momentum that the buffer itself shows.
        _, entered = meant.step(before, judge.clip(gradient, bound)[0][at], 0 * buffer, l1)
        kept = step.buffer_after[at] - np.asarray(entered)
        shown = float(np.vdot(kept, buffer) / np.vdot(buffer, buffer))
        if agrees(replace(meant, momentum=shown), judge.clipping, buffer):
            yield f"momentum was {shown:.6g} where {meant.momentum:.6g} was meant"
    # The learning rate that the update itself shows.
    unit = replace(meant, lr=1.0)
    moved = before - unit.step(before, judge.clip(gradient, bound)[0][at], buffer)[0]
    if moved.any():
        lr = float(np.vdot(before - after, moved) / np.vdot(moved, moved))
        if agrees(replace(meant, lr=lr), judge.clipping, buffer):
            if judge.clipping:
                limit = judge.clipping.limit
                yield f"the gradient was clipped at {limit * lr / meant.lr:.4g}, not at {limit:.4g}"
            yield f"lr was {lr:.6g} where {meant.lr:.6g} was meant"
