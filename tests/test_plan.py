"""`plan`, the command, and auto in the place of a learning rate and a momentum.

Oracles: trainings of that length, NumPy's eigenvalues of columns standardised by hand.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from conftest import Run
from trueline.crosscheck import CrossCheck
from trueline.data import DummyData, RegressionData
from trueline.errors import RequestError
from trueline.module import LinearRegression
from trueline.planning.forecast import expected_seconds, forecast
from trueline.planning.plan import Plan, dependent, make_plan
from trueline.reference import article
from trueline.reference.triangle import Line, triangle
from trueline.scaling import standardising

PLAIN = {
    **{"lr": 0.001, "momentum": 0.0, "dampening": 0.0, "nesterov": False},
    **{"weight_decay": 0.0, "l1": 0.0, "l2": 0.0, "schedule": None},
}
QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")


class PlannedRows(DummyData):
    """The article's points, trained on for as long as the plan says."""

    plans_epochs = True


def plan_of(X: np.ndarray, y: np.ndarray, **options: Any) -> Plan:
    rows = triangle(X, y)
    start = Line(np.zeros(X.shape[1]), np.zeros(()))
    return make_plan(rows, start, PLAIN | options)


def random_rows(n_features: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    X = rng.normal(100.0, [1.0, 30.0, 0.1][:n_features], (50, n_features))
    return X, X @ np.ones(n_features) + rng.normal(size=50)


def hessian_condition(X: np.ndarray) -> float:
    A = np.column_stack([X, np.ones(len(X))])
    return float(np.linalg.cond(A) ** 2)


def test_standardised_is_the_triangle_of_standardised_rows() -> None:
    X, y = random_rows()
    weight = np.random.default_rng(3).uniform(0.1, 2, 50)
    mean = np.average(X, axis=0, weights=weight)
    deviation = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight))
    expected = triangle((X - mean) / deviation, y, weight)
    rows = triangle(X, y, weight)
    found = standardising(rows).rows(rows)
    line = Line(np.array([1.0, -2.0, 3.0]), np.array(0.5))
    assert found.loss(line) == pytest.approx(expected.loss(line), rel=1e-10)
    assert found.curvature() == pytest.approx(expected.curvature(), rel=1e-10)
    assert found.spread == pytest.approx(expected.spread, rel=1e-12)


def test_plan_knows_condition_numbers() -> None:
    X, y = random_rows()
    plan = plan_of(X, y)
    assert plan.condition == pytest.approx(hessian_condition(X), rel=1e-6)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    assert plan.condition_standardised == pytest.approx(hessian_condition(Z), rel=1e-9)


def test_dependent_columns_go_by_name() -> None:
    X, y = random_rows()
    a, b, c = X.T
    names = ["a", "b", "c", "a + b", "five"]
    X = np.column_stack([a, b, c, a + 2 * b - 3, np.full(50, 5.0)])
    start = Line(np.zeros(5), np.zeros(()))
    plan = make_plan(triangle(X, y), start, PLAIN, names=names)
    assert plan.constant == ["five"]
    assert plan.collinear == ["a", "b", "a + b"]
    assert plan.condition == np.inf
    assert plan.to_dict()["condition"] is None
    assert "five" in plan.advice
    # A penalty makes the line the only one.
    assert "leave out" not in plan_of(X, y, l2=0.1).advice


def test_column_that_differs_by_rounding_alone_is_constant() -> None:
    X, y = random_rows()
    same = np.where(np.arange(50) % 2, 0.1 + 0.2, 0.3)
    assert len(set(same)) == 2
    rows = triangle(np.column_stack([X, same]), y)
    assert dependent(rows) == ([3], [])
    assert rows.rank() == 4


def test_columns_that_nearly_depend_are_not_named() -> None:
    X, y = random_rows()
    near = X[:, 0] + 1e-6 * np.random.default_rng(1).normal(size=50)
    assert dependent(triangle(np.column_stack([X, near]), y)) == ([], [])


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({}, "standardise the columns: 1 epoch in the place of 29,852"),
        ({"lr": 1.0}, "lr 1 diverges: set --model.lr below 0.004938"),
        ({"l1": 0.1}, "standardise the columns: 1 epoch in the place of 29,853"),
        ({"schedule": {"name": "StepLR"}}, "none: how long it takes is not known beforehand"),
    ],
)
def test_plan_advises(options: dict[str, Any], advice: str) -> None:
    plan = plan_of(article.X, article.y, **options)
    assert plan.advice == advice
    assert advice in plan.table()
    assert max(map(len, plan.table().splitlines())) <= 100


def test_plan_of_rows_that_need_nothing_says_so() -> None:
    X, y = random_rows()
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    plan = plan_of(Z, y, lr=0.5)
    epochs = plan.trainings["asked"].epochs
    assert plan.advice == f"train as asked: --trainer.max_epochs {epochs}"
    # What one may do is told where it is not to standardise.
    slow = plan_of(Z, y, lr=0.01)
    assert slow.advice.startswith("--model.lr auto --model.momentum auto: ")


def test_forecast_refuses_data_that_it_cannot_read() -> None:
    with pytest.raises(RequestError, match=r"expected a RegressionData, .* found int"):
        forecast(3, LinearRegression())


def test_plan_says_how_long_reading_took_where_it_has_measured_it() -> None:
    data, model = DummyData(), LinearRegression()
    first, second = forecast(data, model), forecast(data, model)
    assert first.seconds is not None
    assert "read once in" in first.table()
    assert second.seconds is None
    assert "480 bytes\n" in second.table()


def converged_after(
    make_trainer: Callable[..., Trainer], epochs: int, data: RegressionData, **options: Any
) -> bool:
    model = LinearRegression(init="zeros", **options)
    make_trainer(max_epochs=epochs).fit(model, datamodule=data)
    best = data.triangle.least_squares()
    trained = Line(*(p.detach().numpy() for p in (model.weight, model.bias)))
    return bool(np.all(data.triangle.apart(trained, best) <= 1e-6 * data.triangle.spread))


@pytest.mark.parametrize("momentum", [0.0, 0.5, "auto"])
def test_training_with_auto_converges_when_it_should(
    make_trainer: Callable[..., Trainer], momentum: Any
) -> None:
    data = DummyData()
    model = LinearRegression(lr="auto", momentum=momentum, init="zeros")
    model.tune(data)
    epochs = forecast(data, model).trainings["asked"].epochs
    assert epochs is not None
    auto = {"lr": "auto", "momentum": momentum}
    assert converged_after(make_trainer, epochs + 1, data, **auto)
    assert not converged_after(make_trainer, epochs - 1, data, **auto)


def test_auto_becomes_numbers_before_the_first_step(make_trainer: Callable[..., Trainer]) -> None:
    model = LinearRegression(lr="auto", momentum="auto")
    check = CrossCheck()
    trainer = make_trainer(max_epochs=3, callbacks=[check])
    trainer.fit(model, datamodule=DummyData())
    assert check.report()["passed"]
    H = 2 / 15 * (A := np.column_stack([article.X, np.ones(15)])).T @ A
    mu, L = np.sqrt(np.linalg.eigvalsh(H))
    expected = {"lr": (2 / (L + mu)) ** 2, "momentum": ((L - mu) / (L + mu)) ** 2}
    for found in (model.hparams, trainer.optimizers[0].param_groups[0], model.hparams_initial):
        assert {n: found[n] for n in expected} == pytest.approx(expected)


def test_auto_without_rows_to_read_says_what_to_do(make_trainer: Callable[..., Trainer]) -> None:
    rows = TensorDataset(torch.tensor(article.X), torch.tensor(article.y))
    loader = DataLoader(rows, 15)
    with pytest.raises(ValueError, match=r"momentum auto: expected a RegressionData .* a number"):
        make_trainer().fit(LinearRegression(momentum="auto"), loader, loader)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("momentum", [0.9, "auto"])
def test_auto_with_batches_is_stable(
    make_trainer: Callable[..., Trainer], momentum: Any, shuffle: bool
) -> None:
    data = DummyData(batch_size=4, shuffle=shuffle)
    model = LinearRegression(lr="auto", momentum=momentum)
    before = data.triangle.loss(Line(*(p.detach().numpy() for p in model.parameters())))
    make_trainer(max_epochs=300).fit(model, datamodule=data)
    after = data.triangle.loss(Line(*(p.detach().numpy() for p in model.parameters())))
    assert after < before / 10
    # The rows in order may be steeper than any drawn at random.
    drawn = DummyData(batch_size=4, shuffle=True).tuned(PLAIN | {"lr": "auto"})["lr"]
    in_order = DummyData(batch_size=4).tuned(PLAIN | {"lr": "auto"})["lr"]
    steepest = 2 * (1 + article.X.max() ** 2)
    assert in_order == pytest.approx(1 / steepest)
    assert drawn > in_order


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": "fast"}, "lr: expected a finite number above 0; found fast"),
        ({"momentum": "auto", "nesterov": True}, "nesterov: expected momentum above 0"),
        ({"lr": "auto", "momentum": 0.5, "dampening": 1.0}, "dampening: expected below 1"),
    ],
)
def test_auto_where_it_has_no_meaning_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LinearRegression(**options)


def test_plan_command_says_what_the_article_needs(cli: Callable[..., Run]) -> None:
    run = cli("plan", "--model.init=zeros")
    assert run.status == 0, run.stderr
    lines = {line[:22].strip(): line[22:].split() for line in run.stdout.splitlines()}
    assert lines["asked"] == ["0.001", "0", "29,852"]
    assert lines["best lr"][0] == "0.00493259"
    assert lines["best lr and momentum"] == ["0.00923421", "0.872083", "318"]
    assert not list(run.directory.iterdir())
    assert "29,852" not in cli("plan", "--model.init=zeros", "--accuracy=1e-3").stdout


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ("plan --accuracy 0", "--accuracy: expected a finite number above 0; found 0.0"),
        ("plan --model.lr 0.1 --model.momentum auto", "--model.momentum auto: expected lr below"),
        ("fit --model.lr 0.1 --model.momentum auto", "--model.momentum auto: expected lr below"),
    ],
)
def test_plan_command_refuses(cli: Callable[..., Run], request_: str, said: str) -> None:
    run = cli(*request_.split())
    assert run.status == 2
    assert said in run.stderr
    assert not list(run.directory.iterdir())


def config_of(run: Run, version: int) -> dict[str, Any]:
    path = run.directory / f"lightning_logs/version_{version}/config.yaml"
    return yaml.safe_load(path.read_text("utf-8"))


def test_fit_with_auto_converges_in_the_epochs_that_were_planned(cli: Callable[..., Run]) -> None:
    table = cli("plan", "--model.lr=auto", "--model.momentum=auto").stdout
    (asked,) = [line for line in table.splitlines() if line.startswith("asked")]
    epochs = int(asked.split()[-1].replace(",", ""))
    options = ("--model.lr=auto", "--model.momentum=auto", *QUIET)
    for number, (share, converged) in enumerate([(0.95, False), (1.05, True)]):
        run = cli("fit", *options, f"--trainer.max_epochs={int(share * epochs)}")
        assert run.status == 0, run.stderr
        result = run.result(f"version_{number}")
        assert result["converged"] is converged
        assert result["crosscheck"]["passed"]
        written = config_of(run, number)["model"]
        assert written["lr"] == result["lr"] == pytest.approx(0.00923421, rel=1e-6)
        assert written["momentum"] == pytest.approx(0.872083, rel=1e-6)


def test_resumed_training_goes_on_with_the_numbers_of_the_checkpoint(
    cli: Callable[..., Run],
) -> None:
    cli("fit", "--model.lr=auto", "--trainer.max_epochs=2", *QUIET)
    run = cli("fit", "--ckpt_path=last", "--trainer.max_epochs=4", *QUIET)
    assert run.status == 0, run.stderr
    lr = run.result("version_0")["lr"]
    assert run.result("version_1")["lr"] == config_of(run, 1)["model"]["lr"] == lr
    path = run.directory / "lightning_logs/version_1/checkpoints/last.ckpt"
    assert torch.load(path, weights_only=True)["hyper_parameters"]["lr"] == lr


def test_data_that_plans_epochs_is_trained_on_as_long_as_it_needs(cli: Callable[..., Run]) -> None:
    data, auto = "--data=test_plan.PlannedRows", ("--model.lr=auto", "--model.momentum=auto")
    run = cli("fit", data, *auto, *QUIET)
    assert run.status == 0, run.stderr
    result = run.result()
    table = cli("plan", data, *auto, "--accuracy=1e-12").stdout
    (asked,) = [line for line in table.splitlines() if line.startswith("asked")]
    planned = int(asked.split()[-1])
    assert result["converged"]
    assert result["epochs"] == int(np.ceil(1.02 * planned)) + 1
    assert config_of(run, 0)["trainer"]["max_epochs"] == result["epochs"]
    path = run.directory / "lightning_logs/version_0/checkpoints/last.ckpt"
    kept = torch.load(path, weights_only=True)["options"]
    assert kept["trainer.max_epochs"] == result["epochs"]
    # What is typed wins, and a checkpoint's number over the plan.
    cli("fit", data, *auto, *QUIET, "--trainer.max_epochs=3")
    assert run.result("version_1")["epochs"] == 3
    again = cli("fit", data, "--ckpt_path=last", *QUIET)
    assert again.status == 2
    assert "3" in again.stderr
    cli("fit", data, "--data.batch_size=5", *auto, *QUIET)
    assert run.result("version_2")["epochs"] == 10


@pytest.mark.parametrize("batch_size", [None, 32])
def test_expected_time_grows_with_rows_and_epochs(batch_size: int | None) -> None:
    def data(n: int) -> RegressionData:
        return RegressionData(np.ones((n, 10)), np.ones(n), batch_size)

    one = expected_seconds(data(10_000), 100)
    assert one > 0
    assert expected_seconds(data(100_000), 100) > (5 if batch_size else 1) * one
    assert expected_seconds(data(10_000), 1000) > 2 * one
