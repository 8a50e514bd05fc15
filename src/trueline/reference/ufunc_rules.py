"""How errors pass through the elementwise functions of NumPy.

Each rule takes its operands as pairs and returns f(x) in float64 with a bound on |f(x̃) − f(x)|, the
rounding of f included. What is passed on is e times the largest |f′| between x − e and x + e, by
the mean value theorem, so terms of second and higher order are in it. No rule subtracts f(x) from
f(x + e): where e is a rounding error of x, their difference is lost.

References:
    Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 3.3.
"""

import math
from collections.abc import Callable

import numpy as np

from trueline.reference.rounding import Arithmetic, gamma
from trueline.reference.running_error import OWN, Array, Pair, Rule, rounded

FEW_ULPS = 8
"""Roundings in an elementary function. Libraries state up to 4 units in the last place, each worth
two unit roundoffs: NumPy's vectorised functions in its pull request 19478, CUDA's `powf` in the
appendix on mathematical functions of the programming guide."""


def smooth(function: np.ufunc, change: Callable[[Pair], Array], roundings: int = FEW_ULPS) -> Rule:
    """Return the rule of a smooth function.

    Args:
        function: f.
        change: A bound on |f(x̃) − f(x)| for all |x̃ − x| ≤ e.
        roundings: In its evaluation.
    """

    def rule(arithmetic: Arithmetic, x: Pair) -> Pair:
        value = function(x.value)
        zero = (x.reach == 0) & (value == 0)
        return rounded(arithmetic, value, change(x), zero, roundings)

    return rule


def exp_change(x: Pair) -> Array:
    """Return `eˣ·(eᵉ − 1)`."""
    return np.asarray(np.exp(x.value) * np.expm1(x.error))


def log_change(x: Pair) -> Array:
    """Return `log x − log(x − e)`, infinite where x − e is not above 0."""
    lowest = x.value - x.error
    return np.where(lowest > 0, np.log1p(x.error / lowest), np.inf)


def sqrt_change(x: Pair) -> Array:
    """Return `√x − √(x − e)`, infinite where x − e is below 0."""
    lowest = x.value - x.error
    both = np.sqrt(x.value) + np.sqrt(np.maximum(lowest, 0))
    return np.where(lowest >= 0, x.error / np.where(both > 0, both, 1), np.inf)


def reciprocal_change(x: Pair) -> Array:
    """Return `1/(|x| − e) − 1/|x|`, infinite where x̃ may be 0."""
    return np.where(x.nearest > 0, x.error / (np.abs(x.value) * x.nearest), np.inf)


def steepest_at_zero(slope: Callable[[Array], Array]) -> Callable[[Pair], Array]:
    """Return e times a slope that falls with |x|, where it is largest."""
    return lambda x: x.error * slope(np.maximum(x.nearest, 0))


def plus(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound a sum: `e_a + e_b`."""
    value, error = a.value + b.value, a.error + b.error
    return rounded(arithmetic, value, error, (value == 0) & (error == 0))


def minus(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound a difference."""
    return plus(arithmetic, a, Pair(-b.value, b.error))


def times(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound a product: `|a|·e_b + |b|·e_a + e_a·e_b`."""
    error = np.abs(a.value) * b.error + a.error * b.reach
    zero = (a.reach == 0) | (b.reach == 0)
    return rounded(arithmetic, a.value * b.value, error, zero)


def over(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound a quotient: `(e_a + |a/b|·e_b)/(|b| − e_b)`, infinite where b̃ may be 0."""
    value = a.value / b.value
    error = np.where(b.nearest > 0, (a.error + np.abs(value) * b.error) / b.nearest, np.inf)
    return rounded(arithmetic, value, error, a.reach == 0)


def power(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound `aᵇ`: any base for whole exponents, else a base that is certain to be above 0."""
    value = np.power(a.value, b.value)
    if not ((b.value == np.rint(b.value)) & (b.error == 0)).all():
        return rounded(arithmetic, value, _power_change(a, b), a.reach == 0, FEW_ULPS)
    count, base = np.abs(b.value), np.where(b.value > 0, a.reach, a.nearest)
    change = a.error * count * np.power(base, b.value - 1)
    change = np.where((count == 0) | (a.error == 0), 0, np.where(base > 0, change, np.inf))
    # A square is one product; other powers are repeated products or calls that are units off.
    roundings = np.where(b.value == 2, 1, np.maximum(count, FEW_ULPS)).astype(np.int64)
    return rounded(arithmetic, value, change, (a.reach == 0) & (b.value > 0), roundings)


def _power_change(a: Pair, b: Pair) -> Array:
    """Return `e_a·|b|·aᵇ⁻¹ + e_b·|log a|·aᵇ`, each factor the largest of the corners."""
    bases, exponents = (a.nearest, a.reach), (b.value - b.error, b.value + b.error)
    largest = np.max([np.power(x, y) for x in bases for y in exponents], axis=0)
    steepest = np.max([np.power(x, y - 1) for x in bases for y in exponents], axis=0)
    logarithm = np.max([np.abs(np.log(x)) for x in bases], axis=0)
    change = np.where(a.error > 0, a.error * b.reach * steepest, 0)
    change = change + np.where(b.error > 0, b.error * logarithm * largest, 0)
    still_zero = (a.reach == 0) & (b.value > b.error)
    return np.where(still_zero, 0, np.where(a.value > a.error, change, np.inf))


def logaddexp(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound `log(eᵃ + eᵇ)`, evaluated as `max(a, b) + log1p(exp(−|a − b|))` or by less stable code.

    Where the result is near 0, torch's logistic loss cancels two terms of the size of a and b.
    """
    apart, spread = a.value - b.value, a.error + b.error
    # The slope by a is the share of eᵃ in eᵃ + eᵇ.
    error = a.error / (1 + np.exp(-apart - spread)) + b.error / (1 + np.exp(apart - spread))
    # The difference, exp and log1p round what may be far larger than a result near 0.
    nearest = np.maximum(np.abs(apart) - spread, 0)
    inner = (1 + nearest) * np.exp(-nearest)
    error = error + gamma(2 * FEW_ULPS, arithmetic.stored) * inner
    error = error + gamma(1, arithmetic.stored) * (a.reach + b.reach)
    value = np.logaddexp(a.value, b.value)
    return rounded(arithmetic, value, error, np.zeros_like(value, bool), FEW_ULPS)


def larger(_: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound the larger of two numbers, which rounds nothing."""
    decided = np.abs(a.value - b.value) > (a.error + b.error) * OWN
    taken = np.where(a.value > b.value, a.error, b.error)
    error = np.where(decided, taken, np.maximum(a.error, b.error))
    return Pair(np.maximum(a.value, b.value), error)


def smaller(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound the smaller of two numbers."""
    value, error = larger(arithmetic, Pair(-a.value, a.error), Pair(-b.value, b.error))
    return Pair(-value, error)


def sign(_: Arithmetic, x: Pair) -> Pair:
    """Bound the sign, which is open where an error reaches 0."""
    value = np.sign(x.value)
    is_open = (x.nearest <= 0) & (x.error > 0)
    return Pair(value, np.where(is_open, 1 + np.abs(value), 0.0))


def unrounded(function: np.ufunc) -> Rule:
    """Return the rule of a change of sign."""
    return lambda _, x: Pair(function(x.value), x.error.copy())


def comparison(function: np.ufunc) -> Rule:
    """Return the rule of a comparison, undecided where errors may turn it round."""

    def rule(_: Arithmetic, a: Pair, b: Pair) -> Pair:
        spread = (a.error + b.error) * OWN
        undecided = (np.abs(a.value - b.value) <= spread) & (spread > 0) | np.isinf(spread)
        return Pair(function(a.value, b.value), np.where(undecided, 1.0, 0.0))

    return rule


def logical(function: np.ufunc) -> Rule:
    """Return the rule of a logical operation, undecided where an operand is."""

    def rule(_: Arithmetic, *masks: Pair) -> Pair:
        value = function(*(mask.value.astype(bool) for mask in masks))
        errors = np.broadcast_arrays(*(mask.error > 0 for mask in masks))
        return Pair(value, np.any(errors, axis=0).astype(float))

    return rule


COMPARISONS = (np.greater, np.greater_equal, np.less, np.less_equal, np.equal, np.not_equal)

LOGICAL = (
    *(np.logical_and, np.logical_or, np.logical_xor, np.logical_not),
    *(np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.invert),
)

RULES: dict[np.ufunc, Rule] = {
    np.add: plus,
    np.subtract: minus,
    np.multiply: times,
    np.divide: over,
    np.power: power,
    np.logaddexp: logaddexp,
    np.maximum: larger,
    np.minimum: smaller,
    np.sign: sign,
    np.square: smooth(np.square, lambda x: x.error * (np.abs(x.value) + x.reach), 1),
    np.sqrt: smooth(np.sqrt, sqrt_change, 1),
    np.reciprocal: smooth(np.reciprocal, reciprocal_change, 1),
    np.exp: smooth(np.exp, exp_change),
    np.expm1: smooth(np.expm1, exp_change),
    np.exp2: smooth(np.exp2, lambda x: np.exp2(x.value) * np.expm1(x.error * math.log(2))),
    np.log: smooth(np.log, log_change),
    np.log1p: smooth(np.log1p, lambda x: log_change(Pair(1 + x.value, x.error))),
    np.log2: smooth(np.log2, lambda x: log_change(x) / math.log(2)),
    np.log10: smooth(np.log10, lambda x: log_change(x) / math.log(10)),
    np.tanh: smooth(np.tanh, steepest_at_zero(lambda x: np.cosh(x) ** -2)),
    np.arctan: smooth(np.arctan, steepest_at_zero(lambda x: 1 / (1 + x * x))),
    np.sinh: smooth(np.sinh, lambda x: x.error * np.cosh(x.reach)),
    np.cosh: smooth(np.cosh, lambda x: x.error * np.sinh(x.reach)),
    np.sin: smooth(np.sin, lambda x: x.error),
    np.cos: smooth(np.cos, lambda x: x.error),
    **{f: unrounded(f) for f in (np.negative, np.positive, np.absolute, np.fabs)},
    **{f: comparison(f) for f in COMPARISONS},
    **{f: logical(f) for f in LOGICAL},
}
"""The rule of each elementwise function."""
