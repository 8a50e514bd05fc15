"""Batches and blocks of batches, cut from the order of rows.

Rows stay in the arrays they came in: batches in order are a view, shuffled ones a single gather.
No row passes through Python by itself.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import SequentialSampler, TensorDataset

from trueline.data.order import RowOrder
from trueline.data.spool import Spool, SpooledRows
from trueline.errors import RequestError


class Block(NamedTuple):
    """Consecutive batches whose steps the loop takes in one call. It fetches their rows by itself.

    Args:
        epoch: Of the first batch.
        batch: Its number in that epoch.
        batches: How many; they may run on through whole epochs.
    """

    epoch: int
    batch: int
    batches: int


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
        matrix: Rows `[x, y]` or `[x, y, weight]` of the dataset, which the loop takes; an array, or
            rows in a file. None where there is no such matrix.
        largest: Largest entry of the matrix in magnitude.

    Attributes:
        limit: Batches after which the Trainer ends an epoch; all unless it is set.
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
        matrix: NDArray[Any] | Spool | None = None,
        largest: float = 0.0,
    ) -> None:
        self.dataset = dataset
        self.matrix = matrix
        self.largest = largest
        self.batch_size = batch_size
        self.sampler = order
        self.rank = rank
        self.world_size = world_size
        self.position = 0
        self.limit = len(self)
        self.ahead: Callable[[int, int], int | None] | None = None
        self._start = 0

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch have been served, for a checkpoint, and of which."""
        return {
            "position": self.position % self.limit,
            "n_samples": len(self.dataset),
            "batch_size": self.batch_size,
            "shuffle": int(self.sampler.shuffle),
            "seed": self.sampler.seed,
            "pool": self.sampler.pool,  # many rows are shuffled in larger ones
            **({"piece": self.sampler.piece} if self.sampler.piece < self.sampler.pool else {}),
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
            self.position = min(k + ahead, self.limit) if ahead else k + 1
            yield Block(epoch, k, ahead) if ahead else self._batch(epoch, k)
            k = self.position

    def _batch(self, epoch: int, k: int) -> tuple[Tensor, ...]:
        at = self.share(k)
        if isinstance(self.dataset, SpooledRows):
            numbers = self.sampler.rows(epoch, at.start, at.stop)
            return self.dataset.split(self.dataset.spool.rows(numbers))
        if not self.sampler.shuffle and at == slice(0, len(self.dataset)):
            return self.dataset.tensors
        rows: Any = at
        if self.sampler.shuffle:
            rows = torch.from_numpy(self.sampler.rows(epoch, at.start, at.stop))
        return tuple(tensor[rows] for tensor in self.dataset.tensors)

    def example(self) -> tuple[Tensor, ...]:
        """Return a batch of one row."""
        if isinstance(self.dataset, SpooledRows):
            return self.dataset.split(self.dataset.spool.rows(np.zeros(1, np.int64)))
        return tuple(tensor[:1] for tensor in self.dataset.tensors)

    def share(self, k: int) -> slice:
        """Return where in the order this process finds its rows of batch k."""
        first = k * self.batch_size
        rows = min(self.batch_size, len(self.dataset) - first)
        return slice(
            first + rows * self.rank // self.world_size,
            first + rows * (self.rank + 1) // self.world_size,
        )
