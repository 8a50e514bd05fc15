"""The order of rows as a pure function of (seed, epoch).

Few rows are put in an order drawn from all orders alike. Of many, any part of the order can be
worked out by itself, and rows are fetched in runs that the memory likes: segments of neighbours are
mixed over the whole data into pools, and the rows of a pool among themselves.
"""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.data.mixing import Mixing, Numbers

FEW_ROWS = 2**16
"""Up to so many rows the order of an epoch is drawn as a whole, from all orders alike."""
POOL = 2**16
"""Rows that are mixed among themselves; they fit into the processor's caches."""
SEGMENT = 8
"""Neighbours that come into the same pool. One batch of 32 in twenty has two of a segment, and
hardly any has three."""


class RowOrder:
    """The order in which an epoch visits the rows.

    The epoch comes from `set_epoch`, which Lightning calls before each one, and never from counting
    calls: Lightning asks for one iterator more than there are epochs.

    Args:
        n_samples: Number of rows.
        shuffle: Whether each epoch has an order of its own.
        seed: With the epoch's number, all that the order depends on; ≥ 0.
        pool: Rows that are mixed among themselves, where that is not to be as memory likes it.
        segment: Neighbours that come into the same pool, of which it holds a whole number.

    Example:
        >>> order = RowOrder(n_samples=5, shuffle=True, seed=0)
        >>> first = order.rows(epoch=0)
        >>> bool((order.rows(epoch=0) == first).all()), sorted(order.rows(epoch=1).tolist())
        (True, [0, 1, 2, 3, 4])
    """

    def __init__(
        self, n_samples: int, shuffle: bool, seed: int, pool: int = POOL, segment: int = SEGMENT
    ) -> None:
        self.n_samples = n_samples
        self.shuffle = shuffle
        self.seed = seed
        self.pool = pool
        self.segment = segment
        self.epoch = 0
        self._drawn: tuple[int, Any] = -1, None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: not the order that was drawn."""
        return {**vars(self), "_drawn": (-1, None)}

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch
        self._drawn = -1, None

    def rows(self, epoch: int, start: int = 0, stop: int | None = None) -> Numbers:
        """Return the row numbers of an epoch in its order, or of a part.

        Args:
            epoch: Number of the epoch, from 0.
            start: Place of the first row.
            stop: Place after the last one; that of all rows unless given.

        Returns:
            Shape (stop − start,), int64.
        """
        stop = self.n_samples if stop is None else stop
        return self._of(epoch)[start:stop] if self.shuffle else np.arange(start, stop)

    def at(self, epoch: int, places: Numbers) -> Numbers:
        """Return the row numbers at some places of an epoch's order.

        Args:
            epoch: Number of the epoch, from 0.
            places: Places, ascending, in any shape.

        Returns:
            Row numbers in that shape, int64.
        """
        if not self.shuffle:
            return places
        order = self._of(epoch)
        if isinstance(order, _Pools):
            return order.at(places.reshape(-1)).reshape(places.shape)
        return order[places]  # type: ignore[no-any-return]

    @property
    def pooled(self) -> bool:
        """Whether rows are shuffled by pools, rather than all together."""
        return self.shuffle and self.n_samples > min(FEW_ROWS, self.pool)

    def segments(self, epoch: int) -> tuple[Numbers, Numbers]:
        """Return what the pools of an epoch are made of, where rows are shuffled by pools.

        Args:
            epoch: Number of the epoch, from 0.

        Returns:
            First rows of all segments, in the order of the pools, and the rows outside of segments,
            which come after them.
        """
        return self._of(epoch).segments()  # type: ignore[no-any-return]

    @property
    def piece(self) -> int:
        """Rows that are fetched together: a pool, or a pool within a large one."""
        return min(self.pool, POOL)

    def piece_at(self, place: int) -> tuple[int, int]:
        """Return the first place of the piece that a place lies in, and the one after its last."""
        within = place % self.pool
        start = place - within % self.piece
        return start, min(start + self.piece, place - within + self.pool, self.n_samples)

    def fetch(self, rows: Any, epoch: int, start: int, out: NDArray[Any]) -> Numbers:
        """Put the rows of a piece into an array.

        Args:
            rows: All rows: an array, or rows in a file.
            epoch: Number of the epoch, from 0.
            start: First place of the piece in that epoch.
            out: Memory for the rows of a piece.

        Returns:
            Numbers of these rows within `out`, in the order of the epoch.
        """
        return self._of(epoch).fetch(rows, start, out)  # type: ignore[no-any-return]

    def _of(self, epoch: int) -> Any:
        if self._drawn[0] != epoch:
            drawn: Any
            if self.pooled:
                drawn = _Pools(self.n_samples, (self.seed, epoch), self.pool, self.segment)
            else:
                drawn = np.random.default_rng((self.seed, epoch)).permutation(self.n_samples)
            self._drawn = epoch, drawn
        return self._drawn[1]


class _Pools:
    """An order of many rows.

    From an offset of the epoch's own on, the rows are cut into segments. These are shuffled, and
    as many as fill a pool make one; the last pool has what is left, and the rows outside of
    segments. The rows of a pool are shuffled among themselves. A pool that no cache holds, as it
    suits a file, is shuffled by smaller pools in the same way.

    Args:
        n: Number of rows.
        key: Numbers that the order depends on, such as seed and epoch.
        pool: Rows of a pool.
        segment: Rows of a segment, by which the former can be divided.
    """

    def __init__(self, n: int, key: tuple[int, ...], pool: int, segment: int) -> None:
        self._n, self._key = n, key
        self._pool, self._segment = pool, segment
        generator = np.random.default_rng(self._key)
        self._offset = int(generator.integers(segment))
        self._segments = (n - self._offset) // segment
        self._order = Mixing(max(1, self._segments), generator)
        self._in_segments = self._segments * segment
        self._loose = np.concatenate(
            [np.arange(self._offset), np.arange(self._offset + self._in_segments, n)]
        )
        self._within: dict[int, Mixing | _Pools] = {}
        self._numbers: tuple[int, Any] = -1, None
        self._held: tuple[int, Any] = -1, None

    def __getitem__(self, part: slice) -> Numbers:
        """Return consecutive row numbers."""
        found, size = [], self._pool
        for pool in range(part.start // size, -(-part.stop // size)):
            first = pool * size
            if self._numbers[0] != pool:
                self._numbers = pool, self._of_pool(pool)
            found.append(self._numbers[1][max(part.start - first, 0) : part.stop - first])
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def segments(self) -> tuple[Numbers, Numbers]:
        """Return the first rows of all segments, and the rows outside of segments."""
        return self._offset + self._segment * self._order.run(0, self._segments), self._loose

    def _of_pool(self, pool: int) -> Numbers:
        """Return the row numbers of a whole pool."""
        starts, loose = self._parts(pool * self._pool)
        rows = np.concatenate([(starts[:, None] + np.arange(self._segment)).ravel(), loose])
        return rows[self._order_within(pool).run(0, len(rows))]

    def run(self, start: int, stop: int) -> Numbers:
        """Return consecutive row numbers."""
        return self[start:stop]

    def _parts(self, begin: int) -> tuple[Numbers, Numbers]:
        """Return the first rows of the segments of a pool, and its rows outside of segments.

        Args:
            begin: Slot at which the pool begins.
        """
        end, size = min(begin + self._pool, self._n), self._segment
        whole = max(min(end, self._in_segments) - begin, 0)
        starts = self._offset + size * self._order.run(begin // size, (begin + whole) // size)
        return starts, self._rows(np.arange(begin + whole, end))

    def at(self, places: Numbers) -> Numbers:
        """Return the row numbers at ascending places."""
        if not len(places):
            return places
        member, pools = np.empty_like(places), places // self._pool
        ends = [0, *(np.flatnonzero(np.diff(pools)) + 1), len(places)]
        for i, j in itertools.pairwise(ends):
            pool = int(pools[i])
            member[i:j] = self._order_within(pool).at(places[i:j] - pool * self._pool)
        return self._rows(pools * self._pool + member)

    def _rows(self, slots: Numbers) -> Numbers:
        """Return the row numbers in some slots, as the pools lie one after another, unmixed."""
        loose = slots - self._in_segments
        segments = np.where(loose < 0, slots // self._segment, 0)
        rows = self._offset + self._segment * self._order.at(segments) + slots % self._segment
        rows[loose >= 0] = self._loose[loose[loose >= 0]]
        return rows

    def fetch(self, rows: Any, start: int, out: NDArray[Any]) -> Numbers:
        """Put the rows of a piece into an array; return the order within it."""
        pool, within = divmod(start, self._pool)
        order = self._order_within(pool)
        if isinstance(order, Mixing):
            end = self._fetch_pool(rows, pool, out)
            return order.run(0, end)
        small = within // order._pool
        starts, loose = order._parts(small * order._pool)
        slots = np.concatenate([(starts[:, None] + np.arange(order._segment)).ravel(), loose])
        if isinstance(rows, np.ndarray):
            slots_of_all = pool * self._pool + slots
            np.take(rows, self._rows(slots_of_all), axis=0, out=out[: len(slots)], mode="clip")
        else:
            np.take(self._in_memory(rows, pool), slots, axis=0, out=out[: len(slots)], mode="clip")
        return order._order_within(small).run(0, len(slots))

    def _in_memory(self, rows: Any, pool: int) -> NDArray[Any]:
        """Return the rows of a pool of a file, which is read once for all of its pieces."""
        if self._held[0] != pool:
            held = self._held[1]
            if held is None:
                held = np.empty((min(self._pool, self._n), rows.shape[1]), rows.dtype)
            self._fetch_pool(rows, pool, held)
            self._held = pool, held
        return self._held[1]  # type: ignore[no-any-return]

    def _fetch_pool(self, rows: Any, pool: int, out: NDArray[Any]) -> int:
        """Put the rows of a pool into an array by their segments; return their number."""
        size = self._segment
        starts, loose = self._parts(pool * self._pool)
        whole = size * len(starts)
        end = whole + len(loose)
        if isinstance(rows, np.ndarray):
            width = rows.shape[1]
            of_segments = rows[self._offset : self._offset + self._in_segments]
            np.take(
                of_segments.reshape(-1, size * width),
                (starts - self._offset) // size,
                axis=0,
                out=out[:whole].reshape(-1, size * width),
                mode="clip",  # without a copy in between; no number is outside
            )
        else:
            for k, start in enumerate(starts.tolist()):
                rows.read(start, out[k * size : (k + 1) * size])
        if len(loose):
            out[whole:end] = rows[loose] if isinstance(rows, np.ndarray) else rows.rows(loose)
        return end

    def _order_within(self, pool: int) -> "Mixing | _Pools":
        """Return the order of the rows of a pool among themselves."""
        if pool not in self._within:
            size, key = min(self._pool, self._n - pool * self._pool), (*self._key, pool)
            if size > POOL:
                self._within[pool] = _Pools(size, key, POOL, SEGMENT)
            else:
                self._within[pool] = Mixing(size, np.random.default_rng(key))
        return self._within[pool]
