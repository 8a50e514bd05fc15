"""`docs/your_module.md`: its blocks run in order and print what the page says they print."""

import ast
import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from page_blocks import blocks, run

PAGE = Path(__file__).parent.parent / "docs" / "your_module.md"
BLOCKS = blocks(PAGE)
FAILING = "Hasty"
"""The class in the one block whose training is meant to fail."""


# Lightning's own, on machines with more cores than these.
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_page_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in BLOCKS:
            fails = FAILING in block.code
            warns = pytest.warns(UserWarning, match="^cross-check failed: lr at step 1: .* meant$")
            with warns if fails else contextlib.nullcontext():
                printed = run(block.code, names, PAGE)
            assert printed == block.expected, block.name
    assert sum(bool(block.expected) for block in BLOCKS) == len(BLOCKS) == 3
    assert not list(tmp_path.iterdir())


def test_page_shows_references_of_less_than_30_lines() -> None:
    classes = [node for block in BLOCKS for node in ast.parse(block.code).body]
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in classes
        if isinstance(node, ast.ClassDef) and node.name.endswith("Reference")
    }
    assert list(lengths) == ["LogisticReference", "PerceptronReference"]
    assert max(lengths.values()) < 30, lengths
