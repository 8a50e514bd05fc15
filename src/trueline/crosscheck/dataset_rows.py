"""The rows of each step by their numbers, and whether an epoch has each row once.

The judge takes the numbers from the order of the data, and the rows from the dataset by these
numbers: never what training has gathered. Of large data it samples steps.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.row_count import listed
from trueline.crosscheck.to_numpy import as_array
from trueline.data.blocks import BatchLoader
from trueline.data.spool import SpooledRows
from trueline.loop.state import WIDEST
from trueline.reference.moments import Moments, moments_of_all

Numbers = NDArray[np.int64]

FEW_NUMBERS = 100_000
"""Entries of all rows up to which each step is compared."""
SAMPLE_EVERY = 503
"""Of larger data, one step in so many is compared; odd, so that it goes through all places of a
pool. To take a step once more in NumPy costs some ten times what it cost the loop."""
EARLY_ROWS = 2**13
"""Rows of the first steps on larger data that are all compared: most errors show there."""
ROWS_AT_BORDERS = 256
"""Rows compared on either side of a border between pieces of the order, which are fetched one by
one. Where a batch has more, only so many borders are looked at that it comes to as much."""
POOLS_CHECKED = 16
"""Of so many pools of an epoch's order, one is looked through row by row."""
ROWS_AT_ONCE = 2**12
"""Rows that are read at once where all are: they stay in the processor's caches."""
NUMBERS_AT_ONCE = 2**16
"""Entries of rows that are judged at once, so that they stay in the processor's caches."""
STEPS_AT_ONCE = 2**13
"""Steps on the same rows that are judged at once, for the same reason."""
FACTORS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


class DatasetRows:
    """The rows of a training's steps, by their numbers.

    Args:
        loader: Loader of the training rows.
        batches: Number of batches in an epoch.
        window: Number of batches in a step.
        dtype: Precision of the training.

    Attributes:
        epochs: Number of epochs that were served from their first batch to their last, in an order
            with each row once.
    """

    def __init__(self, loader: BatchLoader, batches: int, window: int, dtype: Any) -> None:
        self._loader, self._dataset, self._dtype = loader, loader.dataset, dtype
        self._order = copy(loader.sampler)  # which leaves what training has drawn alone
        n = len(loader.dataset)
        self._n = min(n, batches * loader.batch_size)
        self._size = min(window * loader.batch_size, self._n)
        self.steps_per_epoch = -(-self._n // self._size)
        self._width = sum(t[0].numel() for t in loader.example())
        self._few = n * self._width <= FEW_NUMBERS
        self._all_rows = self._size == n
        # As the loop decides it: by their moments where these are fewer numbers.
        self._by_moments = self._all_rows and self._width + 1 <= min(WIDEST, max(n, 16))
        self._moments: Moments | None = None
        self._checked = -1
        self._next = -1, 0
        self.epochs = 0

    def sampled(self, step: int, first: int, steps: int, began: int) -> Numbers:
        """Return which of consecutive steps are compared, from 0.

        Of large data these are the first and the last ones, one in `SAMPLE_EVERY`, and those
        around the borders of the order's pieces. Full batches are cheap to judge by their moments.

        Args:
            step: Number of the first step, counted from the start of its epoch.
            first: Number of steps before these.
            steps: Number of steps.
            began: Number of steps before the first one that is checked.
        """
        if self._few or self._by_moments:
            return np.arange(steps)
        every = SAMPLE_EVERY * max(1, self._size * self._width // FEW_NUMBERS)
        early = np.arange(began + max(1, EARLY_ROWS // self._size) - first)
        ends = [0, steps - 1] if steps >= every or first == began else []
        found: list[Any] = [early, np.arange(-first % every, steps, every), ends]
        found += self._borders(step, steps)
        kept = np.unique(np.concatenate(found).astype(np.int64))
        return kept[(kept >= 0) & (kept < steps)]

    def _borders(self, step: int, steps: int) -> tuple[Numbers, Numbers]:
        """Return steps that are the first to begin in a piece of the order, and some before them.

        Args:
            step: Number of the first step, counted from the start of its epoch.
            steps: Number of steps.
        """
        piece, per_epoch = self._order.piece, self.steps_per_epoch
        spread = max(1, self._size // ROWS_AT_BORDERS)
        spread *= 1 if self._order.shuffle else 8  # rows in order are not gathered
        within = np.unique(-(-np.arange(0, self._n, piece) // self._size))
        within = within[within < per_epoch]
        epochs = np.arange((step + steps) // per_epoch + 1)[:, None]
        begins = (epochs * per_epoch + within - step).ravel()
        pieces = (epochs * -(-self._n // piece) + within * self._size // piece).ravel()
        return begins[pieces % spread == 0], begins[pieces % spread == spread // 2] - 1

    def batches(
        self, epoch: int, steps: Numbers, from_moments: bool
    ) -> Iterator[tuple[Any, Any, Moments | None]]:
        """Return the rows of some steps over all processes, those of one size together.

        Args:
            epoch: Epoch from whose first step they are counted.
            steps: Numbers of the steps, ascending.
            from_moments: Whether training took them from moments of their rows.

        Yields:
            Which of the steps; X, y and weights with an axis of steps in front; and where steps
            from moments take in all rows, their moments: of many rows these alone.
        """
        if from_moments and self._all_rows:
            rows = self._rows(np.arange(self._n)) if self._few else ()
            for k in range(0, len(steps), STEPS_AT_ONCE):
                n = min(STEPS_AT_ONCE, len(steps) - k)
                shared = tuple(np.broadcast_to(a, (n, *a.shape)) for a in rows)
                yield slice(k, k + n), shared or None, self.moments()
            return
        at_once = max(1, NUMBERS_AT_ONCE // (self._size * self._width))
        epochs, within = np.divmod(steps, self.steps_per_epoch)
        is_full = (within + 1) * self._size <= self._n
        for of_size in (np.flatnonzero(is_full), np.flatnonzero(~is_full)):
            for k in range(0, len(of_size), at_once):
                which = of_size[k : k + at_once]
                first = within[which] * self._size
                places = first[:, None] + np.arange(min(self._size, self._n - int(first[0])))
                numbers = np.empty_like(places)
                for of in np.unique(epochs[which]).tolist():
                    mine = epochs[which] == of
                    numbers[mine] = self._order.at(epoch + of, places[mine])
                yield which, self._rows(numbers), None

    def _rows(self, numbers: Numbers) -> tuple[NDArray[np.float64], ...]:
        """Return X, y and weights of some rows in the precision of the training, as float64."""
        dataset, flat = self._dataset, numbers.reshape(-1)
        if isinstance(dataset, SpooledRows):
            found = [t.numpy() for t in dataset.split(dataset.spool.rows(flat))]
        else:  # by NumPy: torch would start its threads for each of so few rows
            found = [as_array(t)[flat] for t in dataset.tensors]
        arrays = [array.astype(self._dtype).astype(np.float64) for array in found]
        return tuple(array.reshape(*numbers.shape, *array.shape[1:]) for array in arrays)

    def moments(self) -> Moments:
        """Return the moments of all rows, in the precision that the training has them in."""
        if self._moments is None:
            self._moments = moments_of_all(self._parts())
        return self._moments

    def _parts(self) -> Iterator[tuple[NDArray[Any], ...]]:
        if isinstance(self._dataset, SpooledRows):
            for _, rows in self._dataset.spool.chunks():
                yield tuple(
                    t.numpy().astype(self._dtype, copy=False) for t in self._dataset.split(rows)
                )
            return
        for first in range(0, len(self._dataset), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            yield tuple(
                as_array(t[part]).astype(self._dtype, copy=False) for t in self._dataset.tensors
            )

    def serve(self, epoch: int, step: int, steps: int) -> str | None:
        """Check the orders of the epochs that consecutive steps lie in, and count epochs.

        Args:
            epoch: Epoch of the first step.
            step: Number of the first step in its epoch.
            steps: Number of steps.

        Returns:
            What is wrong, if anything.
        """
        ended, left = divmod(step + steps, self.steps_per_epoch)
        begun = range(max(epoch, self._checked + 1), epoch + ended + (left > 0))
        for unchecked in begun if self._order.shuffle else ():
            self._checked = unchecked
            if wrong := self._wrong_order(unchecked):
                return wrong
        if self._n == len(self._dataset):
            self.epochs += max(0, ended - (step > 0 and (epoch, step) != self._next))
        self._next = epoch + ended, left
        return None

    def begun(self) -> tuple[NDArray[np.float64], ...]:
        """Return the rows that the epoch at hand has served so far."""
        epoch, step = self._next
        return self._rows(self._order.rows(epoch, 0, step * self._size))

    def _wrong_order(self, epoch: int) -> str | None:
        """Return what is wrong with the order of an epoch, which must have each row once."""
        order, n = self._order, self._order.n_samples
        if not order.pooled:
            right = _hash(order.rows(epoch)) == _hash_of_range(n, 1)
        else:
            right = self._pools_are_right(epoch)
        if right:
            return None
        times = np.bincount(order.rows(epoch), minlength=n)
        wrong = [
            listed(np.flatnonzero(times > 1), "served more than once"),
            listed(np.flatnonzero(times == 0), "never served"),
        ]
        return "; ".join(filter(None, wrong)) or "pools have the segments of others"

    def _pools_are_right(self, epoch: int) -> bool:
        """Return whether each row is in one pool, and each row of a pool is served once.

        The first is looked at for all rows, by their segments; the second for some of the pools,
        others in each epoch.
        """
        order, n = self._order, self._order.n_samples
        starts, loose = order.segments(epoch)
        size, whole = order.segment, len(starts) * order.segment
        offset = int(starts.min())
        right = np.array_equal(np.sort(loose), np.r_[:offset, offset + whole : n])
        right &= _hash(starts - offset) == _hash_of_range(whole, size)
        last = (n - 1) // order.pool
        for pool in {*range(epoch % POOLS_CHECKED, last, POOLS_CHECKED), last}:
            start, stop = pool * order.pool, min((pool + 1) * order.pool, n)
            rows = starts[start // size : stop // size, None] + np.arange(size)
            rest = loose[max(start - whole, 0) : max(stop - whole, 0)]
            right &= _hash(order.rows(epoch, start, stop)) == (_hash(rows) + _hash(rest)) % 2**64
        return right

    def state_dict(self) -> dict[str, Any]:
        """Return where counting stands, for a training that goes on from a checkpoint."""
        return {"epochs": self.epochs, "next": list(self._next)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was made."""
        self.epochs, self._next = (
            int(state["epochs"]),
            (int(state["next"][0]), int(state["next"][1])),
        )


def _hash(numbers: Numbers) -> int:
    """Return the sum of the hashes of row numbers, modulo 2⁶⁴, which has no order.

    Other numbers have the same sum by a chance of 2⁻⁶⁴. A table of the rows seen would be certain,
    but take memory for each row.

    References:
        Bellare & Micciancio, "A New Paradigm for Collision-Free Hashing" (1997), section 5: sums of
        hashes. Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators" (2014): the
        hash.
    """
    hashed = numbers.astype(np.uint64)
    for factor in FACTORS:
        hashed *= factor
        hashed ^= hashed >> np.uint64(31)
    return int(hashed.sum())


@cache
def _hash_of_range(stop: int, step: int) -> int:
    """Return the hash of the numbers 0, step, 2·step and so on below `stop`."""
    return _hash(np.arange(0, stop, step))
