"""`trueline predict`: each row of the file beside its own prediction, under its own keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, feather, parquet

from trueline.data import TableData
from trueline.module import LinearRegression
from trueline.terminal.progress_bar import TrainingBar

Cli = Callable[..., Any]
KINDS = ("red", "blue", "green")
N = 60


def columns_of(rng: np.random.Generator, n: int = N) -> dict[str, Any]:
    """Draw a table: a key, two numbers, a category, a weight and two targets."""
    a, b = rng.normal(50, 9, n), rng.normal(0, 1e-2, n)
    kind = rng.choice(KINDS, n)
    y = 2 * a - 30 * b + 4 * (kind == "red") + rng.normal(size=n)
    z = y - 3 * a + rng.normal(size=n)
    weight = rng.uniform(0.5, 2, n)
    key = [f"k{i}" for i in rng.permutation(n)]
    return {"key": key, "b": b, "kind": kind, "a": a, "w": weight, "y": y, "z": z}


def write(path: Path, table: pa.Table) -> str:
    """Write a table in the format that its name asks for; return the option that names it."""
    if path.suffix == ".csv":
        csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=7)
    else:
        feather.write_feather(table, path, chunksize=7)
    return f"--data.path={path.name}"


def read(path: Path) -> pa.Table:
    text = csv.ConvertOptions(strings_can_be_null=False)
    return (
        csv.read_csv(path, convert_options=text)
        if path.suffix == ".csv"
        else parquet.read_table(path)
    )


def design(table: dict[str, Any]) -> np.ndarray:
    """Return `[1, a, b, kind[green], kind[red]]`, blue being the base level."""
    levels = [np.asarray(table["kind"]) == level for level in ("green", "red")]
    return np.column_stack([np.ones(len(table["a"])), table["a"], table["b"], *levels])


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow"])
@pytest.mark.parametrize("held_out", ["val_fraction", "test_fraction"])
def test_every_row_stands_beside_its_own_prediction_whatever_is_held_out(
    cli: Cli, tmp_path: Path, suffix: str, held_out: str
) -> None:
    rows = columns_of(np.random.default_rng(0))
    path = write(tmp_path / f"t{suffix}", pa.table(rows))
    data = ("--data=TableData", path, "--data.target=y", "--data.features=a,kind,b")
    fit = (*data, "--data.categorical=kind", f"--data.{held_out}=0.3", "--data.in_memory=1000")
    run = cli("fit", *fit, "--data.batch_size=20", "--trainer.max_epochs=3")
    assert run.status == 0, run.stderr
    config = "--config=lightning_logs/version_0/config.yaml"
    run = cli("predict", config, "--predictions.keys= key , b")
    assert run.status == 0, run.stderr
    found = read(tmp_path / "lightning_logs/version_1/predictions.csv").to_pydict()
    assert list(found) == ["key", "b", "prediction"]
    assert found["key"] == rows["key"]
    result = run.result()
    a, green, red, b = result["weight"]
    expected = design(rows) @ [result["bias"], a, b, green, red]
    np.testing.assert_allclose(found["prediction"], expected, rtol=1e-12)


def test_predictions_are_those_of_least_squares_on_the_training_rows(
    cli: Cli, tmp_path: Path
) -> None:
    rows = columns_of(np.random.default_rng(1))
    data = (
        *("--data=TableData", write(tmp_path / "t.parquet", pa.table(rows)), "--data.target=y,z"),
        *("--data.features=a,b,kind", "--data.categorical=kind", "--data.weight=w"),
    )
    assert cli("fit", *data).status == 0
    new = columns_of(np.random.default_rng(2), 5)
    path = write(tmp_path / "new.csv", pa.table({n: new[n] for n in ("kind", "key", "b", "a")}))
    run = cli("predict", "--data=TableData", path, "--predictions.path=out.parquet")
    assert run.status == 0, run.stderr
    found = read(tmp_path / "out.parquet").to_pydict()
    root = np.sqrt(rows["w"])[:, None]
    for target in ("y", "z"):
        y = np.asarray(rows[target])[:, None]
        line = np.linalg.lstsq(root * design(rows), root * y, rcond=None)[0][:, 0]
        np.testing.assert_allclose(found[f"prediction_{target}"], design(new) @ line, rtol=1e-9)
    assert found["key"] == new["key"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_row_that_misses_a_value_has_an_empty_prediction(
    cli: Cli, tmp_path: Path, suffix: str
) -> None:
    rows = columns_of(np.random.default_rng(3))
    data = ("--data=TableData", "--data.target=y", "--data.features=a,kind", "--data.missing=drop")
    path = write(tmp_path / "t.parquet", pa.table(rows))
    assert cli("fit", *data, path, "--data.categorical=kind").status == 0
    n = 100_000  # more than are read at once
    new = {"key": np.arange(n), "a": np.arange(n) + 0.5, "kind": ["red", "blue"] * (n // 2)}
    missing = {"a": [0, 5, n - 1], "kind": [5, 70_000]}
    table = pa.table({
        name: pa.array(column, mask=np.isin(np.arange(n), missing.get(name, ())))
        for name, column in new.items()
    })  # fmt: skip
    run = cli(
        *("predict", "--data=TableData", write(tmp_path / "new.parquet", table)),
        *("--predictions.intervals=both", f"--predictions.path=out{suffix}"),
    )
    assert run.status == 0, run.stderr
    found = read(tmp_path / f"out{suffix}").to_pydict()
    assert found["key"] == list(range(n))
    written = [name for name in found if name.startswith(("prediction", "confidence"))]
    assert len(written) == 5
    empty = sorted({i for rows in missing.values() for i in rows})
    for name in written:
        assert [i for i, value in enumerate(found[name]) if value in (None, "")] == empty
    result = run.result()
    a, _, red = result["weight"]
    assert found["prediction"][70_002] == pytest.approx(70_002.5 * a + red + result["bias"])
    assert found["prediction"][70_001] == pytest.approx(70_001.5 * a + result["bias"])


def test_one_row_is_predicted_whatever_is_held_out_and_however_large_a_batch_is(
    cli: Cli, tmp_path: Path
) -> None:
    rows = columns_of(np.random.default_rng(4))
    data = ("--data=TableData", "--data.target=y", "--data.features=a")
    held_out = ("--data.val_fraction=0.4", "--data.test_fraction=0.2", "--data.batch_size=16")
    path = write(tmp_path / "t.csv", pa.table(rows))
    assert cli("fit", *data, path, *held_out, "--trainer.max_epochs=2").status == 0
    path = write(tmp_path / "new.csv", pa.table({"a": [50.0]}))
    run = cli("predict", "--config=lightning_logs/version_0/config.yaml", path)
    assert run.status == 0, run.stderr
    found = read(tmp_path / "lightning_logs/version_1/predictions.csv").to_pydict()
    result = run.result()
    assert found["prediction"] == pytest.approx([50 * result["weight"] + result["bias"]])
    path = write(tmp_path / "few.csv", pa.table({"a": [50.0, 51.0], "y": [1.0, 2.0]}))
    for command in ("test", "validate"):
        few = ("--data.val_fraction=0", "--data.test_fraction=0")
        run = cli(command, "--config=lightning_logs/version_0/config.yaml", path, *few)
        assert run.status == 0, run.stderr


@pytest.mark.parametrize("shuffle", ["true", "false"])
@pytest.mark.parametrize("in_memory", ["1", "1000000"])
def test_batch_of_more_rows_than_are_held_out_trains(
    cli: Cli, tmp_path: Path, shuffle: str, in_memory: str
) -> None:
    rows = columns_of(np.random.default_rng(5), 30)
    path = write(tmp_path / "t.csv", pa.table(rows))
    data = ("--data=TableData", path, "--data.target=y", "--data.features=a")
    data += (
        "--data.val_fraction=0.2",
        f"--data.shuffle={shuffle}",
        f"--data.in_memory={in_memory}",
    )
    run = cli("fit", *data, "--data.batch_size=16", "--trainer.max_epochs=3")
    assert run.status == 0, run.stderr
    assert run.result()["steps"] == 6
    assert run.result()["val_loss"] > 0
    run = cli("fit", *data, "--data.batch_size=25")
    assert run.status == 2
    assert "--data.batch_size: expected 1 to 24, the number of rows; found 25" in run.stderr


TEXTS = ['a, "b"', "two\nlines", "plain", "", None]


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary", "binary"])
def test_texts_of_every_kind_come_back_as_they_were(cli: Cli, tmp_path: Path, kind: str) -> None:
    text = pa.array(TEXTS)
    text = text.dictionary_encode() if kind == "dictionary" else text.cast(getattr(pa, kind)())
    table = pa.table({"x": [1.0, 2, 3, 5, 8], "y": [2.0, 4, 7, 9, 17], 'te"xt,': text})
    path = write(tmp_path / "t.arrow", table)
    assert cli("fit", "--data=TableData", path, "--data.target=y", "--data.features=x").status == 0
    for name in ("out.csv", "out.parquet"):
        run = cli("predict", "--data=TableData", path, f"--predictions.path={name}")
        assert run.status == 0, run.stderr
    found = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert list(found) == ["x", "y", 'te"xt,', "prediction"]
    assert list(found['te"xt,']) == [text or "" for text in TEXTS]
    found = parquet.read_table(tmp_path / "out.parquet")['te"xt,']
    assert found.cast(pa.string()).to_pylist() == TEXTS


def test_column_that_csv_cannot_have_is_refused_by_name(cli: Cli, tmp_path: Path) -> None:
    table = pa.table({"x": [1.0, 2, 3], "y": [2.0, 4, 7], "list": [[1], [2], None]})
    path = write(tmp_path / "t.parquet", table)
    assert cli("fit", "--data=TableData", path, "--data.target=y", "--data.features=x").status == 0
    run = cli("predict", "--data=TableData", path)
    assert run.status == 2
    assert "expected columns that .csv can have, found 'list' of list<" in run.stderr
    for option in ("--predictions.keys=x", "--predictions.path=out.parquet"):
        assert cli("predict", "--data=TableData", path, option).status == 0


@pytest.mark.parametrize(
    ("column", "options", "clash"),
    [
        ("prediction", [], True),
        ("prediction", ["--data.target=y,z"], False),
        ("prediction_y", ["--data.target=y,z"], True),
        ("prediction_date", [], False),
        ("confidence_low", [], False),
        ("confidence_low", ["--predictions.intervals=confidence"], True),
        ("prediction_high", ["--predictions.intervals=both"], True),
        ("prediction_high_z", ["--data.target=y,z", "--predictions.intervals=both"], True),
    ],
)
def test_column_named_as_predictions_are_is_never_overwritten(
    cli: Cli, tmp_path: Path, column: str, options: list[str], clash: bool
) -> None:
    rng = np.random.default_rng(0)
    numbers = {name: rng.normal(size=20) for name in ("x", "y", "z", column)}
    data = ("--data=TableData", write(tmp_path / "t.parquet", pa.table(numbers)))
    targets = [o for o in options if o.startswith("--data")] or ["--data.target=y"]
    assert cli("fit", *data, *targets, "--data.features=x").status == 0
    run = cli("predict", *data, *options, "--predictions.path=out.csv")
    if clash:
        assert run.status == 2
        assert f"expected no column named as predictions are, found {column}" in run.stderr
        assert not (tmp_path / "out.csv").exists()
        run = cli("predict", *data, *options, "--predictions.path=out.csv", "--predictions.keys=x")
        assert run.status == 0, run.stderr
    else:
        assert run.status == 0, run.stderr
        np.testing.assert_array_equal(read(tmp_path / "out.csv")[column], numbers[column])


def test_targets_whose_predictions_would_have_one_name_are_refused(
    cli: Cli, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    numbers = {name: rng.normal(size=20) for name in ("x", "y", "low_y")}
    data = ("--data=TableData", write(tmp_path / "t.csv", pa.table(numbers)))
    assert cli("fit", *data, "--data.target=y,low_y", "--data.features=x").status == 0
    run = cli("predict", *data, "--predictions.intervals=prediction", "--predictions.keys=x")
    assert run.status == 2
    assert "found prediction_low_y" in run.stderr


@pytest.fixture
def model(cli: Cli, tmp_path: Path) -> str:
    """Train on a table of 200,000 rows, so that predictions come in several batches."""
    rows = columns_of(np.random.default_rng(6), 200_000)
    path = write(tmp_path / "t.parquet", pa.table({name: rows[name] for name in ("a", "y", "key")}))
    run = cli("fit", "--data=TableData", path, "--data.target=y", "--data.features=a")
    assert run.status == 0, run.stderr
    return path


class Stop(pl.Callback):
    """Ends a prediction in its second batch."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_predict_batch_end(self, *args: Any) -> None:
        if args[4] == 1:
            raise self.error


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("other")]
)
def test_prediction_that_is_cut_short_leaves_no_file(
    cli: Cli, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, error: Any, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    command = ("predict", "--data=TableData", model, f"--predictions.path={out.name}")
    with monkeypatch.context() as stopped:
        stopped.setattr(TrainingBar, "on_predict_batch_end", Stop(error).on_predict_batch_end)
        assert cli(*command).status != 0
    assert not list(tmp_path.glob("out*"))
    (tmp_path / f"{out.name}.partial").write_bytes(b"what a killed process leaves")
    assert cli(*command).status == 0
    assert len(read(out)) == 200_000
    assert list(tmp_path.glob("out*")) == [out]
    run = cli(*command)
    assert run.status == 2
    assert f"expected no file {out.name} yet, found one" in run.stderr
    assert len(read(out)) == 200_000


def test_row_without_a_category_is_nan_in_python(
    tmp_path: Path, make_trainer: Callable[..., pl.Trainer]
) -> None:
    rows = columns_of(np.random.default_rng(7))
    options = {"features": "kind,a", "categorical": "kind", "missing": "drop"}
    write(tmp_path / "t.parquet", pa.table(rows))
    new = {"kind": ["red", None, "blue"], "a": [1.0, 2.0, None], "y": [0.0, 0.0, 0.0]}
    write(tmp_path / "new.parquet", pa.table(new))
    trainer, model = make_trainer(), LinearRegression(3, lr=0.1)
    trainer.fit(model, TableData(str(tmp_path / "t.parquet"), "y", **options))
    data = TableData(str(tmp_path / "new.parquet"), "y", **options)
    found = torch.cat(trainer.predict(model, data))
    assert found.isnan().tolist() == [False, True, True]
