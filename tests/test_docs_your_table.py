"""`docs/your_table.md`: its commands run on its tables, and print what the page says they print."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from page_commands import check_commands

PAGE = (Path(__file__).parent.parent / "docs/your_table.md").read_text("utf-8")
TABLES = dict(
    zip(("houses.csv", "new.csv"), re.findall(r"```csv\n(.*?)```", PAGE, re.S), strict=True)
)


def test_page_prints_what_it_says(
    process: Callable[..., Any], python: Callable[..., Any], tmp_path: Path
) -> None:
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text)
    runs = check_commands(PAGE, process)
    assert (tmp_path / "lightning_logs/version_0/result.json").exists()
    with (tmp_path / "new-prices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["n1", "n2"]
    best = next(iter(runs.values())).result()["closed_form"]
    gas, area, rooms = 1.0, 80.0, 3.0
    by_hand = sum(w * x for w, x in zip(best["weight"], [area, rooms, 0.0, gas], strict=True))
    assert float(rows[0]["prediction"]) == pytest.approx(by_hand + best["bias"], rel=1e-6)
    predicted = [float(row["prediction"]) for row in rows]

    by_json, by_onnx = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (tmp_path / "by_json.py").write_text(by_json)
    said = re.search(r"prints `(n1 \S+)` and `(n2 \S+)`", PAGE)
    assert said is not None
    printed = python("by_json.py").stdout.splitlines()
    assert printed == list(said.groups())
    assert [float(line.split()[1]) for line in printed] == pytest.approx(predicted, abs=6e-4)

    pytest.importorskip("onnxruntime")
    assert process("trueline", "export", "--path", "houses.onnx").status == 0
    (tmp_path / "by_onnx.py").write_text(by_onnx + "print(*price.tolist())")
    run = python("by_onnx.py")
    assert [float(word) for word in run.stdout.split()] == pytest.approx(predicted, rel=1e-12)
