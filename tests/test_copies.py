"""Copies of a model and of data after a training: they work, go on, and predict the same."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trueline.crosscheck import CrossCheck
from trueline.data import DummyData, RegressionData, SyntheticData, TableData
from trueline.module import LinearRegression
from trueline.tensorboard import Scalars


def saved(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "torch.save": saved,
    "deepcopy": copy.deepcopy,
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"steps_per_execution": 1},
    {"momentum": 0.9, "schedule": {"name": "StepLR", "step_size": 3}},
    {"l1": 0.1},
]


def rows(n: int = 50_000) -> RegressionData:
    X = np.random.default_rng(0).standard_normal((n, 3))
    return RegressionData(X, X.sum(axis=1), batch_size=n // 5, shuffle=True)


def table(tmp_path: Any) -> TableData:
    path = tmp_path / "rows.csv"
    path.write_text("a,y\n" + "\n".join(f"{i},{2 * i + i % 3}" for i in range(40)))
    return TableData(str(path), "y", batch_size=10, shuffle=True, val_fraction=0.2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_copy_of_a_trained_model_predicts_the_same_and_trains_on(
    make_trainer: Any, way: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model, data = LinearRegression(3, lr=0.05, **options), rows(500)
    make_trainer(callbacks=[CrossCheck(), Scalars()]).fit(model, data)
    found = WAYS[way](model)
    assert torch.equal(found(data.X), model(data.X))
    for one in (model, found):
        make_trainer(callbacks=[CrossCheck()]).fit(one, data)
    assert torch.equal(found.weight, model.weight)
    assert torch.equal(found.bias, model.bias)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["dummy", "rows", "table", "synthetic"])
def test_copy_of_data_serves_the_same_rows(
    make_trainer: Any, tmp_path: Any, way: str, kind: str
) -> None:
    data: Any = {
        "dummy": DummyData,
        "rows": lambda: rows(100_000),
        "table": lambda: table(tmp_path),
        "synthetic": lambda: SyntheticData(n_samples=500, n_features=2, batch_size=50),
    }[kind]()
    before = WAYS[way](data)  # not read yet, or not used
    torch.manual_seed(0)
    model = LinearRegression(getattr(data, "n_features", 1) if kind != "table" else 1, lr=1e-4)
    start = copy.deepcopy(model)
    make_trainer().fit(model, data)
    for other in (before, WAYS[way](data)):
        again = copy.deepcopy(start)
        make_trainer().fit(again, other)
        assert torch.equal(again.weight, model.weight)


def test_rows_in_a_file_are_shared_by_a_copy_and_say_why_they_are_not_pickled(
    make_trainer: Any,
) -> None:
    data = SyntheticData(n_samples=40_000, n_features=3, batch_size=400, in_memory=10_000)
    found = copy.deepcopy(data)
    with pytest.raises(TypeError, match="rows in a temporary file"):
        pickle.dumps(data)
    digest = data.digest
    del data
    assert found.digest == digest
    model = LinearRegression(3, lr=0.01)
    make_trainer().fit(model, found)
    with pytest.raises(TypeError, match="rows in a temporary file"):
        pickle.dumps(found)
    pickle.dumps(model)


def test_data_prints_what_it_holds(tmp_path: Any) -> None:
    assert str(DummyData()) == "DummyData: 15 rows of 1 features and 1 targets, 15 in a batch"
    unread = table(tmp_path)
    assert "TableData" in str(unread)
    unread.setup("fit")
    assert str(unread) == "TableData: 32 rows of 1 features and 1 targets, 10 in a batch"
