"""The order of rows as a pure function of (seed, epoch), and batches cut from it.

Rows stay in the arrays they came in: a batch in order is a view, a shuffled one a single gather.
No row passes through Python by itself.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler, TensorDataset

from trueline.errors import RequestError


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

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def rows(self, epoch: int) -> Tensor:
        """Return the row numbers of one epoch in order, shape (n_samples,)."""
        if not self.shuffle:
            return torch.arange(self.n_samples)
        generator = np.random.default_rng((self.seed, epoch))
        return torch.from_numpy(generator.permutation(self.n_samples))


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
        dataset: Of tensors with a row for each sample, such as X and y.
        batch_size: Rows a batch, over all processes; the last one has what is left.
        order: The order of rows. Lightning finds it under the name `sampler`.
        rank: This process, from 0 to world_size − 1.
        world_size: Number of processes, ≥ 1.

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
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.sampler = order
        self.rank = rank
        self.world_size = world_size
        self.position = 0
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

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        # Read here, at the first batch: set_epoch comes after iter().
        start, self._start = self._start, 0
        order = self.sampler.rows(self.sampler.epoch) if self.sampler.shuffle else None
        for k in range(start, len(self)):
            self.position = k + 1
            rows = self._share(k)
            at = rows if order is None else order[rows]
            yield tuple(tensor[at] for tensor in self.dataset.tensors)

    def _share(self, k: int) -> slice:
        """Return where in the order this process finds its rows of batch k."""
        first = k * self.batch_size
        rows = min(self.batch_size, len(self.dataset) - first)
        return slice(
            first + rows * self.rank // self.world_size,
            first + rows * (self.rank + 1) // self.world_size,
        )
