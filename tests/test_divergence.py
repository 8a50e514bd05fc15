"""A training that stops being finite ends at that step, and names a learning rate that would do."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, TensorDataset

from test_module import rows_of
from trueline.crosscheck import CrossCheck
from trueline.data import DummyData, RegressionData
from trueline.errors import CheckFailed, RequestError
from trueline.module import LinearRegression
from trueline.reference import SGD, article

SPEEDS = np.arange(65.0, 101.0, 5.0)
DISTANCES = np.arange(200.0, 551.0, 50.0)
LIMIT = "0.0001441"
"""2/λmax of these eight rows, by `numpy.linalg.eigvalsh`: 1.441e-4."""


def first_overflow(lr: float, batches: list[np.ndarray], momentum: float = 0.0) -> int:
    """Return the first step of a hand-written SGD from zero whose loss overflows in float64."""
    A = np.column_stack([SPEEDS, np.ones(8)])
    theta, buffer = np.zeros(2), np.zeros(2)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(100_000):
            rows = batches[step % len(batches)]
            r = A[rows] @ theta - DISTANCES[rows]
            if np.mean(np.square(r, dtype=np.longdouble)) > np.finfo(np.float64).max:
                return step + 1
            buffer = momentum * buffer + 2 / len(rows) * A[rows].T @ r
            theta = theta - lr * buffer
    raise AssertionError("it does not diverge")


WAYS: dict[str, dict[str, Any]] = {
    "full batch": {},
    "full batch, step by step": {"steps_per_execution": 1},
    "momentum": {"momentum": 0.9},
    "batches of 3": {"batch_size": 3},
    "batches of 3, step by step": {"batch_size": 3, "steps_per_execution": 1},
    "single rows": {"batch_size": 1},
    "accumulated": {"batch_size": 2, "accumulate": 2},
    "lr a little too large": {"lr": 0.00015},
}


@pytest.mark.parametrize("checks", [None, "raise", "warn"], ids=str)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_divergence_ends_a_training_at_its_step_with_advice(
    make_trainer: Any, way: dict[str, Any], checks: Any
) -> None:
    options = dict(way)
    batch_size, accumulate = options.pop("batch_size", 8), options.pop("accumulate", 1)
    check = [CrossCheck(on_failure=checks)] if checks else []
    trainer = make_trainer(max_epochs=50_000, callbacks=check, accumulate_grad_batches=accumulate)
    model = LinearRegression(**{"lr": 0.001, "init": "zeros", **options})
    data = RegressionData(SPEEDS, DISTANCES, batch_size=batch_size)
    began = time.perf_counter()
    with pytest.raises(CheckFailed, match="training diverged: expected a finite loss") as failed:
        trainer.fit(model, data)
    assert time.perf_counter() - began < 10  # 82 s and more, when each step was looked at again
    rows = batch_size * accumulate
    batches = [np.arange(8)[k : k + rows] for k in range(0, 8, rows)]
    step = first_overflow(model.hparams["lr"], batches, options.get("momentum", 0.0))
    assert f"at step {step};" in str(failed.value)
    assert trainer.global_step == step - 1
    limit = LIMIT if not options.get("momentum") else "0.0002738"
    assert f"largest stable one for this data, {limit}; set lr below {limit}" in str(failed.value)


def test_divergence_names_the_limit_for_targets_and_weights(make_trainer: Any) -> None:
    X, y, weights = rows_of(2, weighted=True)
    assert weights is not None
    A = np.sqrt(weights)[:, None] * np.column_stack([X, np.ones(30)])
    limit = 2 / (2 / (2 * weights.sum()) * np.linalg.svd(A, compute_uv=False)[0] ** 2)
    model = LinearRegression(n_features=3, n_targets=2, lr=2 * limit)
    with pytest.raises(CheckFailed, match=f"set lr below {limit:.4g}"):
        make_trainer(max_epochs=5_000).fit(model, RegressionData(X, y, sample_weight=weights))


@pytest.mark.parametrize("steps_per_execution", [1, "auto"])
def test_divergence_of_the_last_step_is_seen(make_trainer: Any, steps_per_execution: Any) -> None:
    model = LinearRegression(lr=1e38, init="zeros", steps_per_execution=steps_per_execution)
    trainer = make_trainer(max_epochs=1, precision="32-true", callbacks=[CrossCheck()])
    with pytest.raises(CheckFailed, match=r"expected a finite weight, found .*inf at step 1;"):
        trainer.fit(model, DummyData())


def test_divergence_of_single_batches_is_told_apart(make_trainer: Any) -> None:
    # One row of ten is large: λmax of the whole is 2·100²/10, that of its own batch 2·100².
    data = RegressionData([100.0, *[0.0] * 9], np.ones(10), batch_size=1)
    with pytest.raises(CheckFailed, match="single batches can need less; lower lr"):
        make_trainer(max_epochs=500).fit(LinearRegression(lr=0.0005), data)


def test_numbers_too_large_for_the_precision_are_told_apart(make_trainer: Any) -> None:
    # Below the limit of 1, and (1e25)² is beyond float32.
    data = RegressionData([0.0, 1.0], [1e25, 0.0])
    with pytest.raises(CheckFailed, match="too large for precision 32-true; scale") as failed:
        make_trainer(precision="32-true").fit(LinearRegression(lr=0.1), data)
    assert "at step 1;" in str(failed.value)
    assert "single batches" not in str(failed.value)


@pytest.mark.parametrize("steps", [1, "auto"])
@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize(("of_X", "of_y"), [(1e50, 1.0), (1.0, 1e50)])
def test_numbers_that_float32_does_not_hold_end_a_training(
    make_trainer: Any, of_X: float, of_y: float, batch_size: int, steps: Any
) -> None:
    data = RegressionData(of_X * SPEEDS, of_y * DISTANCES, batch_size=batch_size)
    model = LinearRegression(steps_per_execution=steps)
    with pytest.raises(CheckFailed, match=r"expected a finite loss, found (inf|nan) at step 1;"):
        make_trainer(precision="32-true").fit(model, data)


SCHEDULES: dict[str, tuple[dict[str, Any], str]] = {
    "OneCycleLR": ({"max_lr": 1.0, "total_steps": 999}, "set max_lr of schedule below"),
    "CyclicLR": ({"base_lr": 1e-6, "max_lr": 1.0}, "set max_lr of schedule below"),
    "CosineAnnealingLR": ({"T_max": 50, "eta_min": 1.0}, "set eta_min of schedule below"),
    "ExponentialLR": ({"gamma": 1.1}, "the schedule had raised the learning rate to"),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_divergence_under_a_schedule_names_what_raised_the_learning_rate(
    make_trainer: Any, name: str
) -> None:
    options, advice = SCHEDULES[name]
    schedule = {"name": name, "interval": "step", **options}
    data = RegressionData(SPEEDS, DISTANCES)
    with pytest.raises(CheckFailed, match=advice):
        make_trainer(max_epochs=999).fit(LinearRegression(lr=1e-6, schedule=schedule), data)


def test_command_names_its_options_when_a_training_diverges(cli: Callable[..., Any]) -> None:
    run = cli("fit", "--model.lr=1.0", "--crosscheck=warn")
    assert run.status == 1
    assert "set --model.lr below 0.004938" in run.stderr
    one_cycle = '{"name": "OneCycleLR", "max_lr": 1.0, "total_steps": 50000, "interval": "step"}'
    run = cli("fit", f"--model.schedule={one_cycle}")
    assert "set max_lr of --model.schedule below 0.004938" in run.stderr


def test_divergence_is_seen_after_a_resume(make_trainer: Any, tmp_path: Any) -> None:
    data, path = RegressionData(SPEEDS, DISTANCES), tmp_path / "one.ckpt"
    trainer = make_trainer(max_epochs=100)
    trainer.fit(LinearRegression(init="zeros"), data)
    trainer.save_checkpoint(path)
    step = first_overflow(0.001, [np.arange(8)])
    with pytest.raises(CheckFailed, match=f"finite loss, found inf at step {step};"):
        make_trainer(max_epochs=500, callbacks=[CrossCheck()]).fit(
            LinearRegression(), data, ckpt_path=path
        )


def test_divergence_on_a_plain_loader_is_said_without_a_limit(make_trainer: Any) -> None:
    loader = DataLoader(TensorDataset(torch.tensor(SPEEDS)[:, None], torch.tensor(DISTANCES)), 8)
    with pytest.raises(CheckFailed, match=r"finite loss, found inf at step \d+; lower lr$"):
        make_trainer(max_epochs=500).fit(LinearRegression(), loader, loader)


class OwnStep(LinearRegression):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return torch.nn.functional.mse_loss(self(batch[0]), batch[1])


def test_divergence_of_a_training_step_of_ones_own_is_seen(make_trainer: Any) -> None:
    data = RegressionData(SPEEDS, DISTANCES)
    make_trainer().fit(OwnStep(lr=1e-4), data)
    with pytest.raises(CheckFailed, match=f"set lr below {LIMIT}"):
        make_trainer(max_epochs=1000).fit(OwnStep(), data)


class OwnLine(LightningModule):
    """A module of a user, whose learning rate is far too large."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.mse_loss(batch[0] @ self.weight, batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class OwnReference:
    def loss_and_gradient(self, parameters: Any, batch: Any) -> Any:
        X, y = batch
        r = X @ parameters["weight"] - y
        return np.mean(r * r), {"weight": 2 / len(y) * np.sum(r[:, None] * X, axis=0)}


def test_check_of_a_users_module_says_that_it_has_diverged(make_trainer: Any) -> None:
    X, y = torch.tensor(article.X).double(), torch.tensor(article.y).double()
    check = CrossCheck(OwnReference(), SGD(lr=1.0))
    trainer = make_trainer(max_epochs=500, callbacks=[check])
    with pytest.raises((CheckFailed, RequestError), match="diverge") as failed:
        trainer.fit(OwnLine(), DataLoader(TensorDataset(X, y), 15))
    assert "within" not in str(failed.value)
    assert "lower the learning rate" in str(failed.value)
