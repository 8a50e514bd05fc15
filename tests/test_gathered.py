"""Rows in a file: the same training as in memory, each row once an epoch."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trueline.crosscheck import CrossCheck
from trueline.data import SyntheticData, gathered
from trueline.data.gathered import Gathered, GatheredData
from trueline.data.spool import Spool, SpooledRows
from trueline.errors import CheckFailed
from trueline.module import LinearRegression
from trueline.results.report import result_of
from trueline.tensorboard import Scalars


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "LARGE", 0)
    monkeypatch.setattr(gathered, "SEGMENT_BYTES", 1_000)
    monkeypatch.setattr(gathered, "POOL_BYTES", 20_000)


def rows(in_memory: int, weighted: bool, n: int = 2003, targets: int = 1) -> Gathered:
    rng = np.random.default_rng(0)
    found = Gathered(3, targets, weighted, np.dtype("float64"), in_memory)
    for first in range(0, n, 500):
        X = rng.standard_normal((min(500, n - first), 3))
        y = X @ np.ones((3, targets)) + rng.standard_normal((len(X), targets))
        found.append(X, y, rng.uniform(1, 2, len(X)) if weighted else None)
    return found


@pytest.mark.parametrize("batch_size", [7, 32, 2000])
def test_each_row_once_an_epoch(batch_size: int) -> None:
    data = GatheredData(rows(1, weighted=True), batch_size, shuffle=True)
    assert isinstance(data.dataset, SpooledRows)
    everything = np.concatenate(list(rows(1, weighted=True).chunks()))
    loader, orders = data.train_dataloader(), []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert [len(X) for X, _, _ in batches[:-1]] == [batch_size] * (len(loader) - 1)
        served = np.concatenate([np.column_stack(batch) for batch in batches])
        assert sorted(map(tuple, served)) == sorted(map(tuple, everything))
        orders.append(served)
    assert not np.array_equal(*orders)


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize(
    ("options", "model"),
    [
        ({"batch_size": 32, "shuffle": True}, {}),
        ({"batch_size": 32, "shuffle": True}, {"momentum": 0.9, "l2": 0.01}),
        ({"batch_size": 32}, {"momentum": 0.5, "nesterov": True}),
        ({}, {"weight_decay": 0.1}),
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("targets", [1, 2])
def test_rows_in_a_file_train_the_same(
    make_trainer: Callable[..., Any],
    options: dict[str, Any],
    model: dict[str, Any],
    weighted: bool,
    targets: int,
    precision: str,
) -> None:
    found = []
    for in_memory in (1, 2**20):
        for steps in (1, "auto"):
            torch.manual_seed(0)
            data = GatheredData(rows(in_memory, weighted, targets=targets), **options)
            assert (data.spooled is not None) == (in_memory == 1)
            check = CrossCheck()
            line = LinearRegression(3, targets, lr=0.05, steps_per_execution=steps, **model)
            trainer = make_trainer(max_epochs=3, precision=precision, callbacks=[check, Scalars()])
            trainer.fit(line, data)
            assert check.report()["passed"]
            assert (line.execution is None) == (steps == 1)
            found.append(torch.cat([p.detach().flatten() for p in line.parameters()]))
    within = 1e-12 if precision == "64-true" else 1e-5
    for other in found[1:]:
        assert torch.allclose(found[0], other, rtol=within, atol=within)


def test_a_row_read_twice_is_seen(
    make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Spool.read

    def wrong(self: Spool, start: int, out: Any) -> Any:
        read(self, start, out)
        if "_fetch" in [frame.function for frame in inspect.stack()[1:3]]:  # not for the check
            out[7] = out[8]
        return out

    data = GatheredData(rows(1, weighted=False), batch_size=20)
    monkeypatch.setattr(Spool, "read", wrong)
    with pytest.raises(CheckFailed):
        make_trainer(max_epochs=3, callbacks=[CrossCheck()]).fit(LinearRegression(3), data)


def test_synthetic_rows_are_a_function_of_their_numbers() -> None:
    few, many = SyntheticData(n_samples=5), SyntheticData(n_samples=20_000, in_memory=1)
    spool = many.spooled.spool
    first = spool.rows(np.arange(5))
    assert np.array_equal(first[:, :10], few.X)
    best = many.triangle
    assert best.least_squares().weight == pytest.approx(many.weight, abs=0.01)


def test_rows_that_are_drawn_apart_are_all_there() -> None:
    for in_memory in (1, 2**30):
        parts = rows(in_memory, weighted=False).drawn_apart({"val": 200, "test": 3}, seed=1)
        assert {name: len(part) for name, part in parts.items()} == {
            "val": 200,
            "test": 3,
            "train": 1800,
        }
        found = sorted(tuple(r) for part in parts.values() for c in part.chunks() for r in c)
        assert found == sorted(tuple(r) for c in rows(in_memory, False).chunks() for r in c)


@pytest.mark.parametrize("weighted", [False, True])
def test_result_of_rows_in_a_file_is_that_of_rows_in_memory(
    make_trainer: Callable[..., Any], weighted: bool
) -> None:
    found = []
    for in_memory in (1, 2**20):
        torch.manual_seed(0)
        gathered_rows = rows(in_memory, weighted)
        data, line = GatheredData(gathered_rows), LinearRegression(3, lr=0.1, l2=0.1)
        trainer = make_trainer(callbacks=[CrossCheck()])
        trainer.fit(line, data)
        result = result_of(trainer, line)
        found.append({name: result[name] for name in ("loss", "distance", "largest_stable_lr")})
        assert data.weighted == weighted
        assert data.held_bytes > 0
    assert found[0] == pytest.approx(found[1], rel=1e-9)
