"""`reference.array_rules`: sums, products and rearrangements against NumPy in float32.

Operands are moved within their errors first.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_reference_ufunc_rules import draw, seeds
from trueline.reference.array_rules import FUNCTIONS, JOINS, REARRANGEMENTS
from trueline.reference.bounded import Bounded
from trueline.reference.rounding import FLOAT32, TF32, Arithmetic

ARRAY_RULES: dict[Any, Callable[..., Any]] = {
    np.sum: lambda f, A, _: f(A, axis=0),
    np.mean: lambda f, A, _: f(A, axis=(0, 1), keepdims=True),
    np.max: lambda f, A, _: f(A, axis=1),
    np.amax: lambda f, A, _: f(A),
    np.min: lambda f, A, _: f(A, axis=1, keepdims=True),
    np.amin: lambda f, A, _: f(A),
    np.dot: lambda f, A, B: f(A, B.T),
    np.vdot: lambda f, A, B: f(A, B),
    np.inner: lambda f, A, B: f(A, B),
    np.outer: lambda f, A, B: f(A[0], B[0]),
    np.matmul: lambda f, A, B: f(A[None], B[0]),
    np.linalg.norm: lambda f, A, _: f(A, 2, axis=0),
    np.where: lambda f, A, B: f(A - B > 0, A, f(np.array([[True], [False]] * 4), A, B)),
    np.clip: lambda f, A, _: f(A, -1, 2),
    np.zeros_like: lambda f, A, _: f(A),
    np.ones_like: lambda f, A, _: f(A),
    np.full_like: lambda f, A, _: f(A, 0.1),
}


def test_every_rule_of_arrays_is_tested() -> None:
    assert {*ARRAY_RULES, *REARRANGEMENTS, *JOINS, np.any, np.all} == {*FUNCTIONS, np.matmul}


def ratios(function: Any, seed: int, size: float, columns: int) -> np.ndarray:
    """Return how far float32 is from operands that are off by up to `size`, over the bound."""
    rng = np.random.default_rng(seed)
    exact = [draw(rng, (-3.0, 3.0), 8 * columns).reshape(8, columns) for _ in range(2)]
    moved = [(x * (1 + size * rng.uniform(-1, 1, x.shape))).astype(np.float32) for x in exact]
    operands = [Bounded(x, np.abs(y - x), FLOAT32) for x, y in zip(exact, moved, strict=True)]
    bounded = ARRAY_RULES[function](function, *operands)
    expected = ARRAY_RULES[function](function, *exact)
    np.testing.assert_allclose(bounded.value, expected, rtol=1e-14, atol=1e-14)
    assert bounded.shape == np.shape(expected) == bounded.error.shape
    away = np.abs(ARRAY_RULES[function](function, *moved).astype(float) - expected)
    return np.where(away > 0, away / np.where(away > 0, bounded.error, 1), 0).ravel()


@pytest.mark.parametrize("function", ARRAY_RULES, ids=lambda f: f.__name__)
@settings(deadline=None, max_examples=40)
@given(seed=seeds, size=st.sampled_from([0.0, 1e-6, 0.1]), columns=st.integers(1, 30))
def test_rule_of_arrays_holds_for_float32_from_moved_operands(
    function: Any, seed: int, size: float, columns: int
) -> None:
    assert ratios(function, seed, size, columns).max() <= 1


@pytest.mark.parametrize("function", ARRAY_RULES, ids=lambda f: f.__name__)
def test_rule_of_arrays_is_not_far_above_what_happens(function: Any) -> None:
    found = np.concatenate([ratios(function, seed, 0.1, 5) for seed in range(20)])
    exact = function in (np.zeros_like, np.ones_like)
    assert exact or np.median(found) > 0.05


@pytest.mark.parametrize("function", [np.dot, np.matmul, np.inner, np.vdot])
def test_products_are_bounded_with_factors_that_are_cut_to_tf32(function: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (draw(rng, (1.0, 2.0), 20) for _ in range(2))
    cut = [np.floor(x * 2**10) / 2**10 for x in (a, b)]  # 11 digits, all rounded in one direction
    cut = [x + (x != y) * 2.0**-11 for x, y in zip(cut, (a, b), strict=True)]  # to the midpoint
    bounded = function(Bounded(a, 0.0, TF32), Bounded(b, 0.0, TF32))
    away = abs(cut[0] @ cut[1] - a @ b)
    in_float32 = function(Bounded(a, 0.0, FLOAT32), Bounded(b, 0.0, FLOAT32))
    assert in_float32.error < away < bounded.error < 30 * away


@pytest.mark.parametrize(
    "move",
    [
        lambda A: A.T,
        lambda A: A.transpose(1, 0),
        lambda A: np.reshape(A, (6, 2)),
        lambda A: A.reshape(2, -1),
        lambda A: A.ravel(),
        lambda A: A.flatten(),
        lambda A: A[1:, ::2],
        lambda A: A[np.array([0, 2]), np.array([1, 1])],
        lambda A: A[:, None],
        lambda A: A[np.array([True, False, True])],
        lambda A: np.expand_dims(A, 0),
        lambda A: np.squeeze(A[:1]),
        lambda A: np.broadcast_to(A, (2, 3, 4)),
        lambda A: np.concatenate([A, A], axis=1),
        lambda A: np.stack([A[0], A[1]]),
        lambda A: np.vstack([A, A]),
        lambda A: np.hstack([A, A]),
        lambda A: np.column_stack([A[:, 0], A]),
        lambda A: np.take_along_axis(A, np.array([[0], [1], [2]]), axis=1),
        lambda A: np.tril(A),
        lambda A: np.stack(list(A)),
    ],
)
def test_rearrangements_move_errors_with_their_numbers(move: Any) -> None:
    A, errors = np.arange(12.0).reshape(3, 4), np.arange(12.0).reshape(3, 4) / 100
    moved = move(Bounded(A, errors, FLOAT32))
    np.testing.assert_array_equal(moved.value, move(A))
    np.testing.assert_array_equal(moved.error, move(errors))


def test_joining_with_plain_numbers_brings_them_to_the_dtype() -> None:
    joined = np.concatenate([Bounded(np.array([1.0]), 0.5, FLOAT32), np.array([0.5, 0.1])])
    assert joined.error[:2].tolist() == [0.5, 0.0]
    assert abs(float(np.float32(0.1)) - 0.1) <= joined.error[2] < 1e-8


def test_in_place_changes_keep_bounds_apart() -> None:
    x = Bounded(np.array([1.0, 2.0]), 0.1, FLOAT32)
    y = +x
    y[0] = 5
    y += x
    assert x.value.tolist() == [1.0, 2.0]
    assert x.error.tolist() == [0.1, 0.1]
    np.testing.assert_allclose(y.value, [6.0, 4.0])
    np.testing.assert_allclose(y.error, [0.1, 0.2], rtol=1e-5)
    mask = x > 1.5
    numbers = mask.astype(float)
    numbers += x
    assert mask.error.tolist() == [0, 0]


@pytest.mark.parametrize(
    "view",
    [lambda A: A[1], lambda A: A.T, lambda A: A.ravel(), lambda A: A.T.ravel(), np.transpose],
)
@pytest.mark.parametrize(
    "make", [np.copy, lambda A: (A.T + A.T).T, lambda A: A.T * np.ones((4, 3))]
)
def test_changes_through_a_view_reach_the_errors_as_they_reach_the_numbers(
    view: Any, make: Any
) -> None:
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


def test_norm_allows_for_squares_that_underflow() -> None:
    tiny = np.full(4, 1e-30, np.float32)
    assert np.linalg.norm(tiny) == 0
    assert np.linalg.norm(Bounded(tiny, 0.0, FLOAT32)).error >= 2e-30
    assert np.linalg.norm(Bounded(tiny * 1e20, 0.0, FLOAT32)).error < 1e-15


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
