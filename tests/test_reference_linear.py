"""`reference.linear`: the model, its loss and its gradient.

Oracles: arithmetic done by hand, central finite differences, and torch's autograd with MSELoss.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trueline.reference import LeastSquares, gradient, mean_squared_error, predict

# n_samples, n_features, and the shape of a bias: () for one target, (n_targets,) for several.
SHAPES = [(1, 1, ()), (9, 1, ()), (9, 4, ()), (3, 5, ()), (9, 1, (1,)), (9, 4, (3,))]
PENALTIES = [(0.0, 0.0), (0.7, 0.0), (0.0, 0.3), (0.7, 0.3)]


def problem(n_samples: int, n_features: int, targets: tuple[int, ...]) -> dict[str, Any]:
    """Draw data and parameters; no weight is nearer to 0 than 0.25, where the L1 penalty bends."""
    rng = np.random.default_rng(n_samples * 100 + n_features)
    weight = (
        rng.uniform(0.25, 2.0, (n_features, *targets))
        * rng.choice([-1.0, 1.0], n_features)[(..., *(None for _ in targets))]
    )
    return {
        "X": rng.normal(1.0, 3.0, (n_samples, n_features)),
        "y": rng.normal(5.0, 2.0, (n_samples, *targets)),
        "weight": weight,
        "bias": rng.normal(size=targets),
    }


def objective(l1: float, l2: float, X: Any, y: Any, weight: Any, bias: Any) -> tuple[float, Any]:
    return LeastSquares(l1, l2).loss_and_gradient({"weight": weight, "bias": bias}, (X, y))


def difference_quotients(loss: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Differentiate by central differences; for a parabola they are exact at any width."""
    width, found = 0.125, np.empty_like(at)
    for i in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[i] = width
        found[i] = (loss(at + step) - loss(at - step)) / (2 * width)
    return found


def test_linear_agrees_with_hand_computed_example() -> None:
    X, y = np.array([[1.0], [2.0], [3.0]]), np.array([2.0, 3.0, 7.0])
    weight, bias = np.array([2.0]), np.array(-1.0)
    # ŷ = 1, 3, 5, so r = −1, 0, −2; Σr² = 5, Σx·r = −7, Σr = −3; each mean is over 3.
    np.testing.assert_array_equal(predict(X, weight, bias), [1.0, 3.0, 5.0])
    assert mean_squared_error(X, y, weight, bias) == pytest.approx(5 / 3, rel=1e-15)
    by_weight, by_bias = gradient(X, y, weight, bias)
    np.testing.assert_allclose(by_weight, [-14 / 3], rtol=1e-15)
    np.testing.assert_allclose(by_bias, -2.0, rtol=1e-15)


def test_linear_with_several_targets_agrees_with_hand_computed_example() -> None:
    X, y = np.eye(2), np.array([[11.0, 20.0], [12.0, 24.0]])
    weight, bias = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([10.0, 20.0])
    # ŷ = [[11, 22], [13, 24]], so r = [[0, 2], [1, 0]]: four residuals, 2/N = ½.
    np.testing.assert_array_equal(predict(X, weight, bias), [[11.0, 22.0], [13.0, 24.0]])
    assert mean_squared_error(X, y, weight, bias) == 5 / 4
    by_weight, by_bias = gradient(X, y, weight, bias)
    np.testing.assert_array_equal(by_weight, [[0.0, 1.0], [0.5, 0.0]])
    np.testing.assert_array_equal(by_bias, [0.5, 1.0])


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_agrees_with_finite_differences(shape: Any) -> None:
    at = problem(*shape)
    X, y, weight, bias = at.values()
    by_weight, by_bias = gradient(X, y, weight, bias)
    assert by_weight.shape == weight.shape
    assert by_bias.shape == bias.shape
    expected = difference_quotients(lambda w: mean_squared_error(X, y, w, bias), weight)
    np.testing.assert_allclose(by_weight, expected, rtol=1e-10, atol=1e-10)
    expected = difference_quotients(lambda b: mean_squared_error(X, y, weight, b), bias)
    np.testing.assert_allclose(by_bias, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("l1", "l2"), PENALTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_least_squares_gradient_agrees_with_finite_differences(
    shape: Any, l1: float, l2: float
) -> None:
    X, y, weight, bias = problem(*shape).values()
    found = objective(l1, l2, X, y, weight, bias)[1]
    expected = difference_quotients(lambda w: objective(l1, l2, X, y, w, bias)[0], weight)
    expected = expected - l1 * np.sign(weight)  # the gradient is that of the smooth part
    np.testing.assert_allclose(found["weight"], expected, rtol=1e-10, atol=1e-10)
    expected = difference_quotients(lambda b: objective(l1, l2, X, y, weight, b)[0], bias)
    np.testing.assert_allclose(found["bias"], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("l1", "l2"), PENALTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_least_squares_agrees_with_autograd(shape: Any, l1: float, l2: float) -> None:
    at = problem(*shape)
    X, y, weight, bias = (torch.tensor(value) for value in at.values())
    weight.requires_grad_()
    bias.requires_grad_()
    expected = torch.nn.MSELoss()(X @ weight + bias, y)
    expected = expected + l1 * weight.detach().abs().sum() + l2 * weight.square().sum()
    expected.backward()
    loss, found = objective(l1, l2, **at)
    assert loss == pytest.approx(expected.item(), rel=1e-13)
    for name, parameter in (("weight", weight), ("bias", bias)):
        assert found[name].shape == tuple(parameter.shape)
        np.testing.assert_allclose(found[name], parameter.grad.numpy(), rtol=1e-12, atol=1e-13)
    if l1 == l2 == 0:
        X, y, weight, bias = at.values()
        assert mean_squared_error(X, y, weight, bias) == pytest.approx(expected.item(), rel=1e-13)
        for value, again in zip(gradient(X, y, weight, bias), found.values(), strict=True):
            np.testing.assert_allclose(value, again, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("weight", "y", "predicted"),
    [
        ((2,), (4, 1), (4,)),  # MSELoss would broadcast the two to (4, 4)
        ((2, 1), (4,), (4, 1)),
        ((2, 3), (4, 1), (4, 3)),
        ((2,), (1,), (4,)),
        ((2,), (), (4,)),
        ((2,), (5,), (4,)),
    ],
    ids=str,
)
def test_linear_refuses_y_of_another_shape(
    weight: tuple[int, ...], y: tuple[int, ...], predicted: tuple[int, ...]
) -> None:
    arguments = np.ones((4, 2)), np.ones(y), np.ones(weight), np.zeros(weight[1:])
    for function in (mean_squared_error, gradient, lambda *a: objective(0.0, 0.0, *a)):
        with pytest.raises(ValueError, match="expected y of shape") as error:
            function(*arguments)
        assert str(predicted) in str(error.value)
        assert str(y) in str(error.value)


def test_penalty_takes_in_the_weights_and_not_the_bias() -> None:
    X, y = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([1.0, 2.0])
    weight, bias = np.array([3.0, -4.0]), np.array(100.0)
    plain, plain_gradient = objective(0.0, 0.0, X, y, weight, bias)
    loss, found = objective(0.5, 0.25, X, y, weight, bias)
    # ½·(3 + 4) + ¼·(9 + 16) = 9.75; the gradient of its smooth part is ½·weight = 1.5, −2.
    assert loss - plain == pytest.approx(9.75, rel=1e-12)
    np.testing.assert_allclose(found["weight"] - plain_gradient["weight"], [1.5, -2.0], rtol=1e-12)
    np.testing.assert_array_equal(found["bias"], plain_gradient["bias"])


@pytest.mark.parametrize("times", [2, 7])
def test_penalty_strength_does_not_depend_on_batch_size(times: int) -> None:
    at = problem(5, 3, ())
    loss, found = objective(0.7, 0.3, **at)
    repeated = {"X": np.tile(at["X"], (times, 1)), "y": np.tile(at["y"], times)}
    again, found_again = objective(0.7, 0.3, **(at | repeated))
    assert again == pytest.approx(loss, rel=1e-13)
    for name, value in found.items():
        np.testing.assert_allclose(found_again[name], value, rtol=1e-12, atol=1e-13)


def test_l1_penalty_has_no_part_in_the_gradient() -> None:
    X, y = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 2.0])
    weight, bias = np.array([0.0, -2.0]), np.array(0.0)
    plain = objective(0.0, 0.0, X, y, weight, bias)[1]["weight"]
    found = objective(0.5, 0.0, X, y, weight, bias)[1]["weight"]
    np.testing.assert_array_equal(found, plain)


def test_least_squares_leaves_its_arguments_as_they_were() -> None:
    at = problem(9, 4, ())
    copies = {name: value.copy() for name, value in at.items()}
    objective(0.7, 0.3, **at)
    for name, value in copies.items():
        np.testing.assert_array_equal(at[name], value)
