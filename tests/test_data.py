"""Rows in their order: each one once, as a function of (seed, epoch), whatever Lightning calls."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback

from trueline.data import DummyData, RegressionData
from trueline.data.blocks import BatchLoader, RowOrder
from trueline.module import LinearRegression


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n_samples=st.integers(1, 200),
    batch_size=st.integers(1, 200),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 10**6),
)
def test_loader_serves_each_row_once(
    n_samples: int, batch_size: int, shuffle: bool, seed: int, epoch: int
) -> None:
    X = torch.arange(n_samples).reshape(-1, 1)
    loader = BatchLoader(X, 10 * X[:, 0], batch_size, RowOrder(n_samples, shuffle, seed))
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert all(len(x) == batch_size for x, _ in batches[:-1])
    rows = torch.cat([x for x, _ in batches])[:, 0]
    assert sorted(rows.tolist()) == list(range(n_samples))
    assert torch.equal(torch.cat([t for _, t in batches]), 10 * rows)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    rows = RowOrder(50, shuffle=True, seed=3).rows
    assert torch.equal(rows(7), RowOrder(50, shuffle=True, seed=3).rows(7))
    assert not torch.equal(rows(7), rows(8))
    assert not torch.equal(rows(7), RowOrder(50, shuffle=True, seed=4).rows(7))
    assert torch.equal(RowOrder(5, shuffle=False, seed=3).rows(7), torch.arange(5))


def test_order_comes_from_set_epoch_and_not_from_counting_iterators() -> None:
    data = DummyData(batch_size=4, shuffle=True)
    loader = data.train_dataloader()
    early = iter(loader)  # Lightning asks for it before it says which epoch comes
    loader.sampler.set_epoch(5)
    expected = np.random.default_rng((0, 5)).permutation(15)[:4]
    assert torch.equal(next(early)[0], data.X[expected])


class RowsSeen(Callback):
    def __init__(self) -> None:
        self.epochs: list[list[int]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.epochs.append([])

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.epochs[-1] += batch[1].tolist()


def test_lightning_trains_on_each_row_once_an_epoch_in_a_new_order(make_trainer: Any) -> None:
    seen = RowsSeen()
    data = DummyData(batch_size=4, shuffle=True, seed=1)
    make_trainer(max_epochs=3, callbacks=[seen]).fit(LinearRegression(), data)
    for epoch, rows in enumerate(seen.epochs):
        order = np.random.default_rng((1, epoch)).permutation(15)
        assert rows == data.y[order].tolist()
    assert len(seen.epochs) == 3


def test_batches_in_order_are_views() -> None:
    data = DummyData(batch_size=5)
    (X, y), *_ = list(data.train_dataloader())
    assert X.data_ptr() == data.X.data_ptr()
    assert y.data_ptr() == data.y.data_ptr()


def test_dummy_data_is_the_articles() -> None:
    data = DummyData()
    assert (data.n_samples, data.n_features, data.steps_per_epoch) == (15, 1, 1)
    assert data.X.dtype == data.y.dtype == torch.int64
    # Sums worked out by hand from the article's lists.
    assert (int(data.X.sum()), int(data.y.sum()), int((data.y**2).sum())) == (186, 888, 55002)


@pytest.mark.parametrize(
    ("X", "y", "options", "words"),
    [
        ([[1.0]], [1.0, 2.0], {}, r"found \(1, 1\) and \(2,\)"),
        ([[1.0], [2.0]], [[1.0], [2.0]], {}, r"found \(2, 1\) and \(2, 1\)"),
        (np.zeros((0, 1)), np.zeros(0), {}, "none empty"),
        ([[np.nan]], [1.0], {}, "X: expected finite numbers"),
        ([[1.0]], [np.inf], {}, "y: expected finite numbers"),
        ([["a"]], [1.0], {}, "X: expected real numbers; found dtype <U1"),
        ([[1j]], [1.0], {}, "X: expected real numbers"),
        ([[1.0]], [1.0], {"batch_size": 2}, "expected 1 to 1, the number of rows; found 2"),
        ([[1.0]], [1.0], {"batch_size": 0}, "found 0"),
        ([[1.0]], [1.0], {"seed": -1}, "seed: expected 0 or more; found -1"),
        ([[np.nan]], [1.0], {"seed": -1}, "finite.*seed"),
    ],
)
def test_data_says_what_is_wrong(X: Any, y: Any, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RegressionData(X, y, **options)
