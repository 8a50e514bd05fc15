"""Which rows each batch should have, by their numbers, and that an epoch has each row once.

The judge takes the numbers from the order of the data, and the rows from the dataset by these
numbers: never what training has gathered.
"""

from collections.abc import Iterable, Iterator
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trueline.crosscheck.rows import listed
from trueline.data.blocks import BatchLoader
from trueline.data.spool import SpooledRows
from trueline.loop.rows import Rows
from trueline.loop.state import Shape
from trueline.reference.moments import Moments, moments

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

FEW_NUMBERS = 100_000
"""Entries of all rows up to which each step of the loop is compared."""
RESIDUALS_AT_ONCE = 2**22
"""Residuals of small data that are held at once, where all steps have the same rows."""
ROWS_AT_ONCE = 2**12
"""When all rows are read once: they stay in the processor's caches."""
COMPARED = 2**16
"""Rows; those of a pool of the order, of which the gathered ones are compared together."""
AT_ONCE = 2**16
"""Row numbers that are hashed together: a pool of the order, which stays in the caches."""
FACTORS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)
ONE_IN = 16
"""Of so many rows one is compared, so that comparing costs little beside the training."""


class Served:
    """The rows of a training's steps, by their numbers.

    Args:
        loader: Loader of the training rows.
        per_epoch: Number of batches in an epoch.
        window: Number of batches in a step.
        dtype: Precision of the training.

    Attributes:
        epochs: Number of epochs whose order has each row once.
    """

    def __init__(
        self, loader: BatchLoader, per_epoch: int, window: int, dtype: torch.dtype
    ) -> None:
        self._loader = loader
        self._dtype = dtype
        self._order = copy(loader.sampler)  # which leaves what training has drawn alone
        self._expected: int | None = None
        self._moments: Moments | None = None
        self._checked = -1
        self._not_compared = np.inf
        self.epochs = 0
        self._n = min(len(loader.dataset), per_epoch * loader.batch_size)
        self._size = min(window * loader.batch_size, self._n)
        self.steps_per_epoch = -(-self._n // self._size)
        self.full_batch = self._size == len(loader.dataset)
        self.n_targets = loader.example()[1][0].numel()
        self.width = sum(int(t[0].numel()) for t in loader.example())
        self.n_numbers = len(loader.dataset) * self.width
        self.numbers_of_step = self._size * self.width

    @property
    def is_small(self) -> bool:
        """Whether all rows are in memory, and few."""
        in_memory = not isinstance(self._loader.dataset, SpooledRows)
        return in_memory and self.n_numbers <= FEW_NUMBERS

    def batches(
        self, epoch: int, steps: Numbers, n: int
    ) -> Iterator[tuple[Any, tuple[Array, ...]]]:
        """Return the rows of some steps, over all processes, those of equal size together.

        Args:
            epoch: Epoch from whose first step they are counted.
            steps: Numbers of the steps, ascending.
            n: Number of these steps.

        Returns:
            Which of the steps have rows of one size, and X, y and weights with an axis for the
            steps in front, of one entry where all steps have all rows.
        """
        if not self.full_batch:
            at_once = max(1, RESIDUALS_AT_ONCE // self.numbers_of_step)
            for k in range(0, n, at_once):
                for which, numbers in self._numbers(epoch, steps[k : k + at_once]):
                    yield k + which, self.rows(numbers)
        elif self.is_small:
            rows = self.rows(np.arange(self._n)[None])
            at_once = max(1, RESIDUALS_AT_ONCE // self._n)
            for k in range(0, n, at_once):
                yield slice(k, min(k + at_once, n)), rows
        elif n:
            # The moments of the rows say what they are; of the rows only the shapes are asked for.
            one = self.rows(np.zeros((1, 1), np.int64))
            shapes = ((1, self._n, *array.shape[2:]) for array in one)
            pairs = zip(one, shapes, strict=True)
            yield slice(0, n), tuple(np.broadcast_to(array[:, :1], shape) for array, shape in pairs)

    def _numbers(self, epoch: int, steps: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
        """Return which of some steps have one size, and their row numbers, shape (n, size)."""
        epochs, within = np.divmod(steps, self.steps_per_epoch)
        is_full = (within + 1) * self._size <= self._n
        for of_this_size in (is_full, ~is_full):
            which = np.flatnonzero(of_this_size)
            if len(which):
                first = within[which] * self._size
                places = first[:, None] + np.arange(min(self._size, self._n - int(first[0])))
                starts = np.flatnonzero(np.diff(epochs[which])) + 1
                parts = zip(np.split(epochs[which], starts), np.split(places, starts), strict=True)
                found = [self._order.at(epoch + int(of[0]), part) for of, part in parts]
                yield which, np.concatenate(found)

    def check_orders(self, epoch: int, step: int, steps: int) -> str | None:
        """Return what is wrong with the orders of the epochs that some steps lie in.

        Each order is checked once and as a whole: it must have every row once.

        Args:
            epoch: Epoch of the first step.
            step: Number of the first step in its epoch.
            steps: Number of steps.
        """
        if not self._order.shuffle:
            return None  # consecutive rows
        last = epoch + (step + steps - 1) // self.steps_per_epoch
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
        if _hash(self._order.rows(epoch, *part) for part in parts) == self._expected:
            self.epochs += 1
            return None
        times = np.bincount(self._order.rows(epoch), minlength=n)
        wrong = [
            listed(np.flatnonzero(times > 1), "served more than once"),
            listed(np.flatnonzero(times == 0), "never served"),
        ]
        return "; ".join(filter(None, wrong))

    def rows(self, numbers: Numbers) -> tuple[Array, ...]:
        """Return X, y and weights of some rows in the precision of the training, as float64.

        Args:
            numbers: Row numbers, any shape.

        Returns:
            X of shape (*numbers.shape, n_features), y of shape numbers.shape, or with an axis for
            several targets, and weights of shape numbers.shape.
        """
        dataset, flat = self._loader.dataset, numbers.reshape(-1)
        if isinstance(dataset, SpooledRows):
            tensors = dataset.split(dataset.spool.rows(flat))
        else:
            tensors = tuple(t[torch.from_numpy(flat)] for t in dataset.tensors)
        arrays = (t.to(self._dtype).double().numpy() for t in tensors)
        return tuple(array.reshape(*numbers.shape, *array.shape[1:]) for array in arrays)

    def moments(self) -> Moments | None:
        """Return the moments of all rows, where these are many."""
        if self._moments is None and not self.is_small:
            self._moments = _moments_of(self._loader, self._dtype)
        return self._moments

    def misgathered(self, rows: Rows, epoch: int, step: int, steps: int) -> str | None:
        """Compare some rows as the loop gathers them with the same rows by their numbers.

        Args:
            rows: Rows as the loop gathers them.
            epoch: Epoch of the first of the steps that the loop has taken.
            step: Number of the first step in its epoch.
            steps: Number of steps.

        Returns:
            What is wrong, or None.
        """
        self._not_compared += steps * self._size
        pool = min(rows.order.pool, COMPARED)
        if self._loader.world_size > 1 or self._not_compared < ONE_IN * pool:
            return None
        self._not_compared = 0
        # The last pool of these steps, as a whole.
        stop = int(rows.bounds(epoch, step, steps)[-1])
        begin = (stop - 1) % self._n // pool * pool // self._size
        last = (stop - 1) // self._n
        at = begin * self._size
        for piece in rows.pieces(last, begin, -(-((stop - 1) % self._n + 1) // self._size) - begin):
            numbers = self._order.rows(last, at, at + len(piece.numbers))
            at += len(piece.numbers)
            found = _columns_of(piece.Z[piece.origin + piece.numbers], rows.shape)
            for one, right in zip(found, self.rows(numbers), strict=True):
                one = torch.from_numpy(one).to(self._dtype).double().numpy()
                if (differ := one.reshape(right.shape) != right).any():
                    place = int(np.argwhere(differ)[0, 0])
                    return f"row {numbers[place]} was gathered with other numbers"
        return None


def _columns_of(Z: Array, shape: Shape) -> list[Array]:
    """Return X, y and weights of rows of the loop."""
    f, T = shape.n_features, shape.n_targets
    found = [Z[:, :f], Z[:, f : f + T]]
    return [*found, Z[:, -1]] if shape.weighted else found


def _moments_of(loader: BatchLoader, dtype: torch.dtype) -> Moments:
    """Return the moments of all rows, in the precision that the training has them in."""

    def parts() -> Iterator[tuple[Array, ...]]:
        dataset = loader.dataset
        if isinstance(dataset, SpooledRows):
            for _, some in dataset.spool.chunks():
                yield with_axis(tuple(t.to(dtype) for t in dataset.split(some)))
            return
        for first in range(0, len(dataset), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            yield with_axis(tuple(t[part].to(dtype) for t in dataset.tensors))

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
