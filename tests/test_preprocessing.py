"""Columns and scaling belong to the model: the next table is read as the training's was."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer

from trueline.data import RegressionData, TableData
from trueline.data.learned import Learned
from trueline.module import LinearRegression

Cli = Callable[..., Any]
MakeTrainer = Callable[..., Trainer]


class OwnTable(TableData):
    """A table of a user's own, which the command line does not know."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "y", features="a,b")


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, pd.DataFrame]:
    """Write a table to train on, and a new one far away, on another scale and in another order."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    train = pd.DataFrame({"a": rng.normal(100, 5, 50), "b": rng.normal(-3, 0.1, 50)})
    train["y"] = 2 * train.a - 5 * train.b + rng.normal(size=50)
    new = pd.DataFrame(
        {"y": rng.normal(size=9), "b": rng.uniform(3, 9, 9), "a": rng.normal(size=9)}
    )
    for name, frame in (("train", train), ("new", new)):
        frame.to_csv(f"{name}.csv", index=False)
    return {"train": train, "new": new}


def by_hand(train: pd.DataFrame, new: pd.DataFrame) -> np.ndarray:
    A = np.column_stack([np.ones(len(train)), train.a, train.b])
    line = np.linalg.lstsq(A, train.y, rcond=None)[0]
    return np.column_stack([np.ones(len(new)), new.a, new.b]) @ line


def trained(make_trainer: MakeTrainer, data: TableData) -> tuple[Trainer, LinearRegression]:
    trainer, model = make_trainer(max_epochs=3000), LinearRegression(2, lr=0.3, init="zeros")
    trainer.fit(model, data)
    return trainer, model


@pytest.mark.parametrize("new", [lambda: TableData("new.csv", "y"), lambda: OwnTable("new.csv")])
@pytest.mark.parametrize(
    "old", [lambda: TableData("train.csv", "y"), lambda: OwnTable("train.csv")]
)
def test_new_table_is_scaled_as_the_training_was(
    make_trainer: MakeTrainer, tables: dict[str, pd.DataFrame], old: Any, new: Any
) -> None:
    trainer, model = trained(make_trainer, old())
    trainer.save_checkpoint("end.ckpt")
    expected = by_hand(**tables)
    loss = np.mean((expected - tables["new"].y) ** 2)

    def ways() -> Iterator[tuple[Trainer, LinearRegression, dict[str, str]]]:
        yield trainer, model, {}
        yield make_trainer(), model, {}
        yield make_trainer(), LinearRegression.load_from_checkpoint("end.ckpt"), {}
        yield make_trainer(), LinearRegression(2), {"ckpt_path": "end.ckpt"}

    for runner, line, checkpoint in ways():
        found = torch.cat(runner.predict(line, new(), **checkpoint))
        np.testing.assert_allclose(found, expected, rtol=1e-8)
        [logged] = runner.test(line, new(), **checkpoint, verbose=False)
        assert logged["test/loss"] == pytest.approx(loss, rel=1e-8)
        limited = make_trainer(limit_val_batches=None)
        [logged] = limited.validate(line, new(), **checkpoint, verbose=False)
        assert logged["val/loss"] == pytest.approx(loss, rel=1e-8)


@pytest.mark.parametrize("table", [TableData, OwnTable])
def test_training_goes_on_in_the_units_of_its_checkpoint(
    make_trainer: MakeTrainer, tables: dict[str, pd.DataFrame], table: Any
) -> None:
    options = {} if table is OwnTable else {"target": "y", "features": ["a", "b"]}
    trainer, model = make_trainer(max_epochs=4), LinearRegression(2, lr=0.3)
    trainer.fit(model, table("train.csv", **options))
    trainer.save_checkpoint("half.ckpt")
    tables["train"].assign(a=tables["train"].a + 1000).to_csv("moved.csv", index=False)
    data = table("moved.csv", **options)
    goes_on = make_trainer(max_epochs=5)
    goes_on.fit(LinearRegression(2, lr=0.3), data, ckpt_path="half.ckpt")
    assert data.learned.scaling is not None
    assert data.learned.scaling.mean[0] == pytest.approx(tables["train"].a.mean())
    scaled = (tables["train"].a + 1000 - tables["train"].a.mean()) / tables["train"].a.std(ddof=0)
    np.testing.assert_allclose(data.X[:, 0], scaled)
    # What it saves are the rows that it goes on with.
    goes_on.save_checkpoint("end.ckpt")
    rows = Learned.of("end.ckpt").rows
    mean = rows.center[0] + rows.R[0, 1] / rows.R[0, 0]
    assert mean == pytest.approx(tables["train"].a.mean() + 1000)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"features": ["b", "a"]}, "features: expected that of the checkpoint, a, b; found b, a"),
        ({"features": "a"}, "features: expected that of the checkpoint, a, b; found a"),
        ({"weight": "b", "features": "a"}, "weight: expected that of the checkpoint, none"),
        ({"standardize": False}, "standardize: expected that of the checkpoint, true; found false"),
        ({"target": "a", "features": "b"}, "target: expected that of the checkpoint, y; found a"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("run", ["fit", "predict", "test"])
@pytest.mark.usefixtures("tables")
def test_table_that_is_asked_for_otherwise_is_refused(
    make_trainer: MakeTrainer, run: str, options: dict[str, Any], said: str
) -> None:
    trainer, _ = trained(make_trainer, TableData("train.csv", "y", features="a,b"))
    trainer.save_checkpoint("end.ckpt")
    data = TableData("new.csv", **({"target": "y"} | options))
    call = getattr(make_trainer(max_epochs=4000), run)
    with pytest.raises(ValueError, match="leave it out, or train anew") as error:
        call(LinearRegression(2), data, ckpt_path="end.ckpt")
    assert f"--data.{said}" in str(error.value)


def test_rows_of_no_table_are_taken_in_the_units_of_the_table(
    make_trainer: MakeTrainer, tables: dict[str, pd.DataFrame]
) -> None:
    trainer, model = trained(make_trainer, TableData("train.csv", "y"))
    trainer.save_checkpoint("end.ckpt")
    X, y = tables["new"][["a", "b"]].to_numpy().copy(), tables["new"].y.to_numpy().copy()
    arrays, expected = RegressionData(X, y), by_hand(**tables)
    for data in (arrays, torch.utils.data.DataLoader(arrays.dataset, batch_size=4)):
        np.testing.assert_allclose(torch.cat(trainer.predict(model, data)), expected, rtol=1e-8)
        [logged] = trainer.test(model, data, verbose=False)
        assert logged["test/loss"] == pytest.approx(np.mean((expected - y) ** 2), rel=1e-8)
    with pytest.raises(ValueError, match="expected a TableData, as the checkpoint"):
        make_trainer(max_epochs=4000).fit(LinearRegression(2), arrays, ckpt_path="end.ckpt")
    trainer.fit(model, TableData("train.csv", "y", standardize=False))
    torch.testing.assert_close(
        torch.cat(trainer.predict(model, arrays)), model(torch.from_numpy(X))
    )


class OwnSteps(LinearRegression):
    """A line whose steps are a user's own, and take a batch as it comes."""

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self(batch[0])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/loss", self.loss(batch))


def test_steps_of_ones_own_get_scaled_rows_or_a_refusal(
    make_trainer: MakeTrainer, tables: dict[str, pd.DataFrame]
) -> None:
    trainer, model = make_trainer(max_epochs=3000), OwnSteps(2, lr=0.3)
    trainer.fit(model, TableData("train.csv", "y"))
    expected = by_hand(**tables)
    found = torch.cat(trainer.predict(model, TableData("new.csv", "y")))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    arrays = RegressionData(tables["new"][["a", "b"]], tables["new"].y)
    for call in (trainer.predict, trainer.test):
        with pytest.raises(ValueError, match=r"OwnSteps has a (predict|test)_step of its own"):
            call(model, arrays)


def test_table_is_left_as_it_is_for_a_model_that_was_trained_on_arrays(
    make_trainer: MakeTrainer, tables: dict[str, pd.DataFrame]
) -> None:
    train, new = tables["train"], tables["new"]
    trainer, model = make_trainer(max_epochs=2), LinearRegression(2, lr=1e-5)
    trainer.fit(model, RegressionData(train[["a", "b"]], train.y))
    trainer.save_checkpoint("arrays.ckpt")
    expected = model(torch.from_numpy(new[["a", "b"]].to_numpy().copy()))
    for checkpoint in ({}, {"ckpt_path": "arrays.ckpt"}):
        data = TableData("new.csv", "y", features="a,b")
        torch.testing.assert_close(torch.cat(trainer.predict(model, data, **checkpoint)), expected)
        data = TableData("new.csv", "y", features="a,b", standardize=True)
        with pytest.raises(ValueError, match=r"--data.standardize: .* false; found true"):
            trainer.predict(model, data, **checkpoint)


class OwnModule(pl.LightningModule):
    """A module of a user's own, which knows nothing of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.nn.Linear(2, 1, dtype=torch.float64)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.out(batch[0])[:, 0], batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.out(batch[0])[:, 0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.3)


def test_module_of_ones_own_gets_the_scaling_of_its_training_or_a_refusal(
    make_trainer: MakeTrainer, tables: dict[str, pd.DataFrame]
) -> None:
    trainer, model = make_trainer(max_epochs=3000), OwnModule()
    trainer.fit(model, TableData("train.csv", "y"))
    trainer.save_checkpoint("own.ckpt")
    expected = by_hand(**tables)
    fresh = OwnModule.load_from_checkpoint("own.ckpt")
    for line, like, checkpoint in (
        (model, None, {}),
        (OwnModule(), None, {"ckpt_path": "own.ckpt"}),
        (fresh, "own.ckpt", {}),
    ):
        data = TableData("new.csv", "y", like=like)
        found = torch.cat(make_trainer().predict(line, data, **checkpoint))
        np.testing.assert_allclose(found, expected, rtol=1e-8)
    fresh = OwnModule.load_from_checkpoint("own.ckpt")
    with pytest.raises(ValueError, match=r"found none in OwnModule; give --data\.like"):
        make_trainer().predict(fresh, TableData("new.csv", "y"))
