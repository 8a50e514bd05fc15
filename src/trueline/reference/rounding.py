"""How far a correct step may be from the reference, by the arithmetic that computed it.

Every bound is a count of roundings times a magnitude, so it scales with the data and with the
dtype; nothing here is tuned. Both sides round, the judged one with unit roundoff u and the
reference with 2⁻⁵³, so the bounds are for the sum of the two.

References:
    Higham, "Accuracy and Stability of Numerical Algorithms" (2002), lemma 3.1 and section 3.1.
    Higham & Mary, "A New Approach to Probabilistic Rounding Error Analysis" (2019).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueline.reference.sgd import SGD

Array = NDArray[np.float64]

DOUBLE, SINGLE, TENSOR_FLOAT, HALF, BRAIN = 2.0**-53, 2.0**-24, 2.0**-11, 2.0**-11, 2.0**-8
"""Unit roundoffs, half the distance from 1 to the next number: float64, float32, TF32, float16,
bfloat16, which keep 53, 24, 11, 11 and 8 bits."""


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
    nu = n * (unit_roundoff + DOUBLE)
    return nu / (1 - nu) if nu < 1 else math.inf


OWN = 1 + gamma(1024, 0.0)
"""Covers the rounding of a bound itself in float64: a few operations, of which those like
`cosh(x)` enlarge the rounding of their operand by up to 710, where they overflow."""


@dataclass(frozen=True)
class Arithmetic:
    """How a training rounds.

    Args:
        stored: Unit roundoff of what each operation of the model leaves.
        summed: Unit roundoff inside a sum or a matrix product; processors keep more digits there
            than they store.
        parameters: Unit roundoff of parameters, gradients and the optimizer's update.
        products: Unit roundoff to which the factors of a matrix product are brought first.
        smallest: The smallest positive number that is stored; what is lost to underflow is less.
        largest: The largest number that is stored.
    """

    stored: float
    summed: float
    parameters: float
    products: float
    smallest: float = 2.0**-149
    largest: float = float(np.finfo(np.float32).max)

    @property
    def uniform(self) -> bool:
        """Whether everything rounds alike."""
        return self.stored == self.summed == self.parameters == self.products

    def lost(self, x: ArrayLike) -> Array:
        """Bound what is lost by bringing numbers to the stored dtype: 0 where it holds them.

        Example:
            >>> BFLOAT16.lost([0.5, 255.0, 257.0]) > 0
            array([False, False,  True])

        References:
            Dekker, "A floating-point technique for extending the available precision" (1971).
        """
        value = np.asarray(x, np.float64)
        size = np.abs(value)
        with np.errstate(over="ignore", invalid="ignore"):  # numbers beyond the dtype's range
            # Dekker's splitting leaves as many leading digits as the dtype has.
            enlarged = value * (self.stored / DOUBLE + 1)
            held = (enlarged - (enlarged - value) == value) | np.isinf(value)
            steps = value / self.smallest
        subnormal = size < self.smallest / self.stored
        held &= ~subnormal | (np.rint(steps) == steps)
        lost = np.where(held, 0.0, (self.stored * size + self.smallest) * OWN)
        return np.where((size > self.largest) & np.isfinite(value), np.inf, lost)


FLOAT64 = Arithmetic(DOUBLE, DOUBLE, DOUBLE, DOUBLE, 2.0**-1074, float(np.finfo(np.float64).max))
FLOAT32 = Arithmetic(SINGLE, SINGLE, SINGLE, SINGLE)
TF32 = Arithmetic(SINGLE, SINGLE, SINGLE, products=TENSOR_FLOAT)
BFLOAT16 = Arithmetic(BRAIN, SINGLE, BRAIN, BRAIN, 2.0**-133)
BFLOAT16_MIXED = Arithmetic(BRAIN, SINGLE, SINGLE, BRAIN, 2.0**-133)
FLOAT16_MIXED = Arithmetic(HALF, SINGLE, SINGLE, HALF, 2.0**-24, 65504.0)


def least_squares_bound(
    X: Array,
    y: Array,
    share: Array | float,
    weight: Array,
    bias: Array,
    l1: float,
    l2: float,
    unit_roundoff: float,
) -> tuple[Array, dict[str, Array]]:
    """Bound the rounding error of the mean squared error and its gradient, over a batch a step.

    A residual is a sum of p + 2 terms, and features and target are brought to the dtype first, so
    `δ = γ(p + 4)·(|X||weight| + |bias| + |y|)` bounds its error. With s the share of each residual
    in the mean, the loss errs by at most `Σs(2|r|δ + δ²) + γ(2N + 6)·Σs(|r| + δ)²`, and the
    gradient by `2|X|ᵀsδ + γ(2N + 6)·2|X|ᵀs(|r| + δ)`, N being the number of residuals; without
    sample weights N + 4 roundings do for 2N + 6. A penalty adds its own few roundings and one for
    each addition.

    Args:
        X: Features, shape (n_steps, n_samples, n_features).
        y: Targets, shape (n_steps, n_samples, n_targets).
        share: Of each residual in the mean: 1/N, or where there are sample weights an array that
            broadcasts with `y`.
        weight: Before each step, shape (n_steps, n_features, n_targets).
        bias: Before each step, shape (n_steps, 1, n_targets).
        l1: Strength of the L1 penalty.
        l2: Strength of the L2 penalty.
        unit_roundoff: Of the arithmetic that is judged.

    Returns:
        Bounds on the losses, shape (n_steps,), and on the gradients by `weight`, in its shape, and
        by `bias`, shape (n_steps, n_targets).

    Example:
        >>> X, y, zero = np.ones((1, 2, 1)), np.ones((1, 2, 1)), np.zeros((1, 1, 1))
        >>> loss, _ = least_squares_bound(X, y, 0.5, zero, zero, 0.0, 0.0, unit_roundoff=2.0**-53)
        >>> bool(0 < loss[0] < 1e-14)
        True
    """
    n_features, n = X.shape[2], y.shape[1] * y.shape[2]
    magnitude, size = np.abs(X), np.abs(weight)
    magnitude_T = np.swapaxes(magnitude, 1, 2)
    r = np.abs(X @ weight + bias - y)
    error = gamma(n_features + 4, unit_roundoff) * (magnitude @ size + np.abs(bias) + np.abs(y))
    reach = r + error
    summed = gamma(2 * n + 6 if isinstance(share, np.ndarray) else n + 4, unit_roundoff)
    loss = np.sum(share * ((r + reach) * error + summed * reach * reach), axis=(1, 2))
    per_residual = 2 * share * (error + summed * reach)
    by_weight = magnitude_T @ per_residual
    by_bias = per_residual.sum(axis=1)
    if l1 or l2:
        few = gamma(n_features * weight.shape[2] + 5, unit_roundoff)
        penalty = np.sum(l1 * size + l2 * size * size, axis=(1, 2))
        loss += few * (np.sum(share * reach * reach, axis=(1, 2)) + penalty)
        by_weight = by_weight + few * (magnitude_T @ (2 * share * reach) + 2 * l2 * size)
    return loss, {"weight": by_weight, "bias": by_bias}


def window_bound(bound: Array, size: Array, parts: int, unit_roundoff: float) -> Array:
    """Bound the error of a gradient that is accumulated over several batches or processes.

    Each part is scaled by its share, which the loop may do in several steps, and added.

    Args:
        bound: On the weighted mean of the parts, from the bounds of each.
        size: The weighted mean of the parts' absolute values.
        parts: Their number.
        unit_roundoff: Of the parameters' arithmetic.
    """
    return np.asarray(bound + gamma(3 * parts + 3, unit_roundoff) * (size + bound))


def step_bound(
    optimizer: SGD,
    parameter: Array,
    gradient: Array,
    gradient_bound: Array,
    buffer: Array | None,
    unit_roundoff: float,
    lr_error: float = 0.0,
    l1: Array | float = 0.0,
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
        lr_error: By which the learning rate in use may differ from that of `optimizer`.
        l1: Strength of the L1 penalty, as `SGD.step` takes it.

    Returns:
        Bounds on the parameter and on the momentum buffer after the step.
    """
    three = gamma(3, unit_roundoff)
    error, size = gradient_bound, np.abs(gradient) + gradient_bound
    if optimizer.weight_decay:
        size = size + optimizer.weight_decay * np.abs(parameter)
        error = error + three * size
    buffer_error, buffer_size, damped = error, size, 1.0
    if optimizer.momentum and buffer is not None:
        damped = 1 - optimizer.dampening
        buffer_size = optimizer.momentum * np.abs(buffer) + damped * size
        buffer_error = damped * error + three * buffer_size
    lr = abs(optimizer.lr) + lr_error

    def moved(start: Array, size: Array, error: Array) -> Array:
        """Bound the error of start − lr·direction by the direction's size and error."""
        error = lr * error + three * lr * size + lr_error * size
        return np.asarray(error + gamma(1, unit_roundoff) * (start + lr * size))

    start = np.abs(parameter)
    if not np.any(l1):
        if optimizer.nesterov:
            size = size + optimizer.momentum * buffer_size
            error = error + optimizer.momentum * buffer_error + three * size
        else:
            size, error = buffer_size, buffer_error
        return moved(start, size, error), buffer_error
    if not optimizer.nesterov:
        size, error = buffer_size, buffer_error
    l1 = damped * l1
    # The soft threshold brings no two numbers further apart than they and their thresholds are.
    thresholded = moved(start, size, error) + (2 * lr_error + three * lr) * l1
    # No pull exceeds l1, however small the learning rate that it is divided by.
    with np.errstate(divide="ignore", invalid="ignore"):
        pull_error = np.fmin(thresholded / np.maximum(lr - 2 * lr_error, 0), 2 * l1)
    buffer_size = buffer_size + l1
    buffer_error = buffer_error + pull_error + gamma(5, unit_roundoff) * buffer_size
    reach = start + lr * size
    after = thresholded + gamma(1, unit_roundoff) * reach
    if optimizer.nesterov:
        ahead = optimizer.momentum * buffer_size, optimizer.momentum * buffer_error
        after = after + moved(reach, *ahead)
    return np.asarray(after), buffer_error
