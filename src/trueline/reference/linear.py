"""The model, its loss and its gradient, each written as in a textbook."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.reference.rounding import Arithmetic, least_squares_bound
from trueline.reference.running_error import bound_by_running

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


def mean_squared_error(
    X: Array,
    y: Array,
    weight: Array,
    bias: Array | float,
    sample_weight: Array | None = None,
) -> float:
    """Return the loss `mean(r²)`, with no factor ½; a weighted mean where rows have weights.

    Args:
        X: Features, shape (n_samples, n_features).
        y: Targets, shape (n_samples,) or (n_samples, n_targets).
        weight: Shape (n_features,) or (n_features, n_targets).
        bias: Shape () or (n_targets,).
        sample_weight: How much each row counts, shape (n_samples,), > 0; alike unless given.

    Returns:
        The loss, ≥ 0.

    Example:
        >>> X, y, weight = np.array([[1.0], [2.0]]), np.array([3.0, 5.0]), np.array([2.0])
        >>> mean_squared_error(X, y, weight, bias=0.0)
        1.0
    """
    return float(_plain(X, y, weight, bias, sample_weight)[0])


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

    Args:
        X: Features, shape (n_samples, n_features).
        y: Targets, shape (n_samples,) or (n_samples, n_targets).
        weight: Shape (n_features,) or (n_features, n_targets).
        bias: Shape () or (n_targets,).
        sample_weight: How much each row counts, shape (n_samples,), > 0; alike unless given.

    Returns:
        The gradients by weight and by bias, each in its parameter's shape.

    Example:
        >>> X, y = np.array([[1.0], [2.0]]), np.array([3.0, 5.0])
        >>> gradient(X, y, np.array([2.0]), 0.0)
        (array([-3.]), array(-2.))
    """
    found = _plain(X, y, weight, bias, sample_weight)[1]
    return np.asarray(found["weight"]), np.asarray(found["bias"])


def _plain(X: Array, y: Array, weight: Array, bias: Any, sample_weight: Array | None) -> Any:
    batch = (X, y) if sample_weight is None else (X, y, sample_weight)
    return LeastSquares().loss_and_gradient({"weight": weight, "bias": np.asarray(bias)}, batch)


def share_of(n_targets: int, n_samples: int, sample_weight: Array | None = None) -> Any:
    """Return the share of each residual in the mean: 1/N, or w/Σw for each target.

    Args:
        n_targets: Columns of y.
        n_samples: Rows of y.
        sample_weight: Shape (..., n_samples); alike unless given.

    Returns:
        A number, or shape (..., n_samples).
    """
    if sample_weight is None:
        return 1 / (n_samples * n_targets)
    return sample_weight / sample_weight.sum(axis=-1, keepdims=True) / n_targets


@dataclass(frozen=True)
class LeastSquares:
    """The objective that is minimised: `mean(r²) + l1·Σ|weight| + l2·Σweight²`.

    The bias is left out of the penalty, and since the loss is a mean, the strength of the penalty
    does not depend on the batch size. Where rows have weights, the mean is weighted by them.

    The gradient is that of `mean(r²) + l2·Σweight²`. The L1 penalty has none at 0; the step takes
    it by a soft threshold, see `SGD`.

    Args:
        l1: Strength of the L1 penalty, ≥ 0.
        l2: Strength of the L2 penalty, ≥ 0.

    Example:
        >>> X, y = np.array([[1.0], [2.0]]), np.array([3.0, 5.0])
        >>> parameters = {"weight": np.array([2.0]), "bias": np.array(0.0)}
        >>> loss, gradient = LeastSquares(l1=0.5, l2=0.25).loss_and_gradient(parameters, (X, y))
        >>> loss, gradient["weight"], gradient["bias"]
        (np.float64(3.0), array([-2.]), array(-2.))
    """

    l1: float = 0.0
    l2: float = 0.0

    @property
    def thresholds(self) -> dict[str, float]:
        """The strength of the L1 penalty on each parameter that has one."""
        return {"weight": self.l1} if self.l1 else {}

    def loss_and_gradient(
        self, parameters: Parameters, batch: Batch
    ) -> tuple[Any, dict[str, Array]]:
        """Return the objective, and the gradient of its smooth part, over one batch.

        Args:
            parameters: `weight` and `bias`.
            batch: `(X, y)` or `(X, y, sample_weight)`.

        Returns:
            The objective and a gradient for each parameter, under the parameters' names.

        Raises:
            ValueError: When the shape of `y` is not that of the predictions. Subtracting would then
                broadcast, silently, to (n_samples, n_samples).
        """
        X, y, *_ = batch
        shape = X.shape[:1] + parameters["weight"].shape[1:]
        if np.shape(y) != shape:
            raise ValueError(
                f"expected y of shape {shape}, the shape of X·weight + bias; found {np.shape(y)}; "
                "reshape y"
            )
        loss, gradients = self._evaluate(*_with_targets(parameters, batch))
        return loss, _as_given(gradients, y.ndim == 1)

    def _evaluate(
        self, X: Array, y: Array, share: Any, weight: Array, bias: Array
    ) -> tuple[Any, dict[str, Array]]:
        """Return objective and gradient, whatever axes are in front of rows, columns, targets."""
        r = X @ weight + bias - y
        part = share * r
        loss = (part * r).sum(axis=(-2, -1))
        by_weight = X.swapaxes(-2, -1) @ (2 * part)
        if self.l1 or self.l2:
            penalties = self.l1 * np.abs(weight) + self.l2 * weight * weight
            loss = loss + penalties.sum(axis=(-2, -1))
            by_weight = by_weight + 2 * self.l2 * weight
        return loss, {"weight": by_weight, "bias": (2 * part).sum(axis=-2)}

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
        arrays, single = _with_targets(parameters, batches), batches[1].ndim == 2
        loss, gradients = self._evaluate(*arrays)
        penalties, u = (self.l1, self.l2), arithmetic.stored
        loss_bound, bounds = least_squares_bound(*arrays, *penalties, u)
        return loss, _as_given(gradients, single), loss_bound, _as_given(bounds, single)

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


def _with_targets(parameters: Parameters, batch: Batch) -> tuple[Array, Array, Any, Array, Array]:
    """Return X, y, share, weight and bias, the last four with an axis for the targets."""
    X, y, *sample_weight = batch
    weight, bias = parameters["weight"], parameters["bias"]
    if y.ndim < X.ndim:
        y, weight, bias = y[..., None], weight[..., None], bias[..., None]
    share = share_of(y.shape[-1], y.shape[-2], *sample_weight)
    return X, y, share[..., None] if sample_weight else share, weight, bias[..., None, :]


def _as_given(gradients: dict[str, Array], single: bool) -> dict[str, Array]:
    """Drop the axis for the targets where there is one target."""
    return {name: g[..., 0] for name, g in gradients.items()} if single else gradients
