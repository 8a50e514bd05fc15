"""The order of rows as a pure function of (seed, epoch), and batches cut from it.

Rows stay in the arrays they came in: a batch in order is a view, a shuffled one a single gather.
No row passes through Python by itself.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


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


class BatchLoader:
    """Serves `(X, y)` in batches; what Lightning takes as a dataloader.

    Args:
        X: Features, shape (n_samples, n_features).
        y: Targets, shape (n_samples,).
        batch_size: Rows a batch; the last one has what is left.
        order: The order of rows. Lightning finds it under the name `sampler`.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def __init__(self, X: Tensor, y: Tensor, batch_size: int, order: RowOrder) -> None:
        self.X = X
        self.y = y
        self.batch_size = batch_size
        self.sampler = order
        self.position = 0
        self._start = 0

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch have been served, for a checkpoint."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after that many batches in the epoch that comes next, and in it alone."""
        self._start = state["position"] % len(self)  # at the end of an epoch the next one is whole

    def __len__(self) -> int:
        return -(-len(self.X) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Read here, at the first batch: set_epoch comes after iter().
        start, self._start = self._start, 0
        order = self.sampler.rows(self.sampler.epoch) if self.sampler.shuffle else None
        for k in range(start, len(self)):
            self.position = k + 1
            rows = slice(k * self.batch_size, (k + 1) * self.batch_size)
            at = rows if order is None else order[rows]
            yield self.X[at], self.y[at]
