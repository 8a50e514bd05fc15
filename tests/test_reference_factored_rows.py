"""`reference.factored_rows` and `merged`: rows some at a time, and in parts, are all rows."""

import itertools
from collections.abc import Iterator
from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certified import certified, digits
from trueline.reference.factored_rows import rows_at_once
from trueline.reference.triangle import Block, Triangle, merged, triangle, triangle_of

CERTIFIED_DIGITS = {"norris": 12.0, "pontius": 12.5, "longley": 10.5, "wampler1": 9.0, "filip": 7.0}
"""Seen: 12.3, 13.2, 13.9, 9.6 and 7.7, which is what R in float64 holds: an R worked out with 60
digits and then rounded gives 12.3, 13.2, 14.6, 9.9 and 7.4."""


ROWS_AT_ONCE = rows_at_once(1 + 3 + 2)


def problem(n: int, p: int = 3) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(n)
    X = (rng.normal(1e4, 2.0, (n, p)) * [1, 1e6, 1e-6][:p]).astype(np.float32)
    return X, rng.normal(size=(n, 2)), rng.uniform(0.1, 10, n)


def blocks(X: Any, y: Any, w: Any, cuts: list[int]) -> Iterator[Block]:
    edges = [0, *sorted(cuts), len(X)]
    for first, end in itertools.pairwise(edges):
        yield X[first:end], y[first:end], None if w is None else w[first:end]


def counts(rows: Triangle) -> list[Any]:
    """Return what a triangle says beside its numbers."""
    return [getattr(rows, field.name) for field in fields(rows)[2:]]


def parameters(rows: Triangle) -> np.ndarray:
    line = rows.least_squares()
    return np.array([line.bias, *line.weight])


@settings(deadline=None, max_examples=30)
@given(data=st.data(), weighted=st.booleans())
def test_rows_in_blocks_give_the_same_triangle_to_the_bit(data: Any, weighted: bool) -> None:
    n = 2 * ROWS_AT_ONCE + 3
    X, y, w = problem(n)
    weights = w if weighted else None
    cuts = data.draw(st.lists(st.integers(0, n), max_size=6))
    whole, found = triangle(X, y, weights), triangle_of(blocks(X, y, weights, cuts))
    np.testing.assert_array_equal(found.R, whole.R)
    np.testing.assert_array_equal(found.center, whole.center)
    assert counts(found) == counts(whole)
    assert whole.n_samples == n
    assert whole.rows == pytest.approx(w.sum() if weighted else n, rel=1e-13)
    assert whole.log_weights == pytest.approx(np.log(w).sum() if weighted else 0.0, rel=1e-12)


def test_rows_without_weights_beside_some_with_count_as_one() -> None:
    X, y, w = problem(50)
    parts = [(X[:20], y[:20], None), (X[20:35], y[20:35], w[20:35]), (X[35:], y[35:], None)]
    found = triangle_of(parts)
    whole = triangle(X, y, [*np.ones(20), *w[20:35], *np.ones(15)])
    np.testing.assert_array_equal(found.R, whole.R)
    assert counts(found) == counts(whole)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("drift", [0.0, 1e9])
def test_merged_parts_are_the_whole(weighted: bool, drift: float) -> None:
    """Drift puts the parts, and so their centers, far apart."""
    n = 3 * ROWS_AT_ONCE
    X, y, w = problem(n)
    X = X + drift * np.random.default_rng(0).normal(size=(7, 3))[np.arange(n) // 1000]
    weights = w if weighted else None
    parts = [triangle(*part) for part in blocks(X, y, weights, [1, 1000, 1700])]
    assert not (parts[1].center == parts[3].center).any()
    whole, found = triangle(X, y, weights), parts[0]
    for part in parts[1:]:
        found = merged(found, part)
    np.testing.assert_allclose(found.plain.T @ found.plain, whole.plain.T @ whole.plain, 1e-12)
    np.testing.assert_allclose(found.spread, whole.spread, rtol=1e-12)
    for one, other in zip(found.least_squares(), whole.least_squares(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7)
    assert found.rows == pytest.approx(whole.rows, rel=1e-13)
    assert found.log_weights == pytest.approx(whole.log_weights, rel=1e-12, abs=1e-12)
    assert found.n_samples == n


def test_merging_is_exact_where_the_numbers_are() -> None:
    """The slope of integers over two parts, 2⁴⁰ apart, against exact arithmetic."""
    x = np.concatenate([np.arange(100.0), 2.0**40 + np.arange(100.0)])
    y = np.sin(np.arange(200)).round(3) * 1000
    found = merged(triangle(x[:100, None], y[:100]), triangle(x[100:, None], y[100:]))
    fx, fy = [Fraction(v) for v in x], [Fraction(v) for v in y]
    dx = [v - sum(fx) / 200 for v in fx]
    slope = sum(a * b for a, b in zip(dx, fy, strict=True)) / sum(a * a for a in dx)
    np.testing.assert_allclose(found.least_squares().weight, [float(slope)], rtol=1e-13)


@pytest.mark.parametrize("name", CERTIFIED_DIGITS)
def test_parameters_reach_certified_digits_however_the_rows_come(name: str) -> None:
    X, y, contents = certified(name)
    cuts = list(range(7, len(X), 7))
    whole = parameters(triangle(X, y))
    np.testing.assert_array_equal(parameters(triangle_of(blocks(X, y, None, cuts))), whole)
    assert digits(whole, contents["certified_params"]) > CERTIFIED_DIGITS[name]
    parts = [triangle(*part) for part in blocks(X, y, None, cuts)]
    while len(parts) > 1:
        parts.append(merged(parts.pop(0), parts.pop(0)))
    found = digits(parameters(parts[0]), contents["certified_params"])
    assert found > CERTIFIED_DIGITS[name] - 0.5


def test_rows_of_another_table_are_refused() -> None:
    X, y, _ = problem(10)
    message = "same columns in all rows; found 3 of X and 2 of y, and then 3 of X and one y; put"
    with pytest.raises(ValueError, match=message):
        triangle_of([(X, y, None), (X, y[:, 0], None)])
    with pytest.raises(ValueError, match=message):
        merged(triangle(X, y), triangle(X, y[:, 0]))


@pytest.mark.parametrize("none", [[], [(np.zeros((0, 2)), None, None)]])
def test_no_rows_are_refused(none: list[Block]) -> None:
    with pytest.raises(ValueError, match="expected at least one row; found none"):
        triangle_of(none)
