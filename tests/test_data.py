"""Rows in their order: each one once, as a function of (seed, epoch), whatever Lightning calls."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from torch.utils.data import TensorDataset

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
    dataset = TensorDataset(X, 10 * X[:, 0])
    loader = BatchLoader(dataset, batch_size, RowOrder(n_samples, shuffle, seed))
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert all(len(x) == batch_size for x, _ in batches[:-1])
    rows = torch.cat([x for x, _ in batches])[:, 0]
    assert sorted(rows.tolist()) == list(range(n_samples))
    assert torch.equal(torch.cat([t for _, t in batches]), 10 * rows)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    n_samples=st.integers(1, 100),
    batch_size=st.integers(1, 100),
    world_size=st.integers(1, 9),
    shuffle=st.booleans(),
    weighted=st.booleans(),
)
def test_ranks_together_serve_the_batches_of_one_process(
    n_samples: int, batch_size: int, world_size: int, shuffle: bool, weighted: bool
) -> None:
    X = np.arange(2 * n_samples).reshape(-1, 2)
    data = RegressionData(
        X,
        10 * X[:, 0],
        min(batch_size, n_samples),
        shuffle,
        seed=3,
        sample_weight=1 + X[:, 0] if weighted else None,
    )

    def served(rank: int, world_size: int) -> list[tuple[torch.Tensor, ...]]:
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, overfit_batches=0)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(5)
        return list(loader)

    whole = served(0, 1)
    shares = [served(rank, world_size) for rank in range(world_size)]
    assert [len(share) for share in shares] == [len(whole)] * world_size
    for k, batch in enumerate(whole):
        parts = [share[k] for share in shares]
        for column, expected in enumerate(batch):
            assert torch.equal(torch.cat([part[column] for part in parts]), expected)
        sizes = [len(part[0]) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert all(part[0].shape[1:] == (2,) for part in parts)  # of an empty one too
    rows = torch.cat([batch[0][:, 0] for batch in whole]) // 2
    assert sorted(rows.tolist()) == list(range(n_samples))


def test_processes_share_what_they_train_and_validate_and_each_predicts_all() -> None:
    data = DummyData(batch_size=4)
    data.trainer = SimpleNamespace(global_rank=1, world_size=2, overfit_batches=0)
    assert data.steps_per_epoch == 4
    assert sum(len(X) for X, _ in data.train_dataloader()) == 8  # 2 of 4, 4, 4 and of 3
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert [len(X) for X, _ in loader] == [8]  # at once, however many a step takes in
    assert torch.equal(torch.cat([X for X, _ in data.predict_dataloader()]), data.X)


@pytest.mark.parametrize("shuffle", [False, True])
def test_overfitting_sees_the_same_batches_in_every_epoch(make_trainer: Any, shuffle: bool) -> None:
    seen, data = RowsSeen(), DummyData(batch_size=4, shuffle=shuffle)
    options = {"max_epochs": 3, "overfit_batches": 2, "callbacks": [seen]}
    make_trainer(**options).fit(LinearRegression(), data)
    assert seen.epochs == [data.y[:8].tolist()] * 3


def test_order_is_a_function_of_seed_and_epoch() -> None:
    rows = RowOrder(50, shuffle=True, seed=3).rows
    assert np.array_equal(rows(7), RowOrder(50, shuffle=True, seed=3).rows(7))
    assert not np.array_equal(rows(7), rows(8))
    assert not np.array_equal(rows(7), RowOrder(50, shuffle=True, seed=4).rows(7))
    assert np.array_equal(RowOrder(5, shuffle=False, seed=3).rows(7), np.arange(5))


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


def test_data_holds_several_targets_and_weights() -> None:
    y, weights = np.arange(6.0).reshape(3, 2), np.array([1, 2, 3], np.uint8)
    data = RegressionData([1, 2, 3], y, batch_size=2, sample_weight=weights)
    assert (data.n_samples, data.n_features, data.n_targets) == (3, 1, 2)
    first, last = data.train_dataloader()
    for found, expected in zip(last, ([[3]], [[4.0, 5.0]], [3]), strict=True):
        assert found.tolist() == expected
    y[:], weights[:] = -1, 9  # the caller's arrays are not the data's
    assert data.y.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert data.sample_weight is not None
    assert data.sample_weight.tolist() == [1, 2, 3]
    assert [len(part) for part in first] == [2, 2, 2]


def test_data_holds_a_single_column_of_targets_flat() -> None:
    data = RegressionData([1, 2, 3], [[4], [5], [6]])
    assert (data.y.tolist(), data.n_targets, data.sample_weight) == ([4, 5, 6], 1, None)
    assert [len(batch) for batch in data.train_dataloader()] == [2]


def test_dummy_data_is_the_articles() -> None:
    data = DummyData()
    assert (data.n_samples, data.n_features, data.steps_per_epoch) == (15, 1, 1)
    assert (data.n_targets, data.sample_weight) == (1, None)
    assert data.X.dtype == data.y.dtype == torch.int64
    # Sums worked out by hand from the article's lists.
    assert (int(data.X.sum()), int(data.y.sum()), int((data.y**2).sum())) == (186, 888, 55002)


@pytest.mark.parametrize(
    ("X", "y", "options", "words"),
    [
        (3.0, 4.0, {}, r"none empty; found \(\) and \(\)"),
        ([[1.0]], [1.0, 2.0], {}, r"found \(1, 1\) and \(2,\)"),
        ([[1.0], [2.0]], [[1.0, 2.0]], {}, r"found \(2, 1\) and \(1, 2\)"),
        ([[1.0], [2.0]], [[[1.0]], [[2.0]]], {}, r"found \(2, 1\) and \(2, 1, 1\)"),
        ([[1.0], [2.0]], np.zeros((2, 0)), {}, r"none empty; found \(2, 1\) and \(2, 0\)"),
        (np.zeros((0, 1)), np.zeros(0), {}, "none empty"),
        ([[np.nan]], [1.0], {}, "X: expected finite numbers"),
        ([[1.0]], [np.inf], {}, "y: expected finite numbers"),
        ([["a"]], [1.0], {}, "X: expected real numbers; found dtype <U1"),
        ([[1j]], [1.0], {}, "X: expected real numbers"),
        ([[1.0]], [1.0], {"batch_size": 2}, "expected 1 to 1, the number of rows; found 2"),
        ([[1.0]], [1.0], {"batch_size": 0}, "found 0"),
        ([[1.0]], [1.0], {"seed": -1}, "seed: expected 0 or more; found -1"),
        ([[np.nan]], [1.0], {"seed": -1}, "finite.*seed"),
        ([1, 2], [3, 4], {"sample_weight": [1, 0]}, "numbers above 0; found 0; remove the rows"),
        ([1, 2], [3, 4], {"sample_weight": [1, -0.5]}, "numbers above 0; found -0.5"),
        ([1, 2], [3, 4], {"sample_weight": [1, np.nan]}, "sample_weight: expected finite"),
        ([1, 2], [3, 4], {"sample_weight": [1, np.inf]}, "sample_weight: expected finite"),
        ([1, 2], [3, 4], {"sample_weight": ["1", "2"]}, "sample_weight: expected real.*<U1"),
        ([1, 2], [3, 4], {"sample_weight": [1]}, r"shape \(2,\), one for each row; found \(1,\)"),
        ([1, 2], [3, 4], {"sample_weight": [[1], [2]]}, r"shape \(2,\).*found \(2, 1\)"),
        ([1, 2], [3, 4], {"sample_weight": 1.0}, r"shape \(2,\).*found \(\)"),
        (
            [np.nan, 1],
            [1, 2, 3],
            {"seed": -1, "sample_weight": [np.inf]},
            r"X: expected finite.*found \(2, 1\) and \(3,\).*seed.*weight: expected finite.*\(1,\)",
        ),
    ],
)
def test_data_says_what_is_wrong(X: Any, y: Any, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RegressionData(X, y, **options)
