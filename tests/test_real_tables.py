"""Real tables, with nothing chosen but file and target: certified digits, and SGD comes to them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test_convergence import real_data
from trueline.crosscheck import CrossCheck
from trueline.data import TableData
from trueline.module import LinearRegression
from trueline.planning.forecast import forecast
from trueline.results.report import result_of

DATA = Path(__file__).parent / "data"
TABLES = ("norris", "pontius", "longley", "wampler1", "diabetes", "engel")
DIGITS = {"norris": 12.0, "pontius": 12.5, "longley": 10.5, "wampler1": 9.0}
"""That the certified parameters are reached to."""


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], Path]:
    """Return a writer of one of the tables as CSV."""

    def write(name: str) -> Path:
        X, y = real_data()[name]
        path = tmp_path / f"{name}.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow([*(f"x{j}" for j in range(X.shape[1])), "y"])
            rows.writerows([map(repr, map(float, row)) for row in np.column_stack([X, y])])
        return path

    return write


def digits(found: Any, certified: Any) -> float:
    """Return the log relative error, of the parameter that has the fewest digits."""
    found, certified = np.asarray(found, float), np.asarray(certified, float)
    wrong = np.abs(found - certified) / np.abs(certified)
    return float(-np.log10(max(wrong.max(), 1e-16)))


@pytest.mark.parametrize("name", TABLES)
def test_fit_with_its_defaults_comes_to_the_closed_form(
    name: str, table: Callable[[str], Path], cli: Callable[..., Any]
) -> None:
    run = cli("fit", "--data=TableData", f"--data.path={table(name)}", "--data.target=y")
    assert run.status == 0, run.stderr
    result = run.result()
    best, summary = result["closed_form"], result["summary"][0]
    for parameter in ("weight", "bias"):
        assert result[parameter] == pytest.approx(best[parameter], rel=1e-6)
    assert result["converged"]
    assert result["crosscheck"]["passed"]
    assert result["crosscheck"]["steps_checked"] == result["steps"] > 0
    assert result["features"] == [f"x{j}" for j in range(result["n_features"])]
    found = [entry["value"] for entry in summary["coefficients"]]
    errors = [entry["std_error"] for entry in summary["coefficients"]]
    if name in DIGITS:
        certified = json.loads((DATA / f"{name}.json").read_text("utf-8"))
        closed = [best["bias"], *np.atleast_1d(best["weight"])]
        for parameters in (found, closed):
            assert digits(parameters, certified["certified_params"]) >= DIGITS[name]
        if all(certified["certified_std_errors"]):
            expected = certified["certified_std_errors"]
            assert digits(errors, expected) >= DIGITS[name] - 1


@pytest.mark.parametrize("name", TABLES)
def test_plan_says_when_the_training_has_converged(
    name: str, table: Callable[[str], Path], make_trainer: Callable[..., Any]
) -> None:
    data = TableData(str(table(name)), "y")

    def model() -> LinearRegression:
        torch.manual_seed(0)
        model = LinearRegression(data.n_features, lr="auto", momentum="auto")
        model.tune(data)
        return model

    planned = forecast(data, model()).trainings["asked"].epochs
    assert planned is not None
    for epochs, expected in ((1.05 * planned + 1, True), (0.95 * planned - 1, False)):
        if epochs < 1:
            continue
        trainer = make_trainer(max_epochs=int(np.ceil(epochs)), callbacks=[CrossCheck()])
        trained = model()
        trainer.fit(trained, data)
        assert result_of(trainer, trained)["converged"] is expected


def fit_columns(cli: Callable[..., Any], path: Path, columns: dict[str, Any], *options: str) -> Any:
    """Fit y to the other columns with nothing chosen; return the result, whose steps all passed."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(map(repr, map(float, row)) for row in zip(*columns.values(), strict=True))
    run = cli("fit", "--data=TableData", f"--data.path={path}", "--data.target=y", *options)
    assert run.status == 0, run.stderr
    assert run.result()["crosscheck"]["passed"]
    return run.result()


def test_powers_up_to_the_sixth_converge_and_pass(cli: Callable[..., Any], tmp_path: Path) -> None:
    t = np.arange(1.0, 31.0)
    powers = {f"t{k}": t**k for k in range(1, 7)}
    y = sum(power / power.std() for power in powers.values()) + np.sin(37 * t)
    result = fit_columns(cli, tmp_path / "powers.csv", {**powers, "y": y})
    assert result["weight"] == pytest.approx(result["closed_form"]["weight"], rel=1e-6)
    assert result["converged"]


def test_where_columns_nearly_depend_fit_comes_near_in_what_can_be_told_apart(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    # As of NIST's Filip: a polynomial of degree 10, the condition of whose Hessian is 10¹⁹.
    t = np.linspace(-8.8, -3.1, 82)
    y = 0.85 + 0.05 * np.sin(1.3 * t) + 0.003 * np.sin(1000 * t)
    columns = {**{f"t{k}": t**k for k in range(1, 11)}, "y": y}
    result = fit_columns(cli, tmp_path / "degree_10.csv", columns, "--trainer.max_epochs=600000")
    assert not result["converged"]
    assert result["distance"] < 0.1
    assert result["loss"] < 1.5 * result["closed_form"]["loss"]


def test_a_column_far_from_zero_beside_its_spread_converges(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    # In its units the bias is -10¹², which has four digits fewer than predictions need.
    small = np.round(np.random.default_rng(0).normal(size=200), 4) / 1024
    columns = {"t": 1e9 + small, "y": 1000 * small + np.cos(np.arange(200))}
    result = fit_columns(cli, tmp_path / "offset.csv", columns)
    assert result["converged"]
    assert result["distance"] < 1e-12
