"""Tables that pandas writes: its index is no feature, and the text NA is a text."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import feather, parquet

from trueline.errors import RequestError
from trueline.tables import choose, open_table

Cli = Callable[..., Any]
ON_TABLE = ("--data=TableData", "--data.target=y", "--figures=false")


def frame(n: int = 40) -> Any:
    rng = np.random.default_rng(3)
    found = pd.DataFrame({"x": rng.normal(size=n), "note": np.arange(n) * 100.0})
    found["y"] = 3 * found.x + 2 + 0.1 * rng.normal(size=n)
    return found


def least_squares(X: Any, y: Any) -> NDArray[np.float64]:
    A = np.column_stack([X, np.ones(len(y))])
    return np.linalg.lstsq(A, np.asarray(y), rcond=None)[0]


def write_feather(found: Any, path: Path) -> None:
    feather.write_feather(pa.Table.from_pandas(found), str(path))


def write_folder(found: Any, path: Path) -> None:
    path.mkdir()
    found[:20].to_parquet(path / "a.parquet")
    found[20:].to_parquet(path / "b.parquet")


WRITERS: dict[str, tuple[str, Callable[[Any, Path], None]]] = {
    "parquet": ("t.parquet", lambda found, path: found.to_parquet(path)),
    "feather": ("t.feather", write_feather),
    "folder": ("t", write_folder),
}
INDEXES = {
    "unnamed": lambda found: found[found.x < 0.5],
    "named": lambda found: found.set_index(pd.Index(np.arange(len(found)) ** 2, name="key")),
    "multiple": lambda found: found.set_index(
        [np.arange(len(found)) // 5, pd.Index(np.arange(len(found)) ** 2, name="square")]
    ),
    "range": lambda found: found.set_index(pd.RangeIndex(5, 5 + len(found))),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("index", INDEXES)
def test_index_of_a_pandas_frame_is_no_feature(
    cli: Cli, tmp_path: Path, writer: str, index: str
) -> None:
    name, write = WRITERS[writer]
    found = INDEXES[index](frame())
    write(found, tmp_path / name)
    run = cli("fit", *ON_TABLE, f"--data.path={name}")
    assert run.status == 0, run.stderr
    result = run.result()
    assert result["features"] == ["x", "note"]
    expected = least_squares(found[["x", "note"]], found.y)
    assert [*result["weight"], result["bias"]] == pytest.approx(expected, rel=1e-5)
    assert ("index of a pandas frame" in run.stdout) == (index != "range")


def test_named_index_is_a_feature_or_a_key_where_it_is_asked_for(cli: Cli, tmp_path: Path) -> None:
    found = INDEXES["named"](frame())
    found.to_parquet(tmp_path / "t.parquet")
    run = cli("fit", *ON_TABLE, "--data.path=t.parquet", "--data.features=x,key")
    assert run.status == 0, run.stderr
    assert "index of a pandas frame" not in run.stdout
    result = run.result()
    expected = least_squares(np.column_stack([found.x, found.index]), found.y)
    assert [*result["weight"], result["bias"]] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    config = f"--config={run.directory}/lightning_logs/version_0/config.yaml"
    run = cli("predict", config, "--predictions.keys=key")
    assert run.status == 0, run.stderr
    with next((run.directory / "lightning_logs").glob("*/predictions.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["key"]) for row in rows] == found.index.tolist()
    weight, bias = result["weight"], result["bias"]
    line = weight[0] * found.x + weight[1] * found.index + bias
    assert [float(row["prediction"]) for row in rows] == pytest.approx(line.tolist())


def test_index_is_known_by_name_without_metadata_and_damaged_metadata_is_refused(
    tmp_path: Path,
) -> None:
    columns = {"x": [1.0, 2.0], "__index_level_0__": [1, 2], "y": [1.0, 2.0]}
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table(columns), path)
    assert choose(open_table(path), "y").feature_names == ("x",)
    chosen = choose(open_table(path), "y", ["x", "__index_level_0__"])
    assert chosen.feature_names == ("x", "__index_level_0__")
    for metadata in (b"{", b"[1]", b"\xff", json.dumps({"index_columns": 1}).encode()):
        parquet.write_table(pa.table(columns).replace_schema_metadata({"pandas": metadata}), path)
        with pytest.raises(RequestError, match=r"t\.parquet: expected pandas metadata"):
            open_table(path)


COUNTRIES = ("NA", "DE", "null", "NA", "nan", "None", "N/A", "DE", "NULL", "NaN")
TEXTS = {
    "string": pa.string(),
    "large": pa.large_string(),
    "dictionary": pa.dictionary(pa.int8(), pa.string()),
}


def countries(path: Path, kind: str, quotes: int = csv.QUOTE_NONNUMERIC) -> list[tuple[str, float]]:
    """Write a table whose country decides y."""
    rows = [(c, float(sorted(set(COUNTRIES)).index(c)), i) for i, c in enumerate(COUNTRIES * 2)]
    if kind in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            out = csv.writer(file, quoting=quotes, delimiter="," if kind == "csv" else "\t")  # type: ignore[arg-type]
            out.writerows([("country", "y", "x"), *rows])
        return [row[:2] for row in rows]
    names, y, x = zip(*rows, strict=True)
    column = pa.array(names, TEXTS[kind])
    record = pa.table({"country": column, "y": y, "x": pa.array(x, pa.float64())})
    if path.suffix == ".parquet":
        parquet.write_table(record, path)
    else:
        feather.write_feather(record, str(path), compression="uncompressed")
    return [row[:2] for row in rows]


FILES = [("t.csv", "csv"), ("t.tsv", "tsv")]
FILES += [(f"t.{end}", kind) for end in ("parquet", "arrow") for kind in TEXTS]


@pytest.mark.parametrize(("name", "kind"), FILES)
def test_text_na_is_a_level_and_a_key_where_the_file_says_that_it_is_text(
    cli: Cli, tmp_path: Path, name: str, kind: str
) -> None:
    rows = countries(tmp_path / name, kind)
    run = cli("fit", *ON_TABLE, f"--data.path={name}", "--data.categorical=country")
    assert run.status == 0, run.stderr
    levels = sorted(set(COUNTRIES))
    assert run.result()["features"] == [f"country[{c}]" for c in levels[1:]] + ["x"]
    config = f"--config={run.directory}/lightning_logs/version_0/config.yaml"
    run = cli("predict", config, "--predictions.keys=country")
    assert run.status == 0, run.stderr
    with next((run.directory / "lightning_logs").glob("*/predictions.csv")).open() as file:
        found = [(row["country"], float(row["prediction"])) for row in csv.DictReader(file)]
    assert [c for c, _ in found] == [c for c, _ in rows]
    assert [y for _, y in found] == pytest.approx([y for _, y in rows], abs=1e-3)


def test_bare_na_of_csv_misses_in_a_category_and_stays_in_a_key(cli: Cli, tmp_path: Path) -> None:
    countries(tmp_path / "t.csv", "csv", csv.QUOTE_MINIMAL)
    asked = (*ON_TABLE, "--data.path=t.csv", "--data.categorical=country")
    run = cli("fit", *asked)
    assert run.status == 2
    assert "column 'country', row 1: expected a value, found none" in run.stderr
    run = cli("fit", *ON_TABLE, "--data.path=t.csv", "--data.features=x")
    assert run.status == 0, run.stderr
    run = cli("predict", "--data=TableData", "--data.path=t.csv", "--predictions.keys=country,x")
    assert run.status == 0, run.stderr
    with next((run.directory / "lightning_logs").glob("*/predictions.csv")).open() as file:
        assert [row["country"] for row in csv.DictReader(file)] == [*COUNTRIES * 2]


def test_empty_category_misses_in_quotes_too(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('country,y\n"",1\n"NA",2\n,3\nNA,4\n')
    (batch,) = open_table(path).batches(["country"], categorical=["country"])
    assert batch.record.column(0).to_pylist() == [None, "NA", None, None]
    (batch,) = open_table(path).batches(["country"], text=["country"])
    assert batch.record.column(0).to_pylist() == ["", "NA", None, "NA"]
