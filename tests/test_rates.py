"""`rates`: the learning rate and the momentum that are best, and those that batches bear.

Oracles: the eigenvalues of the maps of the reference's steps, on grids; and trainings by batches.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.planning.convergence import Modes, modes
from trueline.planning.rates import best_lr, best_momentum, heavy_ball, minibatch_lr, tuned
from trueline.reference import SGD, article
from trueline.reference.triangle import Triangle, triangle

PLAIN = {"dampening": 0.0, "nesterov": False, "weight_decay": 0.0, "l1": 0.0, "l2": 0.0}


def spectral_radius(curvatures: np.ndarray, sgd: SGD) -> float:
    """Return the largest eigenvalue of the maps of (parameter, buffer), made by steps."""
    maps = []
    for c in curvatures:
        columns = [
            sgd.step(np.array(theta), np.array(c * theta), np.array(buffer))
            for theta, buffer in ((1.0, 0.0), (0.0, 1.0))
        ]
        rows = [[float(t) for t, _ in columns]]
        rows += [[float(v) for _, v in columns]] if sgd.momentum else [[0.0, 0.0]]
        maps.append(rows)
    return float(np.abs(np.linalg.eigvals(np.array(maps))).max())


def spectrum(condition: float) -> Modes:
    return Modes(3.0 * np.array([1.0, condition**-0.3, 1 / condition]), np.eye(3))


@settings(deadline=None, max_examples=40)
@given(
    condition=st.floats(1.0, 1e4),
    momentum=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99]),
    dampening=st.sampled_from([0.0, 0.3, 0.9]),
    nesterov=st.booleans(),
)
def test_no_lr_is_faster_in_the_end_than_the_best(
    condition: float, momentum: float, dampening: float, nesterov: bool
) -> None:
    nesterov = nesterov and momentum > 0
    rule: Any = {"dampening": 0.0 if nesterov else dampening, "nesterov": nesterov}
    found = spectrum(condition)
    best = best_lr(found, momentum, **rule)
    radius = spectral_radius(found.curvature, SGD(best, momentum, **rule))
    assert radius < 1
    for lr in [*np.geomspace(1e-3, 1e2, 60), *(best * np.linspace(0.9, 1.1, 21))]:
        # An eigenvalue that is double loses half of its digits.
        assert radius <= spectral_radius(found.curvature, SGD(lr, momentum, **rule)) + 3e-8


@settings(deadline=None, max_examples=40)
@given(condition=st.floats(1.0, 1e4), dampening=st.sampled_from([0.0, 0.5]))
def test_no_lr_and_momentum_are_faster_in_the_end_than_the_heavy_ball(
    condition: float, dampening: float
) -> None:
    found = spectrum(condition)
    lr, momentum = heavy_ball(found, dampening)
    radius = spectral_radius(found.curvature, SGD(lr, momentum, dampening))
    root = np.sqrt(condition)
    assert radius == pytest.approx((root - 1) / (root + 1), abs=1e-7)
    grid = 1 - np.geomspace(1e-3, 1, 12)
    for m in [*grid, momentum * 0.99, momentum * 1.01]:
        for rate in lr * np.array([0.1, 0.5, 0.9, 0.99, 1.01, 1.1, 2.0]):
            if m < 1:
                other = spectral_radius(found.curvature, SGD(rate, m, dampening))
                assert radius <= other + 3e-7


@pytest.mark.parametrize("condition", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 1.7, 3.0])
def test_no_momentum_is_faster_in_the_end_than_the_best(condition: float, share: float) -> None:
    found = spectrum(condition)
    lr = share / found.largest
    radius = spectral_radius(found.curvature, SGD(lr, best_momentum(found, lr)))
    for momentum in 1 - np.geomspace(1e-6, 1, 200):
        assert radius <= spectral_radius(found.curvature, SGD(lr, momentum)) + 1e-7


def test_best_momentum_refuses_an_lr_that_none_is_stable_with() -> None:
    found = modes(triangle(article.X, article.y))
    assert best_momentum(found, 3.99 / found.largest) < 1
    with pytest.raises(ValueError, match=r"expected lr below 0\.009877.*found 0\.01"):
        best_momentum(found, 0.01)


def rows_of_kind(kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    if kind == "one-hot":
        return np.eye(20)[rng.integers(0, 20, 600)]
    if kind == "heavy-tailed":
        return rng.standard_t(2.5, (600, 5))
    return rng.normal(size=(600, 5))


def distance_after(
    X: np.ndarray, batch_size: int, lr: float, momentum: float, passes: int
) -> float:
    """Train towards zero from ones by shuffled batches; return the largest distance at the end."""
    A = np.column_stack([X, np.ones(len(X))])
    rng = np.random.default_rng(0)
    distances = []
    for _ in range(10):
        theta, sgd, buffer = np.ones(A.shape[1]), SGD(lr, momentum), None
        for _ in range(passes):
            order = rng.permutation(len(A))
            for first in range(0, len(A), batch_size):
                B = A[order[first : first + batch_size]]
                theta, buffer = sgd.step(theta, 2 / len(B) * B.T @ (B @ theta), buffer)
        distances.append(np.linalg.norm(theta) / np.sqrt(len(theta)))
    return float(max(distances))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("batch_size", [1, 8, 100])
@pytest.mark.parametrize("kind", ["gaussian", "heavy-tailed", "one-hot"])
def test_batches_bear_their_lr(kind: str, batch_size: int, momentum: float) -> None:
    X = rows_of_kind(kind)
    steepest = 2 * (1 + (X**2).sum(axis=1).max())
    found = modes(triangle(X))
    lr = minibatch_lr(found, steepest, batch_size, len(X), momentum)
    assert distance_after(X, batch_size, lr, momentum, passes=5) < 1


def test_batches_do_not_bear_what_the_full_batch_does() -> None:
    # What the test above would see: the best lr of the full batch, taken for single rows.
    X = rows_of_kind("heavy-tailed")
    with np.errstate(over="ignore", invalid="ignore"):
        assert not distance_after(X, 1, best_lr(modes(triangle(X))), 0.0, passes=1) < 1e3


def test_minibatch_lr_goes_from_single_rows_to_all() -> None:
    found = spectrum(10.0)
    rates = [minibatch_lr(found, 50.0, b, 1000) for b in (1, 10, 100, 1000)]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(1 / 50)
    assert rates[-1] == pytest.approx(1 / 3)


@pytest.fixture
def rows() -> Triangle:
    return triangle(article.X, article.y)


def test_tuned_leaves_numbers_alone(rows: Triangle) -> None:
    h = {**PLAIN, "lr": 0.5, "momentum": 0.1}
    assert tuned(rows, h) == {"lr": 0.5, "momentum": 0.1}


def test_tuned_takes_penalties_into_account(rows: Triangle) -> None:
    A = np.column_stack([np.ones(15), article.X[:, 0]])
    H = 2 / 15 * A.T @ A + np.diag([0.5, 0.5 + 2 * 3.0])
    mu, L = np.linalg.eigvalsh(H)
    h = {**PLAIN, "lr": "auto", "momentum": 0.0, "l2": 3.0, "weight_decay": 0.5}
    assert tuned(rows, h)["lr"] == pytest.approx(2 / (L + mu))


@pytest.mark.parametrize("momentum", [0.0, 0.5, "auto"])
def test_tuned_of_rows_too_large_says_so(momentum: Any) -> None:
    X, h = 1e200 * article.X, {**PLAIN, "lr": "auto", "momentum": momentum}
    with pytest.raises(ValueError, match="scale the data"):
        tuned(triangle(X, article.y), h)
