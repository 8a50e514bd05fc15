"""A LightningDataModule around rows, arrays in memory unless a subclass has them in a file."""

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from numpy.typing import ArrayLike
from torch.utils.data import TensorDataset

from trueline.data.blocks import BatchLoader, InOrder
from trueline.data.order import RowOrder
from trueline.data.problems import array_problems
from trueline.data.spool import Spool, SpooledRows, columns
from trueline.planning.rates import tuned
from trueline.reference.solve import stable_lr
from trueline.reference.triangle import Line, Triangle, triangle_of
from trueline.scaling import Scaling
from trueline.statistics.span import Categories, Span, span_under

EVALUATED_AT_ONCE = 2**23
"""Numbers in a batch that is validated, tested or predicted: 64 MB. The batch size concerns
training alone, and does not change a mean over all rows."""
ROWS_AT_ONCE = 2**14
"""Rows that are looked at together in a pass over all of them."""


class RegressionData(LightningDataModule):
    """Rows of features and targets, held in memory and served in batches.

    A batch is `(X, y)`, or `(X, y, sample_weight)` where the rows have weights. Training,
    validation, test and prediction all see the same rows, unless `held_out` has others.

    Args:
        X: Features, shape (n_samples, n_features) or (n_samples,), any real numeric dtype.
        y: Targets, shape (n_samples,) or (n_samples, n_targets), any real numeric dtype. A single
            column is held as (n_samples,).
        batch_size: Rows per optimizer step, over all processes, from 1 to n_samples; full batch
            unless given.
        shuffle: Whether each epoch visits the rows in an order of its own.
        seed: Seed of those orders, ≥ 0. An order depends on nothing but (seed, epoch).
        sample_weight: How much each row counts in the loss, a weighted mean; shape (n_samples,),
            > 0. Each row counts alike unless given.

    Attributes:
        held_out: Rows for validation, `val`, and test, `test`.
        scaling: What was done to the features before they came here; None for nothing.
        feature_names: Of each feature; None where they have none.
        target_names: Of each target; None where they have none.
        categories: Levels of each category among the features, the base level first.

    Raises:
        ValueError: When shapes, dtypes, numbers, `batch_size` or `seed` are not as above; all that
            is wrong is said at once.

    Example:
        >>> data = RegressionData([1, 2, 3], [[1, 10], [2, 20], [3, 30]], sample_weight=[1, 1, 2])
        >>> data.n_samples, data.n_features, data.n_targets
        (3, 1, 2)
    """

    spooled: SpooledRows | None

    def __init__(
        self,
        X: ArrayLike,
        y: ArrayLike,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        sample_weight: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        features, targets = np.asarray(X), np.asarray(y)
        weights = None if sample_weight is None else np.asarray(sample_weight)
        if features.ndim == 1:
            features = features.reshape(-1, 1)
        if targets.ndim == 2 and targets.shape[1] == 1:
            targets = targets[:, 0]
        if wrong := array_problems(features, targets, weights, batch_size, seed):
            raise ValueError("; ".join(wrong))
        matrix, self.spooled = _joined(features, targets, weights), None
        n_features, n_targets = features.shape[1], targets[0].size
        # Copies: what the caller does to the arrays later must not change the training.
        if features.dtype == targets.dtype == matrix.dtype:
            X, y, _ = columns(matrix, n_features, n_targets)
            self.X, self.y = torch.from_numpy(X), torch.from_numpy(y)
        else:
            self.X = torch.from_numpy(np.array(features, order="C"))
            self.y = torch.from_numpy(np.array(targets, order="C"))
        self.sample_weight = None if weights is None else torch.from_numpy(np.array(weights))
        self._keep(matrix)
        self.serve(
            len(features),
            float(max(matrix.max(), -matrix.min())),
            (n_features, n_targets),
            batch_size,
            RowOrder(len(features), True, seed) if shuffle else InOrder(len(features)),
        )

    def __str__(self) -> str:
        """Return what the data holds; of rows that are not read yet, the class alone."""
        if "n_samples" not in vars(self):
            return f"{type(self).__name__}, not read yet"
        batches = self.batch_size or self.n_samples
        return (
            f"{type(self).__name__}: {self.n_samples:,} rows of {self.n_features} features and "
            f"{self.n_targets} targets, {batches:,} in a batch"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: not the Trainer."""
        return {**vars(self), "trainer": None}

    def _keep(self, matrix: np.ndarray | Spool) -> None:
        """Take the matrix of all rows, `[x, y]` or `[x, y, weight]`, in memory or in a file."""
        self._matrix = matrix
        self._joined_from = self._parts()

    def _parts(self) -> list[tuple[Any, int]]:
        """Return X, y and weights, each with how often torch has changed it in place."""
        parts = () if self.spooled else (self.X, self.y, self.sample_weight)
        # Tensors that were made in inference mode count no changes.
        return [
            (part, 0 if part is None or part.is_inference() else part._version) for part in parts
        ]

    @property
    def matrix(self) -> np.ndarray | Spool:
        """All rows, `[x, y]` or `[x, y, weight]`; made anew where X, y or weights were changed."""
        pairs = zip(self._parts(), self._joined_from, strict=True)
        if any(now is not held or changes != then for (now, changes), (held, then) in pairs):
            arrays: Any = (None if part is None else part.numpy() for part, _ in self._parts())
            self._keep(_joined(*arrays))
        return self._matrix

    @property
    def dataset(self) -> TensorDataset | SpooledRows:
        """The rows that are served."""
        if self.spooled is not None:
            return self.spooled
        return TensorDataset(*(t for t in (self.X, self.y, self.sample_weight) if t is not None))

    def serve(
        self,
        n_samples: int,
        largest: float,
        columns: tuple[int, int],
        batch_size: int | None,
        order: RowOrder,
    ) -> None:
        """Say what is served.

        Args:
            n_samples: Number of rows.
            largest: The largest entry of the rows in magnitude.
            columns: Of X and of y.
            batch_size: Rows per optimizer step; None for all.
            order: Of the rows of an epoch.
        """
        self.n_samples = n_samples
        self.largest = largest
        self.n_features, self.n_targets = columns
        self.batch_size = batch_size
        self.order = order
        self.held_out: dict[str, RegressionData] = {}
        self.scaling: Scaling | None = None
        self.feature_names: Sequence[str] | None = None
        self.target_names: Sequence[str] | None = None
        self.categories: Categories = {}

    def blocks(self) -> Iterator[tuple[Any, Any, Any]]:
        """Return all rows as arrays X, y and weights or None, some at a time."""
        if self.spooled is not None:
            yield from self.spooled.blocks()
            return
        for first in range(0, self.n_samples, ROWS_AT_ONCE):
            X, y, weight = (
                None if tensor is None else tensor[first : first + ROWS_AT_ONCE].numpy()
                for tensor in (self.X, self.y, self.sample_weight)
            )
            yield X, y, weight

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the rows."""
        return len(self.train_dataloader())

    @cached_property
    def triangle(self) -> Triangle:
        """All training rows as their triangle, in the units that they came in."""
        return triangle_of(self.blocks())

    @property
    def fitted_rows(self) -> Triangle:
        """The rows that a line was trained on, which may be others than those that are served."""
        return self.triangle

    @cached_property
    def trained_on(self) -> Triangle:
        """The same of the rows as they are trained on."""
        return self.triangle if self.scaling is None else self.scaling.rows(self.triangle)

    def span(self, module: LightningModule) -> Span | None:
        """Return which predictions and coefficients the training rows determine.

        Args:
            module: A LinearRegression, whose penalties determine some of them too.

        Returns:
            The equations that the training rows satisfy; None where the rows are not finite.
        """
        rows = self.fitted_rows
        if not np.isfinite(rows.R).all():
            return None
        trained_on = rows if self.scaling is None else self.scaling.rows(rows)
        return span_under(rows, trained_on, line_of(module), module.hparams)

    def in_units(self, line: Line) -> Line:
        """Return a trained line in the units that the rows came in."""
        return line if self.scaling is None else self.scaling.in_units(line)

    def tuned(self, h: Mapping[str, Any]) -> dict[str, float]:
        """Return lr and momentum for these rows and batches, with numbers in the place of auto.

        Args:
            h: Hyperparameters of LinearRegression.

        Raises:
            ValueError: When no number does, with what to change.
        """
        if self.full_batch:
            return tuned(self.trained_on, h)
        # In an order of the data's own, or with weights, the steepest rows may make up a batch.
        drawn = not self.weighted and not isinstance(self.order, InOrder)
        batch_size = (self.batch_size or 1) if drawn else 1
        return tuned(self.trained_on, h, batch_size, 1 + self.longest)

    @np.errstate(over="ignore", invalid="ignore")
    def largest_stable_lr(self, h: Mapping[str, Any]) -> float:
        """Return the learning rate above which full-batch SGD on these rows diverges.

        Args:
            h: Hyperparameters by name; those that are missing are taken as 0.

        Returns:
            The limit; 0 for data so large that it cannot be worked out.
        """
        known = inspect.signature(stable_lr).parameters.keys() & h.keys()
        curvature = self.trained_on.curvature(h.get("l2", 0.0)) + h.get("weight_decay", 0.0)
        return stable_lr(curvature, **{name: h[name] for name in known})

    @property
    def full_batch(self) -> bool:
        """Whether each step takes in all rows."""
        return self.batch_size in (None, self.n_samples)

    @property
    def weighted(self) -> bool:
        """Whether rows have weights."""
        return self.spooled.weighted if self.spooled else self.sample_weight is not None

    @property
    def held_bytes(self) -> int:
        """Bytes that the rows take in memory."""
        if self.spooled is not None:
            return self.order.pool * self.spooled.spool.row_bytes
        tensors = (t for t in (self.X, self.y, self.sample_weight) if t is not None)
        held = torch.from_numpy(self.matrix)
        storages = [t.untyped_storage() for t in (held, *tensors)]
        return sum({s.data_ptr(): s.nbytes() for s in storages}.values())

    @cached_property
    def longest(self) -> float:
        """The largest `‖x‖²` of a row, as it is trained on."""
        return max(float(X.double().square().sum(1).max()) for X in self.X.split(2**14))

    @cached_property
    def digest(self) -> str:
        """A hash of all rows, by which a training that goes on knows its data again."""
        kinds = ""
        # One each for X, y and the weights, so that the size of the blocks does not matter.
        digests = [hashlib.sha256() for _ in range(3)]
        for block in self.blocks():
            for array, digest in zip(block, digests, strict=True):
                if array is not None:
                    digest.update(np.ascontiguousarray(array).data)
            kinds = " ".join("none" if a is None else f"{a.dtype} {a.shape[1:]}" for a in block)
        whole = "\n".join([kinds, *(digest.hexdigest() for digest in digests)])
        return hashlib.sha256(whole.encode()).hexdigest()[:32]

    def train_dataloader(self) -> BatchLoader:
        """Serve the rows in the order of each epoch; of each batch, this process's share."""
        # The batches that are to be overfitted are the same in every epoch.
        overfit = getattr(self.trainer, "overfit_batches", 0)
        order = InOrder(self.n_samples) if overfit else self.order
        loader = self._loader(order, self.batch_size or self.n_samples)
        limit = getattr(self.trainer, "limit_train_batches", 1.0)
        batches = int(limit * len(loader)) if isinstance(limit, float) else limit
        loader.limit = max(1, min(batches, len(loader)))
        return loader

    def val_dataloader(self) -> BatchLoader:
        """Serve the rows for validation in order; of each batch, this process's share."""
        return self._in_order("val")

    def test_dataloader(self) -> BatchLoader:
        """Serve the rows for tests in order; of each batch, this process's share."""
        return self._in_order("test")

    def _in_order(self, name: str) -> BatchLoader:
        data = self.held_out.get(name, self)
        data.trainer = self.trainer
        return data._loader(InOrder(data.n_samples), data.evaluated_at_once)

    def predict_dataloader(self) -> BatchLoader:
        """Serve the rows in order, all of them to every process: the first one writes them."""
        return self._loader(InOrder(self.n_samples), self.evaluated_at_once, shared=False)

    @property
    def evaluated_at_once(self) -> int:
        """Rows in a batch that is not trained on."""
        width = self.n_features + 1 + self.n_targets
        return min(max(1, EVALUATED_AT_ONCE // width), self.n_samples)

    def _loader(self, order: RowOrder, batch_size: int, shared: bool = True) -> BatchLoader:
        trainer = self.trainer if shared else None
        share = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return BatchLoader(self.dataset, batch_size, order, *share, self.matrix, self.largest)


def line_of(module: LightningModule) -> Line:
    """Return the line that a LinearRegression has at present, in float64, in the shapes it has."""
    named = {name: p.detach().cpu().double().numpy() for name, p in module.named_parameters()}
    return Line(named["weight"], named["bias"])


def _joined(features: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return rows `[x, y]` or `[x, y, weight]` in one floating dtype, as one matrix."""
    parts = [features, targets.reshape(len(targets), -1)]
    if weights is not None:
        parts.append(weights[:, None])
    return np.concatenate(parts, axis=1, dtype=np.result_type(*parts, np.float32))
