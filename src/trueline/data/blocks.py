"""Batches and blocks of batches, cut from the order of rows.

Rows stay in the arrays they came in: batches in order are a view, shuffled ones a single gather.
No row passes through Python by itself.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from trueline.data.mixing import Numbers
from trueline.data.order import RowOrder
from trueline.data.spool import SpooledRows
from trueline.errors import RequestError


class Block(NamedTuple):
    """Consecutive batches for one execution, told and not yet gathered.

    Args:
        epoch: Of the first batch.
        batch: Its number in that epoch.
        batches: How many; they may run on through whole epochs.
    """

    epoch: int
    batch: int
    batches: int


class Run(NamedTuple):
    """Consecutive places in the order of an epoch.

    Args:
        epoch: Whose order it is.
        start: The first one.
        stop: The one after the last.
    """

    epoch: int
    start: int
    stop: int


class BatchLoader:
    """Serves the rows of a dataset in batches; what Lightning takes as a dataloader.

    Several processes share each batch: of its B rows, process `rank` of `world_size` gets those
    from `B·rank // world_size` to `B·(rank + 1) // world_size`. No row is repeated to make the
    shares even, so they differ by a row, and a process may get none of a small batch. All have the
    same number of batches.

    Args:
        dataset: Of tensors with a row for each sample, such as X and y; or rows in a file.
        batch_size: Rows a batch, over all processes; the last one has what is left.
        order: The order of rows. Lightning finds it under the name `sampler`.
        rank: This process, from 0 to world_size − 1.
        world_size: Number of processes, ≥ 1.
        joined: The rows of the dataset as one matrix `[x, 1, y]`, of which blocks are made.
        largest: Its largest entry in magnitude.

    Attributes:
        ahead: When set, how many batches to serve next as one `Block`, given the epoch and the
            batch that comes next; None for a batch by itself.

    Example:
        >>> dataset = TensorDataset(torch.arange(5), 10 * torch.arange(5))
        >>> order = RowOrder(n_samples=5, shuffle=False, seed=0)
        >>> [X.tolist() for X, y in BatchLoader(dataset, batch_size=3, order=order)]
        [[0, 1, 2], [3, 4]]
        >>> [X.tolist() for X, y in BatchLoader(dataset, 3, order, rank=1, world_size=2)]
        [[1, 2], [4]]
    """

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def __init__(
        self,
        dataset: TensorDataset | SpooledRows,
        batch_size: int,
        order: RowOrder,
        rank: int = 0,
        world_size: int = 1,
        joined: Tensor | None = None,
        largest: float = 0.0,
    ) -> None:
        self.dataset = dataset
        self.joined = joined
        self.largest = largest
        self.batch_size = batch_size
        self.sampler = order
        self.rank = rank
        self.world_size = world_size
        self.position = 0
        self.ahead: Callable[[int, int], int | None] | None = None
        self._start = 0

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch have been served, for a checkpoint, and of which."""
        return {
            "position": self.position,
            "n_samples": len(self.dataset),
            "batch_size": self.batch_size,
            "shuffle": int(self.sampler.shuffle),
            "seed": self.sampler.seed,
            "pool": self.sampler.pool,  # many rows are mixed in larger ones
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after that many batches in the epoch that comes next, and in it alone.

        Raises:
            RequestError: When an epoch has begun in other batches or another order than these:
                its rows could not be served once each.
        """
        whole = -(-state["n_samples"] // state["batch_size"])
        self._start = state["position"] % whole  # at the end of an epoch the next one is whole
        changed = [
            f"{name} {state[name]}, found {mine}"
            for name, mine in self.state_dict().items()
            if name != "position" and state.get(name) != mine
        ]
        if self._start and changed:
            raise RequestError(
                f"data: expected what the epoch began with, {'; '.join(changed)}; change it at the "
                "end of an epoch"
            )

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...] | Block]:
        # Read here, at the first batch: set_epoch comes after iter().
        k, self._start = self._start, 0
        epoch, batches = self.sampler.epoch, len(self)
        while k < batches:
            ahead = self.ahead(epoch, k) if self.ahead else None
            self.position = min(k + (ahead or 1), batches)
            yield Block(epoch, k, ahead) if ahead else self._batch(epoch, k)
            k = self.position

    def _batch(self, epoch: int, k: int) -> tuple[Tensor, ...]:
        at = self.share(k)
        if isinstance(self.dataset, SpooledRows):
            spool = self.dataset.spool
            out = torch.empty(at.stop - at.start, spool.width, dtype=spool.dtype)
            return self.dataset.split(self.sampler.take(spool, epoch, at.start, at.stop, out))
        if not self.sampler.shuffle and at == slice(0, len(self.dataset)):
            return self.dataset.tensors
        rows = self.sampler.rows(epoch, at.start, at.stop) if self.sampler.shuffle else at
        return tuple(tensor[rows] for tensor in self.dataset.tensors)

    @property
    def is_joined(self) -> bool:
        """Whether there are rows `[x, 1, y]`, of which executions are made."""
        return self.joined is not None or isinstance(self.dataset, SpooledRows)

    def example(self) -> tuple[Tensor, ...]:
        """Return a batch of one row."""
        if isinstance(self.dataset, SpooledRows):
            return self.dataset.split(self.dataset.spool.rows(np.zeros(1, np.int64)))
        return tuple(tensor[:1] for tensor in self.dataset.tensors)

    def to_end_of_pool(self, batch: int) -> int:
        """Return how many batches there are until other rows of a file must come into memory."""
        rows, first = len(self.dataset), batch * self.batch_size
        if isinstance(self.dataset, SpooledRows) and self.sampler.shuffle:
            rows = min(rows, (first // self.sampler.pool + 1) * self.sampler.pool)
        return -(-(rows - first) // self.batch_size)

    def share(self, k: int) -> slice:
        """Return where in the order this process finds its rows of batch k."""
        first = k * self.batch_size
        rows = min(self.batch_size, len(self.dataset) - first)
        return slice(
            first + rows * self.rank // self.world_size,
            first + rows * (self.rank + 1) // self.world_size,
        )

    def groups(
        self, epoch: int, batches: Numbers, per_epoch: int
    ) -> Iterator[tuple[Any, slice | Run | Tensor]]:
        """Return the rows of some batches, those of equal size together.

        Args:
            epoch: From whose first batch they are counted, on into later epochs.
            batches: Their numbers, ascending.
            per_epoch: Batches an epoch, which may be fewer than there are.

        Returns:
            For each size, which of the batches have it, and this process's rows in them, batch by
            batch: a slice of consecutive rows, a run of the order, or a tensor of row numbers.
        """
        n, size = len(self.dataset), self.batch_size
        full = n // size  # the batches from there on are short
        first, last = int(batches[0]), int(batches[-1])
        one_epoch = first // per_epoch == last // per_epoch
        if one_epoch and last - first == len(batches) - 1 and self.world_size == 1:
            begin, end = first % per_epoch, last % per_epoch + 1
            for a, b in ((begin, min(end, full)), (max(begin, full), end)):
                if a < b:
                    run = Run(epoch + first // per_epoch, a * size, min(b * size, n))
                    rows = run if self.sampler.shuffle else slice(run.start, run.stop)
                    yield slice(a - begin, b - begin), rows
            return
        epochs, within = np.divmod(batches, per_epoch)
        if isinstance(self.dataset, SpooledRows):
            for k, batch in enumerate(within.tolist()):
                mine = self.share(batch)
                run = Run(epoch + int(epochs[k]), mine.start, mine.stop)
                yield slice(k, k + 1), run if self.sampler.shuffle else mine
            return
        for of_this_size in (within < full, within >= full):
            which = np.flatnonzero(of_this_size)
            if len(which):
                together = len(which) == which[-1] - which[0] + 1
                at = slice(which[0], which[-1] + 1) if together else which
                yield at, self._rows(epoch + epochs[which], within[which])

    def _rows(self, epochs: Numbers, batches: Numbers) -> Tensor:
        """Return the row numbers of batches of equal size, shape (n_batches, size)."""
        share, first = self.share(int(batches[0])), int(batches[0]) * self.batch_size
        mine = np.arange(share.start - first, share.stop - first)
        places = (batches * self.batch_size)[:, None] + mine
        # Ascending, so that those of an epoch lie together.
        starts = np.flatnonzero(np.diff(epochs)) + 1
        parts = zip(np.split(epochs, starts), np.split(places, starts), strict=True)
        return torch.cat([self.sampler.at(int(of[0]), part) for of, part in parts])
