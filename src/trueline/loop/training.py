"""A whole training by the loop alone: NumPy arrays in, NumPy arrays out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from trueline.data.order import RowOrder
from trueline.data.problems import array_problems
from trueline.errors import CheckFailed, RequestError
from trueline.loop.loop import Loop, takes_moments
from trueline.loop.moments import Moments
from trueline.loop.rows import Rows
from trueline.loop.state import Array, Float64, Numbers, Rule, Shape, State, Steps, as_parameters

AT_ONCE = 2**20
"""Steps in one call of the loop, between which Ctrl-C is heard: under a second."""


@dataclass
class Trained:
    """A training, and what it went through.

    Args:
        weight: Trained weight, shape (n_features,), or (n_features, n_targets) where y has columns.
        bias: Trained bias, shape (), or (n_targets,).
        losses: Mean squared error over the rows of each step, before it; shape (n_steps,).
        lrs: Learning rate of each step, shape (n_steps,).
        weights: Weights before each of the steps that were asked for, shape (n, *weight.shape).
        biases: Biases before each of these steps, shape (n, *bias.shape).
    """

    weight: Array
    bias: Array
    losses: Float64
    lrs: Float64
    weights: Array
    biases: Array


def train(
    X: ArrayLike,
    y: ArrayLike,
    *,
    lr: ArrayLike,
    epochs: int,
    batch_size: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    sample_weight: ArrayLike | None = None,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
    clip_norm: float = 0.0,
    clip_value: float = 0.0,
    weight: ArrayLike = 0.0,
    bias: ArrayLike = 0.0,
    fit_intercept: bool = True,
    dtype: Any = None,
    states: Sequence[int] | Array = (),
) -> Trained:
    """Train `ŷ = X·weight + bias` by SGD on `mean((ŷ − y)²) + l1·Σ|weight| + l2·Σweight²`.

    Args:
        X: Features, shape (n_samples, n_features), or (n_samples,) for one feature.
        y: Targets, shape (n_samples,) or (n_samples, n_targets).
        lr: Learning rate, ≥ 0, or one for each step.
        epochs: Number of passes over the rows.
        batch_size: Number of rows in a step; all rows unless given.
        shuffle: Whether each epoch visits the rows in an order of its own.
        seed: Seed of these orders, ≥ 0.
        sample_weight: Weights of the rows in the mean, > 0, shape (n_samples,).
        momentum: Momentum, in [0, 1).
        dampening: Dampening of momentum, in [0, 1].
        nesterov: Whether momentum is Nesterov's.
        weight_decay: Decay of weight and bias, ≥ 0; it is no part of the loss.
        l1: Strength of the L1 penalty, ≥ 0; a soft threshold after each step applies it.
        l2: Strength of the L2 penalty, ≥ 0.
        clip_norm: Largest norm of a gradient; 0 for any.
        clip_value: Largest magnitude of an entry of a gradient; 0 for any.
        weight: Initial weight, in the shape of the trained one, or one number for all entries.
        bias: Initial bias, in the same manner.
        fit_intercept: Whether the bias is trained, rather than left as it is.
        dtype: Precision of the arithmetic, float32 or float64; that of X unless given, and float64
            where X has another.
        states: Numbers of the steps before which parameters are returned, from 0.

    Returns:
        Weight and bias after the last step, the loss and learning rate of each step, and the states
        that were asked for.

    Raises:
        RequestError: When an argument is out of its range, or the rows have holes.
        CheckFailed: When the training diverges, with the step.

    Example:
        >>> from trueline.reference.article import X, y
        >>> line = train(X, y, lr=0.001, epochs=50_000, states=[0, 1])
        >>> line.weight.round(3), line.bias.round(3), line.losses[[0, 1, -1]].round(1).tolist()
        (array([1.819]), np.float64(36.647), [3666.8, 1503.6, 3.5])
        >>> line.weights.round(4).tolist()
        [[0.0], [1.6427]]
    """
    matrix, shape = _matrix(X, y, sample_weight, dtype, batch_size, seed)
    f, T, n = shape.n_features, shape.n_targets, len(matrix)
    rows = Rows(matrix, RowOrder(n, shuffle, seed), shape, batch_size or n)
    rule = Rule(dampening, nesterov, weight_decay, l1, l2, clip_norm, clip_value)
    lrs = _full("lr", lr, (max(epochs, 0) * rows.steps_per_epoch,))
    at = np.unique(np.asarray(states, np.int64))
    _refuse(_problems(rule, momentum, epochs, lrs, at))
    of_targets = np.shape(y)[1:]
    start, free = np.empty((T, f + 1), matrix.dtype), np.full((T, f + 1), True)
    start[:, :f] = _full("weight", weight, (f, *of_targets)).reshape(f, T).T
    start[:, f], free[:, f] = _full("bias", bias, of_targets), fit_intercept

    loop = Loop(rows, Moments(rows, matrix.dtype, (0, n)) if takes_moments(rows) else None)
    state, results = State.of(start.ravel(), None, free.ravel()), []
    for first in range(0, len(lrs), AT_ONCE):
        part = lrs[first : first + AT_ONCE]
        asked = at[(at >= first) & (at < first + AT_ONCE)] - first
        steps = Steps.of(part, np.full(len(part), float(momentum)), asked, start.size)
        result = loop.run(state, rule, steps, *divmod(first, rows.steps_per_epoch))
        results.append(result)
        if result.steps < len(part):
            step = first + result.steps
            raise CheckFailed(
                f"training diverged: expected a finite loss, found {result.next_loss} at step "
                f"{step + 1}, in epoch {step // rows.steps_per_epoch + 1}; lower lr {lrs[step]:g}"
            )
    theta = as_parameters(state.theta, T)
    if not np.isfinite(theta).all():
        raise CheckFailed(
            "training diverged: expected finite parameters, found others after the last step, "
            f"{len(lrs)}; lower lr {lrs[-1]:g}"
        )
    before = np.concatenate([result.before for result in results]).astype(theta.dtype)
    return Trained(
        weight=theta[:-T].reshape(f, *of_targets),
        bias=theta[-T:].reshape(of_targets)[()],
        losses=np.concatenate([result.losses for result in results]),
        lrs=lrs,
        weights=before[:, :-T].reshape(-1, f, *of_targets),
        biases=before[:, -T:].reshape(-1, *of_targets),
    )


def _matrix(
    X: Any, y: Any, weights: Any, dtype: Any, batch_size: int | None, seed: int
) -> tuple[Array, Shape]:
    """Return rows `[x, y]` or `[x, y, weight]` in the precision of the arithmetic.

    Raises:
        RequestError: When they are no rows to train on.
    """
    X, y = np.asarray(X), np.asarray(y)
    X = X[:, None] if X.ndim == 1 else X
    weights = None if weights is None else np.asarray(weights)
    _refuse(array_problems(X, y, weights, batch_size, seed))
    dtype = np.dtype(dtype or (X.dtype if X.dtype == np.float32 else np.float64))
    if dtype not in (np.float32, np.float64):
        raise RequestError(f"dtype: expected float32 or float64; found {dtype}")
    columns = [X, y.reshape(len(y), -1)]
    shape = Shape(X.shape[1], columns[1].shape[1], weights is not None)
    if weights is not None:  # their proportions alone count, and float32 holds these
        columns.append((weights / np.float64(weights.max()))[:, None])
    matrix = np.empty((len(X), sum(part.shape[1] for part in columns)), dtype)
    return np.concatenate(columns, axis=1, out=matrix, casting="unsafe"), shape


def _full(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Float64:
    """Return an option in its full shape.

    Raises:
        RequestError: When it has another shape, and is not one number for all entries.
    """
    found = np.asarray(value, np.float64)
    if found.shape not in ((), shape):
        raise RequestError(f"{name}: expected one number or shape {shape}; found {found.shape}")
    full: Float64 = np.broadcast_to(found, shape).copy()
    return full


def _problems(rule: Rule, momentum: float, epochs: int, lrs: Float64, at: Numbers) -> list[str]:
    """Say which options are out of their range."""
    penalties = ("weight_decay", "l1", "l2", "clip_norm", "clip_value")
    ranges: list[tuple[str, str, Any, float, float]] = [
        ("epochs", "1 or more", epochs, 1, np.inf),
        ("lr", "a finite number of 0 or more", lrs, 0, np.inf),
        ("momentum", "at least 0 and below 1", momentum, 0, 1),
        ("dampening", "0 to 1", rule.dampening, 0, np.nextafter(1, 2)),
        *((n, "a finite number of 0 or more", getattr(rule, n), 0, np.inf) for n in penalties),
        ("states", f"steps from 0 to {len(lrs) - 1}", at, 0, len(lrs)),
    ]
    wrong = []
    for name, what, values, low, end in ranges:
        found: Array = np.atleast_1d(values)
        outside = found[~((low <= found) & (found < end))]
        if len(outside):
            wrong.append(f"{name}: expected {what}; found {outside[0]}")
    if rule.nesterov and not (momentum > 0 and rule.dampening == 0):
        wrong.append("nesterov: expected momentum above 0 and dampening 0 with it; found others")
    return wrong


def _refuse(wrong: list[str]) -> None:
    """Raise an error with all problems, if there are any."""
    if wrong:
        raise RequestError("; ".join(wrong))
