"""The training loop, which returns a trace of every step."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueline.reference.linear import Array, LeastSquares
from trueline.reference.sgd import SGD


class Trace(NamedTuple):
    """What training saw: entry k is the state before step k, the last entry the state at the end.

    Args:
        loss: Shape (n_steps + 1,). Entry k is the loss over the batch of step k, the last entry the
            loss over all rows.
        weight: Shape (n_steps + 1, n_features).
        bias: Shape (n_steps + 1,).
    """

    loss: Array
    weight: Array
    bias: Array


def full_batch(epoch: int) -> Iterable[slice]:
    """Serve all rows as one batch, in every epoch."""
    del epoch
    return (slice(None),)


def train(
    X: ArrayLike,
    y: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike,
    optimizer: SGD,
    epochs: int,
    objective: LeastSquares | None = None,
    batches: Callable[[int], Iterable[slice | NDArray[Any]]] = full_batch,
) -> Trace:
    """Train `X·weight + bias` by SGD in float64.

    Args:
        X: Features, shape (n_samples, n_features), any numeric dtype.
        y: Targets, shape (n_samples,).
        weight: Initial weight, shape (n_features,).
        bias: Initial bias, shape ().
        optimizer: The update rule.
        epochs: Passes over the data.
        objective: What is minimised; the plain mean squared error unless given.
        batches: From an epoch's number to the row indices of its batches.

    Returns:
        The trace of every step.

    Example:
        >>> from trueline.reference.article import X, y
        >>> trace = train(X, y, weight=[0.0], bias=0.0, optimizer=SGD(lr=0.001), epochs=1)
        >>> trace.weight[-1].round(4), trace.bias[-1].round(4)
        (array([1.6427]), np.float64(0.1184))
    """
    X, y = np.asarray(X, np.float64), np.asarray(y, np.float64)
    objective = objective or LeastSquares()
    parameters = {"weight": np.asarray(weight, np.float64), "bias": np.asarray(bias, np.float64)}
    buffers: dict[str, Array | None] = dict.fromkeys(parameters)
    losses, states = [], [parameters]
    for epoch in range(epochs):
        for rows in batches(epoch):
            loss, gradient = objective.loss_and_gradient(parameters, (X[rows], y[rows]))
            stepped = {}
            for name, value in parameters.items():
                stepped[name], buffers[name] = optimizer.step(
                    value, gradient[name], buffers[name], objective.thresholds.get(name, 0.0)
                )
            parameters = stepped
            losses.append(loss)
            states.append(parameters)
    losses.append(objective.loss_and_gradient(parameters, (X, y))[0])
    return Trace(
        loss=np.array(losses),
        weight=np.array([state["weight"] for state in states]),
        bias=np.array([state["bias"] for state in states]),
    )
