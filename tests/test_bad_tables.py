"""A bad table ends in one line that says where and what to do; a good one in its numbers."""

import contextlib
import gzip
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv, feather, parquet

from bad_tables import CASES
from table_makers import Case
from trueline.errors import RequestError
from trueline.tables import choose, open_table, read

SECONDS = 20
"""That a case may take on a busy machine; most take milliseconds."""


def load(path: Path, target: Any = "y", **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Read a whole table as X and y."""
    how = {name: options.pop(name) for name in ("missing", "dtype") if name in options}
    table = open_table(path)
    blocks = list(read(table, choose(table, target, **options), **how))
    return np.concatenate([b.X for b in blocks]), np.concatenate([b.y for b in blocks])


@pytest.mark.parametrize("case", CASES.values(), ids=[repr(name)[1:-1] for name in CASES])
def test_table_is_read_right_or_refused_with_the_place(case: Case, tmp_path: Path) -> None:
    path, options = case.make(tmp_path)
    began = time.perf_counter()
    if case.words:
        with pytest.raises(RequestError) as refused:
            load(path, **options)
        message = str(refused.value)
        assert [words for words in case.words.split("|") if words not in message] == [], message
        assert "\n" not in message
        assert len(message) < 1000
    else:
        X, y = load(path, **options)
        # To the bit, so that −0 is not 0.
        assert X.tobytes() == np.array(case.X, np.float64).tobytes()
        assert y.tobytes() == np.array(case.y, np.float64)[:, None].tobytes()
    assert time.perf_counter() - began < SECONDS


@settings(max_examples=200, deadline=None)
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3))
@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.npy", "t.csv.gz"])
def test_changed_bytes_end_in_a_refusal_or_in_as_many_rows(
    tmp_path_factory: pytest.TempPathFactory, name: str, flips: list[tuple[float, int]]
) -> None:
    n_rows = 50
    path = tmp_path_factory.getbasetemp() / f"changed_{name}"
    x = np.arange(n_rows) / 7
    if name.endswith(".npy"):
        np.save(path, np.column_stack([x, x]))
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(b"x,column_1\n" + b"1.5,2.5\n" * n_rows))
    else:
        table = pa.table({"x": x, "column_1": x})
        write = feather.write_feather if name.endswith("feather") else parquet.write_table
        write(table, path)
    content = bytearray(path.read_bytes())
    for part, change in flips:
        content[int(part * (len(content) - 1))] ^= change
    path.write_bytes(content)
    with contextlib.suppress(RequestError):
        assert len(load(path, target="column_1")[0]) == n_rows


def test_parquet_that_holds_fewer_rows_than_it_speaks_of_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    x = np.arange(40) / 7
    parquet.write_table(pa.table({"x": x, "y": x}), path, row_group_size=20)
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    twenty, fewer = b"\x28", b"\x26"  # 20 and 19, as Thrift writes them
    places = [i for i in range(footer, len(content) - 8) if content[i : i + 1] == twenty]
    refused = 0
    for i in places:
        path.write_bytes(content[:i] + fewer + content[i + 1 :])
        try:
            assert len(load(path)[0]) == 40
        except RequestError as error:
            refused += "39 rows, where the file speaks of 40" in str(error)
    assert refused > 0


def test_what_pyarrow_refuses_for_reasons_of_its_own_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")
    true_read = csv.read_csv

    def refuse_numbers(source: Any, read: Any, parse: Any, convert: Any) -> pa.Table:
        if pa.float64() in convert.column_types.values():
            raise pa.ArrowInvalid("a reason\nof its own")
        return true_read(source, read, parse, convert)

    monkeypatch.setattr(csv, "read_csv", refuse_numbers)
    with pytest.raises(RequestError, match="after row 0: expected CSV, found: a reason of its own"):
        load(tmp_path / "t.csv")


def test_cases_are_many_and_each_refusal_names_what_it_found() -> None:
    assert len(CASES) >= 100
    assert sum(bool(case.words) for case in CASES.values()) >= 100
    assert all(re.search(r"[a-z]{3}", case.words) for case in CASES.values() if case.words)
