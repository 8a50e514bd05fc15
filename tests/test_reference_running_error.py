"""`reference.running_error`: each rule against what it bounds.

The oracles: NumPy in float32 from operands moved within their errors, `decimal` with 60 digits, and
operands moved by a lot. `test_reference_bound_by_running.py` has whole objectives.
"""

import operator
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.reference.rounding import FLOAT32, FLOAT64, TF32, Arithmetic
from trueline.reference.running_error import COMPARISONS, FUNCTIONS, LOGICAL, MOVES, UFUNCS, Bounded

REAL, POSITIVE, LARGE = (-8.0, 8.0), (0.01, 8.0), (-1e6, 1e6)
ELEMENTWISE: dict[np.ufunc, Any] = {
    **dict.fromkeys((np.negative, np.absolute, np.square, np.sign), (LARGE,)),
    **dict.fromkeys((np.exp, np.tanh), (REAL,)),
    **dict.fromkeys((np.log, np.sqrt), (POSITIVE,)),
    np.log1p: ((-0.99, 8.0),),
    **dict.fromkeys((np.add, np.subtract, np.multiply, np.maximum, np.minimum), (LARGE, LARGE)),
    np.divide: (LARGE, POSITIVE),
    np.power: (POSITIVE, (-3.0, 3.0)),
    np.logaddexp: ((-30.0, 30.0), (-30.0, 30.0)),
}
DECIMAL: dict[np.ufunc, Callable[..., Decimal]] = {
    np.negative: operator.neg,
    np.absolute: abs,
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.divide: operator.truediv,
    np.power: operator.pow,
    np.square: lambda x: x * x,
    np.exp: Decimal.exp,
    np.log: Decimal.ln,
    np.sqrt: Decimal.sqrt,
    np.log1p: lambda x: (1 + x).ln(),
    np.tanh: lambda x: 1 - 2 / ((2 * x).exp() + 1),
    np.logaddexp: lambda a, b: (a.exp() + b.exp()).ln(),
    np.maximum: max,
    np.minimum: min,
}
ARRAYS: dict[Any, Callable[..., Any]] = {
    np.sum: lambda f, A, _: f(A, axis=0),
    np.mean: lambda f, A, _: f(A, axis=(0, 1), keepdims=True),
    np.max: lambda f, A, _: f(A, axis=1),
    np.min: lambda f, A, _: f(A, axis=1, keepdims=True),
    np.dot: lambda f, A, B: f(A, B.T),
    np.matmul: lambda f, A, B: f(A[None], B[-1]),
    np.where: lambda f, A, B: f(A - B > 0, A, f(np.array([[True], [False]] * 4), A, B)),
    np.clip: lambda f, A, _: f(A, -1, 2),
}
MOVED: list[Callable[[Any], Any]] = [
    *(lambda A: A.T, lambda A: A.transpose(1, 0), lambda A: np.transpose(A, (1, 0))),
    *(lambda A: A.reshape(2, -1), lambda A: np.reshape(A, (6, 2)), lambda A: A.T.ravel()),
    *(lambda A: np.squeeze(A[:1]), lambda A: A[:1].squeeze(), lambda A: np.expand_dims(A, 0)),
    *(lambda A: A[1:, ::2], lambda A: A[np.array([0, 2]), np.array([1, 1])], lambda A: A[:, None]),
    *(lambda A: A[np.array([True, False, True])], lambda A: np.broadcast_to(A, (2, 3, 4))),
    *(lambda A: np.concatenate([A, A], axis=1), lambda A: np.stack(list(A)), np.copy),
    *(lambda A: A.swapaxes(0, 1), lambda A: np.zeros_like(A) + A, lambda A: np.ones_like(A) * 0),
]
rules = pytest.mark.parametrize("function", ELEMENTWISE, ids=lambda f: f.__name__)
seeds = st.integers(0, 2**32 - 1)


def test_every_rule_is_tested() -> None:
    assert {*ELEMENTWISE, *COMPARISONS, *LOGICAL} == set(UFUNCS)
    rest = {np.zeros_like, np.ones_like, np.full_like, np.concatenate, np.stack}
    shapes = {np.shape, np.ndim, np.size}
    assert {*ARRAYS, *MOVES, *rest, *shapes} == {*FUNCTIONS, np.matmul}


def draw(rng: np.random.Generator, domain: tuple[float, float], n: int = 50) -> np.ndarray:
    """Draw numbers that float32 holds, a few of them 0 or 1 where the domain has them."""
    x = rng.uniform(*domain, n)
    x[:4] = np.clip([0.0, 1.0, -1.0, 0.5], *domain)
    return x.astype(np.float32).astype(np.float64)


def over(away: Any, bound: Any) -> np.ndarray:
    """Divide deviations by their bounds."""
    with np.errstate(all="ignore"):
        return np.ravel(np.where(away > 0, away / np.where(away > 0, bound, 1), 0))


def in_float32(function: np.ufunc, seed: int, ulps: int) -> np.ndarray:
    """Return how far float32 is from operands moved by a few units, over the bound."""
    rng = np.random.default_rng(seed)
    exact = [draw(rng, domain) for domain in ELEMENTWISE[function]]
    moved = [x * (1 + ulps * 2.0**-23 * rng.choice([-1, 0, 1], x.shape)) for x in exact]
    moved = [x.astype(np.float32) for x in moved]
    operands = [Bounded(x, np.abs(y - x), FLOAT32) for x, y in zip(exact, moved, strict=True)]
    bounded = function(*operands)
    np.testing.assert_array_equal(bounded.value, function(*exact))
    return over(np.abs(function(*moved).astype(np.float64) - bounded.value), bounded.error)


def far_off(function: np.ufunc, seed: int, size: float) -> np.ndarray:
    """Return how far results move with operands that move within large errors, over the bound."""
    rng = np.random.default_rng(seed)
    exact = [draw(rng, domain) for domain in ELEMENTWISE[function]]
    # Multiples of 2⁻¹⁶, so that operands are moved without rounding.
    errors = [np.ceil(size * rng.uniform(0, 1, x.shape) * 2**16) / 2**16 for x in exact]
    bounded = function(*(Bounded(x, e, FLOAT64) for x, e in zip(exact, errors, strict=True)))
    worst = np.zeros(exact[0].shape)
    steps = np.meshgrid(*[np.linspace(-1, 1, 9)] * len(exact))
    with np.errstate(all="ignore"):
        for step in zip(*(part.ravel() for part in steps), strict=True):
            moved = [x + s * e for x, s, e in zip(exact, step, errors, strict=True)]
            worst = np.fmax(worst, np.abs(function(*moved) - bounded.value))
    return over(worst, bounded.error)


def in_decimal(function: np.ufunc, seed: int, ulps: int) -> float:
    """Return how far float64 is from 60 digits, whose operands are moved, over the bound."""
    rng = np.random.default_rng(seed)
    exact = [draw(rng, domain, 12)[4:] for domain in ELEMENTWISE[function]]
    moved = [x * (1 + ulps * 2.0**-52 * rng.choice([-1, 1], x.shape)) for x in exact]
    operands = [Bounded(x, np.abs(y - x), FLOAT64) for x, y in zip(exact, moved, strict=True)]
    bounded, size = function(*operands), sum(np.abs(x) for x in exact) + 1
    assert (bounded.error < 1e-12 * (size + np.abs(bounded.value))).all()
    with localcontext() as context:
        context.prec = 60
        true = [DECIMAL[function](*map(Decimal, map(float, y))) for y in zip(*moved, strict=True)]
        away = [abs(t - Decimal(float(f))) for t, f in zip(true, bounded.value, strict=True)]
    return float(over(np.array(away, float), bounded.error).max())


@rules
@settings(deadline=None, max_examples=40)
@given(seed=seeds, ulps=st.sampled_from([0, 1, 30, 10_000]))
def test_elementwise_rule_holds(function: np.ufunc, seed: int, ulps: int) -> None:
    assert in_float32(function, seed, ulps).max() <= 1
    assert far_off(function, seed, size=10.0 ** (ulps % 5 - 3)).max() <= 1
    assert function is np.sign or in_decimal(function, seed, min(ulps, 30)) <= 1


@rules
def test_elementwise_rule_that_is_too_small_is_seen(
    function: np.ufunc, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert function is np.sign or np.median(far_off(function, 0, size=1e-3)) > 0.25
    rule = UFUNCS[function]

    def passes_on_less(*x: Any) -> Any:
        error, k = rule(*x)
        return error * 0.7, k

    def rounds_less(*x: Any) -> Any:
        error, k = rule(*x)
        return error, min(k, 0.01)

    monkeypatch.setitem(UFUNCS, function, passes_on_less)
    assert max(far_off(function, seed, 1e-3).max() for seed in range(40)) > 1
    if rule(np.ones(1), *(Bounded(1.0, 0.0, FLOAT32) for _ in ELEMENTWISE[function]))[1]:
        monkeypatch.setitem(UFUNCS, function, rounds_less)
        few = (in_float32(function, seed, 0).max() for seed in range(40))
        assert function is np.logaddexp or max(few) > 1


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 5, -1, -2, np.arange(-2, 3), 0.5, 1.5, -0.5, 0.1])
@pytest.mark.parametrize("base", [-2.0, 0.0, 1.5])
def test_power_by_a_constant_holds(base: float, exponent: Any) -> None:
    with np.errstate(all="ignore"):
        bounded = Bounded(np.array(base), 0.1, FLOAT64) ** exponent
        moved = [np.power(base + step, np.asarray(exponent, float)) for step in (-0.1, 0.1)]
    away, known = np.max(np.abs(moved - bounded.value), axis=0), np.isfinite(bounded.error)
    assert (away[known] <= bounded.error[known]).all()
    # Unknown is only what may be divided by 0, or is no whole power of what may be negative.
    whole = np.rint(exponent) == exponent
    expected = (base != 0) & whole | (np.asarray(exponent) >= 0) & whole | (base > 0)
    np.testing.assert_array_equal(known, expected)
    assert (2.0 ** Bounded(3.0, 0.1, FLOAT64)).error == pytest.approx(8 * (2**0.1 - 1), rel=0.1)


def array_ratios(function: Any, seed: int, size: float, columns: int) -> np.ndarray:
    """Return how far float32 is from operands that are off by up to `size`, over the bound."""
    rng = np.random.default_rng(seed)
    exact = [draw(rng, (-3.0, 3.0), 8 * columns).reshape(8, columns) for _ in range(2)]
    moved = [(x * (1 + size * rng.uniform(-1, 1, x.shape))).astype(np.float32) for x in exact]
    operands = [Bounded(x, np.abs(y - x), FLOAT32) for x, y in zip(exact, moved, strict=True)]
    bounded = ARRAYS[function](function, *operands)
    expected = ARRAYS[function](function, *exact)
    np.testing.assert_allclose(bounded.value, expected, rtol=1e-14, atol=1e-14)
    assert bounded.shape == np.shape(expected) == bounded.error.shape
    return over(np.abs(ARRAYS[function](function, *moved) - expected), bounded.error)


@pytest.mark.parametrize("function", ARRAYS, ids=lambda f: f.__name__)
@settings(deadline=None, max_examples=40)
@given(seed=seeds, size=st.sampled_from([0.0, 1e-6, 0.1]), columns=st.integers(1, 30))
def test_array_rule_holds(function: Any, seed: int, size: float, columns: int) -> None:
    assert array_ratios(function, seed, size, columns).max() <= 1


@pytest.mark.parametrize("function", ARRAYS, ids=lambda f: f.__name__)
def test_array_rule_that_is_too_small_is_seen(function: Any) -> None:
    # No bound may be halved: with one term a sum, a choice and a product use up nearly all of it.
    found = np.concatenate([array_ratios(function, seed, 0.1, 1) for seed in range(40)])
    assert np.median(found) > 0.05
    assert found.max() > 0.5


@pytest.mark.parametrize("move", MOVED)
def test_errors_move_with_their_numbers(move: Any) -> None:
    A, errors = np.arange(12.0).reshape(3, 4), np.arange(12.0).reshape(3, 4) / 100
    moved = move(Bounded(A, errors, FLOAT32))
    np.testing.assert_array_equal(moved.value, move(A))
    np.testing.assert_allclose(moved.error, move(errors), atol=1e-5)


@pytest.mark.parametrize(
    "view", [lambda A: A[1], lambda A: A.T, lambda A: A.ravel(), lambda A: A.T.ravel()]
)
@pytest.mark.parametrize(
    "make", [np.copy, lambda A: (A.T + A.T).T, lambda A: A.T * np.ones((4, 3))]
)
def test_changes_through_a_view_reach_the_errors_too(view: Any, make: Any) -> None:
    plain, bounded = (make(A) for A in (np.ones((3, 4)), Bounded(np.ones((3, 4)), 0.5, FLOAT32)))
    before = bounded.error.copy()
    for array in (plain, bounded):
        part = view(array)
        part += np.full(part.shape, 7.0)
        part[...] = Bounded(part.value * 2, 9.0, FLOAT32) if array is bounded else part * 2
    np.testing.assert_array_equal(bounded.value, plain)
    changed = bounded.value != make(np.ones((3, 4)))
    np.testing.assert_array_equal(bounded.error, np.where(changed, 9.0, before))


def test_errors_are_laid_out_as_their_numbers() -> None:
    x = Bounded(np.ones((4, 3)).T, np.full((3, 4), 0.5), FLOAT32)
    flat = x.ravel()  # a copy of the numbers, and so one of the errors
    flat[0] = Bounded(2.0, 9.0, FLOAT32)
    assert (x.value == 1).all()
    assert (x.error == 0.5).all()


@pytest.mark.parametrize("new", [np.copy, np.negative, np.abs, lambda x: np.clip(x, None, None)])
def test_changes_of_a_new_array_leave_the_old_as_it_was(new: Any) -> None:
    for old in (Bounded(np.ones(2), np.full(2, 0.1), FLOAT32), Bounded(np.ones(2), 0.0, FLOAT32)):
        before = old.error.copy()
        changed = new(old)
        changed += 9.3
        assert (changed.error > before).all()
        assert (old.value == 1).all()
        assert (old.error == before).all()


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
    for combined in (~mask | mask, mask & mask, np.logical_not(mask)):
        assert combined.error.tolist() == [0, 1, 0, 0]
    assert (mask * a).error[1] >= 1.0
    assert b[2:][mask[2:]].shape == (mask.value[2:].sum(),)
    for refused in (lambda: b[mask], lambda: bool(mask[1]), lambda: a.value[mask]):
        with pytest.raises(TypeError, match="1 undecided of"):
            refused()
    assert bool(mask[2]) == mask.value[2]


def test_unknown_bounds_are_infinite_and_exact_zeros_stay() -> None:
    one, wide = Bounded(1.0, 0.0, FLOAT32), Bounded(1.0, 1.0, FLOAT32)
    unknown = [one / wide, 1 / wide, np.log(wide), wide**-1, np.sqrt(wide - 0.5), wide**0.5]
    unknown += [
        (3 * wide - 2) ** -1,
        (3 * wide - 2) ** -0.5,
        np.sqrt(3 * wide - 2),
        np.log(wide) * 0,
    ]
    unknown += [np.log1p(wide - 2), one * 1e38 * 10, np.exp(89 * one), np.log(wide) - np.log(wide)]
    unknown += [np.sum(np.stack([np.log(wide), one])), Bounded(1.0, np.nan, FLOAT32)]
    unknown += [np.clip(one, None, np.log(wide))]
    assert [np.isinf(x.error) for x in unknown] == [True] * len(unknown)
    assert (np.log(wide) > 0).error == 1
    known = [wide / 1, np.log(one), np.exp(88 * one), np.where(one > 2, np.log(wide), one)]
    known += [np.maximum(-np.inf, one), np.clip(wide, 0, np.inf), np.sqrt(wide)]
    assert all(np.isfinite(x.error) for x in known)
    zero, x = Bounded(np.zeros(3), 0.0, FLOAT32), Bounded(np.ones(3), 0.1, FLOAT32)
    for f in (zero * x, zero @ x, zero - zero, np.sum(zero), np.tanh(zero), zero / x, zero**0.5):
        assert not f.value.any() | f.error.any()
    tiny = Bounded(1e-200, 0.0, FLOAT64)  # whose square float64 does not hold
    assert (tiny * tiny).error > 0
    assert (np.stack([tiny]) @ np.stack([tiny])).error > 0


@pytest.mark.parametrize("function", [np.dot, np.matmul])
def test_products_are_bounded_with_factors_that_are_cut_to_tf32(function: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (draw(rng, (1.0, 2.0), 20) for _ in range(2))
    cut = [np.floor(x * 2**10) / 2**10 for x in (a, b)]  # 11 digits, all rounded in one direction
    cut = [x + (x != y) * 2.0**-11 for x, y in zip(cut, (a, b), strict=True)]  # to the midpoint
    bounded = function(Bounded(a, 0.0, TF32), Bounded(b, 0.0, TF32))
    away = abs(cut[0] @ cut[1] - a @ b)
    in_float32 = function(Bounded(a, 0.0, FLOAT32), Bounded(b, 0.0, FLOAT32))
    assert in_float32.error < away < bounded.error < 30 * away


def test_products_that_all_underflow_are_bounded_together() -> None:
    half = Arithmetic(2.0**-11, 2.0**-11, 2.0**-11, 2.0**-11, 2.0**-24, 65504.0)
    x = np.full(64, 2.0**-13)
    lost = x @ x - sum(np.float16(a) * np.float16(a) for a in x)
    assert lost == 2.0**-20
    assert (Bounded(x, 0.0, half) @ x).error >= lost


def test_sums_of_too_many_terms_have_no_bound() -> None:
    coarse = Arithmetic(2.0**-24, 2.0**-8, 2.0**-24, 2.0**-24)
    for n, is_known in ((200, True), (256, False)):  # γ(n) is infinite from n = 1/u on
        assert np.isfinite(np.sum(Bounded(np.ones(n), 0.0, coarse)).error) == is_known


def test_sums_may_pass_through_what_the_stored_dtype_cannot_hold() -> None:
    # Processors sum float16 in float32; 60,000 + 60,000 is beyond the one and not the other.
    for summed, is_known in ((2.0**-24, True), (2.0**-11, False)):
        half = Arithmetic(2.0**-11, summed, 2.0**-11, 2.0**-11, 2.0**-24, 65504.0)
        terms = Bounded(np.array([60_000.0, 60_000.0, -60_000.0]), 0.0, half)
        assert np.isfinite(np.sum(terms).error) == is_known
        assert np.isinf(np.sum(terms[:2]).error)
