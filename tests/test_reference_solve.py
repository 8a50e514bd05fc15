"""`reference.solve`: closed forms and the largest stable learning rate.

Oracles: figures certified by NIST, scikit-learn's LinearRegression and Ridge, exact rational
arithmetic, a gradient that must be zero at a minimum, and trainings just below and just above the
limit.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge

from certified import certified, digits
from trueline.reference import SGD, LeastSquares, article, mean_squared_error, train
from trueline.reference.solve import (
    Line,
    largest_stable_lr,
    least_squares,
    simple_regression,
)


def random_problem(n_samples: int, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n_features)
    X = rng.normal(1.0, 2.0, (n_samples, n_features))
    return X, X @ rng.normal(size=n_features) + 3.0 + rng.normal(size=n_samples)


@pytest.mark.parametrize(
    ("name", "expected_digits"),
    [
        ("norris", 11),  # 13 seen; NIST certifies 15
        # 12.7 seen. The condition number is 5e9: a solution by XᵀX keeps 7.4 digits.
        ("longley", 9),
    ],
)
def test_least_squares_reaches_certified_figures(name: str, expected_digits: float) -> None:
    X, y, contents = certified(name)
    line = least_squares(X, y)
    found = [line.bias, *line.weight]
    assert digits(found, contents["certified_params"]) > expected_digits
    # The residual's standard deviation is Σr² over the rows less the parameters.
    squares = mean_squared_error(X, y, *line) * len(y)
    deviation = np.sqrt(squares / (len(y) - len(found)))
    assert digits(deviation, contents["certified_residual_sd"]) > 10


def test_simple_regression_reaches_certified_figures() -> None:
    X, y, contents = certified("norris")
    line = simple_regression(X, y)
    assert digits([line.bias, *line.weight], contents["certified_params"]) > 11


def test_least_squares_of_the_article_is_the_fraction_worked_out_by_hand() -> None:
    # From Σx = 186, Σx² = 3,026, Σy = 888 and Σxy = 12,320 over 15 points.
    for line in (
        least_squares(article.X, article.y),
        simple_regression(article.X, article.y),
    ):
        np.testing.assert_allclose(line.weight, [3_272 / 1_799], rtol=1e-13)
        np.testing.assert_allclose(line.bias, 65_928 / 1_799, rtol=1e-13)


@pytest.mark.parametrize(("n_samples", "n_features"), [(15, 1), (40, 5), (3, 6)])
@pytest.mark.parametrize("l2", [1e-3, 0.5, 20.0])
def test_least_squares_with_l2_agrees_with_ridge(
    n_samples: int, n_features: int, l2: float
) -> None:
    X, y = random_problem(n_samples, n_features)
    # Ridge minimises Σr² + alpha·Σw², ours is over n_samples of that; neither penalises the bias.
    ridge = Ridge(alpha=n_samples * l2, solver="svd").fit(X, y)
    line = least_squares(X, y, l2=l2)
    np.testing.assert_allclose(line.weight, ridge.coef_, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(line.bias, ridge.intercept_, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("weight_decay", [1e-3, 0.5, 20.0])
def test_least_squares_with_weight_decay_agrees_with_ridge_on_the_bias_column(
    weight_decay: float,
) -> None:
    X, y = random_problem(40, 5)
    A = np.column_stack([X, np.ones(40)])
    # weight_decay/2 stands before the squares, of the bias too: so it is one more weight here.
    ridge = Ridge(alpha=40 * weight_decay / 2, fit_intercept=False, solver="svd").fit(A, y)
    line = least_squares(X, y, weight_decay=weight_decay)
    np.testing.assert_allclose([*line.weight, line.bias], ridge.coef_, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_least_squares_leaves_no_gradient(l2: float, weight_decay: float) -> None:
    X, y = random_problem(40, 5)
    line = least_squares(X, y, l2, weight_decay)
    r = X @ line.weight + line.bias - y
    by_weight = 2 * X.T @ r / 40 + 2 * l2 * line.weight + weight_decay * line.weight
    by_bias = 2 * r.mean() + weight_decay * line.bias
    np.testing.assert_allclose(by_weight, 0, atol=1e-12)
    np.testing.assert_allclose(by_bias, 0, atol=1e-12)


def random_targets(n_targets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return X, y with that many columns, and sample weights over three orders of magnitude."""
    X, _ = random_problem(40, 5)
    rng = np.random.default_rng(n_targets)
    y = X @ rng.normal(size=(5, n_targets)) + [3.0] + rng.normal(size=(40, n_targets))
    return X, y, 10 ** rng.uniform(-2, 1, 40)


@pytest.mark.parametrize("n_targets", [1, 2, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_least_squares_of_several_targets_agrees_with_scikit_learn(
    n_targets: int, weighted: bool
) -> None:
    X, y, w = random_targets(n_targets)
    weights = w if weighted else None
    peer = LinearRegression().fit(X, y, sample_weight=weights)
    line = least_squares(X, y, sample_weight=weights)
    assert (line.weight.shape, line.bias.shape) == ((5, n_targets), (n_targets,))
    np.testing.assert_allclose(line.weight, peer.coef_.T, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(line.bias, peer.intercept_, rtol=1e-9, atol=1e-11)
    apart = least_squares(X, y).weight - least_squares(X, y, sample_weight=w).weight
    assert np.abs(apart).max() > 0.01


@pytest.mark.parametrize("n_targets", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_penalties_beside_targets_and_weights_agree_with_ridge(
    n_targets: int, weighted: bool
) -> None:
    X, y, w = random_targets(n_targets)
    weights, total = (w, w.sum()) if weighted else (None, 40)
    # Ridge minimises Σw·r² + alpha·Σweight², ours is over n_targets·Σw of that.
    ridge = Ridge(alpha=n_targets * total * 0.5, solver="svd").fit(X, y, sample_weight=weights)
    line = least_squares(X, y, l2=0.5, sample_weight=weights)
    np.testing.assert_allclose(line.weight.T, np.atleast_2d(ridge.coef_), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(line.bias, ridge.intercept_, rtol=1e-9, atol=1e-11)
    A = np.column_stack([X, np.ones(40)])
    decay = Ridge(n_targets * total * 0.5 / 2, fit_intercept=False, solver="svd")
    expected = np.atleast_2d(decay.fit(A, y, sample_weight=weights).coef_).T
    line = least_squares(X, y, weight_decay=0.5, sample_weight=weights)
    np.testing.assert_allclose([*line.weight, line.bias], expected, rtol=1e-9, atol=1e-11)


def test_least_squares_counts_a_row_of_weight_3_as_three_rows() -> None:
    X, y, _ = random_targets(2)
    w = np.random.default_rng(0).integers(1, 4, 40)
    penalties = {"l2": 0.3, "weight_decay": 0.2}
    line = least_squares(X, y, **penalties, sample_weight=w)
    repeated = least_squares(X.repeat(w, axis=0), y.repeat(w, axis=0), **penalties)
    np.testing.assert_allclose(line.weight, repeated.weight, rtol=1e-11)
    np.testing.assert_allclose(line.bias, repeated.bias, rtol=1e-11)
    # And only the weights' proportions matter.
    tenfold = least_squares(X, y, **penalties, sample_weight=10.0 * w)
    np.testing.assert_allclose(tenfold.weight, line.weight, rtol=1e-11)


@settings(deadline=None)
@given(points=st.lists(st.tuples(*[st.integers(-1000, 1000)] * 2), min_size=2, max_size=30))
def test_simple_regression_and_least_squares_agree_with_exact_arithmetic(
    points: list[tuple[int, int]],
) -> None:
    n, x, y = len(points), [p[0] for p in points], [p[1] for p in points]
    spread = n * sum(a * a for a in x) - sum(x) ** 2
    assume(spread > 0)
    weight = Fraction(n * sum(a * b for a, b in points) - sum(x) * sum(y), spread)
    bias = (sum(y) - weight * sum(x)) / n
    size = 1 + float(abs(weight) * max(map(abs, x)) + max(map(abs, y)))
    by_qr = least_squares(np.array(x)[:, None], y)
    for line in (by_qr, simple_regression(x, y)):
        assert line.weight.shape == (1,)
        np.testing.assert_allclose(line.weight, float(weight), rtol=1e-9, atol=1e-11 * size)
        np.testing.assert_allclose(line.bias, float(bias), rtol=1e-9, atol=1e-11 * size)


def test_least_squares_fits_a_day_of_unix_timestamps() -> None:
    # Far from constant: they spread over 1e11 times the distance of floats around 1.7e9.
    seconds = np.linspace(0, 86_400, 1_000).round()
    y = 3.0 + seconds / 4096
    line = least_squares((1.7e9 + seconds)[:, None], y)
    np.testing.assert_allclose(line.weight, [1 / 4096], rtol=1e-8)


def test_least_squares_fits_columns_of_very_different_sizes() -> None:
    X, y = random_problem(40, 2)
    sizes = np.array([2.0**30, 2.0**-30])
    expected = least_squares(X, y)
    found = least_squares(X * sizes, y)
    np.testing.assert_allclose(found.weight * sizes, expected.weight, rtol=1e-9)
    np.testing.assert_allclose(found.bias, expected.bias, rtol=1e-9)


@pytest.mark.parametrize(
    "X",
    [
        np.arange(12.0).reshape(-1, 1) * [1.0, 2.0],
        np.full((12, 1), 0.1),
        np.column_stack([np.arange(12.0), 7 - 0.3 * np.arange(12.0)]),
        np.random.default_rng(0).normal(size=(3, 3)),
        np.zeros((12, 1)),
    ],
    ids=["twice the other", "constant", "affine in the other", "3 rows for 4 columns", "zeros"],
)
def test_least_squares_refuses_dependent_columns(X: np.ndarray) -> None:
    n_samples, n_features = X.shape
    y = np.arange(n_samples) ** 2
    with pytest.raises(ValueError, match="expected linearly independent columns") as error:
        least_squares(X, y)
    assert f"{n_features + 1} columns over {n_samples} rows" in str(error.value)
    # The remedy that the message names works.
    assert np.isfinite(least_squares(X, y, l2=0.1).weight).all()


def test_largest_stable_lr_of_the_article() -> None:
    # The Hessian is 2·[[Σx², Σx], [Σx, n]]/n with Σx² = 3,026 and Σx = 186: by the quadratic
    # formula its larger eigenvalue is (3,041 + √(3,011² + 4·186²))/15.
    largest = (3_041 + np.sqrt(3_011**2 + 4 * 186**2)) / 15
    assert largest_stable_lr(article.X) == pytest.approx(2 / largest, rel=1e-13)
    assert round(largest_stable_lr(article.X), 6) == 0.004938


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.3},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.5, "dampening": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.3, "nesterov": True},
        {"l2": 2.0},
        {"weight_decay": 3.0},
        {"l2": 2.0, "weight_decay": 3.0, "momentum": 0.9, "nesterov": True},
        {"l2": 2.0, "weight_decay": 3.0, "momentum": 0.8, "dampening": 0.4},
        {"dampening": 0.5},
    ],
    ids=lambda options: "+".join(f"{name}={value}" for name, value in options.items()) or "plain",
)
def test_largest_stable_lr_is_where_training_begins_to_diverge(options: dict[str, Any]) -> None:
    X, y = random_problem(20, 2)
    limit = largest_stable_lr(X, **options)
    l2, decay = options.get("l2", 0.0), options.get("weight_decay", 0.0)
    goal = least_squares(X, y, l2, decay)
    rule = {name: value for name, value in options.items() if name != "l2"}

    def distances(lr: float) -> np.ndarray:
        trace = train(X, y, [9.0, -9.0], 9.0, SGD(lr, **rule), 1_000, LeastSquares(l2=l2))
        return np.hypot(np.linalg.norm(trace.weight - goal.weight, axis=1), trace.bias - goal.bias)

    below, above = distances(0.99 * limit), distances(1.01 * limit)
    assert below[-1] < 1e-3 * below[0]
    assert above[-1] > 1e3 * above[0]


@pytest.mark.parametrize("n_targets", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"l2": 2.0, "weight_decay": 3.0, "momentum": 0.9, "nesterov": True}],
    ids=["plain", "all"],
)
def test_largest_stable_lr_knows_targets_and_weights(
    n_targets: int, weighted: bool, options: dict[str, Any]
) -> None:
    X, y, w = random_targets(n_targets)
    weights = w if weighted else None
    limit = largest_stable_lr(X, **options, n_targets=n_targets, sample_weight=weights)
    rule = dict(options)
    l2 = rule.pop("l2", 0.0)
    goal = least_squares(X, y, l2, rule.get("weight_decay", 0.0), weights)
    A = np.column_stack([X, np.ones(40)])
    share = (w / w.sum() if weighted else np.full(40, 1 / 40))[:, None] / n_targets

    def distances(lr: float) -> list[float]:
        optimizer, buffer, theta, found = SGD(lr, **rule), None, np.full((6, n_targets), 9.0), []
        for _ in range(1_000):
            found.append(float(np.linalg.norm(theta - np.vstack([goal.weight, goal.bias]))))
            gradient = 2 * A.T @ (share * (A @ theta - y))
            gradient[:-1] += 2 * l2 * theta[:-1]
            theta, buffer = optimizer.step(theta, gradient, buffer)
        return found

    below, above = distances(0.99 * limit), distances(1.01 * limit)
    assert below[-1] < 0.1 * below[0]
    assert above[-1] > 1e3 * above[0]


def test_largest_stable_lr_is_infinite_where_dampening_lets_one_gradient_in() -> None:
    # With dampening 1 the buffer is the first gradient, fading: no learning rate diverges.
    limit = largest_stable_lr(article.X, momentum=0.9, dampening=1.0)
    assert limit == np.inf


def test_line_unpacks_into_weight_and_bias() -> None:
    weight, bias = Line(np.array([2.0]), np.array(1.0))
    assert mean_squared_error(np.array([[1.0]]), np.array([3.0]), weight, bias) == 0
