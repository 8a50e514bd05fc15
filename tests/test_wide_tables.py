"""Tables of more columns than rows: they cost what their rows do, and the rank is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trueline.data import TableData
from trueline.errors import RequestError
from trueline.planning.convergence import condition, modes
from trueline.planning.plan import dependent
from trueline.reference.triangle import merged, triangle, triangle_of
from trueline.tables import choose, open_table

Cli = Callable[..., Any]


def write(path: Path, n: int, p: int) -> np.ndarray:
    """Write a table of columns c0, c1, … and y; return it."""
    rows = np.random.default_rng(0).normal(size=(n, p + 1)).round(6)
    names = ",".join([*(f"c{j}" for j in range(p)), "y"])
    lines = [",".join(map(repr, row)) for row in rows.tolist()]
    path.write_text("\n".join([names, *lines]) + "\n")
    return rows


@pytest.mark.parametrize("n", [1, 2, 5, 7, 8, 30])
def test_triangle_has_as_many_rows_as_the_data_at_most(n: int) -> None:
    rng = np.random.default_rng(n)
    X, y = rng.normal(size=(n, 6)), rng.normal(size=n)
    found = triangle(X, y)
    assert found.R.shape == (min(n, 8), 8)
    Z = np.column_stack([np.ones(n), X - found.center[:6], y - found.center[6:]])
    np.testing.assert_allclose(found.R.T @ found.R, Z.T @ Z, atol=1e-12)
    assert found.rank() == np.linalg.matrix_rank(np.column_stack([np.ones(n), X]))
    A = np.column_stack([np.ones(n), X])
    eigenvalues = np.linalg.eigvalsh(2 / n * A.T @ A)
    np.testing.assert_allclose(modes(found).curvature, eigenvalues[::-1], atol=1e-12)
    assert condition(found) == pytest.approx(modes(found).condition, rel=1e-9)
    if n > 1:
        both = merged(triangle(X[:1], y[:1]), triangle(X[1:], y[1:]))
        assert both.R.shape == found.R.shape
        assert both.rank() == found.rank()


def test_rows_that_come_one_by_one_are_those_that_come_at_once() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(9, 5000)), rng.normal(size=9)
    found = triangle_of((X[i : i + 1], y[i : i + 1], None) for i in range(9))
    np.testing.assert_array_equal(found.R, triangle(X, y).R)
    lengths = np.linalg.norm(X - found.center[:-1], axis=0)
    np.testing.assert_allclose(np.linalg.norm(found.R[:, 1:-1], axis=0), lengths)


def test_columns_that_depend_on_each_other_are_found_where_rows_are_few() -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(4, 2)), np.ones(4), [0, 0, 0, 1.0]])
    X = np.column_stack([X, 2 * X[:, 0] + 1])
    assert dependent(triangle(X)) == ([2], [0, 4])


def test_two_thousand_features_of_ten_rows_are_trained_and_said_to_be_dependent(
    cli: Cli, tmp_path: Path
) -> None:
    write(tmp_path / "t.csv", 10, 2000)
    asked = ("--data=TableData", "--data.path=t.csv", "--data.target=y")
    run = cli("fit", *asked, "--trainer.max_epochs=2")
    assert run.status == 0, run.stderr
    assert "c0          undetermined" in run.stdout
    assert run.result()["crosscheck"]["passed"]
    run = cli("plan", *asked)
    assert run.status == 0, run.stderr
    assert "collinear" in run.stdout


def test_names_of_a_hundred_thousand_columns_are_looked_up_at_once(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", 3, 100_000)
    table = open_table(tmp_path / "t.csv")
    columns = choose(table, "y")
    assert len(columns.features) == 100_000
    data = TableData(str(tmp_path / "t.csv"), "y")
    assert data.triangle.R.shape == (3, 100_002)
    with pytest.raises(RequestError, match="expected 'c5' once"):
        choose(table, "y", [*table.names[:-1], "c5"])
    with pytest.raises(RequestError, match="and more"):
        choose(table, "y", [f"d{j}" for j in range(100_000)])
