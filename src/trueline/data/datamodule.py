"""A LightningDataModule around two arrays: the base of every data class here."""

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import ArrayLike

from trueline.data.blocks import BatchLoader, RowOrder


class RegressionData(LightningDataModule):
    """Rows of features and targets, held in memory and served in batches.

    Training, validation, test and prediction all see the same rows.

    Args:
        X: Features, shape (n_samples, n_features) or (n_samples,), any real numeric dtype.
        y: Targets, shape (n_samples,), any real numeric dtype.
        batch_size: Rows per optimizer step, from 1 to n_samples; full batch unless given.
        shuffle: Whether each epoch visits the rows in an order of its own.
        seed: Seed of those orders, ≥ 0. An order depends on nothing but (seed, epoch).

    Raises:
        ValueError: When shapes, dtypes, `batch_size` or `seed` are not as above; all that is wrong
            is said at once.
    """

    def __init__(
        self,
        X: ArrayLike,
        y: ArrayLike,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        features, targets = np.asarray(X), np.asarray(y)
        if features.ndim == 1:
            features = features.reshape(-1, 1)
        if wrong := _problems(features, targets, batch_size, seed):
            raise ValueError("; ".join(wrong))
        # Copies: what the caller does to the arrays later must not change the training.
        self.X = torch.from_numpy(np.array(features, order="C"))
        self.y = torch.from_numpy(np.array(targets, order="C"))
        self.n_samples, self.n_features = features.shape
        self.batch_size = batch_size
        self.order = RowOrder(self.n_samples, shuffle, seed)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the rows."""
        return len(self.train_dataloader())

    def train_dataloader(self) -> BatchLoader:
        """Serve the rows in the order of each epoch."""
        return self._loader(self.order)

    def val_dataloader(self) -> BatchLoader:
        """Serve the rows in order."""
        return self._loader(RowOrder(self.n_samples, shuffle=False, seed=0))

    def test_dataloader(self) -> BatchLoader:
        """Serve the rows in order."""
        return self.val_dataloader()

    def predict_dataloader(self) -> BatchLoader:
        """Serve the rows in order."""
        return self.val_dataloader()

    def _loader(self, order: RowOrder) -> BatchLoader:
        return BatchLoader(self.X, self.y, self.batch_size or self.n_samples, order)


def _problems(
    features: np.ndarray, targets: np.ndarray, batch_size: int | None, seed: int
) -> list[str]:
    """Say what is wrong with the arguments of `RegressionData`, each with its remedy."""
    wrong = []
    for name, array in (("X", features), ("y", targets)):
        if array.dtype.kind not in "biuf":
            wrong.append(f"{name}: expected real numbers; found dtype {array.dtype}")
        elif not np.isfinite(array).all():
            wrong.append(f"{name}: expected finite numbers; found nan or inf; remove those rows")
    if features.ndim != 2 or targets.shape != features.shape[:1] or 0 in features.shape:
        wrong.append(
            "expected X of shape (n_samples, n_features) and y of shape (n_samples,), none empty; "
            f"found {features.shape} and {targets.shape}"
        )
    elif batch_size is not None and not 1 <= batch_size <= len(features):
        wrong.append(
            f"batch_size: expected 1 to {len(features)}, the number of rows; found {batch_size}; "
            "leave it out for full batch"
        )
    if seed < 0:
        wrong.append(f"seed: expected 0 or more; found {seed}")
    return wrong
