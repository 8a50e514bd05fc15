"""The loop of a training: its rows, and who works out their moments."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from trueline.loop.loop import Loop, MomentsOfSteps, takes_moments
from trueline.loop.moments import Moments, of_steps
from trueline.loop.rows import Rows
from trueline.loop.state import Float64, Shape
from trueline.many_steps.single_steps import LARGEST

ALIGNED = 8
"""Numbers of float64 in a cache line."""


def loop_of(trainer: Trainer, module: Any) -> Loop:
    """Return the loop of a training.

    Args:
        trainer: Trainer at the start of its training.
        module: A LinearRegression that it trains.
    """
    loader: Any = trainer.train_dataloader
    rows, n = _rows(trainer, module), len(loader.dataset)
    dtype = module.weight.detach().cpu().numpy().dtype
    rank, world_size = loader.rank, loader.world_size
    on_device = module.device.type == "cuda" and rows.in_memory

    def add_up(sums: Float64) -> Float64:
        """Add an array up over all processes."""
        if world_size == 1:
            return sums
        tensor = torch.from_numpy(np.ascontiguousarray(sums)).to(module.device)
        return trainer.strategy.reduce(tensor, reduce_op="sum").cpu().numpy()

    all_rows = takes_moments(rows) and loader.largest <= LARGEST
    if not all_rows and world_size == 1 and not on_device:
        return Loop(rows)
    if rows.shape.weighted:
        rows.shape = rows.shape._replace(unit=_unit(loader.matrix))
    shape = rows.shape
    moments = Moments(rows, dtype, (n * rank // world_size, n * (rank + 1) // world_size), add_up)
    if all_rows:
        return Loop(rows, moments)
    sums_of: MomentsOfSteps = (
        SumsOnDevice(rows, moments.anchor, module.weight)
        if on_device
        else (lambda *where: of_steps(rows, moments.anchor, dtype, where, rank, world_size))
    )

    def means(*where: int) -> Float64:
        """Return the mean of `zᵀz` over the rows of each step, in all processes."""
        sums = add_up(sums_of(*where))
        width = shape.n_features + 1 + shape.n_targets
        sizes = sums[:, -1, None, None] * shape.n_targets
        return np.ascontiguousarray(sums[:, :-1].reshape(-1, width, width) / sizes)

    return Loop(rows, moments, means)


def _rows(trainer: Trainer, module: Any) -> Rows:
    """Return the rows of a training, and their order."""
    h = module.hparams
    loader: Any = trainer.train_dataloader
    weighted = loader.matrix.shape[1] > h.n_features + h.n_targets
    served = min(len(loader.dataset), int(trainer.num_training_batches) * loader.batch_size)
    window = loader.batch_size * trainer.accumulate_grad_batches
    shape = Shape(h.n_features, h.n_targets, weighted)
    return Rows(loader.matrix, loader.sampler, shape, window, served)


def _unit(matrix: Any) -> float:
    """Return a power of two that brings the largest weight of all rows to about 1."""
    parts = [matrix] if isinstance(matrix, np.ndarray) else (rows for _, rows in matrix.chunks())
    largest = max(float(rows[:, -1].max()) for rows in parts)
    return float(2.0 ** -np.frexp(largest)[1])


class SumsOnDevice:
    """The sums of `zᵀz` over the rows of steps, by one batched product on a GPU.

    Args:
        rows: Rows of the training.
        anchor: Parameters at which residuals are taken.
        like: Tensor on the device, in the precision of the training.
    """

    def __init__(self, rows: Rows, anchor: Float64, like: torch.Tensor) -> None:
        self._rows = rows
        self._matrix = torch.from_numpy(np.ascontiguousarray(rows.matrix)).to(like.device)
        self._dtype = like.dtype
        self._anchor = torch.from_numpy(anchor).to(like.device).view(rows.shape.n_targets, -1)

    def __call__(self, epoch: int, step: int, steps: int) -> Float64:
        """Return what `trueline.loop.moments.of_steps` returns."""
        rows, device = self._rows, self._matrix.device
        shape, p, T = rows.shape, rows.shape.n_features + 1, rows.shape.n_targets
        # How a product rounds can depend on its place among others, and on their number. So there
        # are always as many, of one size, each from a whole cache line on: zeros fill them up.
        at_once = rows.steps_at_once()
        size, width = (-(-n // ALIGNED) * ALIGNED for n in (rows.batch_rows, p + T))
        parts = []
        for piece in rows.shares(epoch, step, steps, 0, 1):
            sizes = np.diff(piece.bounds)
            numbers = torch.from_numpy(piece.numbers).to(device)
            places = torch.from_numpy(np.flatnonzero(np.arange(size) < sizes[:, None])).to(device)
            Z = self._matrix[numbers].to(self._dtype).double()
            left = Z.new_zeros(at_once * size, width)
            left[places, : p - 1], left[places, p - 1] = Z[:, : p - 1], 1.0
            left[:, p : p + T] = left[:, :p] @ self._anchor.T
            left[places, p : p + T] -= Z[:, p - 1 : p - 1 + T]
            right = left
            if shape.weighted:
                right = left.clone()
                right[places] *= Z[:, -1:] * shape.unit
            left, right = (z.view(at_once, size, width) for z in (left, right))
            sums = torch.bmm(right.mT, left)[: len(sizes), : p + T, : p + T]
            weights = sums[:, p - 1, p - 1]
            parts.append(torch.cat([sums.flatten(1), weights[:, None]], dim=1).cpu().numpy())
        return np.concatenate(parts)
