"""The order of rows: an order, of which any part can be worked out, that looks drawn from all."""

from typing import Any

import numpy as np
import pytest

from trueline.data.order import FEW_ROWS, POOL, SEGMENT, RowOrder
from trueline.data.spool import Spool


@pytest.mark.parametrize(
    "n", [*(FEW_ROWS + k for k in range(1, 8)), 100_003, 2 * POOL, 2 * POOL + 3, 4 * POOL - 1]
)
def test_order_of_many_rows_is_an_order_in_any_part(n: int) -> None:
    order = RowOrder(n, shuffle=True, seed=3)
    whole = order.rows(5)
    assert (np.bincount(whole, minlength=n) == 1).all()
    assert np.array_equal(order.rows(5, 1000, 2000), whole[1000:2000])
    assert np.array_equal(order.at(5, np.arange(n)), whole)
    assert not np.array_equal(order.rows(6), whole)
    assert not np.array_equal(RowOrder(n, True, 4).rows(5), whole)


@pytest.mark.parametrize("n", [FEW_ROWS + 17, 5 * POOL])
def test_order_of_many_rows_cannot_be_told_from_a_drawn_one(n: int) -> None:
    """Correlations and counts of 100 orders, each in units of its standard deviation."""
    orders = 100
    order = RowOrder(n, shuffle=True, seed=0)
    found = [order.rows(epoch) for epoch in range(orders)]
    lags = [[np.corrcoef(rows[:-k], rows[k:])[0, 1] for k in (1, 2, 32)] for rows in found]
    place = [np.corrcoef(rows, np.arange(n))[0, 1] for rows in found]
    # Into a pool rows come in segments, so that between pools there are as many fewer draws.
    draws = n / SEGMENT if n > 2 * POOL else n
    z = np.column_stack([np.array(lags) * np.sqrt(n), np.array(place) * np.sqrt(draws)])
    assert np.abs(z.mean(axis=0)).max() < 4 / np.sqrt(orders)
    assert 0.8 < z.std(axis=0).min() <= z.std(axis=0).max() < 1.2
    batches = [rows[: n // 32 * 32].reshape(-1, 32) for rows in found]
    means = [batch.mean(axis=1).var() * 12 * 32 / n**2 for batch in batches]
    assert np.mean(means) == pytest.approx(1, abs=0.01)
    steps = np.concatenate([np.diff(rows) % n * 64 // n for rows in found])
    counts = np.bincount(steps, minlength=64)
    chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert 63 - 45 < chi2 < 63 + 45  # four standard deviations of chi-square with 63 degrees


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("pool", [POOL, 2 * POOL + 24])  # the latter in pieces
@pytest.mark.parametrize("n", [FEW_ROWS + 1, 3 * POOL, 5 * POOL + 1234])
def test_pieces_hold_the_rows_in_the_order(n: int, pool: int, in_memory: bool) -> None:
    order, Z = RowOrder(n, True, 1, pool), np.random.default_rng(0).random((n, 3))
    rows: Any = Z
    if not in_memory:
        rows = Spool(3, Z.dtype)
        rows.append(Z)
    out, start = np.full((order.piece, 3), np.nan), 0
    while start < n:
        begin, stop = order.piece_at(start)
        assert begin == start < stop <= start + order.piece
        numbers = order.fetch(rows, 2, start, out)
        assert np.array_equal(out[numbers], Z[order.rows(2, start, stop)])
        start = stop


@pytest.mark.parametrize("n", [1000, FEW_ROWS + 1, 3 * POOL + 1234])
@pytest.mark.parametrize("shuffle", [True, False])
def test_places_are_those_of_the_order(n: int, shuffle: bool) -> None:
    order = RowOrder(n, shuffle, seed=1)
    places = np.sort(np.random.default_rng(0).choice(n, (50, 3), replace=False).ravel())
    found = order.at(2, places.reshape(50, 3))
    assert np.array_equal(found, order.rows(2)[places].reshape(50, 3))
    for start, stop in ((0, n), (7, 7 + n // 3), (n - 900, n), (5, 5)):
        assert np.array_equal(order.rows(2, start, stop), order.rows(2)[start:stop])


def test_neighbours_are_spread_over_the_batches_of_their_pool() -> None:
    """Of pairs of neighbours, as few share a batch of 32 as of any two rows of a pool."""
    n = 4 * POOL
    together = []
    for epoch in range(20):
        batch = np.empty(n, np.int64)
        batch[RowOrder(n, True, 0).rows(epoch)] = np.arange(n) // 32
        together.append(np.mean(batch[1:] == batch[:-1]))
    assert np.mean(together) == pytest.approx((SEGMENT - 1) / SEGMENT * 31 / POOL, rel=0.1)
