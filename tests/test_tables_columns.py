"""What columns are for: categories, weights, targets; saved, and applied to another table."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from table_makers import joined
from trueline.errors import RequestError
from trueline.tables import Columns, Feature, choose, open_table, read
from trueline.tables import blocks as blocks_module

PEOPLE = "age,color,paid,w,y,z\n20,red,True,1,5,6\n30,blue,False,2,7,8\n40,green,True,1,9,10\n"


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text(PEOPLE)
    return path


def test_categories_weights_and_several_targets_become_these_numbers(people: Path) -> None:
    table = open_table(people)
    columns = choose(table, ["y", "z"], weight="w", categorical=["color", "paid"])
    assert columns.feature_names == ("age", "color[green]", "color[red]", "paid[True]")
    rows = joined(read(table, columns, rows_at_once=2))
    assert rows.X.tolist() == [[20, 0, 1, 1], [30, 0, 0, 0], [40, 1, 0, 1]]
    assert rows.y is not None
    assert rows.y.tolist() == [[5, 6], [7, 8], [9, 10]]
    assert rows.weight is not None
    assert rows.weight.tolist() == [1, 2, 1]


def test_saved_columns_read_another_table_in_another_order_without_targets(
    people: Path, tmp_path: Path
) -> None:
    chosen = choose(open_table(people), "y", ["age", "color"], "w", ["color"])
    columns = Columns.from_dict(json.loads(json.dumps(chosen.to_dict())))
    assert columns == chosen
    new = pa.table({"other": ["?"], "color": ["red"], "age": pa.array([50], pa.int8())})
    parquet.write_table(new, tmp_path / "new.parquet")
    rows = joined(read(open_table(tmp_path / "new.parquet"), columns, targets=False))
    assert rows.X.tolist() == [[50, 0, 1]]
    assert rows.y is None
    assert rows.weight is None


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_level_that_was_not_trained_on_is_refused_with_its_place(
    people: Path, tmp_path: Path, end: str
) -> None:
    columns = choose(open_table(people), "y", ["age", "color"], categorical=["color"])
    path = tmp_path / f"new.{end}"
    if end == "csv":
        path.write_text("color,age\nred,1\npink,2\n")
    else:
        parquet.write_table(pa.table({"color": ["red", "pink"], "age": [1, 2]}), path)
    with pytest.raises(RequestError, match=r"'color', row 2: expected one of .*found 'pink'"):
        list(read(open_table(path), columns, targets=False))


def test_table_whose_column_became_text_is_refused(people: Path, tmp_path: Path) -> None:
    columns = choose(open_table(people), "y", ["age"])
    parquet.write_table(pa.table({"age": ["20"], "y": [1]}), tmp_path / "new.parquet")
    with pytest.raises(RequestError, match="column 'age': expected numbers, found string"):
        list(read(open_table(tmp_path / "new.parquet"), columns))


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16(), pa.int64()])
def test_float32_is_each_number_rounded_once(tmp_path: Path, kind: pa.DataType) -> None:
    x = np.arange(1, 30, dtype=kind.to_pandas_dtype()) * 3
    x = x / kind.to_pandas_dtype()(7) if pa.types.is_floating(kind) else x * 10**12
    parquet.write_table(pa.table({"x": pa.array(x, kind), "y": x}), tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    rows = joined(read(table, choose(table, "y"), dtype="float32"))
    assert rows.X.dtype == np.float32
    assert rows.X[:, 0].tobytes() == x.astype(np.float32).tobytes()


def test_wide_tables_come_in_shorter_blocks(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "LONGEST", 2 * 8 * 3)
    table = open_table(people)
    served = read(table, choose(table, "y", ["age", "w", "z"]))
    assert [len(part.X) for part in served] == [2, 1]


def test_served_blocks_stay_as_they_are_when_more_is_read(people: Path) -> None:
    table = open_table(people)
    parts = list(read(table, choose(table, "y", ["age"]), rows_at_once=1))
    assert [part.X.tolist() for part in parts] == [[[20]], [[30]], [[40]]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows_at_once": 0}, "rows_at_once: expected 1 or more, found 0"),
        ({"dtype": "int8"}, "dtype: expected float64 or float32, found int8"),
        ({"missing": "dorp"}, "missing: expected error or drop, found dorp"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    people: Path, options: dict[str, Any], words: str
) -> None:
    table = open_table(people)
    with pytest.raises(RequestError, match=words):
        list(read(table, choose(table, "y", ["age"]), **options))


@pytest.mark.parametrize(
    "change",
    [
        {"targets": "y"},
        {"targets": []},
        {"features": []},
        {"features": [{"name": "x", "levels": []}]},
        {"weight": 3},
    ],
)
def test_saved_columns_that_were_altered_are_refused(change: dict[str, Any]) -> None:
    saved = Columns(("y",), (Feature("x"), Feature("c", ("a", "b")))).to_dict()
    assert Columns.from_dict(saved).to_dict() == saved
    with pytest.raises(RequestError, match="save the model again"):
        Columns.from_dict(saved | change)
    with pytest.raises(RequestError, match="save the model again"):
        Columns.from_dict({name: value for name, value in saved.items() if name not in change})
