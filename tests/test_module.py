"""The LightningModule against hand-computed numbers, the closed form, and the NumPy reference."""

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from trueline.data import DummyData, RegressionData
from trueline.divergence import StopWhenNotFinite
from trueline.errors import CheckFailed
from trueline.module import LinearRegression
from trueline.reference import SGD, LeastSquares, article, train
from trueline.reference.solve import least_squares
from trueline.tensorboard import Scalars

DTYPES = [torch.uint8, torch.int16, torch.int64, torch.float16, torch.float32, torch.float64]


def test_module_takes_the_hand_computed_first_step(make_trainer: Any) -> None:
    # From zero the gradient is −2/15·Σxy = −24640/15 and −2/15·Σy = −1776/15, times lr 0.001.
    model = LinearRegression(init="zeros")
    make_trainer(max_epochs=1).fit(model, DummyData())
    assert model.weight.item() == pytest.approx(24.640 / 15, rel=1e-14)
    assert model.bias.item() == pytest.approx(1.776 / 15, rel=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("precision", "parameters"), [("64-true", torch.float64), ("32-true", torch.float32)]
)
def test_module_trains_any_numeric_dtype_in_the_trainers_precision(
    make_trainer: Any, dtype: torch.dtype, precision: str, parameters: torch.dtype
) -> None:
    model = LinearRegression(init="zeros")
    data = RegressionData(
        torch.from_numpy(article.X).to(dtype).numpy(), torch.from_numpy(article.y).to(dtype).numpy()
    )
    make_trainer(max_epochs=1, precision=precision).fit(model, data)
    assert model.weight.dtype == model.bias.dtype == parameters
    assert model.weight.item() == pytest.approx(24.640 / 15, rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"l1": 0.3},
        {"l2": 0.2},
        {"l1": 0.3, "l2": 0.2, "momentum": 0.5, "weight_decay": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("batch_size", [None, 4])
def test_module_agrees_with_the_reference_going_its_own_way(
    make_trainer: Any, options: dict[str, Any], batch_size: int | None
) -> None:
    model = LinearRegression(lr=0.0005, **options)
    start = model.weight.detach().double().numpy(), model.bias.item()
    data = DummyData(batch_size=batch_size, shuffle=True, seed=2)
    make_trainer(max_epochs=30).fit(model, data)

    def batches(epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng((2, epoch)).permutation(15)
        return np.split(order, range(batch_size, 15, batch_size)) if batch_size else [order]

    penalty = LeastSquares(options.pop("l1", 0.0), options.pop("l2", 0.0))
    trace = train(article.X, article.y, *start, SGD(0.0005, **options), 30, penalty, batches)
    np.testing.assert_allclose(model.weight.detach(), trace.weight[-1], rtol=1e-12)
    np.testing.assert_allclose(model.bias.item(), trace.bias[-1], rtol=1e-12)
    assert abs(model.bias.item() - start[1]) > 0.01


def test_module_reaches_the_ridge_solution(make_trainer: Any) -> None:
    model = LinearRegression(lr=0.004, l2=2.0, momentum=0.5)
    make_trainer(max_epochs=8_000).fit(model, DummyData())
    best = least_squares(article.X, article.y, l2=2.0)
    assert model.weight.item() == pytest.approx(best.weight.item(), rel=1e-9)
    assert model.bias.item() == pytest.approx(best.bias.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 0.0}, "lr: expected a finite number above 0; found 0.0"),
        ({"lr": float("inf")}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"momentum": 1.0}, "momentum: expected at least 0 and below 1; found 1.0"),
        ({"dampening": 1.5}, "dampening"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"l1": -1.0}, "l1"),
        ({"l2": float("inf")}, "l2"),
        ({"n_features": 0}, "n_features"),
        ({"init": "ones"}, "init: expected normal or zeros; found ones"),
        ({"nesterov": True}, "nesterov: expected momentum above 0"),
        ({"lr": -1.0, "l1": -1.0}, "lr.*l1"),
    ],
)
def test_module_says_what_is_wrong(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LinearRegression(**options)


def test_module_refuses_targets_that_would_broadcast() -> None:
    X, y = torch.ones(3, 1), torch.ones(3, 1)
    with pytest.raises(ValueError, match=r"expected y of shape \(3,\).*found \(3, 1\)"):
        LinearRegression().loss((X, y))


def test_module_starts_from_the_seed() -> None:
    starts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        starts.append(LinearRegression().weight.item())
    assert starts[0] == starts[1] != starts[2]


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
def test_divergence_stops_at_its_step_and_names_the_limit(
    make_trainer: Any, precision: str
) -> None:
    trainer = make_trainer(max_epochs=500, precision=precision, callbacks=[StopWhenNotFinite()])
    with pytest.raises(CheckFailed, match=r"largest stable one for this data, 0\.004938") as failed:
        trainer.fit(LinearRegression(lr=1.0, init="zeros"), DummyData())
    assert f"at step {trainer.global_step + 1};" in str(failed.value)
    assert trainer.global_step < 100


def test_divergence_of_the_last_step_is_seen(make_trainer: Any) -> None:
    trainer = make_trainer(max_epochs=1, precision="32-true", callbacks=[StopWhenNotFinite()])
    with pytest.raises(CheckFailed, match=r"expected a finite weight, found .*inf at step 1"):
        trainer.fit(LinearRegression(lr=1e38, init="zeros"), DummyData())


def test_divergence_of_single_batches_is_told_apart(make_trainer: Any) -> None:
    # One row of ten is large: λmax of the whole is 2·100²/10, that of its own batch 2·100².
    data = RegressionData([100.0, *[0.0] * 9], np.ones(10), batch_size=1)
    trainer = make_trainer(max_epochs=500, callbacks=[StopWhenNotFinite()])
    with pytest.raises(CheckFailed, match="single batches can need less"):
        trainer.fit(LinearRegression(lr=0.0005), data)


def test_early_stopping_sees_the_training_loss_of_each_epoch(make_trainer: Any) -> None:
    stop = EarlyStopping("train/loss", min_delta=0.01, patience=3)
    # log_every_n_steps is long: the loss must be up to date in between.
    trainer = make_trainer(max_epochs=100_000, callbacks=[Scalars(), stop], log_every_n_steps=1000)
    trainer.fit(LinearRegression(lr=0.004, init="zeros"), DummyData())
    assert 100 < trainer.global_step < 10_000
