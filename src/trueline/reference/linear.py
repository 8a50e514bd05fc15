"""The model, its loss and its gradient, each written as in a textbook."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trueline.reference import rounding

Array = NDArray[np.float64]
Parameters = Mapping[str, Array]


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
    return np.asarray(X @ weight + bias)


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
    return np.asarray(prediction - y)


def mean_squared_error(X: Array, y: Array, weight: Array, bias: Array | float) -> float:
    """Return the loss `mean(r²)`, with no factor ½.

    Example:
        >>> mean_squared_error(np.array([[1.0], [2.0]]), np.array([3.0, 5.0]), np.array([2.0]), 0.0)
        1.0
    """
    r = residual(X, y, weight, bias)
    return float(np.mean(r * r))


def gradient(X: Array, y: Array, weight: Array, bias: Array | float) -> tuple[Array, Array]:
    """Differentiate the mean squared error.

    `∂/∂weight = 2/N·Xᵀr` and `∂/∂bias = 2/N·Σr`, where N is the number of residuals.

    Returns:
        The gradients by weight and by bias, each in its parameter's shape.

    Example:
        >>> X, y = np.array([[1.0], [2.0]]), np.array([3.0, 5.0])
        >>> gradient(X, y, np.array([2.0]), 0.0)
        (array([-3.]), array(-2.))
    """
    r = residual(X, y, weight, bias)
    return np.asarray(X.T @ r * (2 / r.size)), np.asarray(r.sum(axis=0) * (2 / r.size))


@dataclass(frozen=True)
class LeastSquares:
    """The objective that is minimised: `mean(r²) + l1·Σ|weight| + l2·Σweight²`.

    The bias is left out of the penalty, and since the loss is a mean, the strength of the penalty
    does not depend on the batch size.

    Args:
        l1: Strength of the L1 penalty, ≥ 0.
        l2: Strength of the L2 penalty, ≥ 0.

    Example:
        >>> X, y = np.array([[1.0], [2.0]]), np.array([3.0, 5.0])
        >>> parameters = {"weight": np.array([2.0]), "bias": np.array(0.0)}
        >>> loss, gradient = LeastSquares(l1=0.5, l2=0.25).loss_and_gradient(parameters, (X, y))
        >>> loss, gradient["weight"], gradient["bias"]
        (3.0, array([-1.5]), array(-2.))
    """

    l1: float = 0.0
    l2: float = 0.0

    def loss_and_gradient(
        self, parameters: Parameters, batch: tuple[Array, Array]
    ) -> tuple[float, dict[str, Array]]:
        """Return the objective and its gradient at `parameters` over one batch.

        At a weight of exactly 0 the L1 penalty has no derivative; the subgradient 0 is used, as
        torch does.

        Args:
            parameters: `weight` and `bias`.
            batch: `(X, y)`.

        Returns:
            The objective and a gradient for each parameter, under the parameters' names.
        """
        X, y = batch
        weight, bias = parameters["weight"], parameters["bias"]
        r = residual(X, y, weight, bias)
        loss = float(np.vdot(r, r)) / r.size
        by_weight = X.T @ r * (2 / r.size)
        if self.l1 or self.l2:
            loss += float(self.l1 * np.abs(weight).sum() + self.l2 * (weight * weight).sum())
            by_weight = by_weight + self.l1 * np.sign(weight) + 2 * self.l2 * weight
        return loss, {"weight": by_weight, "bias": np.asarray(r.sum(axis=0) * (2 / r.size))}

    def rounding_bound(
        self, parameters: Parameters, batch: tuple[Array, Array], unit_roundoff: float
    ) -> tuple[float, dict[str, Array]]:
        """Bound how far a correct evaluation with rounding may be from `loss_and_gradient`.

        Args:
            parameters: `weight` and `bias`.
            batch: `(X, y)`.
            unit_roundoff: Of the arithmetic that is judged, see `rounding.unit_roundoff`.

        Returns:
            A bound on the loss and one on each gradient, entry by entry.
        """
        X, y = batch
        weight, bias = parameters["weight"], parameters["bias"]
        return rounding.least_squares_bound(X, y, weight, bias, self.l1, self.l2, unit_roundoff)
