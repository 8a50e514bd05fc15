"""Rows that come a few at a time: in memory while they are few, in a file from there on."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray

from trueline.data.blocks import BatchLoader, InOrder
from trueline.data.datamodule import ROWS_AT_ONCE, RegressionData
from trueline.data.memory import bytes_for_rows
from trueline.data.mixing import mixing
from trueline.data.order import RowOrder
from trueline.data.problems import serving_problems
from trueline.data.spool import Spool, SpooledRows, columns
from trueline.errors import RequestError

Array = NDArray[Any]

InMemory = int | Literal["auto"]
"""Bytes of rows up to which they are held in memory; auto for a share of what is available."""
LARGE = 2**28
"""Bytes of rows above which they are shuffled in an order that suits a file. Where they lie does
not matter to the order, so that a training can go on where there is more memory, or less."""
SEGMENT_BYTES = 2**20
"""Bytes of neighbours that are read together where many rows are shuffled."""
POOL_BYTES = 2**27
"""Bytes of many rows that are mixed among themselves; of a file they are in memory at once."""


class Gathered:
    """Rows `[x, y]`, or `[x, y, weight]`.

    Args:
        n_features: Columns of x.
        n_targets: Columns of y.
        weighted: Whether rows have weights.
        dtype: Of the numbers.
        in_memory: Bytes that are held in memory; more are in a file.

    Attributes:
        spool: Where rows are in a file.
        largest: The largest number in magnitude, once it has been looked for.
        longest: The largest `‖x‖²` of a row, the same.

    Example:
        >>> rows = Gathered(1, 1, False, np.dtype("float64"))
        >>> rows.append(np.array([[2.0], [3.0]]), np.array([[5.0], [7.0]]))
        >>> len(rows), next(rows.chunks()).tolist()
        (2, [[2.0, 5.0], [3.0, 7.0]])
    """

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        weighted: bool,
        dtype: np.dtype[Any],
        in_memory: InMemory = "auto",
    ) -> None:
        self.n_features = n_features
        self.n_targets = n_targets
        self.weighted = weighted
        self.dtype = dtype
        self.in_memory = bytes_for_rows() if in_memory == "auto" else in_memory
        self._rows = np.empty((0, n_features + n_targets + weighted), dtype)
        self._n = 0
        self.spool: Spool | None = None
        self.largest = self.longest = 0.0

    def __len__(self) -> int:
        return self._n

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(self._rows.shape[1]) * self.dtype.itemsize

    def reserve(self, n_samples: int) -> None:
        """Make room in memory, where so many rows may be held in it."""
        if n_samples * self.row_bytes <= self.in_memory:
            # What is not written to takes no memory.
            larger = np.empty((n_samples, self._rows.shape[1]), self.dtype)
            larger[: self._n] = self._rows[: self._n]
            self._rows = larger

    def append(self, X: Array, y: Array, weight: Array | None = None) -> None:
        """Add rows: X of shape (n, n_features), y (n, n_targets), weight (n,)."""
        f = self.n_features
        with self.room(len(X)) as rows:
            rows[:, :f], rows[:, f : f + self.n_targets] = X, y
            if weight is not None:
                rows[:, -1] = weight

    @contextlib.contextmanager
    def room(self, n: int) -> Iterator[Array]:
        """Take in rows that are written into the array at hand, shape (n, width), as they lie."""
        first, end = self._n, self._n + n
        if self.spool is None and end * self.row_bytes > self.in_memory:
            self.spool = Spool(self._rows.shape[1], self.dtype)
            self.spool.append(self._rows[:first])
            self._rows = self._rows[:0].copy()
        if self.spool is not None:
            rows = np.empty((n, self._rows.shape[1]), self.dtype)
            yield rows
            self.spool.append(rows)
        else:
            if end > len(self._rows):
                most = self.in_memory // self.row_bytes
                self.reserve(max(end, min(2 * len(self._rows), most)))
            yield self._rows[first:end]
        self._n = end

    def chunks(self) -> Iterator[Array]:
        """Return all rows, some at a time; good until the next are asked for."""
        if self.spool is not None:
            yield from (rows for _, rows in self.spool.chunks())
            return
        for first in range(0, self._n, ROWS_AT_ONCE):
            yield self._rows[first : min(first + ROWS_AT_ONCE, self._n)]

    def blocks(self) -> Iterator[tuple[Array, Array, Array | None]]:
        """Return all rows as X, y and weights, some at a time."""
        for rows in self.chunks():
            yield columns(rows, self.n_features, self.n_targets)

    def change_features(self, function: Callable[[Array], Array] | None) -> None:
        """Change the features, and look how large the rows are.

        Args:
            function: Of some rows' features, shape (n, n_features), to those that take their place;
                None to leave them.
        """
        features = slice(0, self.n_features)

        def change(rows: Array) -> Array:
            X = rows[:, features]
            if function:
                X[:] = function(X)
            self.longest = max(self.longest, float(np.einsum("ij,ij->i", X, X).max()))
            self.largest = max(self.largest, float(rows.max()), -float(rows.min()))
            return rows

        if self.spool is not None and function:
            self.spool.change(change)
        else:
            for rows in self.chunks():
                change(rows)

    def matrix(self) -> Array | Spool:
        """Return all rows, in memory or in a file."""
        return self._rows[: self._n] if self.spool is None else self.spool

    def as_dataset(self) -> SpooledRows | None:
        """Return the rows that are in a file; None where they are in memory."""
        if self.spool is None:
            return None
        return SpooledRows(self.spool, self.n_features, self.n_targets)

    def drawn_apart(self, counts: Mapping[str, int], seed: int) -> dict[str, "Gathered"]:
        """Return the rows in parts.

        Which part a row is in is a function of its number, of how many there are and of the seed.

        Args:
            counts: Of the rows of each part; those left over are `train`.
            seed: Of the drawing.
        """
        if not any(counts.values()):
            return {"train": self}
        names = [*counts, "train"]
        ends = np.cumsum(list(counts.values()))
        parts = {name: self._empty() for name in names}
        for name, part in parts.items():
            part.reserve(counts.get(name, len(self) - int(ends[-1])))
        order, first = mixing(len(self), seed), 0
        for rows in self.chunks():
            places = order.run(first, first + len(rows))
            which = np.searchsorted(ends, places, side="right")
            for k, name in enumerate(names):
                if len(mine := rows[which == k]):
                    with parts[name].room(len(mine)) as its_rows:
                        its_rows[:] = mine
            first += len(rows)
        return {name: part for name, part in parts.items() if len(part)}

    def _empty(self) -> "Gathered":
        given: Any = self.n_features, self.n_targets, self.weighted, self.dtype, self.in_memory
        return Gathered(*given)


def gather(
    blocks: Iterable[Any], n_features: int, n_targets: int, weighted: bool, in_memory: InMemory
) -> Gathered | None:
    """Gather the rows of blocks; None where there are none.

    Args:
        blocks: Rows with X, y and weight, as `trueline.tables.Rows`.
        n_features: Columns of X.
        n_targets: Columns of y.
        weighted: Whether rows have weights.
        in_memory: Bytes that are held in memory; more are in a file.
    """
    found = None
    for block in blocks:
        if found is None:
            found = Gathered(n_features, n_targets, weighted, block.X.dtype, in_memory)
        found.append(block.X, block.y, block.weight)
    return found


class GatheredData(RegressionData):
    """Rows that have been gathered, in memory or in a file.

    Many rows are shuffled in large parts that come one after another. A part consists of segments
    from all over the rows, as `trueline.data.order` has it, in a file and in memory alike.

    Args:
        rows: In memory or in a file.
        batch_size: Rows per optimizer step; full batch unless given.
        shuffle: Whether each epoch visits the rows in an order of its own.
        seed: Seed of those orders, ≥ 0.
    """

    def __init__(
        self, rows: Gathered, batch_size: int | None = None, shuffle: bool = False, seed: int = 0
    ) -> None:
        LightningDataModule.__init__(self)
        if wrong := serving_problems(batch_size, seed):
            raise ValueError("; ".join(wrong))
        self.hold(rows, batch_size, shuffle, seed)

    def hold(self, rows: Gathered, batch_size: int | None, shuffle: bool, seed: int) -> None:
        """Take rows to serve.

        Args:
            rows: In memory or in a file.
            batch_size: Rows per optimizer step; None for full batch.
            shuffle: Whether each epoch visits the rows in an order of its own.
            seed: Seed of those orders, ≥ 0.
        """
        self.spooled, matrix = rows.as_dataset(), rows.matrix()
        n = len(rows)
        order: RowOrder = RowOrder(n, True, seed) if shuffle else InOrder(n)
        row = rows.row_bytes
        if shuffle and n * row > LARGE:
            # Whole batches, so that none has rows of two pools.
            size = min(batch_size or n, n)
            segment = size * max(1, round(SEGMENT_BYTES / row / size))
            pool = segment * max(1, round(POOL_BYTES / row / segment))
            order = RowOrder(n, True, seed, pool, segment)
        if self.spooled is None:
            X, y, weight = columns(torch.from_numpy(matrix), rows.n_features, rows.n_targets)
            self.X, self.y, self.sample_weight = X, y, weight
        self._keep(matrix)
        if not rows.largest:
            rows.change_features(None)
        self._longest = rows.longest
        self.serve(n, rows.largest, (rows.n_features, rows.n_targets), batch_size, order)

    @property
    def longest(self) -> float:
        """The largest `‖x‖²` of a row, as it is trained on."""
        return self._longest

    def train_dataloader(self) -> BatchLoader:
        """Serve the rows in the order of each epoch; of each batch, this process's share.

        Raises:
            RequestError: When a batch would be larger than all rows that are trained on.
        """
        if wrong := serving_problems(self.batch_size, self.order.seed, self.n_samples):
            raise RequestError("; ".join(f"--data.{problem}" for problem in wrong))
        return super().train_dataloader()
