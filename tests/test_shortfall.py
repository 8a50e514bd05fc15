"""`shortfall`, and settings for a number of epochs: what a training does that cannot converge."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trueline.planning.convergence import Modes, decay, epochs
from trueline.planning.rates import heavy_ball
from trueline.planning.shortfall import remedy
from trueline.reference import SGD
from trueline.reference.triangle import Line, triangle

rng = np.random.default_rng(0)
X = np.column_stack([x := rng.normal(size=200), x + 1e-6 * rng.normal(size=200)])
Y = X @ [1.0, 2.0] + rng.normal(size=200) + 10
PLAIN = {"dampening": 0.0, "nesterov": False, "weight_decay": 0.0, "l1": 0.0, "l2": 0.0}


def written(folder: Path) -> Path:
    path = folder / "t.csv"
    np.savetxt(path, np.column_stack([X, Y]), "%.17g", ",", header="a,b,y", comments="")
    return path


def said(X: Any, y: Any, full_batch: bool = True, **h: Any) -> str:
    options: Any = SimpleNamespace(**(PLAIN | {"lr": 0.01, "momentum": 0.0, "schedule": None} | h))
    zero = Line(np.zeros(X.shape[1]), np.zeros(()))
    return remedy(triangle(X, y), zero, options, 1e-6, full_batch)


@pytest.mark.parametrize("steps", [50, 1000, 10**6])
def test_heavy_ball_for_some_steps_is_at_rest_after_them(steps: int) -> None:
    found = Modes(np.array([3.0, 1.0, 1e-2, 1e-15]), np.eye(4))
    lr, momentum = heavy_ball(found, steps=steps)
    left = np.abs(decay(found.curvature, SGD(lr, momentum), np.array([steps])))[0]
    # What comes to rest has; what is slower is no further away than it was.
    assert left[0] < 1e-12
    assert left[-1] <= 1
    in_the_end = SGD(*heavy_ball(found))
    assert np.abs(decay(found.curvature, in_the_end, np.array([steps])))[0, 0] > 50


def test_heavy_ball_is_the_best_in_the_end_where_the_steps_are_enough() -> None:
    found = Modes(np.array([9.0, 1.0]), np.eye(2))
    assert heavy_ball(found, steps=1000) == heavy_ball(found)


def test_training_that_cannot_converge_comes_near_and_says_why(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    table = ["--data=TableData", f"--data.path={written(tmp_path)}", "--data.target=y"]
    run = cli("fit", *table, "--trainer.max_epochs=2000")
    assert run.status == 0, run.stderr
    result = run.result()
    assert result["converged"] is False
    # It was two thousand times the spread away, in the middle of a swing.
    assert result["distance"] < 0.05
    assert result["loss"] < 1.01 * result["closed_form"]["loss"]
    assert "columns nearly depend on each other (condition 3.5e+12)" in run.stdout
    assert result["remedy"].endswith("or take the closed form")


def test_cross_check_follows_a_training_near_the_end_of_its_digits(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    table = ["--data=TableData", f"--data.path={written(tmp_path)}", "--data.target=y"]
    rule = ["--model.lr=0.999999", "--model.momentum=0.9999978"]
    run = cli("fit", *table, *rule, "--trainer.max_epochs=16384")
    assert run.status == 0, run.stderr
    assert run.result()["crosscheck"]["worst_ratio"] < 0.5


def test_epochs_that_are_said_are_enough() -> None:
    x, h = np.arange(9.0)[:, None], SGD(0.01)
    y = x[:, 0] ** 1.5
    more = epochs(triangle(x, y), Line(np.zeros(1), np.zeros(())), h)
    assert said(x, y) == f"give some {more:,} more epochs"
    theta, A = np.zeros(2), np.column_stack([x, np.ones(9)])
    for _ in range(more or 0):
        theta -= 0.01 * 2 / 9 * A.T @ (A @ theta - y)
    best = np.linalg.lstsq(A, y, rcond=None)[0]
    assert np.sqrt(np.mean((A @ (theta - best)) ** 2)) <= 1.01e-6 * y.std()


@pytest.mark.parametrize(
    ("X", "y", "options", "words"),
    [
        (X, Y, {}, "columns nearly depend on each other (condition 3.5e+12)"),
        (np.arange(9.0)[:, None], np.arange(9.0) ** 2, {"lr": 1e-9}, "--model.momentum auto"),
        (np.arange(9.0)[:, None], np.arange(9.0) ** 2, {"full_batch": False}, "a smaller lr"),
        (np.arange(9.0)[:, None], np.arange(9.0) ** 2, {"schedule": {"name": "x"}}, "give more"),
        (np.arange(9.0)[:, None], 1e12 + np.arange(9.0) ** 0.5, {}, "take a constant off the tar"),
    ],
)
def test_remedy_fits_the_cause(X: Any, y: Any, options: dict[str, Any], words: str) -> None:
    assert words in said(X, y, **options)
