"""Batches in every shape, a training_step of one's own, and what loggers get without a callback."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from trueline.crosscheck import CrossCheck
from trueline.data import RegressionData
from trueline.module import LinearRegression
from trueline.scaling import Scaling

rng = np.random.default_rng(0)
X = torch.tensor(rng.standard_normal((23, 3)))
y = X @ torch.tensor([1.0, 2, 3], dtype=torch.float64) + 1
weights = torch.tensor(rng.uniform(0.5, 2, 23))


class Named(NamedTuple):
    """Tensors by name, y first."""

    y: Tensor
    X: Tensor


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Rows in a shape."""

    def __init__(self, row: Any) -> None:
        self.row = row

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> Any:
        return self.row(i)


WITH_Y = {
    "pairs": lambda i: (X[i], y[i]),
    "lists": lambda i: [X[i], y[i]],
    "dict": lambda i: {"y": y[i], "X": X[i]},
    "named": lambda i: Named(y[i], X[i]),
}
ALL = {
    "tensor": lambda i: X[i],
    "one-tuple": lambda i: (X[i],),
    "dict of X": lambda i: {"X": X[i]},
    "triples": lambda i: (X[i], y[i], weights[i]),
    "dict of three": lambda i: {"sample_weight": weights[i], "X": X[i], "y": y[i]},
    **WITH_Y,
}


def loader(shape: str) -> Any:
    return DataLoader(Rows(ALL[shape]), batch_size=5)


def model(**options: Any) -> LinearRegression:
    torch.manual_seed(0)
    return LinearRegression(3, lr=0.05, **options)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("shape", ALL)
def test_prediction_has_all_rows_whatever_the_shape(make_trainer: Any, shape: str) -> None:
    m = model().double()
    expected = (X @ m.weight + m.bias).detach()
    found = torch.cat(make_trainer().predict(m, loader(shape)))
    assert torch.allclose(found, expected, rtol=1e-14)
    integers = (10 * X).long()
    [found] = make_trainer().predict(m, DataLoader(integers, batch_size=23))
    assert torch.allclose(found, (integers.double() @ m.weight + m.bias).detach(), rtol=1e-14)


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:You defined a", "ignore:You called"
)
@pytest.mark.parametrize("shape", ALL)
def test_training_and_evaluation_take_y_or_refuse(make_trainer: Any, shape: str) -> None:
    weighted = "three" in shape or shape == "triples"
    if shape not in WITH_Y and not weighted:
        for run in ("fit", "validate", "test"):
            with pytest.raises(ValueError, match="found X alone"):
                getattr(make_trainer(limit_val_batches=1.0), run)(model(), loader(shape))
        return
    check, m = CrossCheck(), model()
    make_trainer(callbacks=[check]).fit(m, loader(shape))
    expected = model()
    data = RegressionData(X, y, batch_size=5, sample_weight=weights if weighted else None)
    make_trainer().fit(expected, data)
    assert torch.allclose(m.weight, expected.weight, rtol=1e-12)
    assert check.report()["passed"]
    w = weights if weighted else torch.ones(23)
    loss = (w * (X @ m.weight + m.bias - y).square()).sum() / w.sum()
    [found] = make_trainer(limit_val_batches=1.0).validate(m, loader(shape))
    assert found["val/loss"] == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_other_batches_are_refused_by_name(make_trainer: Any) -> None:
    for row, words in (
        (lambda i: {"features": X[i], "y": y[i]}, "a dict of features, y"),
        (lambda i: (X[i], y[i], y[i], y[i]), "list of Tensor, Tensor, Tensor, Tensor"),
        (lambda i: ({"X": X[i]}, y[i]), "list of dict, Tensor"),
        (lambda i: X[i, 0], r"X of shape \(n_samples, 3\), found \(5,\)"),
        (lambda i: (X[i, :2], y[i]), r"X of shape \(n_samples, 3\), found \(5, 2\)"),
    ):
        with pytest.raises(ValueError, match=words):
            make_trainer().predict(model(), DataLoader(Rows(row), batch_size=5))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_single_feature_may_come_without_an_axis(make_trainer: Any) -> None:
    m = LinearRegression().double()
    found = torch.cat(make_trainer().predict(m, DataLoader(TensorDataset(X[:, 0]), batch_size=4)))
    assert torch.equal(found, (X[:, :1] @ m.weight + m.bias).detach())


def test_integers_are_scaled_and_not_cut() -> None:
    scaling = Scaling(np.array([10.0]), np.array([2.0]))
    assert scaling.applied_to(np.array([[9], [14]])).tolist() == [[-0.5], [2.0]]


class OwnStep(LinearRegression):
    """Minimises the mean absolute error."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = (self(batch[0]) - batch[1]).abs().mean()
        return loss if batch_idx % 2 else {"loss": loss}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_step_of_ones_own_tells_what_it_returns(
    make_trainer: Any, accumulate: int
) -> None:
    m = OwnStep(3, lr=0.05)
    stop = EarlyStopping("train/loss", patience=3)
    trainer = make_trainer(max_epochs=300, callbacks=[stop], accumulate_grad_batches=accumulate)
    before = m.weight.detach().clone()
    data = RegressionData(X, y, batch_size=12)
    trainer.fit(m, data)
    assert 1 < trainer.current_epoch < 300
    assert not torch.equal(m.weight, before)
    trainer = make_trainer(max_epochs=1, max_steps=1, accumulate_grad_batches=accumulate)
    m = OwnStep(3, lr=1e-300).double()
    trainer.fit(m, data)
    last = slice(12 * (accumulate - 1), 12 * accumulate)
    expected = (X[last] @ m.weight + m.bias - y[last]).abs().mean().item()
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [1, "auto"])
def test_losses_reach_the_logger_without_a_callback(
    make_trainer: Any, tmp_path: Any, steps: Any
) -> None:
    logger = CSVLogger(tmp_path)
    m = model(steps_per_execution=steps)
    trainer = make_trainer(logger=logger, log_every_n_steps=3, limit_val_batches=1.0)
    trainer.fit(m, RegressionData(X, y, batch_size=5))
    text = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    names, *lines = [line.split(",") for line in text]
    column = {name: [line[names.index(name)] for line in lines] for name in names}
    steps_of = [int(s) for s, v in zip(column["step"], column["train/loss"], strict=True) if v]
    assert steps_of == list(range(0, 25, 3))
    assert sum(bool(v) for v in column["val/loss"]) == 5
