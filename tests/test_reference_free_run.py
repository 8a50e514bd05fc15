"""`reference.free_run`: how far two trainings with the same steps may come apart.

Oracles: differences of `SGD.step` and of the gradient, and the largest distance that can be.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.crosscheck import CrossCheck
from trueline.crosscheck.free_run import FreeRun
from trueline.crosscheck.judge import Judge
from trueline.crosscheck.layout import Layout
from trueline.crosscheck.step import Part, Step
from trueline.crosscheck.verdict import Tally
from trueline.data import DummyData, RegressionData
from trueline.module import LinearRegression
from trueline.reference import SGD, Clipping, LeastSquares
from trueline.reference.free_run import Ellipsoid, step_map
from trueline.reference.linear import hessian
from trueline.reference.rounding import BFLOAT16, FLOAT32

RULES = [
    SGD(lr=0.1),
    SGD(lr=0.1, weight_decay=0.3),
    SGD(lr=0.1, maximize=True, weight_decay=0.3),
    SGD(lr=0.1, momentum=0.9),
    SGD(lr=0.1, momentum=0.9, dampening=0.4, weight_decay=0.3),
    SGD(lr=0.1, momentum=0.8, dampening=1.0, maximize=True),
    SGD(lr=0.1, momentum=0.9, nesterov=True),
    SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.3, maximize=True),
]


def positive_definite(rng: np.random.Generator, size: int) -> np.ndarray:
    A = rng.standard_normal((size, size))
    return A @ A.T + 0.1 * np.eye(size)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_step_map_is_what_a_step_makes_of_a_difference(rule: SGD, first: bool) -> None:
    rng, p = np.random.default_rng(1), 3
    H, c, x = positive_definite(rng, p), rng.standard_normal(p), rng.standard_normal(2 * p)

    def step(x: np.ndarray) -> np.ndarray:
        theta = x[:p]
        kept = x[p:] if rule.momentum and not first else None
        moved, buffer = rule.step(theta, H @ theta + c, kept)
        return np.concatenate([moved, np.zeros(p) if buffer is None else buffer])

    expected = np.column_stack([step(x + e) - step(x) for e in np.eye(2 * p)])
    np.testing.assert_allclose(step_map(rule, H, first), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("l2", [0.0, 0.7])
@pytest.mark.parametrize("weighted", [False, True])
def test_hessian_is_the_difference_of_gradients(weighted: bool, l2: float) -> None:
    rng = np.random.default_rng(2)
    X, y, w = rng.standard_normal((9, 3)), rng.standard_normal(9), rng.uniform(0.5, 3, 9)
    batch = (X, y, w) if weighted else (X, y)

    def gradient(theta: np.ndarray) -> np.ndarray:
        parameters = {"weight": theta[:3], "bias": theta[3]}
        found = LeastSquares(l2=l2).loss_and_gradient(parameters, batch)[1]
        return np.append(found["weight"], found["bias"])

    theta = rng.standard_normal(4)
    expected = np.column_stack([gradient(theta + e) - gradient(theta) for e in np.eye(4)])
    share = w / w.sum() if weighted else 1 / 9
    np.testing.assert_allclose(hessian(X, share, l2), expected, rtol=1e-12, atol=1e-13)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 5),
    radius=st.floats(0.05, 0.99),
    some_exact=st.booleans(),
)
def test_ellipsoid_holds_all_that_rounding_can_do(
    seed: int, size: int, radius: float, some_exact: bool
) -> None:
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((size, size))
    M *= radius / np.abs(np.linalg.eigvals(M)).max()
    bound = 10.0 ** rng.uniform(-6, 0, size)
    if some_exact:
        bound[0] = 0.0
    ellipsoid, reach, power = Ellipsoid(size), np.zeros(size), np.eye(size)
    drawn = np.zeros(size)
    for _ in range(40):
        ellipsoid.advance(M, bound)
        # Each entry's largest: every ξ before has the sign that its power of M gives it there.
        reach += np.abs(power) @ bound
        power = M @ power
        drawn = M @ drawn + bound * rng.choice([-1.0, 1.0], size)
        assert (reach <= ellipsoid.bound() * (1 + 1e-9)).all()
        assert (np.abs(drawn) <= ellipsoid.bound() * (1 + 1e-9)).all()


@pytest.mark.parametrize("rule", [r for r in RULES if not r.maximize], ids=str)
def test_ellipsoid_holds_momentum_whose_steps_change(rule: SGD) -> None:
    rng, p = np.random.default_rng(3), 2
    ellipsoid, maps = Ellipsoid(2 * p), []
    bound = np.concatenate([np.full(p, 1e-8), np.full(p, 1e-6 * bool(rule.momentum))])
    for k in range(80):
        H = positive_definite(rng, p)
        H *= rng.uniform(0.1, 3) / np.linalg.norm(H, 2)
        maps.append(step_map(replace(rule, lr=0.1 / (1 + k / 20)), H, first=k == 0))
        ellipsoid.advance(maps[-1], bound)
    reach, carried = np.zeros(2 * p), np.eye(2 * p)
    for M in reversed(maps):
        reach += np.abs(carried) @ bound
        carried = carried @ M
    assert (reach <= ellipsoid.bound() * (1 + 1e-9)).all()


def test_ellipsoid_stays_finite_where_the_norms_overflow() -> None:
    rng = np.random.default_rng(4)
    H = positive_definite(rng, 3)
    M = step_map(SGD(lr=1 / np.linalg.norm(H, 2), momentum=0.9), H, first=False)
    bound = np.full(6, 1e-16)
    with np.errstate(over="ignore"):
        assert np.linalg.norm(M, 2) ** np.float64(2000) == np.inf
    ellipsoid, reach, power = Ellipsoid(6), np.zeros(6), np.eye(6)
    for _ in range(2000):
        ellipsoid.advance(M, bound)
        reach += np.abs(power) @ bound
        power = M @ power
    assert (reach <= ellipsoid.bound()).all()
    assert (ellipsoid.bound() < 100 * reach).all()


@pytest.mark.parametrize(
    ("n_targets", "weighted", "rule"),
    [
        (1, False, SGD(lr=0.05)),
        (1, True, SGD(lr=0.05, momentum=0.9, weight_decay=0.1)),
        (2, True, SGD(lr=0.05, momentum=0.5, nesterov=True)),
        (3, False, SGD(lr=0.05, momentum=0.9, dampening=0.5)),
    ],
)
def test_free_run_holds_steps_that_are_off_by_all_that_they_may(
    n_targets: int, weighted: bool, rule: SGD
) -> None:
    rng = np.random.default_rng(5)
    targets = () if n_targets == 1 else (n_targets,)
    layout = Layout({"weight": (2, *targets), "bias": targets})

    def parts() -> Iterator[Part]:
        for n in (4, 7):
            weights = (rng.uniform(0.5, 2, n),) if weighted else ()
            yield Part((rng.standard_normal((n, 2)), rng.standard_normal((n, *targets)), *weights))

    theta = rng.standard_normal(3 * n_targets)
    example = theta, next(parts()).batch
    judge = Judge(LeastSquares(l2=0.1), rule, None, BFLOAT16, layout, example)
    free, buffer, worst = FreeRun(judge, theta), None, 0.0
    nan = np.full_like(theta, np.nan)
    for k in range(60):
        lrs = np.array([[rule.lr, 0.0]])
        step = Step(k + 1, k, list(parts()), theta, nan, nan, buffer, nan, nan, lrs, divisor=2)
        compared = {quantity.kind: quantity for quantity in judge.judge(step)}
        moved = {}
        for kind in ("parameter", "momentum"):
            if kind in compared:
                _, _, expected, bound, _ = compared[kind]
                moved[kind] = expected + bound * rng.choice([-1.0, 1.0], bound.shape)
        theta, buffer = moved["parameter"], moved.get("momentum")
        apart = free.advance(replace(step, after=theta), list(compared.values()))
        worst = max(worst, Tally().worst_of(apart))
    assert 0.05 < worst <= 1


def judge_of(**changes: Any) -> Judge:
    options = {"reference": LeastSquares(), "optimizer": SGD(lr=0.1), "clipping": None}
    layout, example = (
        Layout({"weight": (1,), "bias": ()}),
        (np.zeros(2), (np.ones((2, 1)), np.ones(2))),
    )
    return Judge(**(options | changes), arithmetic=FLOAT32, layout=layout, example=example)


def test_free_run_is_possible_only_where_a_step_is_affine() -> None:
    by_name = {"weight": SGD(lr=0.1), "bias": SGD(lr=0.2)}
    assert FreeRun.possible(judge_of())
    assert FreeRun.possible(judge_of(reference=LeastSquares(l2=1.0)))
    assert not FreeRun.possible(judge_of(reference=LeastSquares(l1=1.0)))
    assert not FreeRun.possible(judge_of(clipping=Clipping(1.0, "norm")))
    assert not FreeRun.possible(judge_of(optimizer=by_name))


@pytest.mark.parametrize("precision", ["64-true", "32-true", "bf16-mixed"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_free_run_passes_a_training(make_trainer: Any, precision: str, momentum: float) -> None:
    check = CrossCheck(free_run=True)
    trainer = make_trainer(
        precision=precision, max_epochs=40, accumulate_grad_batches=2, callbacks=[check]
    )
    X = np.random.default_rng(0).standard_normal((20, 2))
    data = RegressionData(X, X @ np.array([[1.0, 2], [3, 4]]), 6, shuffle=True)
    trainer.fit(LinearRegression(n_features=2, n_targets=2, lr=0.01, momentum=momentum), data)
    report = check.report()
    assert report["passed"]
    assert 0 < report["free_run"] <= 1


@pytest.mark.parametrize("options", [{"free_run": False}, {"free_run": True, "l1": 0.1}])
def test_free_run_is_told_only_where_there_was_one(make_trainer: Any, options: Any) -> None:
    check = CrossCheck(free_run=options.pop("free_run"))
    make_trainer(callbacks=[check]).fit(LinearRegression(**options), DummyData())
    assert check.report()["passed"]
    assert check.report()["free_run"] is None
