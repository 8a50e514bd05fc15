"""What training rows determine, held against ranks by NumPy's SVD; and who is told what is not."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import Lasso, Ridge

from conftest import Run
from trueline.data import TableData
from trueline.export import document, graph
from trueline.module import LinearRegression
from trueline.reference.triangle import Line, triangle
from trueline.statistics.span import span, span_under

Cli = Callable[..., Run]
NO_PENALTY = {"l1": 0.0, "l2": 0.0, "weight_decay": 0.0}
RARE = [
    "kind,x,y",
    *(f"{'ab'[i % 2]},{i},{2 * i + 5 * (i % 2) + 0.1 * (i % 3)}" for i in range(19)),
]
TRAP = ["north,south,area,price", *(
    f"{i % 2},{1 - i % 2},{40 + 3 * i},{180 + 6 * i + 15 * (i % 2) + i % 3}" for i in range(14)
)]  # fmt: skip


def rank(A: Any) -> int:
    return int(np.linalg.matrix_rank(A / np.linalg.norm(A, axis=0).clip(1e-300)))


@pytest.mark.parametrize("seed", range(60))
def test_span_is_that_of_ranks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(2, 30)), int(rng.integers(1, 8))
    r = int(rng.integers(0, p + 1))
    # Integer multiples of r columns in units of their own, far from 0 or not.
    basis = rng.normal(size=(n, r)) * 10 ** rng.uniform(-2, 2, r)
    offset = rng.choice([0.0, 0.0, 5.0, 1e3], p)
    X = basis @ rng.integers(-2, 3, (r, p)) + offset
    within = rng.dirichlet(np.ones(n), 5) @ X
    found = span(triangle(X, rng.normal(size=n), rng.uniform(0.1, 9, n)))
    A = np.column_stack([np.ones(n), X])
    new = np.vstack([X, within, within + rng.normal(size=(5, p))])
    expected = [rank(np.vstack([A, [1, *x]])) > rank(A) for x in new]
    assert found.is_off(new).tolist() == expected
    determined = [rank(np.vstack([A, e])) == rank(A) for e in np.eye(p + 1)]
    assert found.determined.tolist() == determined


def test_many_more_columns_than_rows_take_no_time() -> None:
    X = np.random.default_rng(0).normal(size=(10, 300))
    found = span(triangle(X, X[:, 0]))
    assert not found.determined.any()
    assert (
        found.is_off(np.vstack([X, X.mean(axis=0), 2 * X])).tolist() == [False] * 11 + [True] * 10
    )


def test_penalties_determine_what_varies_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(10, 31))
    X[:, 29], X[:, 30] = 7.0, X[:, 0]
    y = 3 * X[:, 0] + rng.normal(size=10)
    rows, new = triangle(X, y), np.vstack([X[0], X[0], X[0]])
    new[1, 4], new[2, 29] = 9.0, 8.0
    for name in ("l2", "weight_decay"):
        found = span_under(rows, rows, Line(np.zeros(31), np.zeros(())), NO_PENALTY | {name: 0.1})
        assert np.flatnonzero(~found.determined).tolist() == [30]
        assert found.is_off(new).tolist() == [False, False, True]
    # Of the Lasso, two columns that are the same share their coefficient in any way.
    peer = Lasso(0.2, tol=1e-12, max_iter=10**6).fit(X, y)
    line = Line(peer.coef_, np.asarray(peer.intercept_))
    assert line.weight[0] > 3
    found = span_under(rows, rows, line, NO_PENALTY | {"l1": 0.4})
    assert np.flatnonzero(~found.determined).tolist() == [1, 30, 31]
    assert found.is_off(new).tolist() == [False, False, True]


def write(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def fit(cli: Cli, *options: str) -> dict[str, Any]:
    run = cli("fit", "--data=TableData", *options)
    assert run.status == 0, run.stderr
    return run.result()


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--data.in_memory=64",),
        ("--data.standardize=false", "--model.lr=0.001", "--trainer.max_epochs=200"),
        ("--data.batch_size=4", "--data.shuffle=true", "--model.momentum=0.5"),
        ("--data.dtype=float32",),
        ("--data.weight=w",),
        ("--data.missing=drop",),
    ],
)
def test_level_that_no_training_row_has_predicts_nothing(
    cli: Cli, tmp_path: Path, options: tuple[str, ...]
) -> None:
    lines = RARE
    if "--data.weight=w" in options:
        lines = [f"{line},{'w' if i == 0 else 1 + i % 3}" for i, line in enumerate(RARE)]
    other = "rare,13," + ("" if "--data.missing=drop" in options else "131.4") + ",2"
    other = other if "--data.weight=w" in options else other.removesuffix(",2")
    write(tmp_path / "t.csv", [*lines, other])
    given = ["--data.path=t.csv", "--data.target=y", "--data.categorical=kind", *options]
    if "--data.missing=drop" not in options:
        # A seed that holds the one row out.
        for seed in range(100):
            data = TableData(
                str(tmp_path / "t.csv"), "y", categorical="kind", val_fraction=0.3, seed=seed
            )
            if not data.X[:, 1].any():
                break
        given += ["--data.val_fraction=0.3", f"--data.seed={seed}"]
    result = fit(cli, *given)
    reason = "no training row has the level 'rare' of kind"
    assert result["undetermined"] == {"coefficients": ["kind[rare]"], "reasons": [reason]}
    assert result["weight"][1] is None
    assert None not in (result["weight"][0], result["weight"][2], result["bias"])
    coefficients = {c["name"]: c["value"] for c in result["summary"][0]["coefficients"]}
    assert [name for name, value in coefficients.items() if value is None] == ["kind[rare]"]
    assert result["summary"][0]["base_levels"] == {"kind": "a"}


def test_loss_leaves_out_rows_without_a_prediction(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "val.csv", [RARE[0], "a,3,7", "rare,4,1000", "b,5,14"])
    write(tmp_path / "t.csv", [*RARE, "rare,1,"])
    result = fit(
        cli, "--data.path=t.csv", "--data.target=y", "--data.categorical=kind",
        "--data.missing=drop", "--data.val_path=val.csv",
    )  # fmt: skip
    b, _, x = result["weight"]
    a = result["bias"]
    expected = np.mean([(a + 3 * x - 7) ** 2, (a + b + 5 * x - 14) ** 2])
    assert result["val_loss"] == pytest.approx(expected, rel=1e-9)
    for command in ("validate", "test"):
        run = cli(command, "--data=TableData", "--data.path=val.csv")
        assert run.status == 0, run.stderr
        assert "1 of 3 rows" in run.stderr
        assert f"{expected:.6f}"[:7] in run.stdout


def test_rows_off_the_span_have_neither_number_nor_interval(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", TRAP)
    result = fit(cli, "--data.path=t.csv", "--data.target=price")
    assert result["weight"][:2] == [None, None]
    assert result["bias"] is None
    rows = np.loadtxt(tmp_path / "t.csv", delimiter=",", skiprows=1)
    best = np.linalg.lstsq(rows[:, :3], rows[:, 3], rcond=None)[0]
    assert result["weight"][2] == pytest.approx(best[2], rel=1e-6)
    new = np.array([[0.0, 0.0, 50.0], [1.0, 0.0, 50.0], [0.0, 1.0, 70.0]])
    checkpoint = "lightning_logs/version_0/checkpoints/last.ckpt"
    for kind in ("json", "onnx"):
        run = cli("export", f"--path=model.{kind}")
        assert run.status == 0, run.stderr
    columns = dict(zip(["north", "south", "area"], new.T, strict=True))
    text = (tmp_path / "model.json").read_text()
    exported = [
        document.predict(text, columns),
        document.predict(text, columns, "intercept"),
        graph.predict((tmp_path / "model.onnx").read_bytes(), columns),
    ]
    (line,) = json.loads(text)["lines"]
    assert line["intercept"] is None
    assert line["coefficients"] | {"area": 0} == {"north": None, "south": None, "area": 0}
    assert line["equation"].startswith("price = ? + ?·north + ?·south + ")
    (condition,) = json.loads(text)["conditions"]
    assert condition["coefficients"] == pytest.approx({"north": 1, "south": 1})
    assert condition["equals"] == pytest.approx(1)
    write(tmp_path / "new.csv", ["north,south,area", *(",".join(map(str, x)) for x in new)])
    data = TableData(str(tmp_path / "new.csv"), like=str(tmp_path / checkpoint))
    for found in exported:
        assert np.isnan(found[0])
        assert found[1:, 0] == pytest.approx(new[1:] @ best, rel=1e-5)
    assert data.scaling is not None
    scaled = torch.from_numpy(data.scaling.applied_to(new))
    reasons = data.reasons(scaled, LinearRegression(3))
    assert reasons is not None
    assert reasons.tolist() == ["in every training row north + south = 1", "", ""]


@pytest.mark.parametrize("targets", [1, 2])
def test_trainer_predicts_nan_off_the_span(
    targets: int, tmp_path: Path, make_trainer: Callable[..., Any]
) -> None:
    lines = [f"{line},{'z' if i == 0 else i}" for i, line in enumerate(TRAP)]
    table = write(tmp_path / "t.csv", lines)
    names = ["price", "z"][:targets]
    data = TableData(table, names, features=["north", "south", "area"])
    model = LinearRegression(3, targets, lr=0.1)
    make_trainer(max_epochs=50).fit(model, datamodule=data)
    saved = tmp_path / "m.ckpt"
    trainer = make_trainer(max_epochs=50)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(saved)
    new = TableData(
        write(tmp_path / "new.csv", ["north,south,area", "0,0,50", "1,0,50"]), like=str(saved)
    )
    (found,) = make_trainer().predict(model, datamodule=new)
    assert found.shape == ((2,) if targets == 1 else (2, 2))
    assert torch.isnan(found[0]).all()
    assert torch.isfinite(found[1]).all()


def test_base_level_without_training_rows_is_named(cli: Cli, tmp_path: Path) -> None:
    lines = [RARE[0], *(line.replace("a,", "c,") for line in RARE[1:])]
    write(tmp_path / "t.csv", [*lines, "a,3,"])
    result = fit(
        cli, "--data.path=t.csv", "--data.target=y", "--data.categorical=kind",
        "--data.missing=drop",
    )  # fmt: skip
    assert result["undetermined"] == {
        "coefficients": ["(intercept)", "kind[b]", "kind[c]"],
        "reasons": ["no training row has the base level of kind"],
    }
    run = cli("export")
    assert run.status == 0, run.stderr
    text = (tmp_path / "lightning_logs" / "version_0" / "model.json").read_text()
    columns = {"kind": np.array(["a", "b", "c"], object), "x": np.array([1.0, 1.0, 2.0])}
    assert np.isnan(document.predict(text, columns)[:, 0]).tolist() == [True, False, False]


def test_category_of_one_level_is_said(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [line.replace("b,", "a,") for line in RARE])
    given = ["--data.path=t.csv", "--data.target=y", "--data.categorical=kind"]
    run = cli("fit", "--data=TableData", *given)
    assert run.status == 0, run.stderr
    assert "kind has one level alone, 'a': it has no coefficient" in run.stdout
    assert "base level: kind a" in run.stdout
    run = cli("fit", "--data=TableData", *given, "--data.features=kind")
    assert (run.status, "Traceback" in run.stderr) == (2, False), run.stderr


def test_lines_without_names_say_it_too(cli: Cli) -> None:
    run = cli(
        "fit", "--data=SyntheticData", "--data.n_samples=4", "--data.n_features=6",
        "--trainer.max_epochs=20",
    )  # fmt: skip
    assert run.status == 0, run.stderr
    result = run.result()
    assert result["weight"] == [None] * 6
    assert result["bias"] is None
    assert "7 coefficients, since several lines fit alike: in every training row" in run.stdout
    run = cli("export")
    assert run.status == 0, run.stderr


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("standardize", ["true", "false"])
def test_predict_says_in_a_note_why_there_is_no_prediction(
    suffix: str, standardize: str, cli: Cli, tmp_path: Path
) -> None:
    lines = [f"{line},{'z' if i == 0 else 3 * i + i % 2}" for i, line in enumerate(TRAP)]
    write(tmp_path / "t.csv", lines)
    fit(
        cli, "--data.path=t.csv", "--data.target=price,z", f"--data.standardize={standardize}",
        "--data.features=north,south,area", "--trainer.max_epochs=20",
    )  # fmt: skip
    new = ["0,0,50", "1,0,60", "1,1,60", "0,1,61"]
    write(tmp_path / "new.csv", ["north,south,area", *new])
    run = cli(
        "predict", "--data=TableData", "--data.path=new.csv", "--predictions.intervals=both",
        f"--predictions.path=p.{suffix}",
    )  # fmt: skip
    assert run.status == 0, run.stderr
    reason = "in every training row north + south = 1"
    assert run.stderr == f"trueline: no prediction for 2 of 4 rows: {reason}\n"
    found = read(tmp_path / f"p.{suffix}")
    missing = "" if suffix == "csv" else None
    assert [row["note"] for row in found] == [reason, missing, reason, missing]
    numbers = [name for name in found[0] if name.startswith(("prediction", "confidence"))]
    assert len(numbers) == 10
    for off, row in zip([True, False, True, False], found, strict=True):
        if off:
            assert {row[name] for name in numbers} == {missing}
        else:
            assert all(np.isfinite(float(row[name])) for name in numbers)


@pytest.mark.parametrize("in_memory", [64, 10**6])
def test_every_row_of_the_training_table_has_its_own_note(
    in_memory: int, cli: Cli, tmp_path: Path
) -> None:
    rows = [line.split(",") for line in RARE[1:]]
    rows.insert(7, ["rare", "13", ""])
    lines = [f"{kind},{x},{y},k{i}" for i, (kind, x, y) in enumerate(rows)]
    write(tmp_path / "t.csv", ["kind,x,y,id", *lines, "a,,4,none"])
    fit(
        cli, "--data.path=t.csv", "--data.target=y", "--data.categorical=kind",
        "--data.features=kind,x", "--data.missing=drop", f"--data.in_memory={in_memory}",
    )  # fmt: skip
    run = cli(
        "predict", "--config=lightning_logs/version_0/config.yaml", "--predictions.keys=id",
        "--predictions.path=p.csv",
    )  # fmt: skip
    assert run.status == 0, run.stderr
    found = read(tmp_path / "p.csv")
    assert [row["id"] for row in found] == [*(f"k{i}" for i in range(20)), "none"]
    noted = {row["id"]: row["note"] for row in found if row["note"]}
    assert noted == {
        "k7": "no training row has the level 'rare' of kind",
        "none": "no value in 'x'",
    }
    assert all((row["prediction"] == "") == (row["id"] in noted) for row in found)
    known = [(float(x), kind == "b", float(y)) for kind, x, y in rows if y]
    A = np.array([(1.0, is_b, x) for x, is_b, _ in known])
    expected = A @ np.linalg.lstsq(A, np.array([y for *_, y in known]), rcond=None)[0]
    predicted = [float(row["prediction"]) for row in found if row["prediction"]]
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-4)


def test_ridge_predicts_off_the_span_without_an_interval(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", ["same," + TRAP[0], *(f"7,{line}" for line in TRAP[1:])])
    result = fit(cli, "--data.path=t.csv", "--data.target=price", "--model.l2=0.1")
    assert result["undetermined"]["coefficients"] == ["same"]
    write(tmp_path / "new.csv", ["same,north,south,area", "7,0,0,50", "8,1,0,50", "7,1,0,50"])
    run = cli(
        "predict", "--data=TableData", "--data.path=new.csv", "--predictions.path=p.csv",
        "--predictions.intervals=confidence",
    )  # fmt: skip
    assert run.status == 0, run.stderr
    found = read(tmp_path / "p.csv")
    X = np.loadtxt(tmp_path / "t.csv", delimiter=",", skiprows=1)
    mean, scale = X[:, 1:4].mean(axis=0), X[:, 1:4].std(axis=0)
    ridge = Ridge(0.1 * len(X)).fit((X[:, 1:4] - mean) / scale, X[:, 4])
    expected = ridge.predict((np.array([[0.0, 0, 50], [1, 0, 50]]) - mean) / scale)
    assert [float(found[i]["prediction"]) for i in (0, 2)] == pytest.approx(expected, rel=1e-5)
    assert found[1]["prediction"] == ""
    assert found[1]["note"] == "in every training row same = 7"
    assert [row["confidence_low"] == "" for row in found] == [True, True, False]
    assert found[0]["note"] == "no interval: the row lies off the span of the training rows"
    assert "no interval for 1 of 3 rows" in run.stderr
    assert "no prediction for 1 of 3 rows" in run.stderr


def test_healthy_tables_have_no_note(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", ["x,note,y", *(f"{i},{i % 3},{i * i}" for i in range(9))])
    fit(cli, "--data.path=t.csv", "--data.target=y", "--trainer.max_epochs=3")
    run = cli("predict", "--data=TableData", "--data.path=t.csv", "--predictions.path=p.csv")
    assert (run.status, run.stderr) == (0, "")
    assert list(read(tmp_path / "p.csv")[0]) == ["x", "note", "y", "prediction"]
    write(tmp_path / "t.csv", ["x,note,y", *(f"{i},{2 * i},{i * i}" for i in range(9))])
    fit(cli, "--data.path=t.csv", "--data.target=y", "--trainer.max_epochs=3")
    run = cli("predict", "--data=TableData", "--data.path=t.csv", "--predictions.path=q.csv")
    assert run.status == 2
    assert "expected no column 'note'" in run.stderr
