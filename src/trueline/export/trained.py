"""What a training came to, read from its checkpoint."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trueline.checkpoints.loading import check_fits, load
from trueline.checkpoints.reading import PREPROCESSING, refusing
from trueline.data.learned import Learned
from trueline.errors import RequestError
from trueline.module import LinearRegression
from trueline.reference.triangle import Line, Triangle
from trueline.scaling import Scaling
from trueline.statistics.span import Span, span_under
from trueline.tables import Feature


class Trained(NamedTuple):
    """A model with its parameters, and what is known of the columns that it was trained on.

    Args:
        model: With the parameters of the checkpoint, in their dtype.
        learned: Of the table; None where the features had no names.
        whole: Training rows of a line without a table; None where they are not known.
    """

    model: LinearRegression
    learned: Learned | None
    whole: Triangle | None = None

    @property
    def rows(self) -> Triangle | None:
        """The training rows in their units; None where they are not known."""
        return self.whole if self.learned is None else self.learned.rows

    @property
    def span(self) -> Span | None:
        """What the training rows determine; None where that is everything, or not known."""
        if self.rows is None:
            return None
        trained_on = self.scaling.rows(self.rows)
        found = span_under(self.rows, trained_on, self.line, self.model.hparams)
        return None if found.is_whole else found

    @property
    def names(self) -> list[str]:
        """The names of the columns of X; of columns without names those in `predictions.csv`."""
        if self.learned is not None:
            return list(self.learned.columns.feature_names)
        n = len(self.model.weight)
        return ["X"] if n == 1 else [f"X_{j}" for j in range(n)]

    @property
    def line(self) -> Line:
        """The parameters as trained: weight (n_features, n_targets), bias (n_targets,)."""
        weight, bias = (p.detach().double().numpy() for p in (self.model.weight, self.model.bias))
        return Line(weight.reshape(len(weight), -1), bias.reshape(-1))

    @property
    def scaling(self) -> Scaling:
        """What was done to the features; where that was nothing, what does nothing."""
        if self.learned is not None and self.learned.scaling is not None:
            return self.learned.scaling
        n_features = len(self.model.weight)
        return Scaling(np.zeros(n_features), np.ones(n_features))

    @property
    def in_units(self) -> Line:
        """The line that predicts from features in their own units, in the shapes of `line`."""
        return self.scaling.in_units(self.line)

    @property
    def numeric(self) -> NDArray[np.bool_]:
        """Which columns of X are numbers, and not levels of a category."""
        found = np.ones(len(self.model.weight), dtype=bool)
        for feature, at in self.features:
            found[at] = feature.levels is None
        return found

    @property
    def at_means(self) -> NDArray[np.float64]:
        """The prediction for the mean of each number and the base of each category, (n_targets,).

        Unlike the intercept, which is as far away as 0 is from the rows, it has all its digits.
        """
        mean = np.where(self.numeric, 0.0, self.scaling.mean)
        return np.asarray(self.line.bias - mean @ self.in_units.weight)

    @property
    def features(self) -> list[tuple[Feature, slice]]:
        """The columns of the table, each with its place among the columns of X."""
        found, first = [], 0
        for feature in self.learned.columns.features if self.learned else ():
            found.append((feature, slice(first, first + feature.width)))
            first += feature.width
        return found


def restore(path: str) -> Trained:
    """Read a checkpoint.

    Args:
        path: Of a file, or an address.

    Returns:
        The model with its parameters, and what the checkpoint knows of the table.

    Raises:
        RequestError: When it cannot be read, is not one that `trueline fit` has written, or its
            line is beyond float64 in the units of the table.
    """
    checkpoint = load(path, resume=False)
    learned = Learned.of(path) if PREPROCESSING in checkpoint else None
    with refusing(path):
        sizes = _sizes(checkpoint["state_dict"]["weight"])
        if learned is not None:
            sizes = len(learned.columns.feature_names), len(learned.columns.targets)
        penalties = {
            name: checkpoint["hyper_parameters"].get(name, 0.0)
            for name in ("l1", "l2", "weight_decay")
        }
        model = LinearRegression(*sizes, **penalties)
    check_fits(path, checkpoint, model)
    model.to(checkpoint["state_dict"]["weight"].dtype)
    model.load_state_dict(checkpoint["state_dict"])
    trained = Trained(model, learned)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = all(np.isfinite(part).all() for part in trained.in_units)
    if not finite:
        raise RequestError(
            f"ckpt_path: expected a line of finite numbers in the units of its table, found "
            f"otherwise in {path}; train again without such columns"
        )
    return trained


def _sizes(weight: Any) -> tuple[int, int]:
    """Return how many features and targets there are, of what takes the memory that it says."""
    sound = isinstance(weight, torch.Tensor) and weight.layout == torch.strided
    if not (sound and not weight.is_meta and weight.is_contiguous() and weight.ndim in (1, 2)):
        raise ValueError("weight: expected numbers, one or more columns of them")
    return weight.shape[0], weight.shape[1] if weight.ndim == 2 else 1
