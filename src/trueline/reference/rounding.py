"""How far a correct step may be from the reference, by the arithmetic that computed it.

Every bound is a count of roundings times a magnitude, so it scales with the data and with the
dtype; nothing here is tuned. Both sides round, the judged one with unit roundoff u and the
reference with 2⁻⁵³, so the bounds are for the sum of the two.

References:
    Higham, "Accuracy and Stability of Numerical Algorithms" (2002), lemma 3.1 and section 3.1.
    Higham & Mary, "A New Approach to Probabilistic Rounding Error Analysis" (2019).
"""

import math

import numpy as np
from numpy.typing import NDArray

from trueline.reference.sgd import SGD

Array = NDArray[np.float64]

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24}
"""Half the distance from 1 to the next number, by dtype (IEEE 754)."""


def gamma(n: int, unit_roundoff: float) -> float:
    """Bound the relative error of a product of `n` rounding factors: `n·u/(1 − n·u)`.

    It holds for any order of evaluation and for any data. The probabilistic bound of Higham & Mary
    grows with √n instead, but for errors that are independent: a column of few different values,
    summed over many rows, rounds the same way again and again and leaves it.

    Args:
        n: Number of roundings, ≥ 1.
        unit_roundoff: u of the judged arithmetic; the reference's own is added.

    Returns:
        The bound; infinite from n = 1/u on, which is 16.8 million in float32.

    Example:
        >>> round(gamma(1, 2.0**-24) / 2.0**-24, 6)
        1.0
        >>> gamma(2**24, 2.0**-24)
        inf
    """
    nu = n * (unit_roundoff + UNIT_ROUNDOFF["float64"])
    return nu / (1 - nu) if nu < 1 else math.inf


def least_squares_bound(
    X: Array, y: Array, weight: Array, bias: Array, l1: float, l2: float, unit_roundoff: float
) -> tuple[float, dict[str, Array]]:
    """Bound the rounding error of the mean squared error and its gradient over one batch.

    A residual is a sum of p + 2 terms, so `δ = γ(p + 2)·(|X||weight| + |bias| + |y|)` bounds it.
    The loss then errs by at most `mean(2|r|δ + δ²) + γ(N + 2)·mean((|r| + δ)²)`, and the gradient
    by `2/N·|X|ᵀδ + γ(N + 3)·2/N·|X|ᵀ(|r| + δ)`, N being the number of residuals. A penalty adds
    its own few roundings and one for each addition.

    Args:
        X: Features, shape (n_samples, n_features).
        y: Targets, shape (n_samples,) or (n_samples, n_targets).
        weight: Shape (n_features,) or (n_features, n_targets).
        bias: Shape () or (n_targets,).
        l1: Strength of the L1 penalty.
        l2: Strength of the L2 penalty.
        unit_roundoff: Of the arithmetic that is judged.

    Returns:
        A bound on the loss, and one on each gradient in its parameter's shape.
    """
    n_features, n = X.shape[1], y.size
    magnitude, size = np.abs(X), np.abs(weight)
    r = np.abs(X @ weight + bias - y)
    error = gamma(n_features + 2, unit_roundoff) * (magnitude @ size + np.abs(bias) + np.abs(y))
    reach = r + error
    summed = gamma(n + 3, unit_roundoff)
    loss = float(np.vdot(r + reach, error) + summed * np.vdot(reach, reach)) / n
    per_residual = (error + summed * reach) * (2 / n)
    by_weight = magnitude.T @ per_residual
    by_bias = per_residual.sum(axis=0)
    if l1 or l2:
        few = gamma(n_features + 5, unit_roundoff)
        loss += few * float(np.vdot(reach, reach) / n + np.sum(l1 * size + l2 * size * size))
        by_weight = by_weight + few * (magnitude.T @ reach * (2 / n) + l1 + 2 * l2 * size)
    return loss, {"weight": np.asarray(by_weight), "bias": np.asarray(by_bias)}


def step_bound(
    optimizer: SGD,
    parameter: Array,
    gradient: Array,
    gradient_bound: Array,
    buffer: Array | None,
    unit_roundoff: float,
) -> tuple[Array, Array]:
    """Bound the rounding error of one SGD step, given that of the gradient.

    Each line of the update rule adds at most three roundings (a constant brought to the dtype, a
    product, a sum) of the magnitudes that it adds up.

    Args:
        optimizer: The update rule.
        parameter: Before the step.
        gradient: The reference's, in the shape of the parameter.
        gradient_bound: On the error of the judged gradient.
        buffer: Momentum buffer before the step; None at the first step.
        unit_roundoff: Of the arithmetic that is judged.

    Returns:
        Bounds on the parameter and on the momentum buffer after the step.
    """
    three = gamma(3, unit_roundoff)
    error, size = gradient_bound, np.abs(gradient) + gradient_bound
    if optimizer.weight_decay:
        size = size + optimizer.weight_decay * np.abs(parameter)
        error = error + three * size
    buffer_error = error
    if optimizer.momentum:
        buffer_size = size
        if buffer is not None:
            kept = 1 - optimizer.dampening
            buffer_size = optimizer.momentum * np.abs(buffer) + kept * size
            buffer_error = kept * error + three * buffer_size
        if optimizer.nesterov:
            size = size + optimizer.momentum * buffer_size
            error = error + optimizer.momentum * buffer_error + three * size
        else:
            size, error = buffer_size, buffer_error
    moved = optimizer.lr * size
    error = optimizer.lr * error + three * moved
    return np.asarray(error + gamma(1, unit_roundoff) * (np.abs(parameter) + moved)), buffer_error
