"""`crosscheck.row_count`: each row of the data once an epoch, told by its numbers alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.crosscheck.row_count import ROWS_FOR_REPLAY, RowCount, fingerprints

N = 15
X = np.arange(1, 2 * N + 1).reshape(N, 2)
y = np.arange(N) / 8


def rows(*at: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch of some rows of the data."""
    return X[list(at)], y[list(at)]


def epoch(count: RowCount, *batches: Any, number: int = 0, whole: bool = True) -> str | None:
    count.serve(list(batches), [0] * len(batches))
    return count.end_epoch(number, whole)


def count_of(n: int = N) -> RowCount:
    return RowCount(fingerprints((X[:n], y[:n])))


def test_fingerprints_are_of_the_content_alone() -> None:
    whole = fingerprints((X, y))
    assert whole.shape == (N,)
    assert len(np.unique(whole)) == N
    np.testing.assert_array_equal(fingerprints(rows(7, 3, 7)), whole[[7, 3, 7]])
    # The dtype is what a precision makes of it, and no float64 tells it from an integer.
    np.testing.assert_array_equal(fingerprints((X.astype(np.float32), y)), whole)
    for same in ([X, y], {"X": X, "y": y}, {"in": [X], "out": {"y": y, "name": "t", "k": 3}}):
        np.testing.assert_array_equal(fingerprints(same), whole)


def test_fingerprints_tell_columns_and_arrays_apart() -> None:
    a, b = np.arange(N) + 100.0, np.arange(N) + 500.0
    assert not np.intersect1d(fingerprints((a, b)), fingerprints((b, a))).size
    assert not np.intersect1d(fingerprints(np.c_[a, b]), fingerprints(np.c_[b, a])).size
    assert not np.intersect1d(fingerprints((a, b)), fingerprints((a, b, b))).size


@given(
    row=st.lists(st.floats(allow_nan=False), min_size=1, max_size=6),
    data=st.data(),
)
def test_fingerprints_see_any_bit_changed(row: list[float], data: Any) -> None:
    bits = np.array([row, row]).view(np.uint64)
    column = data.draw(st.integers(0, len(row) - 1))
    bits[1, column] ^= np.uint64(1 << data.draw(st.integers(0, 63)))
    first, second = fingerprints(bits.view(np.float64))
    assert first != second


def test_fingerprints_of_small_integers_spread() -> None:
    # Their low 40 bits, as floats, are all 0; what is told apart by chance needs all 64.
    grid = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=-1).reshape(-1, 2)
    found = fingerprints(grid)
    assert len(np.unique(found)) == len(grid)
    set_in = (found[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)).mean(axis=0)
    assert (np.abs(set_in - 0.5) < 0.02).all()
    # The sum of the fingerprints of two columns must not tell their sum.
    diagonal = fingerprints(np.stack([np.arange(256), 255 - np.arange(256)], axis=1))
    assert len(np.unique(diagonal)) == 256


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (range(N), None),
        (reversed(range(N)), None),
        (range(14), "row 14 never served"),
        ([*range(N), 4], "row 4 served more than once"),
        ([*range(13), 2, 2], "row 2 served more than once; rows 13, 14 never served"),
        (range(9), "rows 9, 10, 11, 12, 13, … never served"),
    ],
)
def test_row_count_names_rows(served: Any, said: str | None) -> None:
    assert epoch(count := count_of(), rows(*served)) == said
    assert count.epochs == 1
    assert epoch(count, rows(*range(8)), rows(*range(8, N)), number=1) is None


def test_row_count_takes_duplicates_in_the_data_as_many_times() -> None:
    twice = np.array([1.0, 1.0, 2.0, 3.0, 3.0])
    expected = fingerprints(twice)
    assert epoch(RowCount(expected), twice[[3, 0, 2, 1, 4]]) is None
    assert epoch(RowCount(expected), twice[[0, 2, 3, 4]]) == "row 0 served too seldom"
    assert epoch(RowCount(expected), np.r_[twice, 3.0]) == "row 3 served too often"
    swapped = epoch(RowCount(expected), twice[[0, 2, 2, 3, 4]])
    assert swapped == "row 2 served more than once; row 0 served too seldom"


def test_row_count_of_an_epoch_cut_short_misses_no_row() -> None:
    count = count_of()
    assert epoch(count, rows(3, 1, 2), whole=False) is None
    assert count.epochs == 0
    assert epoch(count, rows(3, 1, 3), whole=False) == "row 3 served more than once"


def test_row_count_knows_a_foreign_row() -> None:
    count = count_of()
    X_served, y_served = rows(*range(N))
    y_served[3] = np.nextafter(y_served[3], 1)
    count.serve([(X_served[:3], y_served[:3]), (X_served[3:], y_served[3:])], [1, 2])
    assert count.end_epoch(0, whole=True) == "a row was served that is not in the data"
    assert count.foreign_step == 2
    assert epoch(count, rows(*range(N)), number=1) is None


def test_row_count_takes_batches_of_unequal_and_no_rows() -> None:
    count = count_of()
    count.serve([], [])
    assert epoch(count, rows(0, 1), rows(), {"X": X[2:], "y": y[2:]}) is None
    assert epoch(count, rows(0, 1), rows(), {"X": X[3:], "y": y[3:]}) == "row 2 never served"


@pytest.mark.parametrize("split", [0, 1, 6, 13])
def test_row_count_goes_on_inside_an_epoch(split: int) -> None:
    order = np.random.default_rng(0).permutation(N)
    first, rest = order[:split], order[split:]
    for served, said in ((rest, None), (rest[1:], f"row {rest[0]} never served")):
        before, after = count_of(), count_of()
        assert epoch(before, rows(*range(N))) is None
        before.serve([rows(k) for k in first], [0] * split)
        after.load_state_dict(before.state_dict())
        assert epoch(after, rows(*served), number=1) == said
        assert after.epochs == 2


def test_row_count_saved_after_the_last_step_begins_anew() -> None:
    before, after = count_of(), count_of()
    before.serve([rows(*range(N))], [0])
    after.load_state_dict(before.state_dict())
    assert after.end_epoch(0, whole=True) is None
    assert epoch(after, rows(*range(N)), number=1) is None


def resumed(orders: list[Any], n: int = N) -> RowCount:
    """Count epochs in the orders given, save and load."""
    before, after = count_of(n), count_of(n)
    for number, order in enumerate(orders):
        assert epoch(before, rows(*order), number=number) is None
    after.load_state_dict(before.state_dict())
    return after


def shuffles(n: int, k: int) -> list[Any]:
    return [np.random.default_rng(seed).permutation(n) for seed in range(k)]


def test_row_count_tells_a_replayed_shuffle() -> None:
    first, second, third = shuffles(N, 3)
    replayed = "the rows came in the order of epoch {} again: the shuffle was replayed"
    assert epoch(resumed([first, second]), rows(*first), number=2) == replayed.format(0)
    assert epoch(resumed([first, second]), rows(*second), number=2) == replayed.format(1)
    count = resumed([first, second])
    assert epoch(count, rows(*third), number=2) is None
    # Not the first epoch any more: an order may repeat by the sampler's own design.
    assert epoch(count, rows(*first), number=3) is None


def test_row_count_tells_no_replay_without_a_resume_or_a_shuffle() -> None:
    first, second = shuffles(N, 2)
    count = count_of()
    for number, order in enumerate([first, second, first, second]):
        assert epoch(count, rows(*order), number=number) is None
    in_order = range(N)
    assert epoch(resumed([in_order, in_order]), rows(*in_order), number=2) is None


@pytest.mark.parametrize("n", [ROWS_FOR_REPLAY - 1, ROWS_FOR_REPLAY])
def test_row_count_tells_a_replay_only_where_chance_is_out_of_the_question(n: int) -> None:
    first, second = shuffles(n, 2)
    said = epoch(resumed([first, second], n), rows(*first), number=2)
    assert (said is not None) == (n == 13)


def test_row_count_tells_no_replay_of_rows_that_are_alike() -> None:
    alike = np.repeat(np.arange(12), 2)  # 24 rows, 12 of them different
    first, second = (alike[order] for order in shuffles(24, 2))
    before, after = RowCount(fingerprints(alike)), RowCount(fingerprints(alike))
    assert epoch(before, first) is None
    assert epoch(before, second, number=1) is None
    after.load_state_dict(before.state_dict())
    assert epoch(after, first, number=2) is None


@settings(deadline=None)
@given(data=st.data())
def test_row_count_passes_partitions_and_catches_substitutions(data: Any) -> None:
    n = data.draw(st.integers(2, 40))
    content = data.draw(st.lists(st.integers(-3, 40), min_size=n, max_size=n))
    values = np.array(content, np.float64)
    order = np.array(data.draw(st.permutations(range(n))))
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1))))
    expected = fingerprints(values)
    assert epoch(RowCount(expected), *np.split(values[order], cuts)) is None

    # One row takes another's place.
    i, j = data.draw(st.lists(st.integers(0, n - 1), min_size=2, max_size=2, unique=True))
    served = values[order]
    served[i] = served[j]
    said = epoch(RowCount(expected), *np.split(served, cuts))
    assert (said is None) == (values[order][i] == values[order][j])
