"""The rows of a training in the order of its epochs, in pieces that a kernel takes in one call.

Rows that are shuffled lie all over memory, and fetching one of them costs more than its step. So
they are fetched by the pool of their order, in segments of neighbours, by a second thread while the
kernel is at the pool before.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from trueline.data.order import RowOrder
from trueline.loop.state import Array, Numbers, Shape

CHUNK = 2**16
"""Rows of a piece that is not a pool. Its row numbers stay in the L2 cache."""
FEW = 2**13
"""Rows whose products a single thread works out faster than several would share them."""
WIDE = 512
"""Bytes of a row from which on single rows are fetched as fast as segments are."""


class Piece(NamedTuple):
    """Consecutive rows in the order of training.

    Args:
        Z: Array that holds them.
        origin: Row of Z that number 0 stands for.
        numbers: Their numbers in Z, from `origin`.
        bounds: Where batches begin and end among them.
        opened: Whether the first batch began in the piece before.
        closed: Whether the last batch ends here.
        first: Number of the first batch, counted from the first piece.
    """

    Z: Array
    origin: int
    numbers: Numbers
    bounds: Numbers
    opened: bool
    closed: bool
    first: int

    @property
    def complete(self) -> int:
        """Number of batches that end here."""
        return len(self.bounds) - 1 - (not self.closed)


class Rows:
    """The rows of a training and their order.

    Places are counted through all epochs: place g is row g % n_served of epoch g // n_served.

    Args:
        matrix: Rows `[x, y]` or `[x, y, weight]`: an array, or a Spool of rows in a file.
        order: Order of the rows in each epoch.
        shape: Columns of a row.
        batch_rows: Rows of a step, over all processes and accumulated batches.
        n_served: Rows that an epoch serves; all rows unless given.
    """

    def __init__(
        self,
        matrix: Any,
        order: RowOrder,
        shape: Shape,
        batch_rows: int,
        n_served: int | None = None,
    ) -> None:
        self.matrix = matrix
        self.order = order
        self.shape = shape
        self.n_served = n_served or matrix.shape[0]
        self.batch_rows = min(batch_rows, self.n_served)
        self.steps_per_epoch = -(-self.n_served // self.batch_rows)
        self.in_memory = isinstance(matrix, np.ndarray)
        row_bytes = matrix.shape[1] * matrix.dtype.itemsize
        self._by_pool = order.pooled and (row_bytes < WIDE or not self.in_memory)
        self.consecutive = np.arange(CHUNK)
        self._buffers: list[Array] = []

    @property
    def full_batch(self) -> bool:
        """Whether each step takes in all rows."""
        return bool(self.batch_rows == self.matrix.shape[0])

    def bounds(self, epoch: int, step: int, steps: int) -> Numbers:
        """Return the places where steps begin, and the one after the last."""
        epochs, within = np.divmod(step + np.arange(steps + 1), self.steps_per_epoch)
        places: Numbers = (epoch + epochs) * self.n_served + within * self.batch_rows
        return places

    def pieces(self, epoch: int, step: int, steps: int) -> Iterator[Piece]:
        """Return the rows of consecutive steps, piece by piece; each is good until the next.

        Args:
            epoch: Epoch of the first step.
            step: Number of the first step within it.
            steps: Number of steps, which may run on through epochs.
        """
        bounds = self.bounds(epoch, step, steps)
        cuts = self._cuts(int(bounds[0]), int(bounds[-1]))
        parts = list(itertools.pairwise(cuts))
        fetched = (
            self._fetch_ahead(parts)
            if len(parts) > 1 and self._copies
            else map(self._fetch, parts, [0] * len(parts))
        )
        for (start, stop), (Z, origin, numbers) in zip(parts, fetched, strict=True):
            i, j = np.searchsorted(bounds, (start, stop), side="right")
            opened, closed = bool(bounds[i - 1] != start), bool(bounds[j - 1] == stop)
            within = np.concatenate([[start], bounds[i:j], [] if closed else [stop]]) - start
            yield Piece(Z, origin, numbers, within.astype(np.int64), opened, closed, int(i) - 1)

    def no_rows(self) -> Piece:
        """Return a piece of no batches, of the same types as any other."""
        Z = self.matrix[:0] if self.in_memory else self._buffer(0, 0)
        return Piece(Z, 0, self.consecutive[:0], np.zeros(1, np.int64), False, True, 0)

    def _cuts(self, start: int, stop: int) -> list[int]:
        """Return the places at which pieces begin, and `stop`.

        They lie at the same places of each epoch, so that a batch of several pieces is always
        summed in the same parts.
        """
        n = self.n_served
        if not self.order.pooled and n <= CHUNK:  # whole epochs, which end with a batch
            every = CHUNK // n * n
            return [*range(start, stop, every), stop] if start % n == 0 else self._from(start, stop)
        cuts = [start]
        while cuts[-1] < stop:
            epoch, place = divmod(cuts[-1], n)
            end = self.order.piece_at(place)[1] if self._by_pool else (place // CHUNK + 1) * CHUNK
            cuts.append(min(epoch * n + min(end, n), stop))
        return cuts

    def _from(self, start: int, stop: int) -> list[int]:
        """Return the cuts from inside an epoch on: its end, and those of whole epochs."""
        end = min(start - start % self.n_served + self.n_served, stop)
        return [start, end] if end == stop else [start, *self._cuts(end, stop)]

    @property
    def _copies(self) -> bool:
        return self._by_pool or not self.in_memory

    def _fetch_ahead(self, parts: list[tuple[int, int]]) -> Iterator[tuple[Array, int, Numbers]]:
        """Fetch each part in a second thread while the one before is in use."""
        with ThreadPoolExecutor(1) as thread:
            following: Future[Any] = thread.submit(self._fetch, parts[0], 0)
            for k in range(len(parts)):
                found = following.result()
                if k + 1 < len(parts):
                    following = thread.submit(self._fetch, parts[k + 1], (k + 1) % 2)
                yield found

    def _fetch(self, part: tuple[int, int], which: int) -> tuple[Array, int, Numbers]:
        """Return an array with the rows of a part, the origin of numbers, and the numbers.

        Args:
            part: First place, and the one after the last.
            which: Buffer that the rows are copied to, where they are; 0 or 1.
        """
        start, stop = part
        n, size = self.n_served, stop - start
        epoch, place = divmod(start, n)
        if self._by_pool:
            first = self.order.piece_at(place)[0]
            buffer = self._buffer(which, min(self.order.piece, self.matrix.shape[0]))
            numbers = self.order.fetch(self.matrix, epoch, first, buffer)
            place -= first
            return buffer, 0, numbers[place : place + size]
        if not self.order.shuffle and place + size <= n:
            if self.in_memory:
                return self.matrix, place, self.consecutive[:size]
            buffer = self._buffer(which, CHUNK)[:size]
            return self.matrix.read(place, buffer), 0, self.consecutive[:size]
        epochs = range(epoch, (stop - 1) // n + 1)
        ends = [(max(start - e * n, 0), min(stop - e * n, n)) for e in epochs]
        parts = [self.order.rows(e, *end) for e, end in zip(epochs, ends, strict=True)]
        numbers = np.concatenate(parts)
        if self.in_memory:
            return self.matrix, 0, numbers
        return self.matrix.rows(numbers), 0, self.consecutive[:size]

    def _buffer(self, which: int, n: int) -> Array:
        """Return memory for rows. It is kept: the system hands out fresh memory slowly."""
        if not self._buffers or len(self._buffers[0]) < n:
            shape = 2, n, self.matrix.shape[1]
            self._buffers = list(np.empty(shape, self.matrix.dtype))
        return self._buffers[which]

    def shares(
        self, epoch: int, step: int, steps: int, rank: int, world_size: int
    ) -> Iterator[Piece]:
        """Return this process's share of consecutive steps, each as evenly as can be.

        Args:
            epoch: See `pieces`.
            step: See `pieces`.
            steps: See `pieces`.
            rank: This process, from 0.
            world_size: Number of processes.
        """
        bounds = self.bounds(epoch, step, steps)
        at_once = self.steps_at_once(world_size)
        for first in range(0, steps, at_once):
            begin, end = bounds[first : first + at_once + 1][:-1], bounds[first + 1 :][:at_once]
            lower, upper = (begin + (end - begin) * r // world_size for r in (rank, rank + 1))
            within = np.concatenate([[0], np.cumsum(upper - lower)])
            places = np.repeat(lower - within[:-1], upper - lower) + np.arange(within[-1])
            Z, numbers = self.matrix, self._numbers_at(places)
            if not self.in_memory:
                Z, numbers = Z.rows(numbers), np.arange(len(numbers))
            yield Piece(Z, 0, numbers, within, False, True, first)

    def steps_at_once(self, world_size: int = 1) -> int:
        """Return the number of steps in a piece of `shares`, but for the last piece."""
        return max(1, CHUNK * world_size // self.batch_rows)

    def _numbers_at(self, places: Numbers) -> Numbers:
        """Return the row numbers at ascending places through all epochs."""
        epochs, within = np.divmod(places, self.n_served)
        starts = np.flatnonzero(np.diff(epochs)) + 1
        parts = zip(np.split(epochs, starts), np.split(within, starts), strict=True)
        return np.concatenate(
            [self.order.at(int(e[0]), part) for e, part in parts if len(e)] or [places]
        )

    def chunks(self, start: int, stop: int) -> Iterator[Array]:
        """Return consecutive rows as arrays, some at a time; each is good until the next."""
        for first in range(start, stop, FEW):
            size = min(FEW, stop - first)
            if self.in_memory:
                yield self.matrix[first : first + size]
            else:
                yield self.matrix.read(first, self._buffer(0, FEW)[:size])
