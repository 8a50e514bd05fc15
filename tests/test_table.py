"""Trainings on tables and predictions from them, through the command."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trueline.data import TableData
from trueline.errors import RequestError

Cli = Callable[..., Any]
KINDS = ("red", "blue", "green")
OPTIONS = ("--data=TableData", "--data.path=t.csv", "--data.target=y", "--data.categorical=kind")


@pytest.fixture(autouse=True)
def table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with (tmp_path / "t.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "kind", "y", "b"])
        for i in range(200):
            a, b, kind = rng.normal(1000, 3), rng.normal(0, 1e-3), KINDS[i % 3]
            rows.writerow([a, kind, a + 200 * b + 5 * (kind == "red") + rng.normal(), b])


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return f"--data.path={path.name}"


def predictions(run: Any, version: str) -> list[dict[str, str]]:
    with (run.directory / "lightning_logs" / version / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_predictions_go_by_names_and_levels(cli: Cli, tmp_path: Path) -> None:
    run = cli("fit", *OPTIONS)
    assert run.status == 0, run.stderr
    result = run.result()
    assert result["features"] == ["a", "kind[green]", "kind[red]", "b"]
    # Other order, another column, no target, and not all levels.
    new = write(tmp_path / "new.csv", "b,note,kind,a", '0.001,"x, y",red,1001', "0,007,blue,999")
    run = cli("predict", "--data=TableData", new, "--predictions.keys=note")
    assert run.status == 0, run.stderr
    found = predictions(run, "version_1")
    assert [list(row) for row in found] == [["note", "prediction"]] * 2
    assert [row["note"] for row in found] == ["x, y", "007"]
    a, _, red, b = result["weight"]
    expected = [1001 * a + red + 0.001 * b + result["bias"], 999 * a + result["bias"]]
    assert [float(row["prediction"]) for row in found] == pytest.approx(expected, rel=1e-12)
    for line, said in (
        ("0,x,violet,999", "row 1"),
        ("0,x,,999", "row 1"),
        ("0,x,red,one", "row 1"),
    ):
        path = write(tmp_path / "new.csv", "b,note,kind,a", line)
        run = cli("predict", "--data=TableData", path)
        assert run.status == 2
        assert "new.csv" in run.stderr
        assert said in run.stderr
    dropped = write(
        tmp_path / "new.csv", "b,kind,a,id", "0,,1,i", "0,red,999,j", "0,blue,,k", "0,red,1,l"
    )
    run = cli(
        "predict", "--data=TableData", dropped, "--data.missing=drop", "--predictions.keys=id"
    )
    assert run.status == 0, run.stderr
    assert "2 of 4 rows miss something" in run.stdout
    newest = sorted((tmp_path / "lightning_logs").glob("version_*/predictions.csv"))[-1]
    found = predictions(run, newest.parent.name)
    assert [(row["id"], row["prediction"] != "") for row in found] == [
        *(("i", False), ("j", True), ("k", False), ("l", True))
    ]


@pytest.mark.parametrize(("begun", "in_memory"), [(1, "1"), (10**6, "auto"), (10**6, "1")])
def test_training_on_a_table_goes_on_from_a_checkpoint(
    cli: Cli, begun: int, in_memory: str
) -> None:
    batches = (*OPTIONS, "--data.batch_size=16", "--data.shuffle=true")
    batches = (*batches, f"--data.in_memory={begun}")
    whole = cli("fit", *batches, "--trainer.max_epochs=6")
    assert whole.status == 0, whole.stderr
    assert cli("fit", *batches, "--trainer.max_epochs=4").status == 0
    data = (*OPTIONS[:2], f"--data.in_memory={in_memory}")  # the columns come from the checkpoint
    again = cli("fit", *data, "--ckpt_path=last", "--trainer.max_epochs=6")
    assert again.status == 0, again.stderr
    one, other = whole.result("version_0"), whole.result("version_2")
    for name in ("weight", "bias", "loss", "steps", "closed_form", "summary", "lr", "distance"):
        assert one[name] == other[name], name


def test_held_out_rows_are_not_trained_on(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = TableData("t.csv", "y", categorical="kind", standardize=False)
    for in_memory in (1, 2**28):
        data = TableData(
            *("t.csv", "y"), categorical="kind", standardize=False,
            val_fraction=0.2, test_fraction=0.1, in_memory=in_memory,
        )  # fmt: skip
        parts = [data, data.held_out["val"], data.held_out["test"]]
        assert [part.n_samples for part in parts] == [140, 40, 20]
        loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
        served = np.concatenate([np.column_stack(b) for loader in loaders for b in loader])
        assert sorted(map(tuple, served)) == sorted(map(tuple, np.column_stack([whole.X, whole.y])))
    run = cli("fit", *OPTIONS, "--data.val_fraction=0.2")
    assert run.status == 0, run.stderr
    assert run.result()["n_samples"] == 160


def test_constant_column_is_said_and_does_no_harm(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "c.csv", "a,same,y", *(f"{i},7,{2 * i + i % 2}" for i in range(9)))
    run = cli("fit", "--data=TableData", "--data.path=c.csv", "--data.target=y")
    assert run.status == 0, run.stderr
    result = run.result()
    assert result["summary"][0]["aliased"] == ["same"]
    slope, _ = np.polyfit(range(9), [2 * i + i % 2 for i in range(9)], 1)
    # The intercept is the value where `same` is 0, of which no row tells.
    assert result["weight"] == [pytest.approx(slope, rel=1e-9), None]
    assert result["bias"] is None
    assert result["undetermined"]["reasons"] == ["in every training row same = 7"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--data.target: expected the column to predict"),
        (("--data.target=Y",), "did you mean"),
        (("--data.target=y", "--data.val_fraction=1.5"), "val_fraction"),
        (("--data.target=y", "--data.val_fraction=0.1", "--data.val_path=t.csv"), "leave one out"),
        (("--data.target=y",), "kind"),
        (("--data.target=y", "--data.features=a", "--data.batch_size=999"), "batch_size"),
        (("--data.target=y", "--data.like=nothing.ckpt"), "nothing.ckpt"),
    ],
)
def test_bad_requests_end_in_one_line(
    cli: Cli, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    run = cli("fit", "--data=TableData", "--data.path=t.csv", *options)
    assert run.status == 2
    assert run.stderr.count("\n") == 1
    assert said in run.stderr
    assert not (tmp_path / "lightning_logs").exists()


def test_training_needs_targets(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", *OPTIONS).status == 0
    new = write(tmp_path / "new.csv", "b,kind,a", "0,red,999")
    run = cli("test", "--data=TableData", new)
    assert run.status == 2
    assert "expected the target column y" in run.stderr
    assert cli("fit", "--trainer.max_epochs=2").status == 0  # on other data
    newest = sorted((tmp_path / "lightning_logs").glob("version_*/checkpoints/last.ckpt"))[-1]
    with pytest.raises(RequestError, match="on a table, found none"):
        TableData("t.csv", like=str(newest))


@pytest.mark.parametrize("column", ["x", "y"])
@pytest.mark.parametrize("size", [1e300, 1e160, 1e-160, 1e-300, 5e-324])
def test_columns_whose_squares_are_beyond_float64_are_refused(
    column: str, size: float, tmp_path: Path
) -> None:
    numbers = {"x": [1.0, 2.0, 5.0, 3.0], "y": [2.0, 4.0, 7.0, 9.0]}
    numbers[column] = [size * n for n in numbers[column]]
    lines = ["x,y", *(f"{x!r},{y!r}" for x, y in zip(*numbers.values(), strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    # They looked constant, and were left out as if they depended on others.
    with pytest.raises(RequestError, match=rf"t.csv, column '{column}': expected .* another unit"):
        TableData(str(tmp_path / "t.csv"), "y")


@pytest.mark.parametrize("fractions", [{"val_fraction": 0.95}, dict.fromkeys(
    ("val_fraction", "test_fraction"), 0.49)])  # fmt: skip
def test_all_rows_held_out_is_refused(fractions: dict[str, float], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n1,2\n3,4\n")
    with pytest.raises(RequestError, match="expected rows left to train on"):
        TableData(str(tmp_path / "t.csv"), "y", **fractions)


def test_training_on_dependent_columns_converges_to_what_all_best_lines_predict(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(0)
    a, b, noise = rng.normal(size=(3, 60))
    columns = np.column_stack([a, b, 2 * a - b + 1, a + noise])
    np.savetxt(tmp_path / "t.csv", columns, "%.17g", ",", header="a,b,c,y", comments="")
    given = ["--data=TableData", f"--data.path={tmp_path / 't.csv'}", "--data.target=y"]
    for epochs, converged in ((1, False), (None, True)):
        run = cli("fit", *given, *([f"--trainer.max_epochs={epochs}"] if epochs else []))
        assert run.status == 0, run.stderr
        result = run.result(f"version_{int(converged)}")
        assert result["converged"] is converged
        assert result["closed_form"] is None
    A = np.column_stack([np.ones(60), a, b])
    residual = columns[:, 3] - A @ np.linalg.lstsq(A, columns[:, 3], rcond=None)[0]
    assert result["loss"] == pytest.approx(np.mean(residual**2), rel=1e-10)
