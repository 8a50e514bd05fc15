"""The L1 penalty: weights reach exactly 0, and a run ends at scikit-learn's minimum."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet

from test_reference_sgd import settings_of_sgd
from trueline.crosscheck import CrossCheck
from trueline.data import RegressionData
from trueline.data.datamodule import line_of
from trueline.module import LinearRegression
from trueline.planning.closed_form import closed_form
from trueline.planning.with_l1 import epochs_with_l1
from trueline.proximal import ProximalSGD
from trueline.reference import SGD, LeastSquares, train
from trueline.reference.lasso import lasso
from trueline.reference.rounding import DOUBLE, SINGLE, step_bound
from trueline.reference.triangle import Line, triangle

RULES = {
    "plain": SGD(0.1),
    "heavy ball": SGD(0.1, momentum=0.7),
    "dampened": SGD(0.1, momentum=0.7, dampening=0.3),
    "Nesterov": SGD(0.1, momentum=0.7, nesterov=True),
    "decayed": SGD(0.1, momentum=0.7, weight_decay=0.2),
}


def problem(n: int = 60, p: int = 5, seed: int = 0, n_targets: int = 1) -> tuple[Any, Any]:
    """Draw rows of which every other column says nothing, two columns being alike."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    X[:, -1] = 0.9 * X[:, 0] + 0.3 * X[:, -1]
    w = rng.normal(size=(p, n_targets)) + 1.5
    w[1::2] = 0
    y = X @ w + 4 + 0.5 * rng.normal(size=(n, n_targets))
    return X, y[:, 0] if n_targets == 1 else y


def by_sklearn(X: Any, y: Any, l1: float, l2: float = 0.0) -> tuple[Any, float]:
    """Minimise `mean(r²) + l1·Σ|w| + l2·Σw²`, twice scikit-learn's objective."""
    alpha = l1 / 2 + l2
    net = ElasticNet(alpha=alpha, l1_ratio=l1 / 2 / alpha, tol=1e-14, max_iter=10**6).fit(X, y)
    return net.coef_, net.intercept_


@settings(deadline=None, max_examples=60)
@given(
    options=settings_of_sgd(),
    l1=st.sampled_from([0.0, 0.01, 1.0, 5.0]),
    dtype=st.sampled_from(["float64", "float32"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_proximal_sgd_agrees_with_the_reference_within_its_bound(
    options: dict[str, Any], l1: float, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    theta = torch.nn.Parameter(torch.tensor(rng.normal(size=4), dtype=getattr(torch, dtype)))
    optimizer = ProximalSGD([theta], **options, l1={theta: l1})
    [group] = optimizer.param_groups
    buffer, moved = None, False
    for k in range(12):
        group["lr"] = lr = options["lr"] * (k % 4 / 3)  # as schedules do, which may end at 0
        before = theta.detach().double().numpy().copy()
        theta.grad = torch.tensor(rng.normal(size=4), dtype=theta.dtype)
        optimizer.step()
        found = theta.detach().double().numpy()
        sgd = SGD(**{**options, "lr": lr})
        state = before, theta.grad.double().numpy()
        expected, momentum = sgd.step(*state, buffer, l1)
        u = DOUBLE if dtype == "float64" else SINGLE
        allowed, of_buffer = step_bound(sgd, *state, np.zeros(4), buffer, u, l1=l1)
        assert (np.abs(found - expected) <= allowed).all()
        if momentum is not None:
            buffer = optimizer.state[theta]["momentum_buffer"].double().numpy().copy()
            assert (np.abs(buffer - momentum) <= of_buffer).all()
        moved |= bool((found != before).any())
    assert moved


@settings(deadline=None, max_examples=30)
@given(options=settings_of_sgd(), seed=st.integers(0, 2**32 - 1))
def test_proximal_sgd_without_a_penalty_is_torch_sgd(options: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    start = torch.tensor(rng.normal(size=3))
    one, other = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    frozen = torch.nn.Parameter(start.clone())  # has no gradient
    ours = ProximalSGD([one, frozen], **options, l1={frozen: 1.0})
    theirs = torch.optim.SGD([other], **options)
    for _ in range(10):
        one.grad = torch.tensor(rng.normal(size=3))
        other.grad = one.grad.clone()
        ours.step()
        theirs.step()
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-13, atol=1e-13)
    assert torch.equal(frozen, start)


def test_proximal_sgd_keeps_its_penalty_in_copies_and_checkpoints() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = ProximalSGD([weight], lr=0.1, momentum=0.5, l1={weight: 3.0})
    assert copy.deepcopy(optimizer).param_groups[0]["l1"] == [3.0]
    of_plain_sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.5).state_dict()
    optimizer.load_state_dict(of_plain_sgd)
    assert optimizer.param_groups[0]["l1"] == [3.0]


def test_dependent_columns_take_no_more_steps() -> None:
    north, area = np.arange(14) % 2.0, np.linspace(-2, 2, 14)
    X = np.column_stack([north - 0.5, 0.5 - north, area])
    rows, start = (
        triangle(X, 20 * area + 9 * north),
        Line(np.array([1.5, -0.3, -2.2]), np.zeros(())),
    )
    steps = epochs_with_l1(rows, start, SGD(0.3), 0.4, 0.0, accuracy=1e-12)
    assert steps is not None
    assert steps < 200


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("rule", [name for name in RULES if name != "decayed"])
def test_the_fixed_point_is_the_minimum(rule: str, l2: float) -> None:
    X, y = problem()
    trace = train(X, y, np.ones(5), 0.0, RULES[rule], 2000, LeastSquares(l1=0.8, l2=l2))
    weight, bias = by_sklearn(X, y, 0.8, l2)
    assert (weight == 0).any()
    np.testing.assert_array_equal(trace.weight[-1] == 0, weight == 0)
    np.testing.assert_allclose(trace.weight[-1], weight, atol=1e-10)
    assert trace.bias[-1] == pytest.approx(bias, abs=1e-10)


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize("rule", RULES)
def test_the_module_comes_to_the_minimum_and_is_checked(
    make_trainer: Any, rule: str, precision: str
) -> None:
    X, y = problem(n_targets=2)
    rows = np.random.default_rng(1).uniform(0.2, 3, 60)
    torch.manual_seed(0)
    options = {f: getattr(RULES[rule], f) for f in ("momentum", "dampening", "nesterov")}
    options |= {"lr": 0.4, "weight_decay": RULES[rule].weight_decay}
    model = LinearRegression(n_features=5, n_targets=2, l1=0.6, **options)
    check, data = CrossCheck(), RegressionData(X, y, sample_weight=rows)
    make_trainer(max_epochs=1000, precision=precision, callbacks=[check]).fit(model, data)
    assert check.report()["passed"]
    assert check.report()["steps_checked"] == 1000
    best = closed_form(data, model.hparams)
    assert best is not None
    found, expected = line_of(model), best.line
    np.testing.assert_array_equal(found.weight == 0, expected.weight == 0)
    close = {"atol": 1e-11 if precision == "64-true" else 1e-5}
    np.testing.assert_allclose(found.weight, expected.weight, **close)
    np.testing.assert_allclose(found.bias, expected.bias, **close)
    if precision == "64-true":
        assert (best.distance(found) < 1e-11).all()


@pytest.mark.parametrize("seed", range(30))
def test_lasso_fulfils_the_conditions_of_optimality(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, p, T = (int(rng.integers(*ends)) for ends in ((3, 60), (1, 20), (1, 4)))
    X = rng.normal(size=(n, p)) * 10 ** rng.uniform(-2, 2, p) + rng.choice([0, 50])
    if p > 3:
        X[:, 1], X[:, 3] = 2 * X[:, 0] - X[:, 2], 7  # dependent, and the same in all rows
    Y = rng.normal(size=(n, T)) + 3 * X[:, :1] / np.abs(X[:, :1]).max()
    rows = rng.uniform(0.1, 4, n)
    l1, l2, decay = 10 ** rng.uniform(-4, 1), *rng.choice([0.0, 0.1], 2)
    found = lasso(triangle(X, Y, rows), l1, l2, decay)
    w, b = found.line
    share = rows[:, None] / rows.sum() / T
    r = share * (X @ w + b - Y)
    by_weight = 2 * X.T @ r + 2 * l2 * w + decay * w
    slack = 1e-10 * (l1 + 2 * np.abs(X).T @ (share * (np.abs(Y) + np.abs(X) @ np.abs(w))))
    assert (np.abs(by_weight + l1 * np.sign(w))[w != 0] <= slack[w != 0]).all()
    assert (np.abs(by_weight) <= l1 + slack).all()
    np.testing.assert_allclose(2 * r.sum(axis=0) + decay * b, 0, atol=1e-10 * (1 + decay))


def test_lasso_certifies_itself_by_the_duality_gap() -> None:
    X, y = problem(p=8)
    l1, n = 0.5, len(X)
    w, b = lasso(triangle(X, y), l1).line
    r = y - X @ w - b
    primal = r @ r / n + l1 * np.abs(w).sum()
    # The dual of min mean(r²) + l1·Σ|w|: 2α·y/n − α·α/n where Σα = 0 and |2Xᵀα/n| ≤ l1.
    a = r * min(1.0, l1 / np.abs(2 * X.T @ r / n).max())
    assert primal - (2 * a @ y - a @ a) / n == pytest.approx(0, abs=1e-12)


def test_where_columns_are_alike_the_minimum_is_known_though_the_line_is_not() -> None:
    X, y = problem(p=2)
    found = lasso(triangle(np.column_stack([X, X[:, 0]]), y), 0.1)
    assert not found.unique
    assert lasso(triangle(X, y), 0.1).unique
    weight = found.line.weight
    assert weight[0] + weight[2] == pytest.approx(by_sklearn(X, y, 0.1)[0][0])


def test_distance_is_the_root_of_the_excess_and_counts_weights_that_are_nearly_zero() -> None:
    X, y = problem()
    data = RegressionData(X, y)
    best = closed_form(data, LinearRegression(n_features=5, l1=0.8, l2=0.1).hparams)
    assert best is not None

    def objective(line: Line) -> float:
        w = line.weight
        residual = X @ w + line.bias - y
        return float(np.mean(residual**2) + 0.8 * np.abs(w).sum() + 0.1 * (w**2).sum())

    rng = np.random.default_rng(3)
    for _ in range(5):
        line = Line(best.line.weight + 0.1 * rng.normal(size=5), best.line.bias + 0.1)
        root = math.sqrt(objective(line) - objective(best.line)) / np.std(y)
        assert best.distance(line) == pytest.approx(root, rel=1e-9)
        assert best.distance(line) >= data.trained_on.apart(line, best.line) / np.std(y)
    zero = int(np.flatnonzero(best.line.weight == 0)[0])
    line = Line(best.line.weight + 1e-7 * np.eye(5)[zero], best.line.bias)
    assert best.distance(line) > 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_epochs_are_those_that_a_training_takes(rule: str) -> None:
    X, y = problem()
    sgd, l1 = RULES[rule], 0.8
    rows, start = triangle(X, y), Line(np.ones(5), np.zeros(()))
    steps = epochs_with_l1(rows, start, sgd, l1, 0.0, 1e-6)
    assert steps is not None
    h = {"l1": l1, "l2": 0.0, "weight_decay": sgd.weight_decay}
    best = closed_form(RegressionData(X, y), h)
    assert best is not None
    trace = train(X, y, *start, sgd, steps + 50, LeastSquares(l1=l1))
    lines = np.column_stack([trace.weight, trace.bias])
    far = np.flatnonzero(best.distances(lines)[:, 0] > 1e-6)
    assert far[-1] + 1 == steps


@pytest.mark.parametrize("share", [0.5, 0.01])
@pytest.mark.parametrize("apart", [0.05, 0.01])
def test_auto_converges_where_columns_are_nearly_alike(apart: float, share: float) -> None:
    rng = np.random.default_rng(0)
    X = standardised(rng.normal(size=(200, 1)) + apart * rng.normal(size=(200, 4)))
    y = X[:, 0] + 0.1 * rng.normal(size=200)
    l1 = share * 2 * np.abs(X.T @ (y - y.mean()) / 200).max()
    model = LinearRegression(n_features=4, lr="auto", momentum="auto", l1=l1)
    data = RegressionData(X, y)
    model.tune(data)
    sgd = SGD(model.hparams["lr"], model.hparams["momentum"])
    steps = epochs_with_l1(data.trained_on, line_of(model), sgd, l1, 0.0, 1e-12)
    assert steps is not None
    assert steps < 5000
    trace = train(X, y, *line_of(model), sgd, steps, LeastSquares(l1=l1))
    weight, _ = by_sklearn(X, y, l1)
    np.testing.assert_allclose(trace.weight[-1], weight, atol=1e-7)


def table(path: Path, X: Any, y: Any) -> tuple[str, ...]:
    """Write a table; return the command that trains on it."""
    names = [f"x{j}" for j in range(X.shape[1])]
    np.savetxt(
        path, np.column_stack([X, y]), "%.17g", ",", header=",".join([*names, "y"]), comments=""
    )
    return "fit", "--data", "TableData", f"--data.path={path}", "--data.target=y"


def standardised(X: Any) -> Any:
    return (X - X.mean(axis=0)) / X.std(axis=0)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--model.l2 0.25",
        "--model.momentum 0.5",
        "--model.lr 0.1 --model.momentum 0.6 --model.nesterov true",
        "--model.momentum 0.6 --model.nesterov true",
        "--model.dampening 0.4",
        "--model.lr 0.2",
        "--model.lr 0.1 --model.momentum 0.9 --model.dampening 0.5 --trainer.max_epochs 2000",
    ],
)
def test_fit_ends_by_itself_at_the_minimum(cli: Any, tmp_path: Path, options: str) -> None:
    X, y = problem()
    X = X * [1, 10, 100, 0.1, 1] + 7
    command = table(tmp_path / "t.csv", X, y)
    run = cli(*command, "--model.l1=0.8", *options.split())
    assert run.status == 0, run.stderr
    result = run.result()
    scale = X.std(axis=0)
    weight, _ = by_sklearn(standardised(X), y, 0.8, 0.25 if "l2" in options else 0.0)
    found = np.array(result["weight"])
    np.testing.assert_array_equal(found == 0, weight == 0)
    np.testing.assert_allclose(found * scale, weight, atol=1e-9)
    assert result["bias"] == pytest.approx(y.mean() - X.mean(axis=0) @ found, abs=1e-7)
    np.testing.assert_allclose(result["closed_form"]["weight"], found, rtol=1e-8)
    assert result["converged"] is True
    assert result["steps"] < 3000
    assert result["summary"] is None  # standard errors of least squares do not hold
    assert result["crosscheck"]["passed"]
    assert "converged       yes" in run.stdout


def test_fit_says_that_it_has_not_converged(cli: Any, tmp_path: Path) -> None:
    X, y = problem()
    command = table(tmp_path / "t.csv", X, y)
    run = cli(
        *command,
        "--model.l1=0.8",
        "--model.lr=0.01",
        "--model.momentum=0",
        "--trainer.max_epochs=50",
    )
    result = run.result()
    assert result["converged"] is False
    more = int(result["remedy"].split()[2].replace(",", ""))
    assert f"not yet, {result['distance']:.2g} of the spread of y to go" in run.stdout
    run = cli(
        *command,
        "--model.l1=0.8",
        "--model.lr=0.01",
        "--model.momentum=0",
        f"--trainer.max_epochs={50 + more}",
    )
    assert run.result("version_1")["converged"] is True


@pytest.mark.parametrize("gamma", [0.9, 0.5])
def test_mini_batches_with_a_decaying_schedule_say_whether_they_converged(
    cli: Any, tmp_path: Path, gamma: float
) -> None:
    X, y = problem()
    command = table(tmp_path / "t.csv", X, y)
    schedule = f'{{"name": "ExponentialLR", "gamma": {gamma}}}'
    run = cli(
        *command,
        "--model.l1=0.8",
        "--data.batch_size=20",
        f"--model.schedule={schedule}",
        "--trainer.max_epochs=60",
    )
    assert run.status == 0, run.stderr
    result = run.result()
    weight, _ = by_sklearn(standardised(X), y, 0.8)
    off = np.abs(np.array(result["weight"]) * X.std(axis=0) - weight).max()
    assert result["converged"] is bool(result["distance"] <= 1e-6)
    assert (off < 1e-5) >= result["converged"]
    assert "converged" in run.stdout


def test_a_training_goes_on_bit_for_bit(cli: Any, tmp_path: Path) -> None:
    X, y = problem()
    command = (
        *table(tmp_path / "t.csv", X, y),
        "--model.l1=0.8",
        "--model.lr=0.05",
        "--model.momentum=0.8",
    )
    cli(*command, "--trainer.max_epochs=40")
    cli(*command, "--trainer.max_epochs=17")
    cut = next((tmp_path / "lightning_logs/version_1").rglob("last.ckpt"))
    run = cli(*command, "--trainer.max_epochs=40", f"--ckpt_path={cut}")
    assert run.status == 0, run.stderr
    whole, resumed = run.result("version_0"), run.result("version_2")
    assert resumed["steps"] == 40
    assert [whole[k] for k in ("weight", "bias")] == [resumed[k] for k in ("weight", "bias")]


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.8), (0.8, 0.0)])
def test_the_penalty_may_be_another_after_a_checkpoint(
    cli: Any, tmp_path: Path, before: float, after: float
) -> None:
    X, y = problem()
    command = (*table(tmp_path / "t.csv", X, y), "--model.lr=0.1", "--model.momentum=0.5")
    cli(*command, f"--model.l1={before}", "--trainer.max_epochs=20")
    cut = next((tmp_path / "lightning_logs/version_0").rglob("last.ckpt"))
    run = cli(*command, f"--model.l1={after}", "--trainer.max_epochs=400", f"--ckpt_path={cut}")
    assert run.status == 0, run.stderr
    result = run.result("version_1")
    assert result["converged"] is True
    assert (np.array(result["weight"]) == 0).any() == bool(after)


def test_intervals_of_least_squares_are_not_those_of_a_penalised_line(
    cli: Any, tmp_path: Path
) -> None:
    X, y = problem()
    cli(*table(tmp_path / "t.csv", X, y), "--model.l1=0.8")
    config = tmp_path / "lightning_logs/version_0/config.yaml"
    cut = next((tmp_path / "lightning_logs/version_0").rglob("*.ckpt"))
    command = ("predict", f"--config={config}", f"--ckpt_path={cut}")
    assert cli(*command, "--predictions.path=a.csv").status == 0
    run = cli(*command, "--predictions.path=b.csv", "--predictions.intervals=both")
    assert run.status != 0
    assert "expected a model without an L1 penalty" in run.stderr
