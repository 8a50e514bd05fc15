"""`trueline compare`: four trainers agree at every step, and would not if one were wrong.

The article's two PyTorch trainers, rungs 2 and 3, are tested here too.
"""

import contextlib
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import trueline.compare
from conftest import Run
from trueline.baselines import train_autograd, train_builtin
from trueline.cli.entry import main
from trueline.reference import Trace
from trueline.reference.article import X, y

Cli = Callable[..., Run]
RUNGS = ["1-numpy", "2-autograd", "3-mseloss-sgd", "4-lightning"]
CURVES = ("train/loss", "parameters/weight", "parameters/bias")
EPOCHS = 3000
x = X[:, 0].astype(float)


class Compared(NamedTuple):
    """What one `trueline compare` left and said."""

    folder: Path
    table: dict[str, Any]
    stdout: str


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder, stdout = tmp_path_factory.mktemp("compare"), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(stdout):
        assert main(["compare", "--trainer.max_epochs", str(EPOCHS)]) == 0
    folder = folder / "lightning_logs/compare_0"
    return Compared(folder, json.loads((folder / "compare.json").read_text()), stdout.getvalue())


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Map each tag of a run to its points."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def descend(weight: float, bias: float, epochs: int, lr: float) -> NDArray[np.float64]:
    """Take full-batch steps in plain NumPy; row k is weight, bias and loss after k steps."""
    rows = []
    for _ in range(epochs + 1):
        r = weight * x + bias - y
        rows.append((weight, bias, np.mean(r * r)))
        weight, bias = weight - lr * 2 * np.mean(r * x), bias - lr * 2 * np.mean(r)
    return np.array(rows)


def table_of(run: Run) -> dict[str, dict[str, Any]]:
    assert run.status == 0, run.stderr
    path = run.directory / "lightning_logs/compare_0/compare.json"
    return {row["name"]: row for row in json.loads(path.read_text())["rows"]}


def test_rungs_agree_at_every_epoch(compared: Compared) -> None:
    assert [row["name"] for row in compared.table["rows"][:4]] == RUNGS
    for row in compared.table["rows"][:4]:
        assert set(row["distance"]) == {"weight", "bias", "loss"}
        assert max(row["distance"].values()) < 1e-12, row


def test_rungs_are_where_plain_numpy_is(compared: Compared) -> None:
    start = torch.manual_seed(0) and torch.randn(1).item(), torch.randn(()).item()
    expected = descend(*start, EPOCHS, lr=0.001)
    assert abs(expected[-1, 0] - expected[0, 0]) > 0.5
    assert abs(expected[-1, 1] - expected[0, 1]) > 20
    for row in compared.table["rows"][:4]:
        found = [row["weight"], row["bias"], row["loss"]]
        np.testing.assert_allclose(found, expected[-1], rtol=1e-12)
    for rung in RUNGS:
        for tag, column in (("parameters/weight", 0), ("parameters/bias", 1), ("train/loss", 2)):
            points = np.array(scalars(compared.folder / rung)[tag])
            at = expected[points[:, 0].astype(int), column]
            np.testing.assert_allclose(points[:, 1], at, rtol=1e-6)


def test_rungs_are_runs_that_sort_and_overlay(compared: Compared) -> None:
    assert sorted(path.name for path in compared.folder.iterdir()) == [*RUNGS, "compare.json"]
    runs = [scalars(compared.folder / rung) for rung in RUNGS]
    steps = [*range(0, EPOCHS, EPOCHS // 500), EPOCHS]
    for rung, run in zip(RUNGS, runs, strict=True):
        assert len(list((compared.folder / rung).glob("events*"))) == 1
        assert set(CURVES) <= set(run)
        for tag in CURVES:
            assert [step for step, _ in run[tag]] == steps, (rung, tag)


def test_closed_forms_stand_below_the_rungs(compared: Compared) -> None:
    by_qr, by_moments = compared.table["rows"][4:]
    assert (by_qr["name"], by_moments["name"]) == ("least squares by QR", "covariance / variance")
    slope, intercept = statistics.linear_regression(x, y)
    loss = statistics.fmean((slope * x + intercept - y) ** 2)
    for row in (by_qr, by_moments):
        found = [row["weight"], row["bias"], row["loss"]]
        np.testing.assert_allclose(found, [slope, intercept, loss], rtol=1e-12)


def test_printed_table_says_what_the_file_says(compared: Compared) -> None:
    table = compared.table
    assert (table["epochs"], table["lr"], table["precision"]) == (EPOCHS, 0.001, "64-true")
    lines = compared.stdout.splitlines()
    for row in table["rows"]:
        (line,) = (line for line in lines if line.startswith(row["name"]))
        numbers = line.removeprefix(row["name"]).split()
        assert numbers[:3] == [f"{row[name]:.6f}" for name in ("weight", "bias", "loss")]
        if "distance" in row:
            distances = [f"{row['distance'][name]:.1e}" for name in ("loss", "weight", "bias")]
            assert numbers[3:6] == distances
            assert row["us_per_epoch"] > 0
    assert "3,000 epochs at lr 0.001, 64-true" in compared.stdout
    assert lines[-1].split() == ["log", "directory", table["log_dir"]]


def test_float32_is_near_the_reference_but_not_on_it(cli: Cli) -> None:
    options = ("--trainer.max_epochs", "300", "--trainer.precision", "32-true")
    rows = table_of(cli("compare", *options))
    assert rows["1-numpy"]["distance"] == {"weight": 0, "bias": 0, "loss": 0}
    for rung in RUNGS[1:]:
        distance = rows[rung]["distance"]
        assert 1e-9 < distance["weight"] < 1e-6
        assert 1e-9 < distance["loss"] < 1e-5
        assert 1e-9 < distance["bias"] < 1e-3  # it passes near zero, where little is far


def test_next_comparison_leaves_the_first_alone(cli: Cli, tmp_path: Path) -> None:
    for version in (0, 1):
        assert cli("compare", "--trainer.max_epochs", "2").status == 0
        left = tmp_path / f"lightning_logs/compare_{version}"
        assert json.loads((left / "compare.json").read_text())["log_dir"].endswith(left.name)
        if version == 0:
            before = {p: p.read_bytes() for p in left.rglob("*") if p.is_file()}
    assert {p: p.read_bytes() for p in before} == before


TABLE = ("--data=TableData", "--data.path=t.csv", "--data.target=y", "--data.features=x")
PLAIN_TABLE = (*TABLE, "--data.standardize=false", "--model.momentum=0")


@pytest.fixture
def table(tmp_path: Path) -> NDArray[np.float64]:
    """Write a table of columns x, y and w; return its numbers."""
    rng = np.random.default_rng(3)
    x, noise, w = rng.normal(5, 2, 60), rng.normal(0, 0.5, 60), rng.uniform(0.5, 2, 60)
    rows = np.column_stack([x, 3 * x - 1 + noise, w])
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",", header="x,y,w", comments="", fmt="%.17g")
    return rows


def test_table_is_compared_in_its_units(cli: Cli, table: NDArray[np.float64]) -> None:
    rows = table_of(cli("compare", *PLAIN_TABLE, "--trainer.max_epochs=300"))
    slope, intercept = statistics.linear_regression(table[:, 0], table[:, 1])
    for name in ("least squares by QR", "covariance / variance"):
        assert rows[name]["weight"] == pytest.approx(slope, rel=1e-12)
        assert rows[name]["bias"] == pytest.approx(intercept, rel=1e-12)
    for rung in RUNGS:
        assert rows[rung]["weight"] == pytest.approx(slope, rel=0.1)
        assert max(rows[rung]["distance"].values()) < 1e-10, rung


def test_rows_held_out_are_held_out_of_every_rung(cli: Cli, table: NDArray[np.float64]) -> None:
    options = ("--trainer.max_epochs=20", "--data.val_fraction=0.4")
    rows = table_of(cli("compare", *PLAIN_TABLE, *options))
    slope, _ = statistics.linear_regression(table[:, 0], table[:, 1])
    assert abs(rows["least squares by QR"]["weight"] - slope) > 1e-6
    for rung in RUNGS:
        assert max(rows[rung]["distance"].values()) < 1e-10, rung


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([*TABLE], "--data.standardize: expected false"),
        ([*TABLE, "--data.standardize=false"], "--model.momentum: expected 0, found 0."),
        ([*PLAIN_TABLE, "--data.weight=w"], "no sample weights"),
        ([*PLAIN_TABLE[:3], *PLAIN_TABLE[4:]], "found n_features 2"),
        ([*PLAIN_TABLE, "--data.batch_size=7"], "--data.batch_size: expected full batch, found 7"),
        (["--data=SyntheticData", "--data.n_features=1", "--data.in_memory=1000"],
         "--data.in_memory: expected rows in memory"),
        (['--model.schedule={"name": "StepLR", "step_size": 9}'],
         "--model.schedule: expected a constant lr, found StepLR"),
        (["--trainer.accumulate_grad_batches=2"], "--trainer.accumulate_grad_batches: expected 1"),
        (["--model.l1=0.1"], "--model.l1: expected 0, found 0.1"),
        (["--trainer.gradient_clip_val=1"], "--trainer.gradient_clip_val: expected none"),
        (["--trainer.precision=bf16-mixed"], "--trainer.precision: expected 64-true or 32-true"),
        (["--trainer.callbacks=LearningRateFinder"], "found LearningRateFinder"),
        (["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=train/loss"],
         "found EarlyStopping"),
        (["--trainer.max_time=00:00:01:00"], "--trainer.max_time: expected nothing"),
        (["--trainer.max_epochs=-1"], "--trainer.max_epochs: expected 1 or more"),
        (["--trainer.fast_dev_run=true"], "--trainer.fast_dev_run: expected false"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("table")
def test_what_the_other_rungs_cannot_do_is_refused_by_name(
    cli: Cli, options: list[str], named: str
) -> None:
    run = cli("compare", "--trainer.max_epochs=50", *options)
    assert (run.status, run.stderr.count("\n")) == (2, 1), run.stderr
    assert named in run.stderr
    assert "SavedConfig" not in run.stderr
    assert not list(run.directory.glob("lightning_logs/*"))


@pytest.mark.parametrize("rung", ["train_autograd", "train_builtin"])
def test_lr_that_is_off_shows_as_a_distance(
    rung: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(trueline.compare, rung)

    def wrong(X: Any, y: Any, weight: float, bias: float, lr: float, epochs: int) -> Trace:
        trace: Trace = right(X, y, weight, bias, 1.001 * lr, epochs)
        return trace

    monkeypatch.setattr(trueline.compare, rung, wrong)
    rows = table_of(cli("compare", "--trainer.max_epochs", "100"))
    planted = {"train_autograd": "2-autograd", "train_builtin": "3-mseloss-sgd"}[rung]
    for name in RUNGS:
        for distance in rows[name]["distance"].values():
            assert distance > 1e-6 if name == planted else distance < 1e-12, name


def test_epoch_that_is_off_in_the_middle_shows_as_a_distance(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> Trace:
        trace = train_builtin(*arguments)
        trace.bias[5] *= 1 + 1e-9
        return trace

    monkeypatch.setattr(trueline.compare, "train_builtin", wrong)
    rows = table_of(cli("compare", "--trainer.max_epochs", "10"))
    distance = rows["3-mseloss-sgd"]["distance"]
    assert distance["bias"] == pytest.approx(1e-9, rel=1e-3)
    assert max(distance["weight"], distance["loss"]) < 1e-12


@pytest.mark.parametrize("trainer", [train_autograd, train_builtin])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_baseline_takes_the_steps_worked_out_by_hand(
    trainer: Callable[..., Trace], dtype: torch.dtype
) -> None:
    # From w = 1, b = 0 on (1, 3) and (2, 5), the residuals are -2 and -3: the loss is 13/2 and the
    # gradient (-8, -5). At w = 1.8, b = 0.5 they are -0.7 and -0.9: 0.65 and (-2.5, -1.6).
    features, targets = torch.tensor([1.0, 2.0], dtype=dtype), torch.tensor([3.0, 5.0], dtype=dtype)
    trace = trainer(features, targets, weight=1.0, bias=0.0, lr=0.1, epochs=2)
    rtol = {torch.float64: 1e-14, torch.float32: 1e-6}[dtype]
    np.testing.assert_allclose(trace.weight, [[1.0], [1.8], [2.05]], rtol=rtol)
    np.testing.assert_allclose(trace.bias, [0.0, 0.5, 0.66], rtol=rtol)
    # At the end the residuals are -0.29 and -0.24.
    np.testing.assert_allclose(trace.loss, [6.5, 0.65, 0.07085], rtol=4 * rtol)
