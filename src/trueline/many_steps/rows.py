"""The rows of a training as the loop takes them. Neither numba nor the loop is imported."""

from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from trueline.loop.rows import Rows
from trueline.loop.state import Shape


def rows_of(trainer: Trainer, module: Any) -> Rows:
    """Return the rows of a training, and their order.

    Args:
        trainer: Trainer at the start of its training.
        module: A LinearRegression that it trains.
    """
    h = module.hparams
    loader: Any = trainer.train_dataloader
    weighted = loader.matrix.shape[1] > h.n_features + h.n_targets
    shape = Shape(h.n_features, h.n_targets, weighted, _unit(loader) if weighted else 1.0)
    served = min(len(loader.dataset), int(trainer.num_training_batches) * loader.batch_size)
    window = loader.batch_size * trainer.accumulate_grad_batches
    return Rows(loader.matrix, loader.sampler, shape, window, served)


def _unit(loader: Any) -> float:
    """Return a power of two that brings the largest weight of the rows to about 1."""
    matrix = loader.matrix
    parts = [matrix] if isinstance(matrix, np.ndarray) else (rows for _, rows in matrix.chunks())
    largest = max(float(rows[:, -1].max()) for rows in parts)
    return float(2.0 ** -np.frexp(largest)[1])
