"""How errors pass through sums, products of matrices, choices and rearrangements of arrays.

Inside a sum of n terms, and so inside a product of matrices, roundings have the unit roundoff
`summed` and amount to no more than `γ(n)·Σ(|x| + e)` in any order of the terms; the result is
rounded once more when it is stored.

References:
    Higham, "Accuracy and Stability of Numerical Algorithms" (2002), sections 3.1, 3.5 and 4.2.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trueline.reference.rounding import Arithmetic
from trueline.reference.running_error import (
    OWN,
    UNDERFLOWS,
    Array,
    Pair,
    Rule,
    converted,
    rounded,
    summed,
)
from trueline.reference.ufunc_rules import RULES

Axis = int | tuple[int, ...] | None


def total(arithmetic: Arithmetic, a: Pair, axis: Axis = None, *, keepdims: bool = False) -> Pair:
    """Bound a sum."""
    value, error, reach = (
        np.sum(part, axis=axis, keepdims=keepdims) for part in (a.value, a.error, a.reach)
    )
    n = a.value.size // max(np.size(value), 1)
    return rounded(arithmetic, *summed(arithmetic, value, error, reach, n), zero=reach == 0)


def mean(arithmetic: Arithmetic, a: Pair, axis: Axis = None, *, keepdims: bool = False) -> Pair:
    """Bound a mean: a sum, divided before it is stored."""
    value = np.mean(a.value, axis=axis, keepdims=keepdims)
    error, reach = (np.sum(part, axis=axis, keepdims=keepdims) for part in (a.error, a.reach))
    n = a.value.size // max(np.size(value), 1)
    _, error = summed(arithmetic, value, error, reach, n + 1)
    return rounded(arithmetic, value, error / max(n, 1), reach == 0)


def cast(arithmetic: Arithmetic, x: Pair) -> Pair:
    """Bring a factor of a matrix product to the precision in which it is multiplied."""
    if arithmetic.products <= arithmetic.stored:
        return x
    lost = (arithmetic.products * x.reach + arithmetic.smallest) * OWN
    return Pair(x.value, x.error + np.where(x.reach == 0, 0, lost))


def matmul(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound a product of matrices, `|A|·E_B + E_A·(|B| + E_B)` and its roundings."""
    value = a.value @ b.value
    a, b = cast(arithmetic, a), cast(arithmetic, b)
    k = a.value.shape[-1]
    error, reach = np.abs(a.value) @ b.error + a.error @ b.reach, a.reach @ b.reach
    zero = reach == 0
    if zero.any():  # of factors that are 0, or of products too small for float64
        zero = (a.reach > 0).astype(float) @ (b.reach > 0).astype(float) == 0
    lost = np.where(zero, 0, UNDERFLOWS * k * arithmetic.smallest)
    return rounded(arithmetic, *summed(arithmetic, value, error + lost, reach, k + 1), zero)


def dot(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound `np.dot` of scalars, vectors and matrices."""
    if a.value.ndim == 0 or b.value.ndim == 0:
        return RULES[np.multiply](arithmetic, a, b)
    if b.value.ndim > 2:
        raise NotImplementedError("np.dot of arrays with more than two axes")
    return matmul(arithmetic, a, b)


def inner(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound `np.inner`, which sums over the last axis of both."""
    return dot(arithmetic, a, Pair(b.value.T, b.error.T))


def vdot(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound the product of two arrays as vectors."""
    return matmul(arithmetic, *(Pair(x.value.ravel(), x.error.ravel()) for x in (a, b)))


def outer(arithmetic: Arithmetic, a: Pair, b: Pair) -> Pair:
    """Bound the products of all pairs of entries."""
    column = Pair(a.value.reshape(-1, 1), a.error.reshape(-1, 1))
    return RULES[np.multiply](arithmetic, column, Pair(b.value.ravel(), b.error.ravel()))


def norm(
    arithmetic: Arithmetic,
    x: Pair,
    ord: int | str | None = None,
    axis: Axis = None,
    keepdims: bool = False,
) -> Pair:
    """Bound a Euclidean norm: of differences by their norm, |‖x̃‖ − ‖x‖| ≤ ‖e‖."""
    if not (ord is None or (ord == 2 and (isinstance(axis, int) or x.value.ndim == 1))):
        raise NotImplementedError(f"np.linalg.norm with ord={ord}")
    value, error, reach = (
        np.linalg.norm(part, axis=axis, keepdims=keepdims) for part in (x.value, x.error, x.reach)
    )
    n = x.value.size // max(np.size(value), 1)
    # Squares that underflow: √(Σx² + δ) differs from √Σx² by at most √δ.
    lost = np.where(reach > 0, np.sqrt(UNDERFLOWS * n * arithmetic.smallest), 0)
    _, error = summed(arithmetic, value, error + lost, reach, n + 3)
    error = np.where(np.square(reach + error) <= arithmetic.largest, error, np.inf)
    return rounded(arithmetic, value, error, reach == 0)


def extreme(function: Callable[..., Array], direction: int) -> Rule:
    """Return the rule of a largest or smallest entry, which may be any whose errors let it."""

    def rule(_: Arithmetic, a: Pair, axis: Axis = None, *, keepdims: bool = False) -> Pair:
        lowest = np.max(direction * a.value - a.error, axis=axis, keepdims=True)
        may_be = direction * a.value + a.error >= lowest
        error = np.max(np.where(may_be, a.error, 0), axis=axis, keepdims=keepdims)
        return Pair(function(a.value, axis=axis, keepdims=keepdims), error)

    return rule


def any_or_all(function: Callable[..., Array]) -> Rule:
    """Return the rule of a question about many truth values, undecided where one of them is."""

    def rule(_: Arithmetic, a: Pair, axis: Axis = None, *, keepdims: bool = False) -> Pair:
        error = np.max(a.error, axis=axis, keepdims=keepdims, initial=0)
        return Pair(function(a.value, axis=axis, keepdims=keepdims), error)

    return rule


def where(_: Arithmetic, condition: Pair, x: Pair, y: Pair) -> Pair:
    """Bound a choice: where the condition is undecided, the error covers both."""
    first = condition.value.astype(bool)
    value, error = np.where(first, x.value, y.value), np.where(first, x.error, y.error)
    other = np.where(first, y.error, x.error) + np.abs(x.value - y.value) * OWN
    return Pair(value, np.where(condition.error > 0, np.maximum(error, other), error))


def clip(
    arithmetic: Arithmetic, a: Pair, a_min: Pair | None = None, a_max: Pair | None = None
) -> Pair:
    """Bound `np.clip`: the larger of the number and one limit, the smaller of that and another."""
    a = a if a_min is None else RULES[np.maximum](arithmetic, a, a_min)
    return a if a_max is None else RULES[np.minimum](arithmetic, a, a_max)


def full_like(arithmetic: Arithmetic, a: Pair, fill_value: Any) -> Pair:
    """Return one number in the shape of an array."""
    fill = converted(arithmetic, fill_value)
    return Pair(*(np.full(a.value.shape, part) for part in fill))


def constant(value: float) -> Rule:
    """Return the rule of an array of zeros or ones."""
    return lambda arithmetic, a: full_like(arithmetic, a, value)


def rearranged(function: Callable[..., Array]) -> Rule:
    """Return the rule of a function that moves entries: errors move alike."""
    return lambda _, a, *how, **options: Pair(
        function(a.value, *how, **options), function(a.error, *how, **options)
    )


def joined(function: Callable[..., Array]) -> Rule:
    """Return the rule of a function that joins a list of arrays."""

    def rule(_: Arithmetic, arrays: Sequence[Pair], *how: Any, **options: Any) -> Pair:
        values, errors = ([pair[i] for pair in arrays] for i in (0, 1))
        return Pair(function(values, *how, **options), function(errors, *how, **options))

    return rule


JOINS = (np.concatenate, np.stack, np.vstack, np.hstack, np.column_stack)

REARRANGEMENTS = (
    *(np.transpose, np.reshape, np.ravel, np.expand_dims, np.squeeze, np.broadcast_to, np.copy),
    *(np.swapaxes, np.moveaxis, np.flip, np.roll, np.repeat, np.tile, np.take, np.diagonal),
    *(np.take_along_axis, np.triu, np.tril, np.atleast_1d, np.atleast_2d),
)

FUNCTIONS: dict[Callable[..., Any], tuple[Rule, int]] = {
    np.sum: (total, 1),
    np.mean: (mean, 1),
    np.dot: (dot, 2),
    np.vdot: (vdot, 2),
    np.inner: (inner, 2),
    np.outer: (outer, 2),
    np.linalg.norm: (norm, 1),
    np.where: (where, 3),
    np.clip: (clip, 3),
    np.zeros_like: (constant(0.0), 1),
    np.ones_like: (constant(1.0), 1),
    np.full_like: (full_like, 1),
    **{f: (extreme(f, 1), 1) for f in (np.max, np.amax)},
    **{f: (extreme(f, -1), 1) for f in (np.min, np.amin)},
    **{f: (any_or_all(f), 1) for f in (np.any, np.all)},
    **{f: (rearranged(f), 1) for f in REARRANGEMENTS},
    **{f: (joined(f), 0) for f in JOINS},
}
"""The rule of each function, and how many of its first arguments are arrays; 0 for a list."""

UFUNCS = {**RULES, np.matmul: matmul}
"""The rule of each function that NumPy dispatches as a ufunc."""
