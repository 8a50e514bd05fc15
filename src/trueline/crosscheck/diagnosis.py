"""The likely cause of a failed cross-check, found by trying hypotheses against the numbers.

A hypothesis says what training would have found had it made one particular mistake. It is accepted
when that agrees with what was found to within the rounding bound, so a cause is told only where the
numbers bear it out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.reference import SGD, Clipping, LeastSquares
from trueline.reference.rounding import step_bound

Array = NDArray[np.float64]
MOST_ROWS = 1000
"""Up to this many rows, each is tried as the one that was left out or counted twice."""
LOWER_PRECISIONS = {"float32": 2.0**-24, "bfloat16 or float16": 2.0**-8}
"""Unit roundoffs of what may have slipped in; bfloat16 keeps 8 bits, float16 11."""


@dataclass(frozen=True)
class Step:
    """All that is known of a step: what the reference did, and what training found.

    Args:
        reference: Loss and gradient in NumPy, with their rounding bounds.
        optimizer: The update rule that was meant.
        clipping: The clipping that was meant, if any.
        before: Parameters before the step.
        buffers: Momentum buffers before the step; None at the first one.
        batch: As arrays.
        last_batch: The one before it; None at the first step.
        loss: Found in training.
        gradients: Found in training, before clipping.
        last_gradients: Found a step earlier; None at the first step.
        after: Parameters that training found after the step.
        unit_roundoff: Of the arithmetic that is judged.
    """

    reference: Any
    optimizer: SGD
    clipping: Clipping | None
    before: Mapping[str, Array]
    buffers: Mapping[str, Array | None]
    batch: Any
    last_batch: Any
    loss: float
    gradients: Mapping[str, Array]
    last_gradients: Mapping[str, Array] | None
    after: Mapping[str, Array]
    unit_roundoff: float


def likely_cause(step: Step, quantity: str) -> str | None:
    """Return the first hypothesis that the numbers bear out, or None.

    Args:
        step: The step that failed.
        quantity: What was out of its bound: `loss`, `gradient of NAME`, `momentum of NAME`, or a
            parameter's name.
    """
    with np.errstate(all="ignore"):
        if quantity == "loss":
            return next(_causes_in_loss(step), None)
        if quantity.startswith("gradient of "):
            return next(_causes_in_gradient(step, quantity.removeprefix("gradient of ")), None)
        return next(_causes_in_update(step, quantity.removeprefix("momentum of ")), None)


def _causes_in_loss(step: Step) -> Iterator[str]:
    def evaluate(batch: Any, reference: Any = step.reference) -> tuple[float, float]:
        loss, _ = reference.loss_and_gradient(step.before, batch)
        return loss, reference.rounding_bound(step.before, batch, step.unit_roundoff)[0]

    def agrees(loss: float, bound: float) -> bool:
        return abs(step.loss - loss) <= bound

    loss, bound = evaluate(step.batch)
    for factor, name in _factors(_n_rows(step.batch)).items():
        if agrees(factor * loss, factor * bound):
            yield f"the loss is {name}"
    if step.last_batch is not None and agrees(*evaluate(step.last_batch)):
        yield "the batch of the step before was used again"
    if isinstance(step.reference, LeastSquares):
        yield from _causes_in_least_squares(step, agrees)
    n = _n_rows(step.batch)
    if 1 < n <= MOST_ROWS:
        for i in [n - 1, *range(n - 1)]:
            if agrees(*evaluate(_take(step.batch, np.delete(np.arange(n), i)))):
                yield f"row {i} of the batch was left out"
            if agrees(*evaluate(_take(step.batch, np.append(np.arange(n), i)))):
                yield f"row {i} of the batch was counted twice"
    for name, u in LOWER_PRECISIONS.items():
        wider = step.reference.rounding_bound(step.before, step.batch, u)[0]
        if u > step.unit_roundoff and agrees(loss, wider):
            yield f"the loss was computed in {name}, or an input was altered by as little"


def _causes_in_least_squares(step: Step, agrees: Any) -> Iterator[str]:
    reference, (X, y) = step.reference, step.batch
    loss = reference.loss_and_gradient(step.before, step.batch)[0]
    bound = reference.rounding_bound(step.before, step.batch, step.unit_roundoff)[0]
    if reference.l1 or reference.l2:
        plain = LeastSquares().loss_and_gradient(step.before, step.batch)[0]
        if agrees(plain, bound):
            yield "the penalty was left out"
        bias = step.before["bias"]
        on_bias = reference.l1 * np.abs(bias).sum() + reference.l2 * np.square(bias).sum()
        if agrees(loss + on_bias, bound + 4 * step.unit_roundoff * on_bias):
            yield "the penalty took in the bias"
    prediction = X @ step.before["weight"] + step.before["bias"]
    if len(y) > 1 and prediction.ndim == 1:
        # mean over i and j of (p_i − y_j)², without the n × n array.
        spread = np.var(prediction) + np.var(y) + (prediction.mean() - y.mean()) ** 2
        if agrees(float(spread + loss - np.mean(np.square(prediction - y))), len(y) * bound):
            yield "the targets were broadcast against the predictions to (n, n)"


def _causes_in_gradient(step: Step, name: str) -> Iterator[str]:
    found = step.gradients[name]
    expected = step.reference.loss_and_gradient(step.before, step.batch)[1][name]
    bounds = step.reference.rounding_bound(step.before, step.batch, step.unit_roundoff)[1]
    bound = bounds[name]
    if not found.any():
        yield f"{name} is frozen or detached: its gradient is zero"
    if step.last_gradients is not None:
        last = step.last_gradients[name]
        if _within(found, expected + last, bound + step.unit_roundoff * np.abs(last)):
            yield "the gradient of the step before was not zeroed"
    for factor, factor_name in _factors(_n_rows(step.batch)).items():
        if _within(found, factor * expected, max(1.0, factor) * bound):
            yield f"the gradient is {factor_name}"
    for precision, u in LOWER_PRECISIONS.items():
        wider = step.reference.rounding_bound(step.before, step.batch, u)[1][name]
        if u > step.unit_roundoff and _within(found, expected, wider):
            yield f"the gradient was computed in {precision}"


def _causes_in_update(step: Step, name: str) -> Iterator[str]:
    before, after = step.before[name], step.after[name]
    _, gradients = step.reference.loss_and_gradient(step.before, step.batch)
    _, bounds = step.reference.rounding_bound(step.before, step.batch, step.unit_roundoff)
    buffer = step.buffers[name]

    def agrees(optimizer: SGD, clipping: Clipping | None, buffer: Array | None) -> bool:
        gradient, bound = gradients[name], bounds[name]
        if clipping:
            bound = clipping.rounding_bound(gradients, bounds, step.unit_roundoff)[name]
            gradient = clipping.clip(gradients)[name]
        expected, _ = optimizer.step(before, gradient, buffer)
        arguments = (before, gradient, bound, buffer, step.unit_roundoff)
        return _within(after, expected, step_bound(optimizer, *arguments)[0])

    if np.array_equal(before, after):
        yield f"{name} was not updated: is it among the optimizer's parameters?"
    meant = step.optimizer
    if buffer is not None and agrees(meant, step.clipping, np.zeros_like(buffer)):
        yield "momentum was left out, or its buffer emptied"
    # At the first step, Nesterov's momentum left out is the same as all momentum left out.
    alternatives = {
        "Nesterov's momentum was left out": replace(meant, nesterov=False),
        "momentum was left out": replace(meant, momentum=0.0, nesterov=False),
        "dampening was left out": replace(meant, dampening=0.0),
        "Nesterov's momentum was used": replace(meant, nesterov=True),
        "weight decay was left out": replace(meant, weight_decay=0.0),
        "weight decay was applied twice": replace(meant, weight_decay=2 * meant.weight_decay),
        "the sign of the step is wrong": replace(meant, lr=-meant.lr),
    }
    for cause, optimizer in alternatives.items():
        if optimizer != meant and agrees(optimizer, step.clipping, buffer):
            yield cause
    if buffer is None and meant.dampening:
        damped = replace(meant, lr=meant.lr * (1 - meant.dampening), dampening=0.0)
        if agrees(damped, step.clipping, buffer):
            yield "dampening was applied to the first step"
    if step.clipping:
        by_norm = step.clipping.algorithm == "norm"
        other = replace(step.clipping, algorithm="value" if by_norm else "norm")
        if agrees(meant, None, buffer):
            yield "the gradient was not clipped"
        if agrees(meant, other, buffer):
            yield f"the gradient was clipped by {other.algorithm}"
    yield from _other_lr(step, name, agrees)


def _other_lr(step: Step, name: str, agrees: Any) -> Iterator[str]:
    """Try the learning rate that the update itself shows."""
    gradients = step.reference.loss_and_gradient(step.before, step.batch)[1]
    gradients = step.clipping.clip(gradients) if step.clipping else gradients
    unit = replace(step.optimizer, lr=1.0)
    moved = step.before[name] - unit.step(step.before[name], gradients[name], step.buffers[name])[0]
    if moved.any():
        lr = float(np.vdot(step.before[name] - step.after[name], moved) / np.vdot(moved, moved))
        if agrees(replace(step.optimizer, lr=lr), step.clipping, step.buffers[name]):
            yield f"lr was {lr:.6g} where {step.optimizer.lr:.6g} was meant"


def _factors(n: int) -> dict[float, str]:
    """Name the factors that a loss or gradient is often off by, for a batch of n rows."""
    by_rows = {n: "a sum, not a mean", 1 / n: "divided by the number of rows twice"}
    return {**by_rows, 0.5: "halved", 2.0: "doubled", -1.0: "negated"} if n > 1 else {}


def _n_rows(batch: Any) -> int:
    return next((len(part) for part in _parts(batch) if np.ndim(part)), 1)


def _parts(batch: Any) -> list[Any]:
    if isinstance(batch, Mapping):
        return list(batch.values())
    return list(batch) if isinstance(batch, list | tuple) else [batch]


def _take(batch: Any, rows: Array) -> Any:
    """Return some rows of a batch."""
    if isinstance(batch, Mapping):
        return {key: value[rows] for key, value in batch.items()}
    return tuple(p[rows] for p in batch) if isinstance(batch, list | tuple) else batch[rows]


def _within(found: Array, expected: Array, bound: Array) -> bool:
    return bool((np.abs(found - expected) <= bound).all())
