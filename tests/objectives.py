"""Objectives that are written twice: in NumPy with the gradient by hand, as a user would bring
them to the cross-check, and in torch, whose autograd takes other operations in another order."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch


class Objective(NamedTuple):
    """A loss with its gradient in NumPy, and the loss in torch."""

    loss_and_gradient: Callable[[Any, Any], Any]
    by_torch: Callable[[Any, Any], Any]


OBJECTIVES: dict[str, Objective] = {}


def of_predictions(name: str, loss: Any, slope: Any, by_torch: Any) -> None:
    """Add the mean of a loss over linear predictions z, given its derivative by z."""

    def loss_and_gradient(parameters: Any, batch: Any) -> Any:
        X, y = batch[:2]
        z = X @ parameters["weight"] + parameters["bias"]
        s = slope(z, y) / len(y)
        return np.mean(loss(z, y)), {"weight": X.T @ s, "bias": s.sum()}

    def torch_loss(parameters: Any, batch: Any) -> Any:
        return by_torch(batch[0] @ parameters["weight"] + parameters["bias"], batch[1]).mean()

    OBJECTIVES[name] = Objective(loss_and_gradient, torch_loss)


functional = torch.nn.functional
of_predictions(
    "squares", lambda z, y: (z - y) ** 2, lambda z, y: 2 * (z - y), lambda z, y: (z - y).square()
)
of_predictions(
    "softplus",
    lambda z, y: np.logaddexp(0, z - y),
    lambda z, y: 1 / (1 + np.exp(y - z)),
    lambda z, y: torch.logaddexp(torch.zeros_like(z), z - y),
)
of_predictions(
    "logistic",
    lambda z, y: np.logaddexp(0, z) - (y > 0) * z,
    lambda z, y: np.exp(z - np.logaddexp(0, z)) - (y > 0),
    lambda z, y: functional.binary_cross_entropy_with_logits(z, (y > 0).to(z), reduction="none"),
)
of_predictions(
    "huber",
    lambda z, y: np.where(np.abs(z - y) < 0.5, (z - y) ** 2 / 2, (np.abs(z - y) - 0.25) / 2),
    lambda z, y: np.where(np.abs(z - y) < 0.5, z - y, 0.5 * np.sign(z - y)),
    lambda z, y: functional.huber_loss(z, y, delta=0.5, reduction="none"),
)
of_predictions(
    "huber, clipped",
    lambda z, y: (z - y) * np.clip(z - y, -1, 1) - np.clip(z - y, -1, 1) ** 2 / 2,
    lambda z, y: np.clip(z - y, -1, 1),
    lambda z, y: functional.smooth_l1_loss(z, y, reduction="none"),
)
of_predictions(
    "absolute",
    lambda z, y: np.abs(z - y),
    lambda z, y: np.sign(z - y),
    lambda z, y: functional.l1_loss(z, y, reduction="none"),
)
of_predictions(
    "poisson",
    lambda z, y: np.exp(z) - y * z,
    lambda z, y: np.exp(z) - y,
    lambda z, y: functional.poisson_nll_loss(z, y, reduction="none"),
)
of_predictions(
    "log cosh",
    lambda z, y: np.abs(z - y) + np.log1p(np.exp(-2 * np.abs(z - y))) - math.log(2),
    # As autograd has it: 1 − (1 − tanh), whose cancellation np.tanh would not allow for.
    lambda z, y: np.sign(z - y) * (1 - 2 * (1 - 1 / (1 + np.exp(-2 * np.abs(z - y))))),
    lambda z, y: (z - y).abs() + torch.log1p(torch.exp(-2 * (z - y).abs())) - math.log(2),
)
of_predictions(
    "cauchy",
    lambda z, y: np.log1p((z - y) ** 2),
    lambda z, y: 2 * (z - y) / (1 + np.square(z - y)),
    lambda z, y: torch.log1p((z - y) ** 2),
)
of_predictions(
    "pseudo-Huber",
    lambda z, y: np.sqrt(1 + (z - y) ** 2) - 1,
    lambda z, y: (z - y) * (1 + (z - y) ** 2) ** -0.5,
    lambda z, y: torch.sqrt(1 + (z - y) ** 2) - 1,
)


def objective(name: str, by_torch: Any) -> Any:
    """Add an objective by its loss and gradient in NumPy and its loss in torch."""

    def add(loss_and_gradient: Any) -> Any:
        OBJECTIVES[name] = Objective(loss_and_gradient, by_torch)
        return loss_and_gradient

    return add


def network_by_torch(activation: Any) -> Any:
    def loss(parameters: Any, batch: Any) -> Any:
        hidden = activation(batch[0] @ parameters["W"] + parameters["c"])
        return functional.mse_loss(hidden @ parameters["v"] + parameters["bias"], batch[1])

    return loss


def network(parameters: Any, batch: Any, activation: Any, slope: Any) -> Any:
    """Return the mean squared error of a perceptron with one hidden layer, and its gradient."""
    X, y = batch[:2]
    before = X @ parameters["W"] + parameters["c"]
    hidden = activation(before)
    r = hidden @ parameters["v"] + parameters["bias"] - y
    s = 2 * r / r.size
    back = s[:, None] * parameters["v"] * slope(before, hidden)
    gradient = {"W": X.T @ back, "c": np.sum(back, axis=0), "v": hidden.T @ s, "bias": np.sum(s)}
    return np.mean(r * r), gradient


@objective("perceptron with tanh", network_by_torch(torch.tanh))
def tanh_network(parameters: Any, batch: Any) -> Any:
    return network(parameters, batch, np.tanh, lambda _, hidden: 1 - hidden**2)


@objective("perceptron with relu", network_by_torch(torch.relu))
def relu_network(parameters: Any, batch: Any) -> Any:
    return network(parameters, batch, lambda z: np.maximum(z, 0), lambda z, _: z > 0)


@objective(
    "softmax", lambda p, batch: functional.cross_entropy(batch[0] @ p["W"] + p["c"], batch[2])
)
def softmax(parameters: Any, batch: Any) -> Any:
    X, _, labels = batch
    rows = np.arange(len(labels))
    z = X @ parameters["W"] + parameters["c"]
    z = z - z.max(axis=1, keepdims=True)
    total = np.exp(z).sum(axis=1, keepdims=True)
    p = np.exp(z) / total
    p[rows, labels] -= 1
    loss = np.mean(np.log(total[:, 0]) - z[rows, labels])
    return loss, {"W": X.T @ p / len(rows), "c": p.mean(axis=0)}


@objective(
    "norm and ridge",
    lambda p, batch: (
        torch.linalg.vector_norm(batch[0] @ p["weight"] - batch[1])
        + 0.1 * (p["weight"] ** 2).sum()
        + p["bias"] ** 3
    ),
)
def norm_and_ridge(parameters: Any, batch: Any) -> Any:
    X, y = batch[:2]
    weight, bias = parameters["weight"], parameters["bias"]
    r = np.dot(X, weight) - y
    length = np.sqrt(np.sum(r * r))
    gradient = {"weight": X.T @ (r / length) + 0.2 * weight, "bias": 3 * bias**2}
    return length + 0.1 * np.sum(weight * weight) + bias**3, gradient
