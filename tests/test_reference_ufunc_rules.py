"""`reference.ufunc_rules`: each elementwise rule against what it bounds.

The oracles: NumPy itself in float32, from operands moved within their errors; `decimal` with 60
digits, where float64 is what is judged; and operands moved by a lot, where curvature counts.
"""

import operator
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.reference.bounded import Bounded
from trueline.reference.rounding import FLOAT32, FLOAT64
from trueline.reference.ufunc_rules import COMPARISONS, LOGICAL, RULES

REAL, POSITIVE, LARGE = (-8.0, 8.0), (0.01, 8.0), (-1e6, 1e6)
UNARY: dict[np.ufunc, tuple[float, float]] = {
    **dict.fromkeys((np.negative, np.positive, np.absolute, np.fabs, np.square), LARGE),
    **dict.fromkeys((np.exp, np.exp2, np.expm1, np.tanh, np.sinh, np.cosh, np.sin, np.cos), REAL),
    **dict.fromkeys((np.log, np.log2, np.log10, np.sqrt, np.reciprocal), POSITIVE),
    np.log1p: (-0.99, 8.0),
    np.arctan: REAL,
    np.sign: LARGE,
}
BINARY: dict[np.ufunc, tuple[tuple[float, float], tuple[float, float]]] = {
    **dict.fromkeys((np.add, np.subtract, np.multiply, np.maximum, np.minimum), (LARGE, LARGE)),
    np.divide: (LARGE, POSITIVE),
    np.power: (POSITIVE, (-3.0, 3.0)),
    np.logaddexp: ((-30.0, 30.0), (-30.0, 30.0)),
}
ELEMENTWISE = {**{f: (domain,) for f, domain in UNARY.items()}, **BINARY}
seeds = st.integers(0, 2**32 - 1)


def test_every_elementwise_rule_is_tested() -> None:
    assert {*ELEMENTWISE, *COMPARISONS, *LOGICAL} == set(RULES)


def draw(rng: np.random.Generator, domain: tuple[float, float], n: int = 50) -> np.ndarray:
    """Draw numbers that float32 holds, a few of them 0 or 1 where the domain has them."""
    x = rng.uniform(*domain, n)
    x[:4] = np.clip([0.0, 1.0, -1.0, 0.5], *domain)
    return x.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("function", ELEMENTWISE, ids=lambda f: f.__name__)
@settings(deadline=None, max_examples=40)
@given(seed=seeds, ulps=st.sampled_from([0, 1, 30, 10_000]))
def test_rule_holds_for_float32_from_moved_operands(
    function: np.ufunc, seed: int, ulps: int
) -> None:
    rng = np.random.default_rng(seed)
    exact = [draw(rng, domain) for domain in ELEMENTWISE[function]]
    moved = [x * (1 + ulps * 2.0**-23 * rng.choice([-1, 0, 1], x.shape)) for x in exact]
    moved = [x.astype(np.float32) for x in moved]
    operands = [Bounded(x, np.abs(y - x), FLOAT32) for x, y in zip(exact, moved, strict=True)]
    bounded = function(*operands)
    with np.errstate(all="ignore"):
        away = np.abs(function(*moved).astype(np.float64) - function(*exact))
    np.testing.assert_array_equal(bounded.value, function(*exact))
    assert (away <= bounded.error).all()


def largest_change(function: np.ufunc, seed: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how far results move with operands that move within errors, and the bounds on it."""
    rng = np.random.default_rng(seed)
    exact = [draw(rng, domain) for domain in ELEMENTWISE[function]]
    # Multiples of 2⁻¹⁶, so that operands are moved without rounding.
    errors = [np.ceil(size * rng.uniform(0, 1, x.shape) * 2**16) / 2**16 for x in exact]
    operands = [Bounded(x, e, FLOAT64) for x, e in zip(exact, errors, strict=True)]
    steps = np.meshgrid(*[np.linspace(-1, 1, 9)] * len(exact))
    worst = np.zeros(exact[0].shape)
    with np.errstate(all="ignore"):
        for step in zip(*(part.ravel() for part in steps), strict=True):
            moved = [x + s * e for x, s, e in zip(exact, step, errors, strict=True)]
            worst = np.fmax(worst, np.abs(function(*moved) - function(*exact)))
    return worst, function(*operands).error


@pytest.mark.parametrize("function", ELEMENTWISE, ids=lambda f: f.__name__)
@settings(deadline=None, max_examples=40)
@given(seed=seeds, size=st.sampled_from([1e-3, 0.1, 1.0, 3.0]))
def test_rule_holds_for_operands_that_are_far_off(
    function: np.ufunc, seed: int, size: float
) -> None:
    worst, bound = largest_change(function, seed, size)
    assert (worst <= bound).all()


@pytest.mark.parametrize("function", ELEMENTWISE, ids=lambda f: f.__name__)
def test_rule_is_not_far_above_what_happens(function: np.ufunc) -> None:
    worst, bound = largest_change(function, seed=0, size=1e-3)
    assert function is np.sign or np.median(worst / bound) > 0.25


DECIMAL: dict[np.ufunc, Callable[..., Decimal]] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.divide: operator.truediv,
    np.power: operator.pow,
    np.exp: Decimal.exp,
    np.log: Decimal.ln,
    np.log10: Decimal.log10,
    np.sqrt: Decimal.sqrt,
    np.expm1: lambda x: x.exp() - 1,
    np.log1p: lambda x: (1 + x).ln(),
    np.square: lambda x: x * x,
    np.reciprocal: lambda x: 1 / x,
    np.tanh: lambda x: 1 - 2 / ((2 * x).exp() + 1),
    np.sinh: lambda x: (x.exp() - (-x).exp()) / 2,
    np.cosh: lambda x: (x.exp() + (-x).exp()) / 2,
    np.logaddexp: lambda a, b: (a.exp() + b.exp()).ln(),
}


@pytest.mark.parametrize("function", DECIMAL, ids=lambda f: f.__name__)
@settings(deadline=None, max_examples=10)
@given(seed=seeds, ulps=st.sampled_from([0, 1, 7]))
def test_rule_holds_for_the_last_digits_of_float64(
    function: np.ufunc, seed: int, ulps: int
) -> None:
    rng = np.random.default_rng(seed)
    exact = [draw(rng, domain, 12)[4:] for domain in ELEMENTWISE[function]]
    moved = [x * (1 + ulps * 2.0**-52 * rng.choice([-1, 1], x.shape)) for x in exact]
    operands = [Bounded(x, np.abs(y - x), FLOAT64) for x, y in zip(exact, moved, strict=True)]
    bounded = function(*operands)
    with localcontext() as context:
        context.prec = 60
        for i, (value, error) in enumerate(zip(bounded.value, bounded.error, strict=True)):
            true = DECIMAL[function](*(Decimal(float(y[i])) for y in moved))
            assert abs(true - Decimal(float(value))) <= Decimal(float(error))
            assert error < 1e-12 * max(1, abs(value), *(abs(x[i]) for x in exact))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 5, -1, -2, np.arange(-2, 3), 0.5, 1.5, -0.5])
@pytest.mark.parametrize("base", [-2.0, 0.0, 1.5])
def test_power_by_a_constant_holds(base: float, exponent: Any) -> None:
    x = Bounded(np.array(base), 0.1, FLOAT64)
    with np.errstate(all="ignore"):
        bounded, moved = (
            x**exponent,
            [(base + s) ** np.asarray(exponent, float) for s in (-0.1, 0.1)],
        )
    away = np.max(np.abs(moved - bounded.value), axis=0)
    known = np.isfinite(bounded.error)
    assert (away[known] <= bounded.error[known]).all()
    # Unknown is only what may be divided by 0, or is no whole power of what may be negative.
    whole = np.rint(exponent) == exponent
    expected = (base != 0) & whole | (np.asarray(exponent) >= 0) & whole | (base > 0)
    np.testing.assert_array_equal(known, expected)
    assert (2.0 ** Bounded(3.0, 0.1, FLOAT64)).error == pytest.approx(8 * (2**0.1 - 1), rel=0.1)


@pytest.mark.parametrize("function", COMPARISONS, ids=lambda f: f.__name__)
def test_comparisons_are_undecided_where_errors_meet(function: np.ufunc) -> None:
    a = Bounded(np.array([1.0, 1.0, 1.0, 1.0]), np.array([0.0, 0.1, 0.1, 0.1]), FLOAT32)
    b = Bounded(np.array([1.0, 1.15, 1.25, 0.5]), np.array([0.0, 0.1, 0.1, 0.1]), FLOAT32)
    mask = function(a, b)
    assert mask.value.tolist() == function(a.value, b.value).tolist()
    assert mask.error.tolist() == [0, 1, 0, 0]
    chosen = np.where(mask, a, b)
    assert chosen.value.tolist() == np.where(mask.value, a.value, b.value).tolist()
    assert np.allclose(chosen.error[1], 0.1 + 0.15)  # either may have been chosen
    assert chosen.error[0] == 0
    assert ((~mask) | mask).error.tolist() == [0, 1, 0, 0]
    assert (mask * a).error[1] >= 1.0
    assert b[mask[2:].value.nonzero()[0]].shape == b[2:][mask[2:]].shape
    for refused in (lambda: b[mask], lambda: bool(np.all(mask)), lambda: a.value[mask]):
        with pytest.raises(TypeError, match="1 undecided of"):
            refused()
    assert bool(np.any(mask[2:])) == mask.value[2:].any()


def test_what_has_no_finite_bound_is_infinite() -> None:
    one, wide = Bounded(1.0, 0.0, FLOAT32), Bounded(1.0, 1.0, FLOAT32)
    unknown = [one / wide, 1 / wide, np.log(wide), wide**-1, np.sqrt(wide - 0.5), wide**0.5]
    unknown += [(3 * wide - 2) ** -1, (3 * wide - 2) ** -0.5, np.sqrt(3 * wide - 2)]
    unknown += [np.reciprocal(wide), np.log1p(wide - 2), one * 1e38 * 10, np.exp(89 * one)]
    unknown += [
        np.log(wide) * 0,
        np.sum(np.stack([np.log(wide), one])),
        np.log(wide) - np.log(wide),
    ]
    unknown += [Bounded(1.0, np.nan, FLOAT32), np.clip(one, None, np.log(wide))]
    unknown += [np.linalg.norm(np.stack([one * 1e30, one])), np.log(wide) > 0]
    assert [x.error > 0.9 for x in unknown] == [True] * len(unknown)
    assert [np.isinf(x.error) for x in unknown[:-1]] == [True] * (len(unknown) - 1)
    known = [wide / 1, np.log(one), np.exp(88 * one), np.where(one > 2, np.log(wide), one)]
    known += [np.maximum(-np.inf, one), np.clip(wide, 0, np.inf), np.sqrt(wide)]
    assert all(np.isfinite(x.error) for x in known)


def test_larger_and_smaller_have_the_error_of_what_is_taken_for_certain() -> None:
    a, b = Bounded(np.array([5.0, 5.0]), 0.1, FLOAT32), Bounded(np.array([1.0, 4.0]), 2.0, FLOAT32)
    assert np.maximum(a, b).error.tolist() == [0.1, 2.0]
    assert np.minimum(b, a).error.tolist() == [2.0, 2.0]
    assert np.minimum(b + 9, a).error.tolist() == [0.1, 0.1]


def test_zeros_stay_exact() -> None:
    zero, x = Bounded(np.zeros(3), 0.0, FLOAT32), Bounded(np.ones(3), 0.1, FLOAT32)
    for exact in (zero * x, zero @ x, zero + zero, np.sum(zero), np.tanh(zero), zero / x, zero**2):
        assert not exact.value.any()
        assert not exact.error.any()
    assert (np.maximum(zero @ x, 0) > 0).error == 0
