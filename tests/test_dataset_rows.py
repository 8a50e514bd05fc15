"""A row that is served twice is seen whatever the size of the data, in memory or in a file."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trueline.crosscheck import CrossCheck
from trueline.crosscheck.dataset_rows import FEW_NUMBERS
from trueline.data import RegressionData, SyntheticData
from trueline.data.order import SEGMENT, RowOrder, _Pools
from trueline.data.spool import Spool
from trueline.errors import CheckFailed
from trueline.loop.rows import Rows
from trueline.module import LinearRegression

N = 40_000
Make = Callable[[], RegressionData]


def in_memory(n: int = N, **options: Any) -> RegressionData:
    X = np.random.default_rng(0).standard_normal((n, 3), dtype=np.float32)
    return RegressionData(X, X.sum(axis=1), **{"batch_size": 8, "shuffle": True, **options})


def many_pools() -> RegressionData:
    return in_memory(150_000, batch_size=32)


def in_file(n: int = N) -> RegressionData:
    return SyntheticData(n_samples=n, n_features=3, batch_size=8, shuffle=True, in_memory=10_000)


def pools_in_file() -> RegressionData:
    return in_file(150_000)


def fit(make_trainer: Any, data: RegressionData, steps: Any = "auto", **options: Any) -> CrossCheck:
    check = CrossCheck()
    data.prepare_data()
    data.setup("fit")
    model = LinearRegression(3, lr=0.01, steps_per_execution=steps)
    trainer = make_trainer(
        **{"precision": "32-true", "max_epochs": 2, **options, "callbacks": [check]}
    )
    trainer.fit(model, data)
    return check


def repeated(found: Any) -> Any:
    found = np.array(found)
    found[1] = found[0]
    return found


def exchanged(found: Any) -> Any:
    """Put rows 0, 4 and 5 where 1, 2 and 6 are: sum and sum of squares stay the same."""
    found = np.array(found)
    for right, wrong in ((1, 0), (2, 4), (6, 5)):
        found[found == right] = wrong
    return found


def plant_in_permutation(patch: Any, change: Any = repeated) -> None:
    """Let every order have the number at its first place at the second too."""
    right = RowOrder._of

    class Wrong:
        def __init__(self, order: Any) -> None:
            self.order, self.numbers = order, change(order[0:N])

        def __getitem__(self, part: Any) -> Any:
            return self.numbers[part]

    patch.setattr(RowOrder, "_of", lambda self, epoch: Wrong(right(self, epoch)))


def plant_in_pools(patch: Any) -> None:
    """Fetch the first segment of each pool twice."""
    right = _Pools.fetch

    def fetch(self: Any, rows: Any, pool: int, out: Any) -> Any:
        numbers = right(self, rows, pool, out)
        out[self._segment : 2 * self._segment] = out[: self._segment]
        return numbers

    patch.setattr(_Pools, "fetch", fetch)


def plant_in_file(patch: Any) -> None:
    """Read the segments that come before the right ones."""
    right = Spool.read

    def read(self: Any, start: int, out: Any) -> Any:
        return right(self, max(start - len(out), 0) if len(out) == SEGMENT else start, out)

    patch.setattr(Spool, "read", read)


def plant_in_gather(patch: Any) -> None:
    """Put a row in the place of another in each piece of rows."""
    right = Rows._fetch

    def fetch(self: Any, *given: Any) -> Any:
        Z, origin, numbers = right(self, *given)
        numbers = numbers.copy()
        numbers[1] = numbers[0]
        return Z, origin, numbers

    patch.setattr(Rows, "_fetch", fetch)


@pytest.mark.parametrize("steps", ["auto", 1000])
@pytest.mark.parametrize(
    ("make", "plant"),
    [
        (in_memory, plant_in_permutation),
        (in_file, plant_in_permutation),
        (in_memory, plant_in_gather),
        (many_pools, plant_in_pools),
        (in_file, plant_in_gather),
        (pools_in_file, plant_in_file),
    ],
)
def test_a_row_served_twice_is_seen(
    make_trainer: Any, monkeypatch: Any, make: Make, plant: Any, steps: Any
) -> None:
    data = make()
    assert data.n_samples * 4 > FEW_NUMBERS
    report = fit(make_trainer, data, steps).report()
    assert report["passed"]
    assert report["epochs_counted"] == 2
    plant(monkeypatch)
    with pytest.raises(CheckFailed, match="cross-check failed"):
        fit(make_trainer, data, steps)


def test_calls_of_few_steps_on_large_data_pass(make_trainer: Any) -> None:
    report = fit(make_trainer, in_memory(), 50).report()
    assert report["passed"]
    assert report["epochs_counted"] == 2


def test_rows_whose_sums_are_those_of_the_right_ones_are_seen(
    make_trainer: Any, monkeypatch: Any
) -> None:
    plant_in_permutation(monkeypatch, exchanged)
    with pytest.raises(CheckFailed, match="rows 0, 4, 5 served more than once; rows 1, 2, 6"):
        fit(make_trainer, in_memory())


def test_rows_of_a_wrong_order_are_named(make_trainer: Any, monkeypatch: Any) -> None:
    first = RowOrder(N, True, 0).rows(0)[:2].tolist()
    plant_in_permutation(monkeypatch)
    expected = f"row {first[0]} served more than once; row {first[1]} never served"
    with pytest.raises(CheckFailed, match=f"rows of epoch 0.*{expected}"):
        fit(make_trainer, in_memory())


def test_single_steps_on_rows_in_a_file_are_counted_too(
    make_trainer: Any, monkeypatch: Any
) -> None:
    options = {"limit_train_batches": 1.0, "max_epochs": 1}
    data = SyntheticData(n_samples=N, n_features=3, batch_size=400, shuffle=True, in_memory=10_000)
    report = fit(make_trainer, data, 1, **options).report()
    assert report["passed"]
    assert report["epochs_counted"] == 1
    plant_in_permutation(monkeypatch)
    with pytest.raises(CheckFailed, match="served more than once"):
        fit(make_trainer, data, 1, **options)


def test_an_epoch_that_is_resumed_inside_is_counted_whole(make_trainer: Any, tmp_path: Any) -> None:
    make_trainer(max_epochs=1, max_steps=3_000, precision="32-true")
    data, path = in_memory(), tmp_path / "inside.ckpt"

    class Save(CrossCheck):
        every_n_steps = 2_000
        knows_executions = True

        def on_train_batch_end(self, trainer: Any, *given: Any) -> None:
            super().on_train_batch_end(trainer, *given)
            if trainer.global_step == self.every_n_steps:
                trainer.save_checkpoint(path)

    model = LinearRegression(3, lr=0.01)
    make_trainer(precision="32-true", max_epochs=1, callbacks=[Save()]).fit(model, data)
    check = CrossCheck()
    trainer = make_trainer(precision="32-true", max_epochs=1, callbacks=[check])
    trainer.fit(LinearRegression(3, lr=0.01), data, ckpt_path=path, weights_only=False)
    assert check.report()["passed"]
    assert check.report()["epochs_counted"] == 1


def test_a_failure_on_rows_in_a_file_invents_no_cause(make_trainer: Any, monkeypatch: Any) -> None:
    right = Rows.chunks

    def all_but_one(self: Any, *given: Any) -> Any:
        for Z in right(self, *given):
            yield Z[1:]

    data = SyntheticData(n_samples=N, n_features=3, in_memory=10_000)
    monkeypatch.setattr(Rows, "chunks", all_but_one)
    with pytest.raises(CheckFailed) as failed:
        fit(make_trainer, data, precision="64-true")
    assert "likely cause" not in str(failed.value)
