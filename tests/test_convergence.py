"""`convergence`: how many steps a training needs.

Oracles: the NumPy reference trained step by step, and for long trainings powers of its affine map.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes

from trueline.planning.convergence import decay, epochs, log_rate, modes
from trueline.planning.rates import best_lr, heavy_ball
from trueline.reference import SGD, LeastSquares, article
from trueline.reference.solve import stable_lr
from trueline.reference.triangle import Line, triangle

DATA = Path(__file__).parent / "data"


def read_rows(name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array(json.loads((DATA / f"{name}.json").read_text("utf-8"))["rows"])
    return rows[:, :-1], rows[:, -1]


def powers(x: np.ndarray, degree: int) -> np.ndarray:
    return x.reshape(-1, 1) ** np.arange(1, degree + 1)


def real_data() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    diabetes = load_diabetes(scaled=False)
    # 235 households, as statsmodels has them: Koenker & Bassett (1982).
    income, food = np.loadtxt(DATA / "engel.csv", delimiter=",", skiprows=1).T
    pontius_x, pontius_y = read_rows("pontius")
    x = np.arange(21.0)
    return {
        "article": (article.X.astype(float), article.y.astype(float)),
        "norris": read_rows("norris"),
        "pontius": (powers(pontius_x, 2), pontius_y),
        "longley": read_rows("longley"),
        "wampler1": (powers(x, 5), 1 + powers(x, 5).sum(axis=1)),
        "diabetes": (diabetes.data, diabetes.target),
        "engel": (income.reshape(-1, 1), food),
    }


REAL = real_data()


def standardise(X: np.ndarray) -> np.ndarray:
    return (X - X.mean(axis=0)) / X.std(axis=0)


def zeros(X: np.ndarray, y: np.ndarray) -> Line:
    return Line(np.zeros((X.shape[1], *y.shape[1:])), np.zeros(y.shape[1:]))


def count_epochs(
    X: np.ndarray,
    y: np.ndarray,
    start: Line,
    sgd: SGD,
    most: int,
    l2: float = 0.0,
    weight: np.ndarray | None = None,
) -> int:
    """Train step by step; return the step after the last one that has not converged."""
    rows = triangle(X, y, weight)
    best = rows.least_squares(l2, sgd.weight_decay)
    # The criterion, in numbers of its own: predictions over all rows, and the spread of y.
    w = np.ones(len(y)) if weight is None else weight
    targets = y.reshape(len(y), -1)
    mean = np.average(targets, axis=0, weights=w)
    limit = 1e-6 * np.sqrt(np.average((targets - mean) ** 2, axis=0, weights=w))
    parameters: dict[str, np.ndarray] = start._asdict()
    buffers: dict[str, Any] = dict.fromkeys(parameters)
    batch = (X, y) if weight is None else (X, y, weight)
    late = -1
    for step in range(most + 1):
        off = X @ (parameters["weight"] - best.weight) + (parameters["bias"] - best.bias)
        apart = np.sqrt(np.average(off.reshape(len(y), -1) ** 2, axis=0, weights=w))
        late = step if np.any(apart > limit) else late
        _, gradient = LeastSquares(l2=l2).loss_and_gradient(parameters, batch)
        stepped = {}
        for name, value in parameters.items():
            stepped[name], buffers[name] = sgd.step(value, gradient[name], buffers[name])
        parameters = stepped
    return late + 1


RULES = {
    "plain": {"momentum": 0.0},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.5},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}


LONG = {("longley", "plain"), ("longley", "nesterov"), *(("wampler1", rule) for rule in RULES)}
"""10⁴ steps and more; those without momentum are held against powers of the map below."""


@pytest.mark.parametrize(
    ("name", "rule"), [(n, r) for n in REAL for r in RULES if (n, r) not in LONG]
)
def test_epochs_are_those_of_a_training_step_by_step(name: str, rule: str) -> None:
    X, y = standardise(REAL[name][0]), REAL[name][1]
    rows, start = triangle(X, y), zeros(X, y)
    sgd = SGD(0.8 * best_lr(modes(rows), **RULES[rule]), **RULES[rule])
    steps = epochs(rows, start, sgd)
    assert steps is not None
    counted = count_epochs(X, y, start, sgd, most=2 * steps + 100)
    # The last step's distance may be the limit's to rounding.
    assert abs(steps - counted) <= 1


@pytest.mark.parametrize("name", REAL)
def test_epochs_with_the_heavy_ball_are_those_of_a_training_step_by_step(name: str) -> None:
    X, y = standardise(REAL[name][0]), REAL[name][1]
    rows, start = triangle(X, y), zeros(X, y)
    sgd = SGD(*heavy_ball(modes(rows)))
    steps = epochs(rows, start, sgd)
    assert steps is not None
    counted = count_epochs(X, y, start, sgd, most=steps + steps // 10 + 100)
    assert abs(steps - counted) <= max(1, 1e-4 * steps)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("penalty", ["none", "l2", "weight_decay", "both"])
@pytest.mark.parametrize("case", ["weights", "targets", "both"])
def test_epochs_with_penalties_weights_and_targets(rule: str, penalty: str, case: str) -> None:
    rng = np.random.default_rng(7)
    X = rng.normal(1.0, [1.0, 2.0, 0.5], (40, 3))
    y = X @ rng.normal(size=(3, 2)) + rng.normal(size=(40, 2)) * [1, 50]
    y = y[:, 0] if case == "weights" else y
    weight = None if case == "targets" else rng.uniform(0.1, 3, 40)
    l2 = 0.3 if penalty in ("l2", "both") else 0.0
    decay_ = 0.2 if penalty in ("weight_decay", "both") else 0.0
    rows = triangle(X, y, weight)
    start = Line(rng.normal(size=X.shape[1:] + y.shape[1:]), rng.normal(size=y.shape[1:]))
    lr = 0.6 * best_lr(modes(rows, l2, decay_), **RULES[rule])
    sgd = SGD(lr, weight_decay=decay_, **RULES[rule])
    steps = epochs(rows, start, sgd, l2)
    assert steps is not None
    assert steps > 10
    assert abs(steps - count_epochs(X, y, start, sgd, 2 * steps, l2, weight)) <= 1


def hessian(X: np.ndarray) -> np.ndarray:
    A = np.column_stack([X, np.ones(len(X))])
    return 2 / len(X) * A.T @ A


@pytest.mark.parametrize("name", ["longley", "wampler1"])
def test_epochs_of_a_long_training_are_those_of_powers_of_its_map(name: str) -> None:
    X, y = standardise(REAL[name][0]), REAL[name][1]
    rows, start = triangle(X, y), zeros(X, y)
    sgd = SGD(best_lr(modes(rows)))
    steps = epochs(rows, start, sgd)
    assert steps is not None
    assert steps > 80_000
    H = hessian(X)
    step = np.eye(len(H)) - sgd.lr * H
    off = -np.append(*rows.least_squares())
    for k, converged in ((steps, True), (int(0.9999 * steps) - 1, False)):
        left = np.linalg.matrix_power(step, k) @ off
        apart = np.sqrt(np.mean((X @ left[:-1] + left[-1]) ** 2))
        assert (apart <= 1e-6 * y.std()) == converged


def test_epochs_of_a_condition_number_of_a_million_millions_take_no_longer() -> None:
    # Orthogonal columns, so that each mode is known by itself: 1, and 1e-12 of that.
    x = np.array([1.0, 1.0, -1.0, -1.0])
    X = np.column_stack([x, 1e-6 * np.array([1.0, -1.0, 1.0, -1.0])])
    y = X @ [1.0, 1e6]
    steps = epochs(triangle(X, y), zeros(X, y), SGD(0.5))
    assert steps is not None
    # The slow mode, half of the spread's square, has to shrink to 1e-6 times its root of two.
    expected = np.log(1e-6 * np.sqrt(2)) / np.log1p(-1e-12)
    assert steps == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("rule", RULES)
def test_epochs_are_none_above_the_limit_alone(rule: str) -> None:
    rows = triangle(article.X, article.y)
    start, rule_ = zeros(article.X, article.y), RULES[rule]
    limit = stable_lr(modes(rows).largest, **rule_)
    assert epochs(rows, start, SGD(1.0001 * limit, **rule_)) is None
    assert epochs(rows, start, SGD(0.9999 * limit, **rule_)) is not None


def test_epochs_of_dependent_columns_are_those_of_the_predictions() -> None:
    X, y = REAL["norris"]
    X = standardise(X)
    twice = np.column_stack([X, X, np.full(len(X), 3.0)])
    sgd = SGD(0.01)
    steps = epochs(triangle(twice, y), zeros(twice, y), sgd)
    assert steps is not None
    H = hessian(twice)
    best = np.linalg.lstsq(np.column_stack([twice, np.ones(len(y))]), y)[0]
    step = np.eye(len(H)) - sgd.lr * H
    for k, converged in ((steps, True), (steps - 1, False)):
        left = np.linalg.matrix_power(step, k) @ -best
        apart = np.sqrt(np.mean((twice @ left[:-1] + left[-1]) ** 2))
        assert (apart <= 1e-6 * y.std()) == converged


def test_epochs_are_zero_at_the_optimum() -> None:
    rows = triangle(article.X, article.y)
    assert epochs(rows, rows.least_squares(), SGD(0.001)) == 0


@settings(deadline=None, max_examples=60)
@given(
    a=st.floats(1e-6, 5.0),
    momentum=st.floats(0.0, 0.99),
    dampening=st.floats(0.0, 1.0),
    nesterov=st.booleans(),
)
def test_decay_is_that_of_the_steps_one_by_one(
    a: float, momentum: float, dampening: float, nesterov: bool
) -> None:
    sgd = SGD(a, momentum, 0.0 if nesterov else dampening, nesterov and momentum > 0)
    theta, buffer, expected = np.array(1.0), None, [1.0]
    for _ in range(60):
        theta, buffer = sgd.step(theta, theta, buffer)
        expected.append(float(theta))
    found = decay(np.ones(1), sgd, np.arange(61))[:, 0]
    # Of a map of size ρ, rounding grows as its powers do, and at a double root with the steps.
    growth = np.maximum.accumulate(np.abs(expected)) + 1
    assert np.all(np.abs(found - expected) <= 1e-11 * growth)
    rate = np.exp(log_rate(np.ones(1), sgd)[0])
    matrix = _map_of(a, sgd)
    assert rate == pytest.approx(np.abs(np.linalg.eigvals(matrix)).max(), rel=1e-6, abs=1e-7)


def _map_of(a: float, sgd: SGD) -> np.ndarray:
    """Return the map of (parameter, buffer), column by column, by steps of the reference."""
    columns = []
    for theta, buffer in ((1.0, 0.0), (0.0, 1.0)):
        after = SGD(a, sgd.momentum, sgd.dampening, sgd.nesterov).step(
            np.array(theta), np.array(theta), np.array(buffer)
        )
        columns.append([float(after[0]), float(after[1]) if sgd.momentum else 0.0])
    return np.array(columns).T
