"""Which rows each batch should have, by their numbers, and that an epoch has each row once.

The judge takes the numbers from the order of the data, and the rows from the dataset by these
numbers: never what training has gathered.
"""

from collections.abc import Iterable, Iterator
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray

from trueline.crosscheck.rows import listed
from trueline.data.blocks import BatchLoader
from trueline.data.spool import SpooledRows
from trueline.executions.rows import Rows
from trueline.reference.composed import Moments, moments

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

FEW_NUMBERS = 100_000
"""Of data with no more entries than this, every step of an execution is compared."""
ROWS_AT_ONCE = 2**12
"""When all rows are read once: they stay in the processor's caches."""
COMPARED = 2**16
"""Rows; those of a pool of the order, of which the gathered ones are compared together."""
COMPARED_IN_FILE = 2**11
"""The same of rows in a file, which are read by themselves."""
AT_ONCE = 2**16
"""Row numbers that are hashed together: a pool of the order, which stays in the caches."""
FACTORS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)
ONE_IN = 16
"""Of so many rows one is compared, so that comparing costs little beside the training."""


def is_small(loader: BatchLoader) -> bool:
    """Return whether all rows are in memory, and few."""
    tensors = getattr(loader.dataset, "tensors", None)
    return tensors is not None and sum(t.numel() for t in tensors) <= FEW_NUMBERS


class Served:
    """The rows of a training's batches, by their numbers.

    Args:
        loader: Of the training.
        per_epoch: Batches an epoch.

    Attributes:
        epochs: Number of epochs whose order has each row once.
    """

    def __init__(self, loader: BatchLoader, per_epoch: int) -> None:
        self._loader = loader
        self._per_epoch = per_epoch
        self._order = copy(loader.sampler)  # which leaves what training has drawn alone
        self._expected: int | None = None
        self._moments: Moments | None = None
        self._checked = -1
        self._not_compared = np.inf
        self.epochs = 0

    def numbers(self, epoch: int, batches: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
        """Return the row numbers of some batches over all processes, those of equal size together.

        Args:
            epoch: Epoch from whose first batch they are counted.
            batches: Numbers of the batches, ascending.

        Returns:
            For each size, which of the batches have it, and their rows, shape (n, size).
        """
        n, size = len(self._loader.dataset), self._loader.batch_size
        epochs, within = np.divmod(batches, self._per_epoch)
        is_full = (within + 1) * size <= n
        for of_this_size in (is_full, ~is_full):
            which = np.flatnonzero(of_this_size)
            if len(which):
                first = within[which] * size
                places = first[:, None] + np.arange(min(size, n - int(first[0])))
                starts = np.flatnonzero(np.diff(epochs[which])) + 1
                parts = zip(np.split(epochs[which], starts), np.split(places, starts), strict=True)
                found = [self._order.at(epoch + int(of[0]), part).numpy() for of, part in parts]
                yield which, np.concatenate(found)

    def check_orders(self, epoch: int, batch: int, batches: int) -> str | None:
        """Return what is wrong with the orders of the epochs that some batches lie in.

        Each order is checked once and as a whole: it must have every row once.

        Args:
            epoch: Epoch of the first batch.
            batch: Number of the first batch in its epoch.
            batches: Number of batches.
        """
        if not self._order.shuffle:
            return None  # consecutive rows
        last = epoch + (batch + batches - 1) // self._per_epoch
        for unchecked in range(max(epoch, self._checked + 1), last + 1):
            self._checked = unchecked
            if wrong := self._wrong_order(unchecked):
                return wrong
        return None

    def _wrong_order(self, epoch: int) -> str | None:
        n = len(self._loader.dataset)
        parts = [(start, min(start + AT_ONCE, n)) for start in range(0, n, AT_ONCE)]
        if self._expected is None:
            self._expected = _hash(np.arange(*part) for part in parts)
        if _hash(self._order.rows(epoch, *part).numpy() for part in parts) == self._expected:
            self.epochs += 1
            return None
        times = np.bincount(self._order.rows(epoch).numpy(), minlength=n)
        wrong = [
            listed(np.flatnonzero(times > 1), "served more than once"),
            listed(np.flatnonzero(times == 0), "never served"),
        ]
        return "; ".join(filter(None, wrong))

    def rows(self, rows: Rows, numbers: Numbers) -> tuple[Array, ...]:
        """Return X, y and weights of some rows in the precision of the training, as float64.

        Args:
            rows: Of the training, for its precision.
            numbers: Row numbers, any shape.

        Returns:
            Arrays of shape (*numbers.shape, columns); weights have no axis of columns.
        """
        dataset, flat = self._loader.dataset, numbers.reshape(-1)
        if isinstance(dataset, SpooledRows):
            tensors = dataset.split(dataset.spool.rows(flat))
        else:
            tensors = tuple(t[torch.from_numpy(flat)] for t in dataset.tensors)
        X, y, *weights = (t.to(rows.dtype).double().numpy() for t in tensors)
        shape = numbers.shape
        given = X.reshape(*shape, -1), y.reshape(*shape, -1)
        return (*given, *(weight.reshape(shape) for weight in weights))

    def moments(self, rows: Rows) -> Moments | None:
        """Return the moments of all rows where each step takes in all of them, and many."""
        if self._moments is None and rows.full_batch and not is_small(rows.loader):
            self._moments = _moments_of(rows)
        return self._moments

    def misgathered(self, rows: Rows, epoch: int, batch: int, batches: int) -> str | None:
        """Compare some rows as training gathers them with the same rows by their numbers.

        Args:
            rows: Of the training.
            epoch: Epoch of the first of the batches that training has taken.
            batch: Number of the first batch in its epoch.
            batches: Number of batches.

        Returns:
            What is wrong, or None.
        """
        size, loader = self._loader.batch_size, self._loader
        self._not_compared += batches * size
        if loader.world_size > 1 or self._not_compared < ONE_IN * COMPARED:
            return None
        self._not_compared = 0
        epochs, last = divmod(batch + batches - 1, self._per_epoch)
        first = 0 if epochs else batch
        # The pool of the order that is at hand: its rows need not be fetched anew.
        pool = min(loader.sampler.pool, COMPARED)
        first = max(first, last * size // pool * pool // size)
        compared = np.arange(first, last + 1)
        if rows.spooled:
            compared = compared[:: -(-len(compared) * size // COMPARED_IN_FILE)]
        expected = {
            int(k): numbers
            for which, group in self.numbers(epoch + epochs, compared)
            for k, numbers in zip(which, group, strict=True)
        }
        for at, Z, weight in rows.of(epoch + epochs, compared):
            numbers = np.array([expected[k] for k in np.arange(len(compared))[at].tolist()])
            pairs = zip(as_arrays(rows, Z, weight), self.rows(rows, numbers), strict=True)
            for found, right in pairs:
                if (differ := found != right).any():
                    place = np.argwhere(differ)[0]
                    return f"row {numbers[place[0], place[1]]} was gathered with other numbers"
        return None


def _moments_of(rows: Rows) -> Moments:
    """Return the moments of all rows, in the precision that the training has them in."""

    def parts() -> Iterator[tuple[Array, ...]]:
        dataset = rows.loader.dataset
        if isinstance(dataset, SpooledRows):
            for _, some in dataset.spool.chunks():
                yield with_axis(dataset.split(some.to(rows.dtype)))
            return
        for first in range(0, len(dataset), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            yield with_axis(tuple(t[part].to(rows.dtype) for t in dataset.tensors))

    return moments(parts())


def with_axis(batch: tuple[torch.Tensor, ...]) -> tuple[Array, ...]:
    """Return a batch as arrays, its targets with an axis of their own."""
    X, y, *weights = batch
    return tuple(tensor.numpy() for tensor in (X, y.reshape(len(y), -1), *weights))


def _hash(parts: Iterable[Numbers]) -> int:
    """Return the sum of the hashes of row numbers, modulo 2⁶⁴, which has no order.

    Other numbers have the same sum by a chance of 2⁻⁶⁴. A table of the rows seen would be certain,
    but take memory for each row.

    References:
        Bellare & Micciancio, "A New Paradigm for Collision-Free Hashing" (1997), section 5: sums of
        hashes. Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators" (2014): the
        hash.
    """
    total = 0
    for numbers in parts:
        hashed = numbers.astype(np.uint64)
        for factor in FACTORS:
            hashed *= factor
            hashed ^= hashed >> np.uint64(31)
        total += int(hashed.sum())
    return total % 2**64


def as_arrays(rows: Rows, Z: torch.Tensor, weight: torch.Tensor | None) -> tuple[Array, ...]:
    """Return X, y and weights of gathered rows in the precision of the training, as float64."""
    joined = Z.to(rows.dtype).double().cpu().numpy()
    p = joined.shape[-1] - rows.n_targets
    batch = joined[..., : p - 1], joined[..., p:]
    return batch if weight is None else (*batch, weight.to(rows.dtype).double().cpu().numpy())
