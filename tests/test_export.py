"""`trueline export`: what it writes predicts what `trueline predict` does."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from exported_lines import RUN, Cli, N, columns, fit, fit_houses
from trueline.export import checking, document, graph
from trueline.export.trained import Trained, restore
from trueline.tables import Columns, Feature

ALL = "area,year built,heating,rooms,sold"
CASES: dict[str, tuple[str, list[str]]] = {
    "numbers": ("t.csv", ["--data.features=area,year built"]),
    "text": ("t.csv", [f"--data.features={ALL[:-11]}", "--data.categorical=heating"]),
    "texts, integers and booleans": (
        "t.parquet",
        [f"--data.features={ALL}", "--data.categorical=heating,rooms,sold"],
    ),
    "integers as texts": ("t.csv", ["--data.features=rooms", "--data.categorical=rooms"]),
    "one level": ("t.csv", ["--data.features=area,only", "--data.categorical=only"]),
    "targets": (
        "t.parquet",
        ["--data.target=price,rent", f"--data.features={ALL}", "--data.categorical=heating,sold"],
    ),
    "weight": ("t.csv", ["--data.features=area", "--data.weight=count"]),
    "no scaling": (
        "t.parquet",
        ["--data.features=rooms,sold", "--data.categorical=sold", "--data.standardize=false"],
    ),
    "float32": (
        "t.parquet",
        [f"--data.features={ALL}", "--data.categorical=heating", "--trainer.precision=32-true"],
    ),
    "float32 rows": (
        "t.csv",
        ["--data.features=area,heating", "--data.categorical=heating", "--data.dtype=float32"],
    ),
    "held out": (
        "t.csv",
        ["--data.features=area,heating", "--data.categorical=heating", "--data.val_fraction=0.3"],
    ),
}
"""The file, and options of fit."""


@pytest.fixture
def houses(cli: Cli, tmp_path: Path) -> Path:
    """Train on a number and a category."""
    fit_houses(cli, tmp_path)
    return tmp_path


def read_predictions(path: Path) -> np.ndarray:
    """Return all predictions of a file, shape (n_samples, n_targets)."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("prediction")]
    return np.array([[float(row[name]) for name in names] for row in rows])


def by_hand(model: dict[str, Any], columns: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Predict from `model.json` as its documentation says.

    Returns:
        Predictions, and the largest sum of what they are made of, without signs.
    """
    found, sizes = [], []
    for line in model["lines"]:
        parts = [np.full(N, line["intercept"])]
        of_means = [line["at_means"]]
        for name, coefficient in line["coefficients"].items():
            values = columns[name]
            if isinstance(coefficient, dict):
                parts.append(np.array([coefficient[value] for value in values]))
            else:
                parts.append(coefficient * values.astype(np.float64))
                of_means.append(-coefficient * model["means"][name])
        assert sum(of_means) == pytest.approx(line["intercept"], rel=1e-6, abs=1e-6)
        found.append(np.sum(parts, axis=0))
        sizes.append(np.abs(parts).sum(axis=0).max())
    return np.stack(found, axis=1), max(sizes)


def texts(column: np.ndarray, name: str) -> np.ndarray:
    """Return a column as a file holds it as texts: in CSV it was Python that wrote them."""
    found = [str(value) for value in column.tolist()]
    parquet = name.endswith("parquet") and column.dtype == bool
    return np.array([t.lower() for t in found] if parquet else found, dtype=object)


@pytest.mark.parametrize("case", CASES)
def test_export_predicts_as_predict(cli: Cli, tmp_path: Path, case: str) -> None:
    name, options = CASES[case]
    fit(cli, tmp_path, name, options)
    assert cli("predict", "--data=TableData", f"--data.path={name}").status == 0
    (path,) = tmp_path.glob("lightning_logs/*/predictions.csv")
    expected = read_predictions(path)
    assert expected.std(axis=0).min() > 0

    run = cli("export")
    assert run.status == 0, run.stderr
    model = json.loads((tmp_path / RUN / "model.json").read_text("utf-8"))
    given = columns()
    for feature in model["base_levels"]:
        given[feature] = texts(given[feature], name)
        for line in model["lines"]:
            levels = line["coefficients"][feature]
            assert list(levels) == sorted(set(given[feature]))
            assert levels[model["base_levels"][feature]] == 0.0
    found, size = by_hand(model, given)
    # Some 20 roundings of either, each by half of eps.
    eps = np.finfo(np.float32 if "--trainer.precision=32-true" in options else np.float64).eps
    within = 20 * eps * size
    assert np.abs(found - expected).max() < within
    result = run.result()
    assert model["rows"] == result["n_samples"]
    assert model["loss"] == pytest.approx(result["loss"], rel=1e-12)

    assert cli("export", "--format=onnx").status == 0
    content = (tmp_path / RUN / "model.onnx").read_bytes()
    evaluator = ReferenceEvaluator(onnx.load_from_string(content))
    inputs = {
        n: given[n] if n in model["base_levels"] else given[n].astype(np.float64)
        for n in evaluator.input_names
    }
    (found,) = evaluator.run(["prediction"], inputs)
    assert found.dtype == np.float64
    assert found.shape == ((N, 2) if case == "targets" else (N,))
    assert np.abs(found.reshape(N, -1) - expected).max() < within
    runtime = pytest.importorskip("onnxruntime")
    (found,) = runtime.InferenceSession(content).run(["prediction"], inputs)
    assert np.abs(found.reshape(N, -1) - expected).max() < within


@pytest.mark.parametrize(
    ("options", "n_targets"),
    [([], 1), (["--data=SyntheticData", "--data.n_features=3", "--data.n_targets=2"], 2)],
)
def test_columns_without_names_have_weight_and_bias(
    cli: Cli, tmp_path: Path, options: list[str], n_targets: int
) -> None:
    run = cli("fit", *options, "--trainer.max_epochs=50")
    assert run.status == 0, run.stderr
    for kind in ("json", "onnx"):
        assert cli("export", f"--format={kind}").status == 0
    model = json.loads((tmp_path / RUN / "model.json").read_text())
    weight = np.array([line["weight"] for line in model["lines"]]).T
    bias = np.array([line["bias"] for line in model["lines"]])
    result = run.result()
    assert weight.ravel().tolist() == np.ravel(result["weight"]).tolist()
    assert bias.tolist() == np.ravel(result["bias"]).tolist()
    assert model["rows"] == result["n_samples"]
    assert model["loss"] == pytest.approx(result["loss"], rel=1e-12)
    X = np.random.default_rng(1).standard_normal((7, len(weight)))
    evaluator = ReferenceEvaluator(onnx.load(tmp_path / RUN / "model.onnx"))
    (found,) = evaluator.run(None, {"X": X})
    assert found.shape == ((7,) if n_targets == 1 else (7, n_targets))
    assert np.abs(found.reshape(7, -1) - (X @ weight + bias)).max() < 1e-13


def test_exports_keep_digits_far_from_zero(cli: Cli, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    near = np.round(draw.uniform(0, 10, 200), 6)
    y = 3 * near + draw.standard_normal(200)
    lines = [f"{10**9 + x:.6f},{t}" for x, t in zip(near, y, strict=True)]
    (tmp_path / "t.csv").write_text("time,y\n" + "\n".join(lines))
    given = ["--data=TableData", "--data.path=t.csv", "--data.target=y"]
    assert cli("fit", *given).status == 0
    for kind in ("json", "onnx"):
        assert cli("export", f"--format={kind}").status == 0
    trained = restore(str(tmp_path / RUN / "checkpoints/last.ckpt"))
    time = np.array([float(line.split(",")[0]) for line in lines])
    mean, scale = trained.scaling
    weight, bias = trained.line
    exact = ((time.astype(np.longdouble) - mean[0]) / scale[0]) * weight[0, 0] + bias[0]
    content = (tmp_path / RUN / "model.onnx").read_bytes()
    text = (tmp_path / RUN / "model.json").read_text()
    off = np.abs(graph.predict(content, {"time": time})[:, 0] - exact).max()
    by_units = np.abs(document.predict(text, {"time": time})[:, 0] - exact)
    assert off < 1e-13
    # The intercept, -3e9, has seven digits behind the point; without the mean that is what is left.
    assert by_units.max() < 1e-13
    (line,) = json.loads(text)["lines"]
    plain = np.abs(line["coefficients"]["time"] * time + line["intercept"] - exact)
    assert 1e-9 < plain.max() < 1e-5
    # A worst-case bound of a dozen roundings, met to a tenth or so.
    limit = checking.bound(trained, time[:, None], "means")[:, 0]
    assert 0.02 < (by_units / limit).max() < 1


def test_level_that_was_not_trained_on_predicts_nan(cli: Cli, houses: Path) -> None:
    assert cli("export", "--path=m.onnx").status == 0
    content = (houses / "m.onnx").read_bytes()
    inputs = {
        "area": np.array([50.0, 50.0, 50.0, np.nan]),
        "heating": np.array(["district", "solar", "", "district"], dtype=object),
    }
    found = graph.predict(content, inputs)[:, 0]
    assert np.isnan(found).tolist() == [False, True, True, True]
    runtime = pytest.importorskip("onnxruntime")
    (also,) = runtime.InferenceSession(content).run(None, inputs)
    assert np.isnan(also).tolist() == [False, True, True, True]


def test_graph_asks_for_no_newer_operators_than_it_needs(cli: Cli, houses: Path) -> None:
    assert cli("export", "--path=m.onnx").status == 0
    model = onnx.load(houses / "m.onnx")
    assert ([o.version for o in model.opset_import], model.ir_version) == ([19], 9)
    assert {i.name: i.doc_string for i in model.graph.input} == {
        "area": "",
        "heating": "one of 'district', 'gas, old', 'öl'",
    }
    assert cli("fit", "--trainer.max_epochs=2").status == 0
    assert cli("export", "--path=n.onnx").status == 0
    model = onnx.load(houses / "n.onnx")
    assert ([o.version for o in model.opset_import], model.ir_version) == ([13], 7)


def a_coefficient(trained: Trained) -> Trained:
    """Change one by a millionth of itself."""
    model = restore_like(trained)
    with torch.no_grad():
        model.weight[0] *= 1 + 1e-6
    return trained._replace(model=model)


def the_bias(trained: Trained) -> Trained:
    """Change it by 1e-9 of itself."""
    model = restore_like(trained)
    with torch.no_grad():
        model.bias *= 1 + 1e-9
    return trained._replace(model=model)


def two_columns(trained: Trained) -> Trained:
    """Swap the coefficients of a number and of a level."""
    model = restore_like(trained)
    with torch.no_grad():
        model.weight.copy_(model.weight[[1, 0, 2]])
    return trained._replace(model=model)


def the_levels(trained: Trained) -> Trained:
    """Take the last level for the base."""
    assert trained.learned is not None
    number, category = trained.learned.columns.features
    assert category.levels is not None
    shifted = Feature(category.name, (category.levels[-1], *category.levels[:-1]))
    columns = Columns(trained.learned.columns.targets, (number, shifted))
    return trained._replace(learned=trained.learned._replace(columns=columns))


def the_mean(trained: Trained) -> Trained:
    """Change what is taken off a column by 1e-9 of itself."""
    assert trained.learned is not None
    scaling = trained.scaling._replace(mean=trained.scaling.mean * (1 + 1e-9))
    return trained._replace(learned=trained.learned._replace(scaling=scaling))


def restore_like(trained: Trained) -> Any:
    """Return a copy of the model."""
    model = type(trained.model)(*trained.line.weight.shape).double()
    model.load_state_dict(trained.model.state_dict())
    return model


@pytest.mark.parametrize("kind", ["json", "onnx"])
@pytest.mark.parametrize("plant", [a_coefficient, the_bias, two_columns, the_levels, the_mean])
def test_planted_error_is_found_and_nothing_written(
    cli: Cli, houses: Path, monkeypatch: pytest.MonkeyPatch, kind: str, plant: Any
) -> None:
    module, name = (document, "document") if kind == "json" else (graph, "graph")
    write = getattr(module, name)
    monkeypatch.setattr(module, name, lambda trained, *rows: write(plant(trained), *rows))
    run = cli("export", f"--path=m.{kind}")
    assert run.status == 1
    assert "times its bound, at row" in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(houses.glob("m.*"))
    assert cli("export", f"--path=m.{kind}", "--unchecked").status == 0
    monkeypatch.undo()
    monkeypatch.chdir(houses)
    assert cli("export", f"--path=good.{kind}").status == 0


@pytest.mark.parametrize("key", ["at_means", "intercept", "means"])
def test_document_whose_ways_differ_is_not_written(
    cli: Cli, houses: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    write = document.document

    def wrong(*given: Any) -> str:
        content = json.loads(write(*given))
        place, name = (content["means"], "area") if key == "means" else (content["lines"][0], key)
        place[name] *= 1 + 1e-11
        return json.dumps(content)

    monkeypatch.setattr(document, "document", wrong)
    run = cli("export", "--path=m.json")
    assert run.status == 1
    assert "times its bound, at row" in run.stderr
    assert not (houses / "m.json").exists()


def test_prediction_that_is_no_number_fails_the_check(
    cli: Cli, houses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        document, "predict", lambda _, c, **_by: np.full((len(c["area"]), 1), np.nan)
    )
    assert cli("export").status == 1
    assert not (houses / RUN / "model.json").exists()


def test_long_tables_are_compared_on_rows_spread_over_them(
    cli: Cli, houses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (houses / "t.csv").read_text("utf-8").splitlines()
    lines[5] = "," + lines[5].partition(",")[2]  # its area is missing
    (houses / "t.csv").write_text("\n".join(lines), "utf-8")
    monkeypatch.setattr(checking, "MOST_ROWS", 20)
    trained = restore(str(houses / RUN / "checkpoints/last.ckpt"))
    sample = checking.table_sample(trained, str(houses / "t.csv"))
    kept = [i for i in range(0, N, 3) if i != 4]
    table = columns()
    assert sample.columns["area"].tolist() == table["area"][kept].tolist()
    assert sample.columns["heating"].tolist() == table["heating"][kept].tolist()
    monkeypatch.setattr(checking, "AT_ONCE", 7)
    run = cli("export")
    assert run.status == 0
    assert f"; {len(kept)} rows predicted" in run.stdout


def test_bound_holds_for_float32_and_is_not_slack() -> None:
    draw = np.random.default_rng(0)
    from trueline.module import LinearRegression

    model = LinearRegression(8)
    trained = Trained(model, None)
    X = draw.standard_normal((5000, 8))
    exact = X.astype(np.longdouble) @ trained.line.weight + trained.line.bias
    limit = checking.bound(trained, X, "scaling")
    ratio = np.abs(checking.own_predictions(trained, X) - exact) / limit
    # Worst-case bounds of a dozen roundings are met to a tenth or so, never left.
    assert 0.02 < ratio.max() < 1
