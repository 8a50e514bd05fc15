"""The order of rows as a pure function of (seed, epoch), and the batches and blocks cut from it.

Rows stay in the arrays they came in: batches in order are a view, shuffled ones a single gather.
No row passes through Python by itself.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import SequentialSampler, TensorDataset

from trueline.errors import RequestError

Numbers = NDArray[np.int64]

FEW_ROWS = 2**16
"""Up to so many rows the order of an epoch is drawn as a whole, from all orders alike."""
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

    def rows(self, epoch: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the row numbers of one epoch in order, or of a part of it, shape (stop − start,).

        Of many rows each part is worked out by itself, without the whole order in memory.
        """
        stop = self.n_samples if stop is None else stop
        if not self.shuffle:
            return torch.arange(start, stop)
        if self._drawn[0] != epoch:
            generator = np.random.default_rng((self.seed, epoch))
            few = self.n_samples <= FEW_ROWS
            mixed = generator.permutation if few else lambda n: _Mixing(n, generator)
            self._drawn = epoch, mixed(self.n_samples)
        return torch.from_numpy(self._drawn[1][start:stop])


class _Mixing:
    """An order of the numbers below n in which any part can be worked out by itself.

    A number of so many bits goes through rounds of steps that can all be undone: add, multiply by
    an odd number, fold the upper half onto the lower. What comes out below n keeps its place; what
    does not goes through again ("cycle walking").

    Args:
        n: How many numbers, ≥ 2.
        generator: Draws the summands and factors.

    References:
        Black & Rogaway, "Ciphers with Arbitrary Finite Domains" (2002): cycle walking.
        Mitchell, Stokes, Frank & Holmes, "Bandwidth-Optimal Random Shuffling for GPUs" (2022).
    """

    def __init__(self, n: int, generator: np.random.Generator) -> None:
        bits = (n - 1).bit_length()
        self._dtype = np.uint32 if bits <= 32 else np.uint64
        drawn = generator.integers(0, 2**bits, (2, ROUNDS), np.uint64)
        self._n, self._mask = n, self._dtype((1 << bits) - 1)
        self._half = self._dtype((bits + 1) // 2)
        self._rounds = [(self._dtype(a), self._dtype(b | 1)) for a, b in drawn.T.tolist()]

    def __getitem__(self, part: slice) -> Numbers:
        x = np.arange(part.start, part.stop, dtype=self._dtype)
        self._mix(x)
        outside = np.flatnonzero(x >= self._n)
        while len(outside):
            again = x[outside]
            self._mix(again)
            x[outside] = again
            outside = outside[again >= self._n]
        return x.astype(np.int64)

    def _mix(self, x: NDArray[Any]) -> None:
        folded = np.empty_like(x)
        for summand, factor in self._rounds:
            x += summand
            x *= factor
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


class BatchLoader:
    """Serves the rows of a dataset in batches; what Lightning takes as a dataloader.

    Several processes share each batch: of its B rows, process `rank` of `world_size` gets those
    from `B·rank // world_size` to `B·(rank + 1) // world_size`. No row is repeated to make the
    shares even, so they differ by a row, and a process may get none of a small batch. All have the
    same number of batches.

    Args:
        dataset: Of tensors with a row for each sample, such as X and y.
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
        dataset: TensorDataset,
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
            if name != "position" and state[name] != mine
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
        epoch = self.sampler.epoch
        while k < len(self):
            ahead = self.ahead(epoch, k) if self.ahead else None
            self.position = min(k + (ahead or 1), len(self))
            yield Block(epoch, k, ahead) if ahead else self._batch(epoch, k)
            k = self.position

    def _batch(self, epoch: int, k: int) -> tuple[Tensor, ...]:
        at = self.share(k)
        rows = self.sampler.rows(epoch, at.start, at.stop) if self.sampler.shuffle else at
        return tuple(tensor[rows] for tensor in self.dataset.tensors)

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
    ) -> Iterator[tuple[Any, slice | Tensor]]:
        """Return the rows of some batches, those of equal size together.

        Args:
            epoch: From whose first batch they are counted, on into later epochs.
            batches: Their numbers, ascending.
            per_epoch: Batches an epoch, which may be fewer than there are.

        Returns:
            For each size, which of the batches have it, and the numbers of this process's rows in
            them: a slice of consecutive ones, or a tensor of shape (n_batches, size).
        """
        last = len(self) - 1
        short = (batches % per_epoch == last) & (len(self.dataset) % self.batch_size > 0)
        for of_this_size in (~short, short):
            which = np.flatnonzero(of_this_size)
            if len(which):
                rows = self._rows(epoch, batches[which], per_epoch)
                at = (
                    slice(which[0], which[-1] + 1)
                    if len(which) == which[-1] - which[0] + 1
                    else which
                )
                yield at, rows

    def _rows(self, epoch: int, batches: Numbers, per_epoch: int) -> slice | Tensor:
        """Return the rows of batches of equal size."""
        epochs, within = np.divmod(batches, per_epoch)
        share, first = self.share(int(within[0])), int(within[0]) * self.batch_size
        if not self.sampler.shuffle:
            consecutive = len(batches) == within[-1] - within[0] + 1 and epochs[0] == epochs[-1]
            if consecutive and self.world_size == 1:
                return slice(first, first + len(batches) * (share.stop - share.start))
            starts = torch.from_numpy(within * self.batch_size + share.start - first)
            return starts[:, None] + torch.arange(share.stop - share.start)
        mine = slice(share.start - first, share.stop - first)
        parts = []
        # Ascending, so that those of an epoch lie together.
        ends = [0, *(np.flatnonzero(np.diff(epochs)) + 1), len(epochs)]
        for i, j in itertools.pairwise(ends):
            e, of_epoch = int(epochs[i]), within[i:j]
            for run in np.split(of_epoch, np.flatnonzero(np.diff(of_epoch) != 1) + 1):
                first_row = int(run[0]) * self.batch_size
                stop = min(first_row + len(run) * self.batch_size, len(self.dataset))
                rows = self.sampler.rows(epoch + e, first_row, stop)
                parts.append(rows.view(len(run), -1)[:, mine])
        return torch.cat(parts)
