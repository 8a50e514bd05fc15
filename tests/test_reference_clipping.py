"""Clipping against torch's own functions, with its rounding bound, and by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.reference import Clipping
from trueline.reference.rounding import DOUBLE

ALGORITHMS = ("norm", "value")


def by_torch(gradients: dict[str, np.ndarray], limit: float, algorithm: str) -> dict:
    parameters = {name: torch.zeros(g.shape, dtype=torch.float64) for name, g in gradients.items()}
    for name, parameter in parameters.items():
        parameter.requires_grad_()
        parameter.grad = torch.from_numpy(gradients[name].copy())
    if algorithm == "norm":
        torch.nn.utils.clip_grad_norm_(parameters.values(), limit)
    else:
        torch.nn.utils.clip_grad_value_(parameters.values(), limit)
    return {name: parameter.grad.numpy() for name, parameter in parameters.items()}


def draw(seed: int, scale: float) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    shapes = {"weight": (5,), "bias": ()}
    return {n: np.asarray(scale * generator.standard_normal(s)) for n, s in shapes.items()}


def test_clipping_by_hand() -> None:
    gradients = {"weight": np.array([3.0]), "bias": np.array(-4.0)}
    # The norm is 5 and the limit 2.5: all are halved, but for the 1e-6 that torch adds to the norm.
    halved = Clipping(2.5).clip(gradients)
    assert halved["weight"] == pytest.approx(1.5, rel=1e-6)
    assert halved["bias"] == pytest.approx(-2.0, rel=1e-6)
    held = Clipping(3.5, "value").clip(gradients)
    assert (held["weight"], held["bias"]) == (3.0, -3.5)
    assert Clipping(6.0).clip(gradients) == gradients


@settings(deadline=None, derandomize=True)
def bound_by_name(clipping: Clipping, gradients: Any, bounds: Any) -> dict[str, Any]:
    """Return the bounds on clipped gradients, in the shapes of the gradients."""
    flat = (np.concatenate([np.ravel(each[n]) for n in gradients]) for each in (gradients, bounds))
    _, allowed = clipping.clip_steps(*flat, DOUBLE)
    ends = np.cumsum([np.size(g) for g in gradients.values()])[:-1]
    parts = zip(gradients.items(), np.split(allowed, ends), strict=True)
    return {name: part.reshape(np.shape(g)) for (name, g), part in parts}


@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e3, 1e6]),
    limit=st.sampled_from([1e-3, 1.0, 2.0, 100.0]),
    algorithm=st.sampled_from(ALGORITHMS),
)
def test_clipping_agrees_with_torch(seed: int, scale: float, limit: float, algorithm: str) -> None:
    gradients = draw(seed, scale)
    clipping = Clipping(limit, algorithm)
    for name, expected in by_torch(gradients, limit, algorithm).items():
        np.testing.assert_allclose(clipping.clip(gradients)[name], expected, rtol=1e-14)


@settings(deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    limit=st.floats(0.1, 10),
    algorithm=st.sampled_from(ALGORITHMS),
    spread=st.sampled_from([1e-9, 1e-6, 1e-3, 0.1]),
)
def test_clipping_bound_holds(seed: int, limit: float, algorithm: str, spread: float) -> None:
    gradients = draw(seed, 1.0)
    generator = np.random.default_rng(seed + 1)
    bounds = {name: np.full(g.shape, spread) for name, g in gradients.items()}
    off = {
        # A shade inside the bound: adding the error rounds, too.
        name: np.asarray(g + 0.999 * spread * generator.choice([-1, 1], g.shape))
        for name, g in gradients.items()
    }
    clipping = Clipping(limit, algorithm)
    allowed = bound_by_name(clipping, gradients, bounds)
    found, expected = by_torch(off, limit, algorithm), clipping.clip(gradients)
    for name in gradients:
        assert (np.abs(found[name] - expected[name]) <= allowed[name]).all()
        # Not wider than it need be: a few times the error that went in, and its share of the norm.
        assert (allowed[name] <= 8 * spread * np.sqrt(6)).all()


def test_clipping_bound_sees_a_limit_that_is_off() -> None:
    gradients = draw(0, 10.0)
    bounds = {name: 1e-12 * np.abs(g) for name, g in gradients.items()}
    clipping = Clipping(1.0)
    allowed = bound_by_name(clipping, gradients, bounds)
    wrong = by_torch(gradients, 1.0 + 1e-9, "norm")
    for name, expected in clipping.clip(gradients).items():
        assert (np.abs(wrong[name] - expected) > allowed[name]).all()
