"""`reference.triangle`: all rows in one triangle, held against the rows themselves."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trueline.reference import mean_squared_error, predict
from trueline.reference.factored_rows import rows_at_once
from trueline.reference.triangle import Line, triangle
from trueline.statistics.independent import independent

ROWS_AT_ONCE = rows_at_once(1 + 3 + 2)


def problem(n: int, p: int = 3, targets: int = 2) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(n)
    X = rng.normal(1.0, 2.0, (n, p)).astype(np.float32)
    y = X @ rng.normal(size=(p, targets)) + rng.normal(size=(n, targets))
    return X, y, rng.uniform(0.1, 10, n)


@pytest.mark.parametrize("n", [2, 40, ROWS_AT_ONCE, 3 * ROWS_AT_ONCE + 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_it_says_of_lines_is_what_the_rows_say(n: int, weighted: bool) -> None:
    X, y, w = problem(n)
    weights = w if weighted else None
    rows = triangle(X, y, weights)
    rng = np.random.default_rng(0)
    one, other = (Line(rng.normal(size=(3, 2)), rng.normal(size=2)) for _ in range(2))
    X = X.astype(np.float64)
    assert rows.loss(one) == pytest.approx(mean_squared_error(X, y, *one, weights), rel=1e-12)
    squares = (predict(X, *one) - predict(X, *other)) ** 2
    expected = np.sqrt(np.average(squares, axis=0, weights=weights))
    np.testing.assert_allclose(rows.apart(one, other), expected, rtol=1e-12)
    mean = np.average(y, axis=0, weights=weights)
    spread = np.sqrt(np.average((y - mean) ** 2, axis=0, weights=weights))
    np.testing.assert_allclose(rows.spread, spread, rtol=1e-11)
    A = np.column_stack([X, np.ones(n)])
    s = (w if weighted else np.ones(n)) / (w.sum() if weighted else n) / 2
    H = 2 * (A.T * s) @ A + 2 * 0.3 * np.diag([1, 1, 1, 0])
    assert rows.curvature(l2=0.3) == pytest.approx(np.linalg.eigvalsh(H)[-1], rel=1e-11)


def test_rows_some_at_a_time_are_all_rows() -> None:
    X, y, _ = problem(2 * ROWS_AT_ONCE + 1)
    rows = triangle(X, y)
    Z = np.column_stack([np.ones(len(X)), np.column_stack([X, y]) - rows.center])
    np.testing.assert_allclose(rows.R.T @ rows.R, Z.T @ Z, rtol=1e-11, atol=1e-8)
    lines = [triangle(X, y).least_squares(), triangle(X[::-1], y[::-1]).least_squares()]
    np.testing.assert_allclose(lines[0].weight, lines[1].weight, rtol=1e-12)


def test_residuals_far_below_the_targets_keep_their_digits() -> None:
    """Where sums of squares, 1e26 of y beside 1 of the residuals, would lose all of them."""
    x = np.arange(1e4)
    r = np.where(x % 2 == 0, 1.0, -1.0)
    y = 1e9 * (x + 1) + r
    rows = triangle(x[:, None], y)
    assert rows.loss(Line(np.array([1e9]), np.array(1e9))) == pytest.approx(1.0, rel=1e-3)


@given(points=st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 2), min_size=2, max_size=30))
def test_correlation_agrees_with_corrcoef(points: list[tuple[float, float]]) -> None:
    x, y = np.array(points).T
    assume(min(np.std(x), np.std(y)) > 1e-3)
    assert triangle(x[:, None], y).correlation == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-11)


@given(x=st.lists(st.floats(-10, 10), min_size=2, max_size=9), slope=st.sampled_from([-3.0, 0.1]))
def test_correlation_stays_within_one(x: list[float], slope: float) -> None:
    assume(np.std(x) > 1e-3)
    found = triangle(np.array(x)[:, None], slope * np.array(x) + 1).correlation
    assert found == pytest.approx(np.sign(slope), abs=1e-9)
    assert -1 <= found <= 1


@pytest.mark.parametrize("n", [1, 3, 1000])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 / 3])
def test_what_is_the_same_in_all_rows_has_no_spread(n: int, value: float) -> None:
    x, same = np.arange(float(n))[:, None], np.full(n, value)
    assert triangle(x, same).spread == [0.0]
    assert triangle(x, same).correlation is None
    assert triangle(same[:, None], x[:, 0]).correlation is None


def test_numbers_too_large_to_square_have_an_infinite_curvature() -> None:
    assert triangle(np.array([[1e200], [1.0]])).curvature() == np.inf


@pytest.mark.parametrize(("offset", "scale"), [(1e8, 1e-4), (1e6, 1e-6), (1.7e12, 1.0), (0, 1)])
def test_numbers_that_differ_little_keep_the_digits_in_which_they_do(
    offset: float, scale: float
) -> None:
    rng = np.random.default_rng(0)
    x = offset + scale * rng.normal(size=50_000)
    dx = x - offset  # exact
    y = dx / scale + rng.normal(size=len(x))
    rows, back = triangle(x[:, None], y), triangle(y[:, None], x)
    assert rows.correlation == pytest.approx(np.corrcoef(dx, y)[0, 1], rel=1e-10)
    assert back.spread == pytest.approx([dx.std()], rel=1e-10)
    line = rows.least_squares()
    slope = np.mean((dx - dx.mean()) * (y - y.mean())) / dx.var()
    np.testing.assert_allclose(line.weight, [slope], rtol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e9])
def test_loss_of_a_line_far_from_zero(offset: float) -> None:
    rng = np.random.default_rng(0)
    x = np.round(offset + 100 * rng.normal(size=20_000))
    noise = np.round(rng.normal(size=len(x)) * 2**10) / 2**10
    rows = triangle(x[:, None], 3 * x + 1 + noise)  # exact
    expected = np.mean(noise**2)
    assert rows.loss(Line(np.array([3.0]), np.array(1.0))) == pytest.approx(expected, rel=1e-9)
    assert triangle(x[:, None], 3 * x + 1).loss(Line(np.array([3.0]), np.array(1.0))) < 1e-12


def test_columns_that_the_summary_tells_apart_have_a_closed_form() -> None:
    rng = np.random.default_rng(1)
    x, e = rng.normal(size=(2, 5000))
    t = triangle(np.column_stack([x, x + 1e-12 * e]), x + e)
    assert independent(t).kept == [0, 1, 2]
    # They were dependent by a bound that grew with the rows, and not with their root.
    line = t.least_squares()
    assert line.weight == pytest.approx(independent(t).parameters[1:, 0], rel=1e-2)


@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_rows_that_are_fewer_are_refused(name: str) -> None:
    given = {"y": [1.0, 2.0], "sample_weight": [1.0, 1.0]} | {name: [1.0]}
    with pytest.raises(ValueError, match=f"expected {name} with as many rows as X, 2; found 1"):
        triangle([[1.0], [2.0]], **given)


@pytest.mark.parametrize("weighted", [False, True])
def test_one_of_several_targets_is_as_if_it_were_alone(weighted: bool) -> None:
    rng = np.random.default_rng(3)
    X, y = rng.normal(50, 2, (30, 2)), rng.normal(size=(30, 3))
    weights = rng.uniform(1, 2, 30) if weighted else None
    every = triangle(X, y, weights)
    for t in range(3):
        one, alone = every.of_target(t), triangle(X, y[:, t], weights)
        line = Line(np.array([1.0, -2.0]), np.array(0.5))
        assert one.loss(line) == pytest.approx(alone.loss(line), rel=1e-12)
        np.testing.assert_allclose(one.least_squares().weight, alone.least_squares().weight)
        assert one.least_squares().bias == pytest.approx(float(alone.least_squares().bias))
        assert (one.n_targets, one.single, one.rows) == (1, True, alone.rows)
