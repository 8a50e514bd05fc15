"""The LightningModule against hand-computed numbers, closed forms, and the NumPy reference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from sklearn.linear_model import LinearRegression as Peer

from trueline.data import DummyData, RegressionData
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


def rows_of(n_targets: int, weighted: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return X, y and sample weights of 30 rows with three features."""
    rng = np.random.default_rng(n_targets)
    X = rng.normal(1.0, 1.0, (30, 3))
    y = X @ rng.normal(size=(3, n_targets)) + [4.0] + rng.normal(size=(30, n_targets))
    weights = rng.uniform(0.1, 5, 30) if weighted else None
    return X, y[:, 0] if n_targets == 1 else y, weights


@pytest.mark.parametrize("n_targets", [1, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradient_are_those_of_the_formula(n_targets: int, weighted: bool) -> None:
    X, y, weights = rows_of(n_targets, weighted)
    model = LinearRegression(n_features=3, n_targets=n_targets, l1=0.3, l2=0.2).double()
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == ([(3,), ()] if n_targets == 1 else [(3, 4), (4,)])
    batch = tuple(torch.from_numpy(part) for part in (X, y, weights) if part is not None)
    found = model.training_step(batch, 0)
    found["loss"].backward()
    # Row by row and target by target, in plain Python.
    w, b = (np.asarray(p.detach()).reshape(-1, n_targets) for p in (model.weight, model.bias))
    loss, by_weight, by_bias = 0.0, np.zeros_like(w), np.zeros(n_targets)
    for i in range(30):
        count = 1.0 if weights is None else weights[i]
        for t in range(n_targets):
            residual = X[i] @ w[:, t] + b[0, t] - y.reshape(30, -1)[i, t]
            loss += count * residual**2
            by_weight[:, t] += 2 * count * residual * X[i]
            by_bias[t] += 2 * count * residual
    total = n_targets * (30 if weights is None else sum(weights))
    assert found["mse"].item() == pytest.approx(loss / total, rel=1e-13)
    penalty = 0.3 * np.abs(w).sum() + 0.2 * (w**2).sum()
    assert found["loss"].item() == pytest.approx(loss / total + penalty, rel=1e-13)
    by_weight = by_weight / total + 0.4 * w  # the step takes the L1 penalty, not the gradient
    for parameter, expected in ((model.weight, by_weight), (model.bias, by_bias / total)):
        assert parameter.grad is not None
        expected = expected.reshape(tuple(parameter.shape))
        np.testing.assert_allclose(parameter.grad, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_reference_differentiates_as_autograd_does(n_targets: int, weighted: bool) -> None:
    X, y, weights = rows_of(n_targets, weighted)
    arrays = tuple(part for part in (X, y, weights) if part is not None)
    model = LinearRegression(n_features=3, n_targets=n_targets, l1=0.3, l2=0.2).double()
    parameters = {name: p.detach().numpy() for name, p in model.named_parameters()}
    loss, gradient = LeastSquares(l1=0.3, l2=0.2).loss_and_gradient(parameters, arrays)
    found = model.training_step(tuple(torch.from_numpy(part) for part in arrays), 0)["loss"]
    found.backward()
    assert found.item() == pytest.approx(loss, rel=1e-13)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad, gradient[name], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_module_trains_to_the_solution_for_targets_and_weights(
    make_trainer: Any, n_targets: int, weighted: bool
) -> None:
    X, y, weights = rows_of(n_targets, weighted)
    peer = Peer().fit(X, y, sample_weight=weights)
    model = LinearRegression(n_features=3, n_targets=n_targets, lr=0.1, momentum=0.9)
    data = RegressionData(X, y, sample_weight=weights)
    make_trainer(max_epochs=1_500).fit(model, data)
    np.testing.assert_allclose(model.weight.detach(), peer.coef_.T, rtol=1e-9)
    np.testing.assert_allclose(model.bias.detach(), peer.intercept_, rtol=1e-9)
    best = least_squares(X, y, sample_weight=weights)
    np.testing.assert_allclose(model.weight.detach(), best.weight, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64], ids=str)
def test_weights_of_any_numeric_dtype_count_alike(make_trainer: Any, dtype: torch.dtype) -> None:
    weights = np.arange(1, 16)
    model = LinearRegression(init="zeros")
    data = DummyData()
    data.sample_weight = torch.from_numpy(weights).to(dtype)
    make_trainer(max_epochs=1).fit(model, data)
    expected = 2 * 0.001 * np.sum(weights * article.X[:, 0] * article.y) / weights.sum()
    assert model.weight.item() == pytest.approx(expected, rel=1e-14)


def test_half_precision_squares_no_residual_beyond_its_range() -> None:
    X, y = torch.full((4, 1), 300.0), torch.zeros(4)  # 300² is past float16's 65,504
    model = LinearRegression()
    torch.nn.init.ones_(model.weight)
    torch.nn.init.zeros_(model.bias)
    with torch.autocast("cpu", torch.float16):
        losses = [model.loss((X, y)), model.loss((X, y, torch.ones(4)))]
    assert [loss.item() for loss in losses] == [90_000.0, 90_000.0]


@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_empty_batch_has_loss_0_and_gradient_0(n_targets: int, weighted: bool) -> None:
    X, y, weights = rows_of(n_targets, weighted)
    model = LinearRegression(n_features=3, n_targets=n_targets, l2=0.5).double()
    loss = model.loss(tuple(torch.from_numpy(a[:0]) for a in (X, y, weights) if a is not None))
    loss.backward()
    assert loss.item() == 0.0
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_and_test_are_means_over_all_rows(
    make_trainer: Any, tmp_path: Path, weighted: bool
) -> None:
    X, y, weights = rows_of(2, weighted)
    model = LinearRegression(n_features=3, n_targets=2)
    data = RegressionData(X, y, batch_size=7, sample_weight=weights)
    trainer = make_trainer(limit_val_batches=None, logger=CSVLogger(tmp_path))
    (validated,) = trainer.validate(model, data, verbose=False)
    (tested,) = trainer.test(model, data, verbose=False)
    r = X @ model.weight.detach().numpy() + model.bias.detach().numpy() - y
    expected = np.average(np.mean(r * r, axis=1), weights=weights)
    assert validated["val/loss"] == pytest.approx(expected, rel=1e-13)
    assert tested["test/loss"] == pytest.approx(expected, rel=1e-13)


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
        ({"n_targets": 0}, "n_targets: expected 1 or more; found 0"),
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


@pytest.mark.parametrize(
    ("y", "weights", "words"),
    [
        ((3, 1), (3,), r"expected y of shape \(3, 2\).*found \(3, 1\)"),
        ((3,), (3,), r"expected y of shape \(3, 2\).*found \(3,\)"),
        ((3, 2), (3, 1), r"expected sample_weight of shape \(3,\), one for each row.*\(3, 1\)"),
        ((3, 2), (1,), r"expected sample_weight of shape \(3,\).*found \(1,\)"),
        ((3, 2), (), r"expected sample_weight of shape \(3,\).*found \(\)"),
    ],
)
def test_module_refuses_targets_and_weights_that_would_broadcast(
    y: tuple[int, ...], weights: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        LinearRegression(n_targets=2).loss((torch.ones(3, 1), torch.ones(y), torch.ones(weights)))


def test_module_starts_from_the_seed() -> None:
    starts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        starts.append(LinearRegression().weight.item())
    assert starts[0] == starts[1] != starts[2]


def test_early_stopping_sees_the_training_loss_of_each_epoch(make_trainer: Any) -> None:
    stop = EarlyStopping("train/loss", min_delta=0.01, patience=3)
    # log_every_n_steps is long: the loss must be up to date in between.
    trainer = make_trainer(max_epochs=100_000, callbacks=[Scalars(), stop], log_every_n_steps=1000)
    trainer.fit(LinearRegression(lr=0.004, init="zeros"), DummyData())
    assert 100 < trainer.global_step < 10_000


@pytest.mark.parametrize(
    "changed", [{"lr": 2e-4}, {"schedule": {"name": "StepLR", "step_size": 3}}]
)
def test_module_goes_on_under_its_schedule_alone(
    make_trainer: Any, tmp_path: Path, changed: dict[str, Any]
) -> None:
    options = {"lr": 1e-4, "schedule": {"name": "StepLR", "step_size": 2}}
    trainer, path = make_trainer(max_epochs=3), tmp_path / "three.ckpt"
    trainer.fit(LinearRegression(**options), DummyData())
    trainer.save_checkpoint(path)
    make_trainer(max_epochs=5).fit(LinearRegression(**options), DummyData(), ckpt_path=path)
    with pytest.raises(ValueError, match=f"{next(iter(changed))}: expected that of the checkpoint"):
        make_trainer(max_epochs=5).fit(
            LinearRegression(**(options | changed)), DummyData(), ckpt_path=path
        )


def test_lightning_notes_its_hook_where_the_module_expects_it(make_trainer: Any) -> None:
    names = set()

    class Noting(LinearRegression):
        def __setattr__(self, name: str, value: Any) -> None:
            names.add(name)
            super().__setattr__(name, value)

    make_trainer(max_epochs=1).fit(Noting(), DummyData())
    # Else `progress.QuickNotes` does nothing any more.
    assert "_current_fx_name" in names
