"""Tables come out as they went in: whatever the format, the blocks and the order of columns.

The oracles are the arrays that were written, and Python's own csv module.
"""

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow import feather, parquet

from table_makers import joined
from trueline.errors import RequestError
from trueline.tables import (
    Columns,
    Feature,
    choose,
    count_missing,
    csv_pieces,
    npy,
    open_table,
    read,
    typed,
)
from trueline.tables import csv as csv_module

ANY_FOLDER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
"""Each example overwrites the files of the one before."""


def write_csv(path: Path, names: list[str], data: np.ndarray) -> None:
    lines = [",".join(map(repr, row)) for row in data.tolist()]
    path.write_text("\n".join([",".join(names), *lines, ""]))


def write_parquet(path: Path, names: list[str], data: np.ndarray) -> None:
    parquet.write_table(pa.table(list(data.T.copy()), names), path, row_group_size=7)


def write_folder(path: Path, names: list[str], data: np.ndarray) -> None:
    path.mkdir(exist_ok=True)
    for old in path.iterdir():
        old.unlink()
    for number, part in enumerate(np.array_split(data, 3)):
        write_parquet(path / f"part{number}.parquet", names, part)


def write_feather(path: Path, names: list[str], data: np.ndarray) -> None:
    feather.write_feather(pa.table(list(data.T.copy()), names), path, chunksize=5)


def write_npy(path: Path, names: list[str], data: np.ndarray) -> None:
    np.save(path, np.array(list(map(tuple, data)), [(name, "f8") for name in names]))


WRITERS: dict[str, Callable[[Path, list[str], np.ndarray], None]] = {
    "t.csv": write_csv,
    "t.parquet": write_parquet,
    "t.feather": write_feather,
    "t.npy": write_npy,
    "t": write_folder,
}

finite = st.floats(allow_nan=False, allow_infinity=False)
tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.integers(2, 5)), elements=finite)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what makes pieces so small that even a short table has several."""

    def shrink(size: int) -> None:
        monkeypatch.setattr(csv_pieces, "PIECE", size)
        monkeypatch.setattr(csv_module, "BLOCK", 2 * size)
        monkeypatch.setattr(typed, "ROWS", 1 + size % 7)
        monkeypatch.setattr(npy, "ROWS", 1 + size % 5)

    return shrink


@ANY_FOLDER
@given(data=tables, at_once=st.integers(1, 50), piece=st.integers(4, 200), mixed=st.randoms())
@pytest.mark.parametrize("name", WRITERS)
def test_read_gives_back_what_was_written_to_the_bit(
    tmp_path: Path,
    small_pieces: Callable[[int], None],
    name: str,
    data: np.ndarray,
    at_once: int,
    piece: int,
    mixed: Any,
) -> None:
    small_pieces(piece)
    names = [f"c{i}" for i in range(data.shape[1])]
    WRITERS[name](tmp_path / name, names, data)
    order = list(range(len(names)))
    mixed.shuffle(order)
    *features, target = order
    table = open_table(tmp_path / name)
    columns = choose(table, names[target], [names[i] for i in features])
    served = list(read(table, columns, rows_at_once=at_once))
    assert [len(part.X) for part in served[:-1]] == [at_once] * (len(served) - 1)
    rows = joined(iter(served))
    assert rows.X.tobytes() == np.ascontiguousarray(data[:, features]).tobytes()
    assert rows.y is not None
    assert rows.y.tobytes() == np.ascontiguousarray(data[:, [target]]).tobytes()
    assert rows.numbers.tolist() == list(range(1, len(data) + 1))
    assert table.n_rows in (None, len(data))


texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from('",\n\r a'), max_size=8
)


@ANY_FOLDER
@given(
    cells=st.lists(st.tuples(texts, finite, texts), min_size=1, max_size=20),
    piece=st.integers(4, 200),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    # Without quotes around it the writer leaves a carriage return bare.
    quoting=st.sampled_from([csv.QUOTE_NONNUMERIC, csv.QUOTE_ALL]),
)
def test_any_text_in_quotes_is_kept_and_moves_no_number(
    tmp_path: Path,
    small_pieces: Callable[[int], None],
    cells: list[tuple[str, float, str]],
    piece: int,
    ending: str,
    quoting: Any,
) -> None:
    small_pieces(piece)
    path = tmp_path / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator=ending, quoting=quoting)
        writer.writerows([("a", "y", '"b",\r\n'), *cells])
    table = open_table(path)
    assert table.names == ("a", "y", '"b",\r\n')
    found = [
        (first, number, last)
        for batch in table.batches(table.names, text=["a", '"b",\r\n'])
        for first, number, last in zip(*(c.to_pylist() for c in batch.record.columns), strict=True)
    ]
    assert found == cells


@ANY_FOLDER
@given(
    content=st.lists(st.sampled_from(['"', ",", "\n", "\r", "a", "1"]), max_size=25).map("".join),
    piece=st.integers(1, 30),
)
def test_no_text_is_read_otherwise_than_the_strict_reading_of_it(
    tmp_path: Path, small_pieces: Callable[[int], None], content: str, piece: int
) -> None:
    small_pieces(piece)
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + content, newline="")
    try:
        found = [
            row
            for batch in open_table(path).batches(["x", "y"], text=["x", "y"])
            for row in zip(*(c.to_pylist() for c in batch.record.columns), strict=True)
        ]
    except RequestError:
        return
    with path.open(newline="") as file:
        expected = [row for row in csv.reader(file, strict=True) if row][1:]
    # An empty text in quotes is a text, which Python's reader does not tell from none.
    assert [[cell or "" for cell in row] for row in found] == expected


@ANY_FOLDER
@given(data=tables, holes=st.randoms(), at_once=st.integers(1, 50))
@pytest.mark.parametrize("name", WRITERS)
def test_drop_leaves_out_the_rows_that_miss_something_and_no_others(
    tmp_path: Path, name: str, data: np.ndarray, holes: Any, at_once: int
) -> None:
    data = data.copy()
    for i, j in itertools.product(range(len(data)), range(data.shape[1])):
        data[i, j] = np.nan if holes.random() < 0.1 else data[i, j]
    kept = ~np.isnan(data).any(axis=1)
    names = [f"c{i}" for i in range(data.shape[1])]
    WRITERS[name](tmp_path / name, names, data)
    table = open_table(tmp_path / name)
    columns = choose(table, names[-1])
    missing = count_missing(table, columns)
    counts = np.isnan(data).sum(axis=0)
    assert missing.n_rows == len(data)
    assert missing.incomplete == (~kept).sum()
    assert missing.by_column == {n: c for n, c in zip(names, counts, strict=True) if c}
    if kept.any():
        rows = joined(read(table, columns, missing="drop", rows_at_once=at_once))
        assert rows.X.tobytes() == np.ascontiguousarray(data[kept, :-1]).tobytes()
        assert rows.numbers.tolist() == (np.flatnonzero(kept) + 1).tolist()
    if not kept.all():
        with pytest.raises(RequestError) as refused:
            list(read(table, columns))
        assert f"{(~kept).sum()} of {len(data)} rows miss something" in str(refused.value)


def test_empty_line_in_a_table_of_one_column_is_a_row_without_a_value(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x\n1\n\n3\n")
    table, columns = open_table(path), Columns(("y",), (Feature("x"),))
    with pytest.raises(RequestError, match="'x', row 2: expected a value, found none"):
        list(read(table, columns, targets=False))
    assert joined(read(table, columns, "drop", targets=False)).numbers.tolist() == [1, 3]


@pytest.mark.parametrize("piece", range(1, 13))
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_newline_that_is_cut_in_two_is_one_newline(
    tmp_path: Path, small_pieces: Callable[[int], None], piece: int, ending: str
) -> None:
    small_pieces(piece)
    path = tmp_path / "t.csv"
    path.write_text("x\n10\n2\n345\n".replace("\n", ending), newline="")
    rows = read(open_table(path), Columns(("y",), (Feature("x"),)), targets=False)
    assert joined(rows).X.tolist() == [[10], [2], [345]]


def test_blocks_are_served_before_the_file_is_read_to_its_end(
    tmp_path: Path, small_pieces: Callable[[int], None]
) -> None:
    small_pieces(64)
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "1,2\n" * 1000 + "wrong,2\n")
    table = open_table(path)
    served = read(table, choose(table, "y"), rows_at_once=10)
    assert len(next(served).X) == 10
    with pytest.raises(RequestError, match="row 1,001: expected a number, found 'wrong'"):
        list(served)


def test_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RequestError, match=r"t.csv: .*Permission denied; check its rights"):
        open_table(tmp_path / "t.csv")


def test_tables_load_neither_torch_nor_lightning(python: Callable[..., Any]) -> None:
    code = "import sys, trueline; a = {*sys.modules}; import trueline.tables; b = {*sys.modules}"
    heavy = "{'torch', 'lightning', 'pyarrow'}"
    done = python("-c", f"{code}; print(sorted({heavy} & a), sorted({heavy} & b))")
    assert done.stdout == "[] ['pyarrow']\n", done.stderr
