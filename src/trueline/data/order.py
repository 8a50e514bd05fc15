"""The order of rows as a pure function of (seed, epoch).

Few rows are put in an order drawn from all orders alike. Of many, any part of the order can be
worked out by itself, and rows are fetched in runs that the memory likes: segments of neighbours are
mixed over the whole data into pools, and the rows of a pool among themselves.
"""

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import SequentialSampler

Numbers = NDArray[np.int64]

FEW_ROWS = 2**16
"""Up to so many rows the order of an epoch is drawn as a whole, from all orders alike."""
POOL = 2**16
"""Rows that are mixed among themselves; they fit into the processor's caches."""
SEGMENT = 8
"""Neighbours that come into the same pool. One batch of 32 in twenty has two of a segment, and
hardly any has three."""
WIDE = 512
"""Bytes of a row from which on single rows are fetched as fast as segments are."""
ROUNDS = 4
"""Of the mixing of more rows; after three, orders cannot be told from drawn ones any more."""


class RowOrder:
    """The order in which an epoch visits the rows.

    The epoch comes from `set_epoch`, which Lightning calls before each one, and never from counting
    calls: Lightning asks for one iterator more than there are epochs.

    Args:
        n_samples: Number of rows.
        shuffle: Whether each epoch has an order of its own.
        seed: With the epoch's number, all that the order depends on; ≥ 0.

    Example:
        >>> order = RowOrder(n_samples=5, shuffle=True, seed=0)
        >>> first = order.rows(epoch=0)
        >>> bool((order.rows(epoch=0) == first).all()), sorted(order.rows(epoch=1).tolist())
        (True, [0, 1, 2, 3, 4])
    """

    def __init__(self, n_samples: int, shuffle: bool, seed: int) -> None:
        self.n_samples = n_samples
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._drawn: tuple[int, Any] = -1, None

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch
        self._drawn = -1, None  # with what was fetched of the rows

    def rows(self, epoch: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the row numbers of an epoch in its order, or of a part, shape (stop − start,)."""
        stop = self.n_samples if stop is None else stop
        if not self.shuffle:
            return torch.arange(start, stop)
        return torch.from_numpy(self._of(epoch)[start:stop])

    def at(self, epoch: int, places: Numbers) -> Tensor:
        """Return the row numbers at some places of an epoch's order, ascending, in their shape."""
        if not self.shuffle:
            return torch.from_numpy(places)
        order = self._of(epoch)
        if isinstance(order, _Pools):
            return torch.from_numpy(order.at(places.reshape(-1)).reshape(places.shape))
        return torch.from_numpy(order[places])

    def take(self, tensor: Tensor, epoch: int, start: int, stop: int, out: Tensor) -> Tensor:
        """Put the rows of a tensor in the order of an epoch, or of a part of it, into another.

        Args:
            tensor: With a row for each sample, contiguous.
            epoch: Whose order it is.
            start: Place of the first row.
            stop: Place after the last one.
            out: Of stop − start rows.
        """
        order = self._of(epoch) if self.shuffle else None
        if isinstance(order, _Pools) and tensor[0].nbytes < WIDE:
            return order.take(tensor, start, stop, out)
        rows = self.rows(epoch, start, stop).to(tensor.device, non_blocking=True)
        return torch.index_select(tensor, 0, rows, out=out)

    def _of(self, epoch: int) -> Any:
        if self._drawn[0] != epoch:
            few = self.n_samples <= FEW_ROWS
            drawn: Any = _Pools(self.n_samples, self.seed, epoch)
            if few:
                drawn = np.random.default_rng((self.seed, epoch)).permutation(self.n_samples)
            self._drawn = epoch, drawn
        return self._drawn[1]


class _Pools:
    """An order of many rows.

    From an offset of the epoch's own on, the rows are cut into segments. These are mixed, and so
    many as fill a pool make one; the last pool has what is left, and the rows outside of segments.

    Args:
        n: Number of rows.
        seed: Of the training.
        epoch: The epoch's number.
    """

    def __init__(self, n: int, seed: int, epoch: int) -> None:
        self._n, self._key = n, (seed, epoch)
        generator = np.random.default_rng(self._key)
        self._offset = int(generator.integers(SEGMENT))
        self._segments = (n - self._offset) // SEGMENT
        self._order = _Mixing(self._segments, generator)
        self._loose = np.concatenate(
            [np.arange(self._offset), np.arange(self._offset + self._segments * SEGMENT, n)]
        )
        self._within: dict[int, _Mixing] = {}
        self._numbers: tuple[int, Any] = -1, None
        self._fetched: dict[int, tuple[int, Tensor, Tensor]] = {}

    def __getitem__(self, part: slice) -> Numbers:
        """Return consecutive row numbers."""
        found = []
        for pool in range(part.start // POOL, -(-part.stop // POOL)):
            if self._numbers[0] != pool:
                places = np.arange(pool * POOL, min((pool + 1) * POOL, self._n))
                self._numbers = pool, self.at(places)
            first = pool * POOL
            found.append(self._numbers[1][max(part.start - first, 0) : part.stop - first])
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def at(self, places: Numbers) -> Numbers:
        """Return the row numbers at ascending places."""
        if not len(places):
            return places
        member, pools = np.empty_like(places), places // POOL
        ends = [0, *(np.flatnonzero(np.diff(pools)) + 1), len(places)]
        for i, j in itertools.pairwise(ends):
            pool = int(pools[i])
            member[i:j] = self._mixing(pool).at(places[i:j] - pool * POOL)
        slots = pools * POOL + member
        # Loose rows come last, and may begin in the last pool but one.
        loose = slots - self._segments * SEGMENT
        rows = self._offset + SEGMENT * self._order.at(np.where(loose < 0, slots // SEGMENT, 0))
        rows += slots % SEGMENT
        rows[loose >= 0] = self._loose[loose[loose >= 0]]
        return rows

    def take(self, tensor: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        """Fetch rows of a tensor by their segments, and mix them where they lie together."""
        for pool in range(start // POOL, -(-stop // POOL)):
            first = pool * POOL
            a, b = max(start - first, 0), min(stop - first, POOL)
            part = out[first + a - start : first + b - start]
            if first + POOL > self._segments * SEGMENT:  # the last one, with loose rows
                rows = torch.from_numpy(self.at(np.arange(first + a, first + b)))
                torch.index_select(tensor, 0, rows.to(tensor.device), out=part)
            else:
                member = torch.from_numpy(self._mixing(pool).run(a, b))
                fetched = self._fetch(tensor, pool)
                torch.index_select(fetched, 0, member.to(tensor.device), out=part)
        return out

    def _fetch(self, tensor: Tensor, pool: int) -> Tensor:
        """Return the rows of a pool, segment by segment."""
        held = self._fetched.get(tensor.ndim)
        if held is None or held[1] is not tensor:
            held = -1, tensor, tensor.new_empty(POOL, *tensor.shape[1:])
        if held[0] != pool:
            begin, end = pool * (POOL // SEGMENT), (pool + 1) * (POOL // SEGMENT)
            starts = torch.from_numpy(self._offset + SEGMENT * self._order.run(begin, end))
            width = tensor[0].numel()
            shape = len(tensor) - SEGMENT + 1, SEGMENT * width
            runs = tensor.as_strided(shape, (width, 1))
            by_segment = held[2].view(POOL // SEGMENT, -1)
            torch.index_select(runs, 0, starts.to(tensor.device), out=by_segment)
            held = self._fetched[tensor.ndim] = pool, tensor, held[2]
        return held[2]

    def _mixing(self, pool: int) -> "_Mixing":
        if pool not in self._within:
            size = min(POOL, self._n - pool * POOL)
            self._within[pool] = _Mixing(size, np.random.default_rng((*self._key, pool)))
        return self._within[pool]


class _Mixing:
    """An order of the numbers below n in which any part can be worked out by itself.

    A number of so many bits goes through rounds of steps that can all be undone: add, multiply by
    an odd number, fold the upper half onto the lower. What comes out below n keeps its place; what
    does not goes through again ("cycle walking").

    Args:
        n: How many numbers, ≥ 1.
        generator: Draws the summands and factors.

    References:
        Black & Rogaway, "Ciphers with Arbitrary Finite Domains" (2002): cycle walking.
        Mitchell, Stokes, Frank & Holmes, "Bandwidth-Optimal Random Shuffling for GPUs" (2022).
    """

    def __init__(self, n: int, generator: np.random.Generator) -> None:
        bits = max(1, (n - 1).bit_length())
        self._dtype = np.uint16 if bits <= 16 else np.uint32 if bits <= 32 else np.uint64
        drawn = generator.integers(0, 2**bits, (2, ROUNDS), np.uint64)
        self._n, self._whole = n, n == 2**bits
        self._mask = self._dtype((1 << bits) - 1)
        self._wraps = bits == 8 * self._mask.nbytes
        self._half = self._dtype((bits + 1) // 2)
        self._rounds = [(self._dtype(a), self._dtype(b | 1)) for a, b in drawn.T.tolist()]

    def at(self, places: Numbers) -> Numbers:
        """Return the numbers at some places, each below n."""
        return self._mixed(places.astype(self._dtype)).astype(np.int64)

    def run(self, start: int, stop: int) -> Numbers:
        """Return the numbers at consecutive places."""
        return self._mixed(np.arange(start, stop, dtype=self._dtype)).astype(np.int64)

    def _mixed(self, x: NDArray[Any]) -> NDArray[Any]:
        self._mix(x)
        if not self._whole:
            outside = np.flatnonzero(x >= self._n)
            while len(outside):
                again = x[outside]
                self._mix(again)
                x[outside] = again
                outside = outside[again >= self._n]
        return x

    def _mix(self, x: NDArray[Any]) -> None:
        folded = np.empty_like(x)
        for summand, factor in self._rounds:
            x += summand
            x *= factor
            if not self._wraps:
                x &= self._mask
            np.right_shift(x, self._half, out=folded)
            x ^= folded


class InOrder(RowOrder, SequentialSampler):
    """The rows in order, in every epoch.

    By this type Lightning knows that nothing is shuffled, which `overfit_batches` needs. It would
    put a sampler of its own in the place of any other, and only a DataLoader takes that.

    Args:
        n_samples: Number of rows.
    """

    def __init__(self, n_samples: int) -> None:
        RowOrder.__init__(self, n_samples, shuffle=False, seed=0)
        SequentialSampler.__init__(self, range(n_samples))
