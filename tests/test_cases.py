"""Inputs that were answered wrongly once, each with its right answer from outside.

Each stands for a kind of fault. The tests of the parts hold the kinds; these hold the inputs.
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from conftest import ROOT, Run
from trueline.crosscheck import CrossCheck
from trueline.data import DummyData, RegressionData
from trueline.errors import CheckFailed
from trueline.module import LinearRegression
from trueline.reference import article

Cli = Callable[..., Run]
CASES = ROOT / "tests/data/cases"
LARGEST_STABLE_LR = "0.0001441"
"""2/λmax of the Hessian of `lines_of_fives`, from NumPy's eigenvalues."""


def table(name: str, target: str) -> list[str]:
    return ["--data=TableData", f"--data.path={CASES / name}", f"--data.target={target}"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def line_of(run: Run) -> tuple[np.ndarray, float]:
    result = run.result()
    return np.array(result["weight"]), result["bias"]


def lines_of_fives() -> RegressionData:
    X = np.arange(65.0, 101.0, 5.0)
    return RegressionData(X, np.arange(200.0, 551.0, 50.0))


@pytest.mark.parametrize("length", [[], ["--trainer.max_epochs=2000"]])
def test_l1_penalty_ends_at_the_lasso_of_scikit_learn(length: list[str], cli: Cli) -> None:
    run = cli("fit", *table("lasso.csv", "y"), "--model.l1=0.4", *length)
    assert run.status == 0, run.stderr
    weight, bias = line_of(run)
    # scikit-learn: Lasso(alpha=0.2) on standardised columns, taken back to the table's units.
    assert weight[:2] == pytest.approx([1.824292, 0.260573], abs=1e-6)
    assert weight[2] == 0
    assert bias == pytest.approx(5.014990, abs=1e-6)
    assert run.result()["converged"] is True
    assert run.result()["epochs"] <= 2000  # it set itself a million


def test_level_without_a_training_row_has_no_prediction(cli: Cli, tmp_path: Path) -> None:
    held_out = ["--data.categorical=kind", "--data.val_fraction=0.3", "--data.seed=1"]
    assert cli("fit", *table("rare.csv", "y"), *held_out).status == 0
    (tmp_path / "new.csv").write_text("kind,x\nrare,3\nb,3\n")
    predict = ["--data=TableData", "--data.path=new.csv", "--predictions.path=p.csv"]
    run = cli("predict", *predict, "--predictions.intervals=both")
    assert run.status == 0, run.stderr
    rare, known = rows_of(tmp_path / "p.csv")
    columns = [name for name in rare if "prediction" in name or "confidence" in name]
    assert len(columns) == 5
    assert [rare[name] for name in columns] == [""] * 5
    assert "rare" in rare["note"]
    assert all(math.isfinite(float(known[name])) for name in columns)
    assert known["note"] == ""
    assert "1" in run.stderr


@pytest.mark.parametrize("seed", [0, 1])
def test_row_off_the_span_of_the_training_rows_has_no_prediction(
    seed: int, cli: Cli, tmp_path: Path
) -> None:
    assert cli("fit", *table("trap.csv", "price"), f"--seed_everything={seed}").status == 0
    (tmp_path / "new.csv").write_text("north,south,area\n0,0,50\n0,1,50\n")
    predict = ["--data=TableData", "--data.path=new.csv", "--predictions.path=p.csv"]
    run = cli("predict", *predict, "--predictions.intervals=both")
    assert run.status == 0, run.stderr
    off, on = rows_of(tmp_path / "p.csv")
    assert off["prediction"] == off["prediction_low"] == off["confidence_high"] == ""
    assert off["note"]
    assert run.stderr
    *X, y = np.loadtxt(CASES / "trap.csv", delimiter=",", skiprows=1).T
    line = np.linalg.lstsq(np.column_stack([*X, np.ones(len(y))]), y, rcond=None)[0]
    assert float(on["prediction"]) == pytest.approx(np.dot([0, 1, 50, 1], line), rel=1e-5)


def test_index_of_a_pandas_frame_is_no_feature(cli: Cli) -> None:
    run = cli("fit", *table("filtered_frame.parquet", "y"))
    assert run.status == 0, run.stderr
    weight, bias = line_of(run)
    assert [*np.ravel(weight), bias] == pytest.approx([2.995627, 2.220858], abs=1e-5)


def test_prediction_stands_beside_its_own_row(cli: Cli, tmp_path: Path) -> None:
    x, noise = np.random.default_rng(0).normal(size=(2, 40))
    rows = enumerate(np.column_stack([x, 3 * x - 1 + noise]).tolist())
    lines = [f"row {i},{a!r},{b!r}" for i, (a, b) in rows]
    (tmp_path / "t.csv").write_text("\n".join(["id,x,y", *lines]))
    data = ["--data=TableData", "--data.path=t.csv", "--data.target=y", "--data.features=x"]
    assert cli("fit", *data, "--data.val_fraction=0.3").status == 0
    config = "--config=lightning_logs/version_0/config.yaml"
    run = cli("predict", config, "--predictions.keys=id", "--predictions.path=p.csv")
    assert run.status == 0, run.stderr
    found = rows_of(tmp_path / "p.csv")
    weight, bias = line_of(run)
    assert [row["id"] for row in found] == [f"row {i}" for i in range(40)]
    predictions = [float(row["prediction"]) for row in found]
    assert predictions == pytest.approx((np.ravel(weight) * x + bias).tolist(), rel=1e-9)


def test_batch_size_concerns_training_alone(cli: Cli, tmp_path: Path) -> None:
    lines = [f"{x},{2 * x + x % 3}" for x in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *lines]))
    data = ["--data=TableData", "--data.path=t.csv", "--data.target=y"]
    run = cli("fit", *data, "--data.val_fraction=0.2", "--data.batch_size=16")
    assert run.status == 0, run.stderr
    assert run.result()["n_samples"] == 24
    assert run.result()["steps"] == 2 * run.result()["epochs"]


@pytest.mark.parametrize("steps_per_execution", [1, "auto"])
def test_frozen_bias_stays(
    steps_per_execution: int | str, make_trainer: Callable[..., Trainer]
) -> None:
    model = LinearRegression(steps_per_execution=steps_per_execution)  # type: ignore[arg-type]
    model.bias.requires_grad_(False)
    bias, weight = model.bias.item(), model.weight.item()
    make_trainer(max_epochs=200, callbacks=[CrossCheck()]).fit(model, DummyData())
    assert model.bias.item() == bias
    # The minimum over the weight alone, by hand.
    x, y = article.X.astype(float).ravel(), article.y.astype(float).ravel()
    assert model.weight.item() == pytest.approx(x @ (y - bias) / (x @ x), rel=1e-9)
    assert model.weight.item() != weight


def test_patience_counts_epochs(cli: Cli) -> None:
    init = {
        "class_path": "EarlyStopping",
        "init_args": {"monitor": "train/loss", "patience": 5, "min_delta": 0.001},
    }
    # What takes time at each epoch, and is not what is tested, is left out.
    fast = ["--crosscheck=off", "--figures=false", "--trainer.enable_progress_bar=false"]
    run = cli("fit", "--trainer.max_epochs=50000", f"--trainer.callbacks={[init]}", *fast)
    assert run.status == 0, run.stderr
    assert run.result()["epochs"] == 7738


def test_plateau_of_the_validation_loss_is_followed(cli: Cli) -> None:
    schedule = {
        "name": "ReduceLROnPlateau",
        "monitor": "val/loss",
        "patience": 3,
        "threshold": 0.05,
    }
    length = ["--trainer.max_epochs=5000", "--trainer.max_steps=400", "--model.init=zeros"]
    run = cli("fit", *length, f"--model.schedule={schedule}")
    assert run.status == 0, run.stderr
    # The same in NumPy: a tenth of lr after more than 3 epochs that gain less than 5 percent.
    A, y = np.column_stack([article.X, np.ones(15)]), np.ravel(article.y)
    line, lr, best, waited = np.zeros(2), 0.001, math.inf, 0
    for _ in range(400):
        line -= lr * 2 / 15 * A.T @ (A @ line - y)
        loss = np.mean((A @ line - y) ** 2)
        best, waited = (loss, 0) if loss < best * 0.95 else (best, waited + 1)
        if waited > 3 and lr > 2e-8:  # torch leaves lr as it is where it would move by less
            lr, waited = lr / 10, 0
    assert lr < 1e-6
    weight, bias = line_of(run)
    assert [*np.ravel(weight), bias] == pytest.approx(line.tolist(), rel=1e-9)


@pytest.mark.parametrize("callbacks", [[CrossCheck], []])
def test_divergence_is_said_in_python(
    callbacks: list[type], make_trainer: Callable[..., Trainer]
) -> None:
    X = np.column_stack([np.arange(65.0, 101.0, 5.0), np.ones(8)])
    limit = 2 / np.linalg.eigvalsh(2 * X.T @ X / 8).max()
    assert f"{limit:.4g}" == LARGEST_STABLE_LR
    torch.manual_seed(0)
    model = LinearRegression(lr=0.001)
    trainer = make_trainer(max_epochs=1000, callbacks=[each() for each in callbacks])
    with pytest.raises(CheckFailed, match="diverged") as failure:
        trainer.fit(model, lines_of_fives())
    assert LARGEST_STABLE_LR in str(failure.value)
    assert "inf within inf" not in str(failure.value)
    assert trainer.global_step < 200  # the steps after that, without numbers, took 82 to 118 s


def test_many_more_columns_than_rows(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "wide.npy", rng.normal(size=(10, 2001)))
    data = ["--data=TableData", "--data.path=wide.npy", "--data.target=column_2000"]
    run = cli("fit", *data, "--trainer.max_epochs=2")  # it took more than a minute
    assert run.status == 0, run.stderr
    assert "rank" in run.stdout + run.stderr
