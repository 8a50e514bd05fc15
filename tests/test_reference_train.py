"""`reference.train`: the loop and its trace, against loops in plain Python floats and in torch."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.reference import SGD, LeastSquares, gradient, train
from trueline.reference.article import X, y

FIVES = [list(range(0, 5)), list(range(5, 10)), list(range(10, 15))]


def by_hand(
    order: list[list[list[int]]], weight: float, bias: float, lr: float, momentum: float = 0.0
) -> tuple[list[float], list[float], list[float]]:
    """Train the article's line, one list of batches an epoch, with neither NumPy nor arrays."""
    points = [(float(x), float(target)) for x, target in zip(X[:, 0], y, strict=True)]

    def mean_of_squares(rows: list[tuple[float, float]]) -> float:
        return sum((weight * x + bias - target) ** 2 for x, target in rows) / len(rows)

    losses, weights, biases = [], [weight], [bias]
    velocity_w = velocity_b = 0.0
    for batch in (batch for epoch in order for batch in epoch):
        rows = [points[i] for i in batch]
        losses.append(mean_of_squares(rows))
        by_weight = 2 * sum((weight * x + bias - target) * x for x, target in rows) / len(rows)
        by_bias = 2 * sum(weight * x + bias - target for x, target in rows) / len(rows)
        velocity_w = momentum * velocity_w + by_weight
        velocity_b = momentum * velocity_b + by_bias
        weight, bias = weight - lr * velocity_w, bias - lr * velocity_b
        weights.append(weight)
        biases.append(bias)
    return [*losses, mean_of_squares(points)], weights, biases


def test_train_first_step_from_zero_is_the_one_computed_by_hand() -> None:
    trace = train(X, y, weight=[0.0], bias=0.0, optimizer=SGD(lr=0.001), epochs=1)
    # From zero r = −y, so the step is lr·2/15·Σxy and lr·2/15·Σy. With Σxy = 12,320, Σy = 888:
    # 0.002/15·12,320 = 1.642666… and 0.002/15·888 = 0.1184. The loss is Σy²/15 = 55,002/15.
    np.testing.assert_allclose(trace.weight, [[0.0], [24.64 / 15]], rtol=1e-14)
    np.testing.assert_allclose(trace.bias, [0.0, 0.1184], rtol=1e-14)
    np.testing.assert_allclose(trace.loss[0], 55_002 / 15, rtol=1e-14)
    assert round(float(trace.weight[-1, 0]), 4) == 1.6427


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_train_trace_holds_the_state_before_each_step_and_at_the_end(momentum: float) -> None:
    epochs = 40
    trace = train(X, y, [0.5], -1.0, SGD(lr=0.001, momentum=momentum), epochs)
    assert trace.loss.shape == trace.bias.shape == (epochs + 1,)
    assert trace.weight.shape == (epochs + 1, 1)
    order = [[list(range(15))]] * epochs
    loss, weight, bias = by_hand(order, 0.5, -1.0, 0.001, momentum)
    np.testing.assert_allclose(trace.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(trace.weight[:, 0], weight, rtol=1e-12)
    np.testing.assert_allclose(trace.bias, bias, rtol=1e-12)
    assert len(set(trace.weight[:, 0])) == epochs + 1, "a step did not move the weight"


def test_train_on_batches_in_order_agrees_with_loop_in_plain_floats() -> None:
    trace = train(
        X,
        y,
        [0.0],
        0.0,
        SGD(lr=0.001),
        epochs=4,
        batches=lambda _: [slice(0, 5), slice(5, 10), slice(10, 15)],
    )
    loss, weight, bias = by_hand([FIVES] * 4, 0.0, 0.0, 0.001)
    assert trace.loss.shape == (4 * 3 + 1,)
    np.testing.assert_allclose(trace.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(trace.weight[:, 0], weight, rtol=1e-12)
    np.testing.assert_allclose(trace.bias, bias, rtol=1e-12)
    # The final loss is over all 15 rows, not over the batch that the next step would take.
    last_batch = np.mean((X[10:, 0] * trace.weight[-1, 0] + trace.bias[-1] - y[10:]) ** 2)
    assert abs(trace.loss[-1] - last_batch) > 1


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_train_on_batches_in_a_given_order_agrees_with_loop_in_plain_floats(
    momentum: float,
) -> None:
    rng = np.random.default_rng(3)
    # Batches of 4, the last of 3, in another order each epoch.
    order = [
        [rows.tolist() for rows in np.split(rng.permutation(15), [4, 8, 12])] for _ in range(6)
    ]
    optimizer = SGD(lr=0.0005, momentum=momentum)
    trace = train(X, y, [0.5], -1.0, optimizer, 6, batches=lambda e: map(np.array, order[e]))
    loss, weight, bias = by_hand(order, 0.5, -1.0, 0.0005, momentum)
    np.testing.assert_allclose(trace.loss, loss, rtol=1e-11)
    np.testing.assert_allclose(trace.weight[:, 0], weight, rtol=1e-11)
    np.testing.assert_allclose(trace.bias, bias, rtol=1e-11)
    # The order makes the difference: the same rows as they come lead elsewhere.
    as_they_come = [[list(range(i, min(i + 4, 15))) for i in range(0, 15, 4)]] * 6
    assert abs(weight[-1] - by_hand(as_they_come, 0.5, -1.0, 0.0005, momentum)[1][-1]) > 1e-3


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_train_with_several_features_agrees_with_torch(l2: float) -> None:
    rng = np.random.default_rng(5)
    features, targets = rng.normal(size=(20, 3)), rng.normal(size=20)
    options: Any = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    initial = rng.normal(size=3)
    trace = train(features, targets, initial, 0.5, SGD(**options), 50, LeastSquares(l2=l2))
    weight = torch.nn.Parameter(torch.tensor(initial))
    bias = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight, bias], **options)
    for k in range(51):
        mse = torch.nn.MSELoss()(torch.tensor(features) @ weight + bias, torch.tensor(targets))
        loss = mse + l2 * weight.square().sum()
        assert trace.loss[k] == pytest.approx(loss.item(), rel=1e-11)
        np.testing.assert_allclose(trace.weight[k], weight.detach(), rtol=1e-11, atol=1e-13)
        assert trace.bias[k] == pytest.approx(bias.item(), rel=1e-11, abs=1e-13)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.abs(trace.weight[-1] - initial).min() > 1e-2, "no step moved the weights"


def test_train_of_no_epochs_returns_the_initial_state() -> None:
    trace = train(X, y, [2.0], 3.0, SGD(lr=0.001), epochs=0)
    np.testing.assert_array_equal(trace.weight, [[2.0]])
    np.testing.assert_array_equal(trace.bias, [3.0])
    # Σ(2x + 3 − y)² over the 15 points, as integers.
    residuals = [2 * x + 3 - t for x, t in zip(X[:, 0].tolist(), y.tolist(), strict=True)]
    np.testing.assert_allclose(trace.loss, [sum(r * r for r in residuals) / 15], rtol=1e-15)


def test_train_leaves_the_initial_parameters_as_they_were() -> None:
    weight, bias = np.array([2.0]), np.array(3.0)
    trace = train(X, y, weight, bias, SGD(lr=0.001, momentum=0.9), epochs=5)
    assert trace.weight[-1, 0] != 2.0
    assert (weight.item(), bias.item()) == (2.0, 3.0)


@settings(deadline=None)
@given(order=st.permutations(range(15)), seed=st.integers(0, 2**32 - 1))
def test_gradient_over_all_rows_does_not_depend_on_their_order(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, targets = rng.normal(size=(15, 3)), rng.normal(size=15)
    weight, bias = rng.normal(size=3), rng.normal(size=())
    found = gradient(features[order], targets[order], weight, bias)
    expected = gradient(features, targets, weight, bias)
    for value, same in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, same, rtol=1e-12, atol=1e-13)


def test_train_of_50000_epochs_reaches_least_squares() -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal(1), rng.standard_normal()
    trace = train(X, y, *start, SGD(lr=0.001), 50_000)
    # With Σx = 186, Σx² = 3,026, Σy = 888, Σxy = 12,320 and Σy² = 55,002, least squares is
    # w = (15·12,320 − 186·888)/(15·3,026 − 186²) = 19,632/10,794 = 3,272/1,799,
    # b = (888 − 186·w)/15 = 65,928/1,799 and the loss (55,002 − 888·b − 12,320·w)/15.
    weight, bias = Fraction(3_272, 1_799), Fraction(65_928, 1_799)
    loss = (55_002 - 888 * bias - 12_320 * weight) / 15
    assert [round(float(v), 8) for v in (weight, bias, loss)] == [
        1.81878822,
        36.64702613,
        3.46466555,
    ]
    assert trace.weight[-1, 0] == pytest.approx(float(weight), abs=5e-9)
    assert trace.bias[-1] == pytest.approx(float(bias), abs=5e-9)
    assert trace.loss[-1] == pytest.approx(float(loss), abs=5e-9)
