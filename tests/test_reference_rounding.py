"""`reference.rounding`: bounds that correct torch training stays within, and wrong training leaves.

The oracle is exact: floats are fractions, so loss, gradient and step are worked out in
`fractions.Fraction`, with no rounding at all.
"""

from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, target
from hypothesis import strategies as st

from test_reference_sgd import settings_of_sgd
from trueline.reference import SGD, LeastSquares, article
from trueline.reference.rounding import (
    BFLOAT16,
    DOUBLE,
    FLOAT16_MIXED,
    FLOAT32,
    FLOAT64,
    SINGLE,
    Arithmetic,
    gamma,
    step_bound,
)

ARITHMETIC = {"float64": FLOAT64, "float32": FLOAT32}
UNIT_ROUNDOFF = {"float64": DOUBLE, "float32": SINGLE}
DTYPES = tuple(ARITHMETIC)
decades = st.floats(-6, 6).map(lambda exponent: 10**exponent)


def exact(array: Any) -> Any:
    """Turn floats into the fractions that they are."""
    return np.vectorize(Fraction, otypes=[object])(array)


def ratios(found: Any, expected: Any, bound: Any) -> np.ndarray:
    """Divide deviations by their bounds, entry by entry."""
    pairs = np.broadcast(np.abs(exact(found) - expected), exact(bound))
    return np.array([float(deviation / limit) if deviation else 0.0 for deviation, limit in pairs])


def draw_problem(seed: int, shape: Any, targets: Any, sizes: Any, fitted: bool, dtype: str) -> Any:
    """Draw data and parameters that `dtype` holds exactly; a fitted y leaves small residuals."""
    rng = np.random.default_rng(seed)
    of_X, of_y, of_weight, of_bias = sizes
    X = rng.normal(size=shape) * of_X
    weight = rng.normal(size=(shape[1], *targets)) * of_weight
    bias = rng.normal(size=targets) * of_bias
    y = rng.normal(size=(shape[0], *targets)) * of_y
    if fitted:
        y = (X @ weight + bias) * (1 + 1e-4 * rng.normal(size=y.shape))
    drawn = {"X": X, "y": y, "weight": weight, "bias": np.asarray(bias)}
    return {name: value.astype(dtype).astype("float64") for name, value in drawn.items()}


def by_torch(
    X: Any, y: Any, weight: Any, bias: Any, dtype: str, l1: float = 0.0, l2: float = 0.0
) -> dict[str, np.ndarray]:
    """Compute objective and gradient as the LightningModule does."""
    X, y, weight, bias = (
        torch.tensor(v, dtype=getattr(torch, dtype)) for v in (X, y, weight, bias)
    )
    weight.requires_grad_()
    bias.requires_grad_()
    loss = torch.nn.MSELoss()(X @ weight + bias, y)
    if l1 or l2:
        loss = loss + (l1 * weight.detach().abs().sum() + l2 * weight.square().sum())
    loss.backward()
    found = {"loss": loss, "weight": weight.grad, "bias": bias.grad}
    return {name: value.detach().double().numpy() for name, value in found.items()}


def by_fractions(
    X: Any, y: Any, weight: Any, bias: Any, l1: float = 0.0, l2: float = 0.0
) -> dict[str, Any]:
    """Compute objective and gradient exactly."""
    X, y, weight, bias = map(exact, (X, y, weight, bias))
    l1, l2 = Fraction(l1), Fraction(l2)
    r = X @ weight + bias - y
    return {
        "loss": (r * r).sum() / y.size + l1 * np.abs(weight).sum() + l2 * (weight**2).sum(),
        "weight": X.T @ r * Fraction(2, y.size) + 2 * l2 * weight,
        "bias": r.sum(axis=0) * Fraction(2, y.size),
    }


def bounds(at: dict[str, np.ndarray], dtype: str, l1: float = 0.0, l2: float = 0.0) -> Any:
    parameters = {"weight": at["weight"], "bias": at["bias"]}
    judge = LeastSquares(l1, l2)
    loss, gradients = judge.rounding_bound(parameters, (at["X"], at["y"]), ARITHMETIC[dtype])
    return {"loss": loss, **gradients}


@pytest.mark.parametrize("dtype", DTYPES)
def test_gamma_of_one_rounding_is_both_unit_roundoffs(dtype: str) -> None:
    # One rounding on each side: u + 2⁻⁵³, and the second order of Higham's γ₁ = u/(1 − u).
    both = Fraction(UNIT_ROUNDOFF[dtype]) + Fraction(1, 2**53)
    assert gamma(1, UNIT_ROUNDOFF[dtype]) == pytest.approx(float(both / (1 - both)), rel=1e-15)
    assert UNIT_ROUNDOFF[dtype] == torch.finfo(getattr(torch, dtype)).eps / 2


@pytest.mark.parametrize("dtype", DTYPES)
@given(n=st.integers(1, 10**7), more=st.integers(1, 10**6))
def test_gamma_grows_with_the_number_of_roundings(dtype: str, n: int, more: int) -> None:
    u = UNIT_ROUNDOFF[dtype]
    assert 0 < gamma(n, u) < gamma(n + more, u)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 30, 1_000, 10**6, 10**9])
def test_gamma_is_the_published_bound(n: int, dtype: str) -> None:
    with localcontext() as context:
        context.prec = 50
        u = Decimal(UNIT_ROUNDOFF[dtype]) + Decimal(2) ** -53
        # Higham (2002), lemma 3.1, holds while n·u < 1.
        expected = float(n * u / (1 - n * u)) if n * u < 1 else float("inf")
    assert gamma(n, UNIT_ROUNDOFF[dtype]) == pytest.approx(expected, rel=1e-12)
    assert (expected == float("inf")) == (n * UNIT_ROUNDOFF[dtype] > 1)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_least_squares_bound_holds(data: st.DataObject, dtype: str) -> None:
    shape = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 8))
    columns = data.draw(st.lists(decades, min_size=shape[1], max_size=shape[1]))
    sizes = (np.array(columns), data.draw(decades), data.draw(decades), data.draw(decades))
    targets = data.draw(st.sampled_from([(), (), (1,), (3,)]))
    seed, fitted = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.booleans())
    penalty = {name: data.draw(st.just(0.0) | decades) for name in ("l1", "l2")}
    at = draw_problem(seed, shape, targets, sizes, fitted, dtype)
    found = by_torch(**at, dtype=dtype, **penalty)
    expected, bound = by_fractions(**at, **penalty), bounds(at, dtype, **penalty)
    parameters = {"weight": at["weight"], "bias": at["bias"]}
    loss, gradients = LeastSquares(**penalty).loss_and_gradient(parameters, (at["X"], at["y"]))
    worst = 0.0
    for name, value in {"loss": loss, **gradients}.items():
        assert np.shape(bound[name]) == np.shape(value) == found[name].shape
        from_exact = ratios(found[name], expected[name], bound[name]).max()
        from_reference = ratios(found[name], exact(value), bound[name]).max()
        assert from_exact <= 1, f"{name}: {from_exact} of the bound from the exact value"
        assert from_reference <= 1, f"{name}: {from_reference} of the bound from the reference"
        worst = max(worst, from_exact, from_reference)
    target(worst)  # look for draws that come nearer to the bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_least_squares_bound_is_not_far_above_what_happens(dtype: str) -> None:
    rng = np.random.default_rng(1)
    seen: dict[str, list[float]] = {"loss": [], "weight": [], "bias": []}
    for seed in range(60):
        shape = int(rng.integers(1, 201)), int(rng.integers(1, 9))
        sizes = (10 ** rng.uniform(-6, 6, shape[1]), *10 ** rng.uniform(-6, 6, 3))
        at = draw_problem(seed, shape, (), sizes, seed % 2 == 0, dtype)
        found, expected, bound = by_torch(**at, dtype=dtype), by_fractions(**at), bounds(at, dtype)
        for name, values in seen.items():
            values.extend(ratios(found[name], expected[name], bound[name]))
    medians = {name: float(np.median(values)) for name, values in seen.items()}
    assert all(median > 1e-4 for median in medians.values()), medians


@pytest.mark.parametrize(
    ("dtype", "error"), [("float64", 1e-5), ("float64", 1e-9), ("float32", 0.01)]
)
def test_least_squares_bound_catches_a_gradient_that_is_off(dtype: str, error: float) -> None:
    problems = [draw_problem(s, (50, 3), (), (1, 1, 1, 1), False, dtype) for s in range(20)]
    zero = {"weight": np.zeros(1), "bias": np.zeros(())}
    problems.append({"X": article.X.astype(float), "y": article.y.astype(float), **zero})
    for at in problems:
        found, expected, bound = by_torch(**at, dtype=dtype), by_fractions(**at), bounds(at, dtype)
        for name in ("weight", "bias"):
            assert ratios(found[name], expected[name], bound[name]).max() <= 1
            off = ratios(found[name] * (1 + error), expected[name], bound[name])
            assert off.min() > 1


@pytest.mark.parametrize(
    ("X", "y", "times"),
    [
        (np.array([[1.1]]), np.array([0.3]), 1_000),
        (np.array([[0.1]]), np.array([0.3]), 100_000),
        (article.X, article.y, 100_000),
    ],
    ids=["one row 1,000 times", "one row 100,000 times", "the article's rows 100,000 times"],
)
def test_least_squares_bound_holds_for_many_rows_of_few_values(X: Any, y: Any, times: int) -> None:
    # Where rows repeat, their roundings repeat with them and may add up in one direction.
    at = {"X": X, "y": y, "weight": np.array([0.3]), "bias": np.array(0.123)}
    at = {name: value.astype("float32").astype("float64") for name, value in at.items()}
    expected = by_fractions(**at)  # means over the rows, whatever the number of repetitions
    at |= {"X": np.tile(at["X"], (times, 1)), "y": np.tile(at["y"], times)}
    found, bound = by_torch(**at, dtype="float32"), bounds(at, "float32")
    worst = {name: ratios(found[name], expected[name], bound[name]).max() for name in expected}
    assert max(worst.values()) <= 1, worst


def exact_step(rule: dict[str, Any], parameter: Any, gradient: Any, buffer: Any) -> Any:
    """Take one step as the documentation of `torch.optim.SGD` states it, without rounding."""
    lr, momentum, dampening, decay = (
        Fraction(rule[name]) for name in ("lr", "momentum", "dampening", "weight_decay")
    )
    direction = gradient + decay * parameter
    if momentum:
        first = buffer is None
        buffer = direction if first else momentum * buffer + (1 - dampening) * direction
        direction = direction + momentum * buffer if rule["nesterov"] else buffer
    return parameter - lr * direction, buffer


def step_ratios(rule: Any, theta: Any, gradients: Any, off: float, dtype: str) -> np.ndarray:
    """Compare torch's parameter, and buffer, after each step with those of an exact step.

    The reference's gradients differ from torch's by `off`, relatively.
    """
    parameter = torch.nn.Parameter(torch.tensor(theta, dtype=getattr(torch, dtype)))
    optimizer = torch.optim.SGD([parameter], **rule)
    found, buffer = [], None
    for gradient in gradients:
        before = parameter.detach().double().numpy().copy()
        parameter.grad = torch.tensor(gradient, dtype=parameter.dtype)
        judged = parameter.grad.double().numpy()
        optimizer.step()
        reference = judged * (1 + off)
        error = np.asarray(np.abs(judged - reference))
        bound = step_bound(SGD(**rule), before, reference, error, buffer, UNIT_ROUNDOFF[dtype])
        previous = None if buffer is None else exact(buffer)
        expected = exact_step(rule, exact(before), exact(reference), previous)
        found.append(ratios(parameter.detach().double().numpy(), expected[0], bound[0]))
        if rule["momentum"]:
            buffer = optimizer.state[parameter]["momentum_buffer"].double().numpy().copy()
            found.append(ratios(buffer, expected[1], bound[1]))
    return np.array(found)


@settings(deadline=None, max_examples=100)
@given(
    rule=settings_of_sgd(),
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(decades, decades),
    shape=st.sampled_from([(), (5,)]),
    off=st.sampled_from([0.0, 1e-14, 1e-6, -1e-3]),
    dtype=st.sampled_from(DTYPES),
)
def test_step_bound_holds(
    rule: Any, seed: int, sizes: Any, shape: Any, off: float, dtype: str
) -> None:
    rng = np.random.default_rng(seed)
    theta, gradients = rng.normal(size=shape) * sizes[0], rng.normal(size=(4, *shape)) * sizes[1]
    found = step_ratios(rule, theta, gradients, off, dtype)
    assert found.shape == (8 if rule["momentum"] else 4, theta.size)
    assert found.max() <= 1
    target(found.max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "rule",
    [{}, {"momentum": 0.9, "dampening": 0.3}, {"momentum": 0.9, "nesterov": True}],
    ids=lambda rule: "+".join(rule) or "plain",
)
def test_step_bound_is_not_far_above_what_happens(rule: dict[str, Any], dtype: str) -> None:
    plain = {"lr": 0.1, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0}
    rng = np.random.default_rng(2)
    theta, gradients = rng.normal(size=50), rng.normal(size=(5, 50))
    assert np.median(step_ratios(plain | rule, theta, gradients, 0.0, dtype)) > 0.01


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("wrong", [{"lr": 0.1 + 1e-9}, {"momentum": 0.9 - 1e-9}])
def test_step_bound_catches_a_rule_that_is_off(wrong: dict[str, float], nesterov: bool) -> None:
    rng = np.random.default_rng(3)
    theta, gradient, buffer = rng.normal(size=(3, 50))
    rule = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "nesterov": nesterov, "weight_decay": 0.0}
    bound = step_bound(SGD(**rule), theta, gradient, np.zeros(50), buffer, 2.0**-53)[0]
    state = exact(theta), exact(gradient), exact(buffer)
    moved = np.abs(exact_step(rule | wrong, *state)[0] - exact_step(rule, *state)[0])
    assert (moved.astype(float) > bound).all()


def rounded_to(x: Any, dtype: Any) -> np.ndarray:
    return torch.tensor(x).to(dtype).double().numpy()


@pytest.mark.parametrize(
    ("dtype", "arithmetic"),
    [
        (torch.float16, FLOAT16_MIXED),
        (torch.bfloat16, BFLOAT16),
        (torch.float32, FLOAT32),
        (torch.float64, FLOAT64),
    ],
)
def test_lost_is_zero_for_what_a_dtype_holds(dtype: Any, arithmetic: Arithmetic) -> None:
    rng = np.random.default_rng(0)
    lowest, largest = np.log2(arithmetic.smallest) - 2, np.log2(arithmetic.largest)
    wide = rng.choice([-1, 1], 4000) * 2.0 ** rng.uniform(lowest, largest - 2, 4000)
    x = np.concatenate([wide, rounded_to(wide, dtype), [0.0, np.inf, -np.inf]])
    # As many digits as the dtype has, of which its subnormal numbers hold only a few.
    x = np.concatenate([rounded_to(rng.normal(size=99), dtype) * 2.0**lowest * 32, x])
    # Halfway between two numbers of the dtype, one digit more than it has.
    x = np.concatenate([x, np.nextafter(1, 2) * x[:-2], (1 + arithmetic.stored) * x[4000:8000]])
    cast, found = rounded_to(x, dtype), arithmetic.lost(x)
    held = cast == x
    assert held.sum() >= 4000
    assert dtype == torch.float64 or held.sum() < len(x) - 4000
    np.testing.assert_array_equal(found == 0, held)
    lost = x[~held]
    assert (np.abs(cast[~held] - lost) <= found[~held]).all()
    assert (found[~held] <= 1.01 * (arithmetic.stored * np.abs(lost) + arithmetic.smallest)).all()
