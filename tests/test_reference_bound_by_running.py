"""`bound_by_running`: the bounds of whole objectives, held against trainings.

The oracles are the same objectives in torch, and the reference itself in a NumPy of fewer digits.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings, target
from hypothesis import strategies as st

from objectives import OBJECTIVES
from trueline.reference import LeastSquares
from trueline.reference.rounding import BFLOAT16, BFLOAT16_MIXED, FLOAT32, FLOAT64, Arithmetic
from trueline.reference.running_error import Bounded, bound_by_running

# Each operation in float16, sums too: the coarsest arithmetic that NumPy has.
FLOAT16 = Arithmetic(2.0**-11, 2.0**-11, 2.0**-11, 2.0**-11, 2.0**-24, 65504.0)


def draw(rng: np.random.Generator, dtype: Any, spread: float) -> tuple[Any, Any]:
    """Draw parameters that `dtype` holds and a batch that it need not hold."""
    n, p, size = int(rng.integers(1, 40)), int(rng.integers(1, 6)), 3
    shapes = {"weight": p, "bias": (), "W": (p, size), "c": size, "v": size}
    parameters = {
        name: to_numpy(torch.tensor(10 ** rng.uniform(-spread, spread) * rng.normal(size=s)), dtype)
        for name, s in shapes.items()
    }
    X, y = rng.normal(size=(n, p)), rng.normal(size=n)
    X = X * 10 ** rng.uniform(-spread, spread, p)
    return parameters, (X, y * 10 ** rng.uniform(-spread, spread), rng.integers(0, size, n))


def to_numpy(tensor: Any, dtype: Any = torch.float64) -> np.ndarray:
    return tensor.detach().to(dtype).double().numpy()


def taken(name: str, parameters: Any, batch: Any) -> tuple[Any, Any]:
    """Return loss and gradients in float64, without the parameters that are not in the loss."""
    loss, gradients = OBJECTIVES[name].loss_and_gradient(parameters, batch)
    return {"loss": loss, **gradients}, {key: parameters[key] for key in gradients}


def torch_gradients(name: str, parameters: Any, batch: Any, dtype: Any, mixed: bool) -> Any:
    """Return loss and gradients as a training in torch finds them."""
    of = torch.float32 if mixed else dtype
    at = {key: torch.tensor(v, dtype=of).requires_grad_() for key, v in parameters.items()}
    tensors = [torch.tensor(part) for part in batch]
    tensors = [part.to(of) if part.is_floating_point() else part for part in tensors]
    with torch.autocast("cpu", dtype, enabled=mixed):
        loss = OBJECTIVES[name].by_torch(at, tensors)
    loss.backward()
    return {"loss": to_numpy(loss), **{key: to_numpy(v.grad) for key, v in at.items()}}


def numpy_gradients(name: str, parameters: Any, batch: Any, dtype: Any) -> Any:
    """Run the reference itself in another dtype."""
    at = {key: value.astype(dtype)[()] for key, value in parameters.items()}
    parts = [part.astype(dtype) if part.dtype.kind == "f" else part for part in batch]
    with np.errstate(all="ignore"):
        loss, gradients = OBJECTIVES[name].loss_and_gradient(at, parts)
    found = {"loss": loss, **gradients}
    assert all(np.asarray(value).dtype == dtype for value in found.values())
    return {key: np.asarray(value, np.float64) for key, value in found.items()}


def ratios(found: Any, expected: Any, bound: Any) -> np.ndarray:
    """Divide deviations by their bounds; what has no finite bound is not compared."""
    parts = []
    for key, value in expected.items():
        limit = np.ravel(bound[key])
        with np.errstate(invalid="ignore"):  # a training that overflows
            away = np.abs(np.ravel(found[key]) - np.ravel(value))
            ratio = np.divide(away, limit, where=limit > 0, out=np.where(away == 0, 0.0, np.inf))
        parts.append(np.where(np.isfinite(limit), ratio, 0.0))
    return np.concatenate(parts)


def bounds(name: str, parameters: Any, batch: Any, arithmetic: Arithmetic) -> Any:
    loss, gradients = bound_by_running(OBJECTIVES[name], parameters, batch, arithmetic)
    return {"loss": loss, **gradients}


TRAININGS: dict[str, tuple[Any, Arithmetic, float]] = {
    "numpy float32": (np.float32, FLOAT32, 2.0),
    "numpy float16": (np.float16, FLOAT16, 0.5),
    "torch float64": (torch.float64, FLOAT64, 2.0),
    "torch float32": (torch.float32, FLOAT32, 2.0),
    "torch bfloat16": (torch.bfloat16, BFLOAT16, 0.5),
    "torch bfloat16 mixed": (torch.bfloat16, BFLOAT16_MIXED, 0.5),
}


def judged(name: str, training: str, seed: int) -> np.ndarray:
    """Return the deviations of a training from the reference, as fractions of their bounds."""
    dtype, arithmetic, spread = TRAININGS[training]
    mixed = training.endswith("mixed")
    of = torch.float32 if mixed else getattr(torch, training.split()[1])
    parameters, batch = draw(np.random.default_rng(seed), of, spread)
    with np.errstate(all="ignore"):
        expected, parameters = taken(name, parameters, batch)
    if training.startswith("numpy"):
        found = numpy_gradients(name, parameters, batch, dtype)
    else:
        found = torch_gradients(name, parameters, batch, dtype, mixed)
    bound = bounds(name, parameters, batch, arithmetic)
    for key, value in expected.items():
        assert np.shape(bound[key]) == np.shape(value)
    return ratios(found, expected, bound)


@pytest.mark.parametrize("training", TRAININGS)
@settings(deadline=None, max_examples=150)
@given(name=st.sampled_from(sorted(OBJECTIVES)), seed=st.integers(0, 2**32 - 1))
def test_bound_by_running_holds(training: str, name: str, seed: int) -> None:
    worst = judged(name, training, seed).max()
    # The reference itself, in the training's arithmetic, needs no factor 2 for another sequence.
    assert worst <= (0.5 if training.startswith("numpy") else 1), worst
    target(worst)


@pytest.mark.parametrize("training", ["numpy float32", "torch float32"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_bound_by_running_is_not_far_above_what_happens(name: str, training: str) -> None:
    found = np.concatenate([judged(name, training, seed) for seed in range(40)])
    assert np.median(found) > 1e-4


@pytest.mark.parametrize("arithmetic", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_bound_by_running_is_far_below_a_halved_gradient(name: str, arithmetic: Arithmetic) -> None:
    for seed in range(20):
        parameters, batch = draw(np.random.default_rng(seed), torch.float32, 0.3)
        expected, parameters = taken(name, parameters, batch)
        bound = bounds(name, parameters, batch, arithmetic)
        assert all(np.isfinite(limit).all() for limit in bound.values())
        halved = {key: value / 2 for key, value in expected.items()}
        assert ratios(halved, expected, bound).max() > 1_000
        assert ratios(expected, expected, bound).max() == 0


@pytest.mark.parametrize("arithmetic", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("rows_have_weights", [False, True])
def test_bound_by_running_is_near_the_bound_derived_by_hand(
    arithmetic: Arithmetic, rows_have_weights: bool
) -> None:
    for seed in range(20):
        parameters, (X, y, _) = draw(np.random.default_rng(seed), torch.float32, 1)
        at = {"weight": parameters["weight"], "bias": parameters["bias"]}
        batch = (X, y, np.linspace(0.5, 2.0, len(y)))[: 3 if rows_have_weights else 2]
        model = LeastSquares(l1=0.1, l2=0.1)
        by_hand = model.rounding_bound(at, batch, arithmetic)
        loss, gradients = bound_by_running(model, at, batch, arithmetic)
        assert 0.1 < loss / by_hand[0] < 10
        for key, bound in gradients.items():
            assert (bound / by_hand[1][key]).min() > 0.1
            assert (bound / by_hand[1][key]).max() < 10


class Given(NamedTuple):
    """A reference that is a function."""

    loss_and_gradient: Callable[[Any, Any], Any]


def assign(w: Any) -> Any:
    plain = np.zeros(3)
    plain[0] = w[0]
    return plain.sum()


def add_to_plain(w: Any) -> Any:
    plain = np.zeros(3)
    plain += w
    return plain.sum()


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (lambda w: float(np.sum(w)), "return np.mean"),
        (lambda w: np.sum(w).item(), "item"),
        (lambda w: math.exp(w[0]), "a function of math"),
        (lambda w: np.sum(np.asarray(w)), "np.asarray"),
        (assign, "a plain array"),
        (add_to_plain, "np.add with out="),
        (lambda _: 3.0, "found float of shape (); return np.mean(...) as it is, without float"),
        (lambda w: w, "expected a loss of shape ()"),
        (lambda w: np.sum(np.arcsin(w)), "found np.arcsin; write it with supported functions (abs"),
        (lambda w: np.einsum("i,i", w, w), "found np.einsum"),
        (lambda w: np.var(w), "found np.var"),
        (lambda w: w.std(), "std of an array"),
        (lambda w: np.sum(np.sin(w)), "(absolute, add, bitwise_and"),
        (lambda w: w.flatten(), "flatten of an array"),
        (lambda w: np.dot(w, np.ones((3, 3, 3))), "more than two axes"),
        (lambda w: np.linalg.solve(np.eye(3), w)[0], "found np.linalg.solve"),
        (lambda w: np.add.reduce(w), "found np.add.reduce"),
        (lambda w: np.sum(w, dtype=np.float32), "np.sum with arguments"),
        (lambda w: np.sum(w.astype(np.float32)), "astype(float32)"),
        (lambda w: w[0] if w[0] - w[0] * 1.5 / 1.5 > 0 else w[1], "1 undecided of 1"),
        (lambda w: np.sum(w[w * 1.5 / 1.5 > w]), "3 undecided of 3"),
        (lambda w: np.sum((w > 0) * (w > 1)), "truth values alone"),
        (lambda w: w[0] + None, "an operand of type NoneType"),
    ],
)
def test_bound_by_running_says_what_has_no_bound_and_what_to_do(loss: Any, names: str) -> None:
    with pytest.raises(TypeError) as raised:
        bound_by_running(
            Given(lambda p, _: (loss(p["w"]), p)), {"w": np.arange(1.0, 4)}, (), FLOAT32
        )
    message = str(raised.value)
    assert names in message
    assert message.startswith("expected ")
    assert "found " in message
    assert any(way in message for way in ("rounding_bound(parameters, batch", "as it is"))


def test_bound_by_running_takes_batches_of_any_shape_and_leaves_all_as_it_was() -> None:
    class Batch(NamedTuple):
        x: Any
        more: Any

    def loss_and_gradient(w: Any, batch: Any) -> Any:
        (labels,), scale = batch.more["labels"], batch.more["scale"]
        assert type(batch) is Batch
        assert type(labels) is np.ndarray
        assert isinstance(batch.x, Bounded)
        w += batch.x[labels] * scale
        return np.sum(w), {"w": w, "fixed": np.zeros(2)}

    x, w = np.array([0.1, 0.5]), np.array([1.0, 2.0, 3.0])
    batch = Batch(x, {"labels": [np.array([0, 1, 1])], "scale": 2})
    reference = Given(lambda parameters, batch: loss_and_gradient(parameters["w"], batch))
    loss, gradients = bound_by_running(reference, {"w": w}, batch, FLOAT32)
    assert 0 < loss < 1e-5
    # 0.1 is not a float32, 0.5 is; each is doubled and added to w, to 1.2, 3 and 4.
    few = 2 * 2.0**-24 * np.array([0.2 + 0.2 + 1.2, 1 + 3, 1 + 4])
    np.testing.assert_allclose(gradients["w"], few, rtol=1e-6)
    assert (gradients["fixed"] == 0).all()
    assert x.tolist() == [0.1, 0.5]
    assert w.tolist() == [1.0, 2.0, 3.0]


def test_bound_by_running_knows_the_range_of_the_dtype() -> None:
    half = Arithmetic(2.0**-11, 2.0**-24, 2.0**-24, 2.0**-11, 2.0**-24, 65504.0)
    reference = Given(lambda p, x: (np.mean(p["w"] * x), {"w": p["w"] * p["w"]}))
    for size, finite in ((100.0, True), (300.0, False)):  # 300² is above 65504
        at = {"w": np.array([size])}
        loss, gradients = bound_by_running(reference, at, np.array([2.0]), half)
        assert np.isfinite(loss)
        assert np.isfinite(gradients["w"]).all() == finite
    # What the batch has beyond the range makes the mean infinite.
    loss, _ = bound_by_running(reference, {"w": np.array([1e-3])}, np.array([70_000.0]), half)
    assert np.isinf(loss)
    # What vanishes in float16 is no more than what the bound allows for.
    loss, _ = bound_by_running(reference, {"w": np.array([1e-6])}, np.array([1e-4]), half)
    assert loss > 1e-10


def test_logistic_loss_allows_for_what_torch_cancels() -> None:
    # log(1 + eᶻ) is e⁻⁴⁰ here, which torch takes as the difference of two terms of size 40.
    parameters = {"weight": np.array([-40.1]), "bias": np.array(0.0)}
    parameters = {key: value.astype(np.float32).astype(float) for key, value in parameters.items()}
    batch = np.ones((1, 1)), np.array([-1.0])
    expected, _ = taken("logistic", parameters, batch)
    bound = bounds("logistic", parameters, batch, FLOAT32)
    found = torch_gradients("logistic", parameters, batch, torch.float32, mixed=False)
    assert found["loss"] == 0 < expected["loss"]
    assert ratios(found, expected, bound).max() < 0.1
    found["weight"] = found["weight"] * 1.01
    assert ratios(found, expected, bound).max() > 10
