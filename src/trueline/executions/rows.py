"""The training rows as the moments of their batches, whatever processes they are shared by."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.data.blocks import BatchLoader, Run
from trueline.data.spool import Spool, SpooledRows
from trueline.recurrence import gram, summed_in
from trueline.workspace import Workspace

CHUNK = 2**16
"""Rows that are gathered and multiplied at once: they stay in the processor's caches."""
CHUNK_OF_DOUBLES = 2**14
"""The same of rows that are brought to float64 first."""


class Rows:
    """The training rows `[x, 1, y]` of a loader, as its batches and as the moments of these.

    Args:
        loader: Of the training rows.
        per_epoch: Batches an epoch.
        n_targets: T.
        dtype: That of the training.
        device: That of the training.
        add_up: Adds a float64 tensor up over all processes.

    Attributes:
        width: p + T.
        weighted: Whether rows have weights.
    """

    def __init__(
        self,
        loader: BatchLoader,
        per_epoch: int,
        n_targets: int,
        dtype: torch.dtype,
        device: torch.device,
        add_up: Callable[[Tensor], Tensor],
    ) -> None:
        self.loader = loader
        self.per_epoch = per_epoch
        self.n_targets = n_targets
        self.dtype = dtype
        self.device = device
        self.add_up = add_up
        self._sample_weight: Tensor | None = None
        self._rows: Tensor | Spool
        if isinstance(loader.dataset, SpooledRows):
            self._rows = loader.dataset.spool
            self.weighted = loader.dataset.weighted
        else:
            assert loader.joined is not None
            self._rows = loader.joined.to(device)
            if weights := loader.dataset.tensors[2:]:
                self._sample_weight = weights[0].to(device)
            self.weighted = bool(weights)
        self.spooled = isinstance(self._rows, Spool)
        self.width = self._rows.shape[1] - (self.weighted and self.spooled)
        self.summed_in = summed_in(dtype, loader.batch_size)
        self.workspace = Workspace()

    def of(
        self, epoch: int, batches: NDArray[np.int64], workspace: Workspace | None = None
    ) -> Iterator[tuple[Any, Tensor, Any]]:
        """Return the rows of some batches, those of equal size together, and their weights.

        Args:
            epoch: From whose first batch they are counted.
            batches: Their numbers, ascending.
            workspace: For what is returned, which then is good until the next is.

        Returns:
            Which of the batches they are, Z of shape (n, size, p + T) and None, or their weights of
            shape (n, size).
        """
        for at, rows in self.loader.groups(epoch, batches, self.per_epoch):
            n = at.stop - at.start if isinstance(at, slice) else len(at)
            given = workspace or Workspace()
            Z, weight = self._weighted(rows, given)
            yield at, Z.view(n, -1, self.width), None if weight is None else weight.view(n, -1)

    def _weighted(
        self, rows: slice | Run | Tensor, workspace: Workspace
    ) -> tuple[Tensor, Tensor | None]:
        """Return rows `[x, 1, y]` and their weights, one after another."""
        Z = self._fetch(self._rows, rows, workspace)
        if self._sample_weight is not None:
            return Z, self._fetch(self._sample_weight, rows, workspace)
        return Z[:, : self.width], Z[:, -1] if self.weighted else None

    def _fetch(
        self, tensor: Tensor | Spool, rows: slice | Run | Tensor, workspace: Workspace
    ) -> Tensor:
        """Return rows, one after another, on the device of the training."""
        name = f"rows of {len(tensor.shape)}"
        if isinstance(tensor, Spool):
            assert not isinstance(rows, Tensor)
            shape = rows.stop - rows.start, tensor.width
            out = workspace(name, shape, torch.empty(0, dtype=tensor.dtype))
            if isinstance(rows, slice):
                return tensor.read(rows.start, out).to(self.device)
            return self.loader.sampler.take(tensor, *rows, out=out).to(self.device)
        if isinstance(rows, slice):
            return tensor[rows]
        if isinstance(rows, Run):
            shape = rows.stop - rows.start, *tensor.shape[1:]
            return self.loader.sampler.take(tensor, *rows, out=workspace(name, shape, tensor))
        out = workspace(name, (rows.numel(), *tensor.shape[1:]), tensor)
        numbers = rows.reshape(-1).to(tensor.device, non_blocking=True)
        return torch.index_select(tensor, 0, numbers, out=out)

    def moments(self, epoch: int, batches: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the moments of some batches over all processes, and by what they are divided.

        Args:
            epoch: From whose first batch they are counted.
            batches: Their numbers, ascending.

        Returns:
            Shapes (n, p + T, p + T), in the dtype they are summed in or float64, and (n,).
        """
        width, n = self.width, len(batches)
        sizes = torch.empty(n, dtype=torch.float64, device=self.device)
        G = self.workspace("moments", (n, width, width), sizes, self.summed_in)
        chunk = CHUNK if self.summed_in == self._rows.dtype else CHUNK_OF_DOUBLES
        as_they_lie = self.dtype == self._rows.dtype == self.summed_in and not self.weighted
        if as_they_lie and not self.loader.sampler.shuffle and not self.spooled:
            chunk = len(self._rows)  # nothing is copied
        at_once = max(1, chunk // self.loader.batch_size)
        for first in range(0, n, at_once):
            part = slice(first, min(first + at_once, n))
            for at, Z, weight in self.of(epoch, batches[part], self.workspace):
                # In the precision of the training first, and then in that of the sums.
                Z = Z.to(self.dtype)
                if weight is not None:
                    weight = weight.to(self.dtype).to(self.summed_in)
                if Z.shape[1] > chunk:
                    G[part][at] = self._in_parts(Z, weight)
                elif isinstance(at, slice) and weight is None:
                    Z = self._converted(Z, self.summed_in)
                    torch.bmm(Z.mT, Z, out=G[part][at])  # in place: a pass less over all of them
                else:
                    G[part][at] = gram(self._converted(Z, self.summed_in), weight)
                sizes[part][at] = Z.shape[1] if weight is None else weight.double().sum(1)
        if self.loader.world_size > 1:
            together = self.add_up(torch.cat([G.view(n, -1).double(), sizes[:, None]], dim=1))
            G, sizes = together[:, :-1].reshape(G.shape).contiguous(), together[:, -1]
        return G, sizes * self.n_targets

    def batch_by_batch(
        self, epoch: int, batches: NDArray[np.int64]
    ) -> Iterator[tuple[Tensor, Tensor | None, float]]:
        """Return the rows of each batch, their weights and by what sums over them are divided.

        Args:
            epoch: From whose first batch they are counted.
            batches: Their numbers, ascending.

        Returns:
            Z of shape (size, p + T) and weights of shape (size,) or None, in the dtype that is
            summed in; and `size·T`, with the sum of the weights for size where there are some.
        """
        n, size = len(self.loader.dataset), self.loader.batch_size
        at_once = max(1, CHUNK_OF_DOUBLES // size)
        for first in range(0, len(batches), at_once):
            some = batches[first : first + at_once]
            # Of two sizes they come size by size, and are put in order in memory of their own.
            of_one_size = n % size == 0 or not (some % self.per_epoch == n // size).any()
            found: list[Any] = [None] * len(some)
            for at, Z, weight in self.of(epoch, some, self.workspace if of_one_size else None):
                Z = Z.to(self.dtype).to(self.summed_in)
                weights, sizes = [None] * len(Z), [float(Z.shape[1])] * len(Z)
                if weight is not None:
                    weights = weight.to(self.dtype).to(self.summed_in)
                    sizes = weights.double().sum(1).tolist()
                which = np.arange(len(some))[at].tolist()
                for k, *batch in zip(which, Z, weights, sizes, strict=True):
                    found[k] = batch
            yield from ((Z, weight, size * self.n_targets) for Z, weight, size in found)

    def _in_parts(self, Z: Tensor, weight: Tensor | None) -> Tensor:
        """Return the moments of batches that are too long to be multiplied at once."""
        parts = Z.split(CHUNK_OF_DOUBLES, dim=1)
        weights = [None] * len(parts) if weight is None else weight.split(CHUNK_OF_DOUBLES, dim=1)
        converted = (self._converted(part, self.summed_in) for part in parts)
        return sum(map(gram, converted, weights))  # type: ignore[return-value]

    def _converted(self, Z: Tensor, dtype: torch.dtype) -> Tensor:
        """Return rows in a dtype, where they are not in it already in memory of their own."""
        if Z.dtype == dtype:
            return Z
        return self.workspace("rows converted", Z.shape, Z, dtype).copy_(Z)

    @property
    def full_batch(self) -> bool:
        """Whether every step takes in all rows."""
        return self.loader.batch_size >= len(self._rows)

    @property
    def numbers(self) -> int:
        """How many entries all rows have together."""
        return len(self._rows) * self.width

    def chunks(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Return this process's share of all rows in float64, some at a time.

        Returns:
            Z of shape (n, p + T) and weights of shape (n,) or None, good until the next are.
        """
        share = self.loader.share(0)
        for start in range(share.start, share.stop, CHUNK_OF_DOUBLES):
            part = slice(start, min(start + CHUNK_OF_DOUBLES, share.stop))
            Z, weight = self._weighted(part, self.workspace)
            Z = self._converted(Z.to(self.dtype), torch.float64)
            yield Z, None if weight is None else weight.to(self.dtype).double()
