"""`reference.sgd`: the update rule, against arithmetic done by hand and `torch.optim.SGD`."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.reference import SGD

STEPS = 25


@st.composite
def settings_of_sgd(draw: Any) -> dict[str, Any]:
    """Draw what `torch.optim.SGD` accepts: Nesterov only with momentum and without dampening."""
    zero_or = lambda low, high: st.just(0.0) | st.floats(low, high)  # noqa: E731
    momentum = draw(zero_or(1e-3, 0.99))
    nesterov = draw(st.booleans()) if momentum else False
    return {
        "lr": draw(st.floats(1e-4, 0.5)),
        "momentum": momentum,
        "dampening": 0.0 if nesterov else draw(zero_or(1e-3, 1.0)),
        "nesterov": nesterov,
        "weight_decay": draw(zero_or(1e-4, 1.0)),
    }


@settings(deadline=None, max_examples=80)
@given(options=settings_of_sgd(), seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([(), (4,)]))
def test_sgd_agrees_with_torch_over_many_steps(
    options: dict[str, Any], seed: int, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(seed)
    theta = initial = rng.normal(size=shape)
    judged = torch.nn.Parameter(torch.tensor(initial))
    optimizer = torch.optim.SGD([judged], **options)
    sgd, buffer = SGD(**options), None
    for gradient in rng.normal(size=(STEPS, *shape)):
        theta, buffer = sgd.step(theta, np.asarray(gradient), buffer)
        judged.grad = torch.tensor(gradient)
        optimizer.step()
        np.testing.assert_allclose(theta, judged.detach().numpy(), rtol=1e-13, atol=1e-13)
        if options["momentum"]:
            expected = optimizer.state[judged]["momentum_buffer"].numpy()
            np.testing.assert_allclose(buffer, expected, rtol=1e-13, atol=1e-13)
        else:
            assert buffer is None
    assert theta.shape == shape
    assert (theta != initial).all(), "no step moved the parameter"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # θ₁ = 1 − 0.1·2 = 0.8;  θ₂ = 0.8 − 0.1·3 = 0.5
        ({}, [(0.8, None), (0.5, None)]),
        # v₁ = 2, θ₁ = 0.8;  v₂ = 0.9·2 + 3 = 4.8, θ₂ = 0.8 − 0.48 = 0.32
        ({"momentum": 0.9}, [(0.8, 2.0), (0.32, 4.8)]),
        # v₁ = 2, g = 2 + 1.8, θ₁ = 0.62;  v₂ = 4.8, g = 3 + 4.32, θ₂ = 0.62 − 0.732
        ({"momentum": 0.9, "nesterov": True}, [(0.62, 2.0), (-0.112, 4.8)]),
        # g = 2 + 0.2·1, θ₁ = 1 − 0.22;  g = 3 + 0.2·0.78 = 3.156, θ₂ = 0.78 − 0.3156
        ({"weight_decay": 0.2}, [(0.78, None), (0.4644, None)]),
        # v₁ = 2.2, undamped, θ₁ = 0.78;  v₂ = 0.9·2.2 + 0.5·3.156 = 3.558, θ₂ = 0.78 − 0.3558
        (
            {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.2},
            [(0.78, 2.2), (0.4242, 3.558)],
        ),
        # Dampening without momentum says nothing.
        ({"dampening": 0.5}, [(0.8, None), (0.5, None)]),
    ],
    ids=lambda value: "+".join(value) or "plain" if isinstance(value, dict) else "",
)
def test_sgd_agrees_with_hand_computed_steps(options: dict[str, Any], expected: Any) -> None:
    sgd, theta, buffer = SGD(lr=0.1, **options), np.array(1.0), None
    for gradient, (after, momentum) in zip((2.0, 3.0), expected, strict=True):
        theta, buffer = sgd.step(theta, np.array(gradient), buffer)
        assert float(theta) == pytest.approx(after, rel=1e-14)
        kept = () if buffer is None else (float(buffer),)
        assert kept == pytest.approx(() if momentum is None else (momentum,), rel=1e-14)


@pytest.mark.parametrize("dampening", [0.0, 0.5, 1.0])
def test_sgd_first_gradient_enters_the_buffer_undamped(dampening: float) -> None:
    sgd = SGD(lr=0.1, momentum=0.9, dampening=dampening)
    theta, buffer = sgd.step(np.array([1.0]), np.array([2.0]))
    np.testing.assert_array_equal(buffer, [2.0])
    np.testing.assert_allclose(theta, [0.8], rtol=1e-15)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_leaves_its_arguments_as_they_were(nesterov: bool) -> None:
    sgd = SGD(lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.2)
    arguments = [np.array([1.0, -2.0]), np.array([3.0, 4.0]), np.array([5.0, 6.0])]
    copies = [argument.copy() for argument in arguments]
    theta, _ = sgd.step(*arguments)
    assert (theta != copies[0]).all()
    for argument, copy in zip(arguments, copies, strict=True):
        np.testing.assert_array_equal(argument, copy)
