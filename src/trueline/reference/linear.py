"""The model, its loss and its gradient, each written as in a textbook."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.reference.bounded import bound_by_running
from trueline.reference.rounding import Arithmetic, least_squares_bound

Array = NDArray[np.float64]
Parameters = Mapping[str, Array]
Batch = tuple[Array, ...]


def predict(X: Array, weight: Array, bias: Array | float) -> Array:
    """Predict the targets: `ŷ = X·weight + bias`.

    Args:
        X: Features, shape (n_samples, n_features).
        weight: Shape (n_features,) or (n_features, n_targets).
        bias: Shape () or (n_targets,).

    Returns:
        Predictions, shape (n_samples,) or (n_samples, n_targets).

    Example:
        >>> predict(np.array([[1.0], [2.0]]), weight=np.array([3.0]), bias=0.5)
        array([3.5, 6.5])
    """
    prediction: Array = X @ weight + bias
    return prediction


def residual(X: Array, y: Array, weight: Array, bias: Array | float) -> Array:
    """Return `r = ŷ − y`, after checking that the shapes agree.

    Raises:
        ValueError: When the shape of `y` is not that of the predictions. Subtracting would then
            broadcast, silently, to (n_samples, n_samples).
    """
    prediction = predict(X, weight, bias)
    if prediction.shape != np.shape(y):
        raise ValueError(
            f"expected y of shape {prediction.shape}, the shape of X·weight + bias; "
            f"found {np.shape(y)}; reshape y"
        )
    r: Array = prediction - y
    return r


def mean_squared_error(
    X: Array,
    y: Array,
    weight: Array,
    bias: Array | float,
    sample_weight: Array | None = None,
) -> float:
    """Return the loss `mean(r²)`, with no factor ½; a weighted mean where rows have weights.

    Example:
        >>> X, y, weight = np.array([[1.0], [2.0]]), np.array([3.0, 5.0]), np.array([2.0])
        >>> mean_squared_error(X, y, weight, bias=0.0)
        1.0
    """
    r = residual(X, y, weight, bias)
    return float(np.sum(_share(r, sample_weight) * r * r))


def gradient(
    X: Array,
    y: Array,
    weight: Array,
    bias: Array | float,
    sample_weight: Array | None = None,
) -> tuple[Array, Array]:
    """Differentiate the mean squared error.

    `∂/∂weight = 2·Xᵀ(s∘r)` and `∂/∂bias = 2·Σs∘r`, where s is the share of each residual in the
    mean: 1/N for N residuals without sample weights.

    Returns:
        The gradients by weight and by bias, each in its parameter's shape.

    Example:
        >>> X, y = np.array([[1.0], [2.0]]), np.array([3.0, 5.0])
        >>> gradient(X, y, np.array([2.0]), 0.0)
        (array([-3.]), array(-2.))
    """
    r = residual(X, y, weight, bias)
    r = 2 * _share(r, sample_weight) * r
    return np.asarray(X.T @ r), np.asarray(r.sum(axis=0))


def _share(r: Array, sample_weight: Array | None) -> Any:
    """Return the share of each residual in the mean, in a shape that broadcasts with `r`."""
    if sample_weight is None:
        return 1 / r.size
    share = sample_weight / np.sum(sample_weight) * (len(r) / r.size)
    return share if r.ndim == 1 else share[:, None]


@dataclass(frozen=True)
class LeastSquares:
    """The objective that is minimised: `mean(r²) + l1·Σ|weight| + l2·Σweight²`.

    The bias is left out of the penalty, and since the loss is a mean, the strength of the penalty
    does not depend on the batch size. Where rows have weights, the mean is weighted by them.

    Args:
        l1: Strength of the L1 penalty, ≥ 0.
        l2: Strength of the L2 penalty, ≥ 0.

    Example:
        >>> X, y = np.array([[1.0], [2.0]]), np.array([3.0, 5.0])
        >>> parameters = {"weight": np.array([2.0]), "bias": np.array(0.0)}
        >>> loss, gradient = LeastSquares(l1=0.5, l2=0.25).loss_and_gradient(parameters, (X, y))
        >>> loss, gradient["weight"], gradient["bias"]
        (np.float64(3.0), array([-1.5]), np.float64(-2.0))
    """

    l1: float = 0.0
    l2: float = 0.0

    def loss_and_gradient(
        self, parameters: Parameters, batch: Batch
    ) -> tuple[Any, dict[str, Array]]:
        """Return the objective and its gradient at `parameters` over one batch.

        At a weight of exactly 0 the L1 penalty has no derivative; the subgradient 0 is used, as
        torch does.

        Args:
            parameters: `weight` and `bias`.
            batch: `(X, y)` or `(X, y, sample_weight)`.

        Returns:
            The objective and a gradient for each parameter, under the parameters' names.
        """
        X, y, *sample_weight = batch
        weight, bias = parameters["weight"], parameters["bias"]
        r = residual(X, y, weight, bias)
        part = _share(r, *sample_weight or (None,)) * r
        loss = np.sum(part * r)
        by_weight = X.T @ (2 * part)
        if self.l1 or self.l2:
            loss = loss + self.l1 * np.sum(np.abs(weight)) + self.l2 * np.sum(weight * weight)
            by_weight = by_weight + self.l1 * np.sign(weight) + 2 * self.l2 * weight
        return loss, {"weight": by_weight, "bias": np.sum(2 * part, axis=0)}

    def judge_steps(
        self, parameters: Parameters, batches: Batch, arithmetic: Arithmetic
    ) -> tuple[Array, dict[str, Array], Array, dict[str, Array]]:
        """Do the work of `loss_and_gradient` and `rounding_bound` for many steps at once.

        Args:
            parameters: `weight` and `bias` before each step, with an axis for the steps in front.
            batches: The arrays of each step's batch, with an axis for the steps in front.
            arithmetic: One that rounds everything alike.

        Returns:
            Losses, gradients, and a bound on each, with an axis for the steps in front.
        """
        X, y, *sample_weight = batches
        weight, bias = parameters["weight"], parameters["bias"]
        several = y.ndim == 3
        if not several:
            y, weight, bias = y[..., None], weight[..., None], bias[..., None]
        bias = bias[:, None, :]
        n = y.shape[1] * y.shape[2]
        share: Any = 1 / n
        if sample_weight:
            total = sample_weight[0].sum(axis=1, keepdims=True) * y.shape[2]
            share = (sample_weight[0] / total)[..., None]
        r = X @ weight + bias - y
        part = share * r
        X_T = np.swapaxes(X, 1, 2)
        loss = np.sum(part * r, axis=(1, 2))
        by_weight = X_T @ (2 * part)
        if self.l1 or self.l2:
            loss = loss + np.sum(self.l1 * np.abs(weight) + self.l2 * weight**2, axis=(1, 2))
            by_weight = by_weight + self.l1 * np.sign(weight) + 2 * self.l2 * weight
        penalties, u = (self.l1, self.l2), arithmetic.stored
        loss_bound, bounds = least_squares_bound(X, y, share, weight, bias, *penalties, u)
        gradients = {"weight": by_weight, "bias": np.sum(2 * part, axis=1)}
        if not several:
            gradients, bounds = (
                {name: array[..., 0] for name, array in arrays.items()}
                for arrays in (gradients, bounds)
            )
        return loss, gradients, loss_bound, bounds

    def size(self, batch: Batch) -> float:
        """Return how much a batch counts beside others: its rows, or the sum of their weights."""
        X, _, *sample_weight = batch
        return float(np.sum(sample_weight[0])) if sample_weight else len(X)

    def rounding_bound(
        self, parameters: Parameters, batch: Batch, arithmetic: Arithmetic
    ) -> tuple[float, dict[str, Array]]:
        """Bound how far a correct evaluation with rounding may be from `loss_and_gradient`.

        Args:
            parameters: `weight` and `bias`.
            batch: `(X, y)` or `(X, y, sample_weight)`.
            arithmetic: That of the training that is judged.

        Returns:
            A bound on the loss and one on each gradient, entry by entry.
        """
        if not arithmetic.uniform:
            # Integers too are brought to the dtype, which may hold only a few of their digits.
            floats = tuple(np.asarray(part, np.float64) for part in batch)
            return bound_by_running(self, parameters, floats, arithmetic)
        stacked = {name: np.asarray(value)[None] for name, value in parameters.items()}
        _, _, loss, gradients = self.judge_steps(
            stacked, tuple(part[None] for part in batch), arithmetic
        )
        return loss[0], {name: bound[0] for name, bound in gradients.items()}
