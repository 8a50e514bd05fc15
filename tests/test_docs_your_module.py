"""`docs/your_module.md`: its blocks run in order and print what the page says they print."""

import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parent.parent / "docs" / "your_module.md"
SHOWN = "#> "
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
FAILING = "Hasty"
"""The class in the one block whose training is meant to fail."""


def run(block: str, names: dict[str, Any]) -> list[str]:
    """Run a block; return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, str(PAGE), "exec"), names)
    return printed.getvalue().splitlines()


def shown(block: str) -> list[str]:
    """Return what the page says that a block prints."""
    return [line.removeprefix(SHOWN) for line in block.splitlines() if line.startswith(SHOWN)]


# Lightning's own, on machines with more cores than these.
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_page_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in BLOCKS:
            fails = FAILING in block
            warns = pytest.warns(UserWarning, match="^cross-check failed: lr at step 1: .* meant$")
            with warns if fails else contextlib.nullcontext():
                printed = run(block, names)
            assert printed == shown(block), block
    assert sum(map(bool, map(shown, BLOCKS))) == len(BLOCKS) == 3
    assert not list(tmp_path.iterdir())


def test_page_shows_references_of_less_than_30_lines() -> None:
    classes = [node for block in BLOCKS for node in ast.parse(block).body]
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in classes
        if isinstance(node, ast.ClassDef) and node.name.endswith("Reference")
    }
    assert list(lengths) == ["LogisticReference", "PerceptronReference"]
    assert max(lengths.values()) < 30, lengths
