"""`docs/loop.md`: its blocks print what it says, and its lines of code are those of the source."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from page_blocks import blocks, run
from trueline.crosscheck import dataset_rows
from trueline.data import DummyData, mixing, order
from trueline.loop.loop import Loop
from trueline.many_steps import single_steps
from trueline.module import LinearRegression

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/loop.md"
TEXT = PAGE.read_text("utf-8")
WORDS = " ".join(TEXT.split())
BLOCKS = blocks(PAGE)


def test_page_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        for block in BLOCKS:
            assert run(block.code, names, PAGE) == block.expected, block.name
            assert block.expected
    assert len(BLOCKS) == 3
    assert not list(tmp_path.iterdir())


def lines_of(*paths: str) -> str:
    """Return source files with single spaces."""
    texts = [(ROOT / "src/trueline" / path).read_text("utf-8") for path in paths]
    return " ".join(" ".join(texts).split())


def test_page_shows_lines_of_the_source() -> None:
    rows = re.findall(r"^\|[^|]*\|( `.*` | )\|( `.*` | )\|$", TEXT.split("|---|---|---|")[1], re.M)
    reference = lines_of("reference/train.py", "reference/linear.py", "reference/sgd.py")
    shown = [cell.strip() for row in rows for cell in row if cell.strip()]
    assert len(shown) > 20
    for theirs, ours in rows:
        assert theirs.strip().strip("`") in reference
        assert ours.strip().strip("`") in lines_of("loop/kernels.py")


def test_page_tells_the_sizes_of_the_source() -> None:
    assert f"segments of {order.SEGMENT} neighbours" in WORDS
    assert f"each {order.POOL // order.SEGMENT:,} of them" in WORDS
    assert f"make a pool of {order.POOL:,} rows" in WORDS
    assert f"Up to {order.FEW_ROWS:,} rows" in WORDS
    assert mixing.ROUNDS == 4
    assert f"Up to {dataset_rows.FEW_NUMBERS:,} numbers" in WORDS
    assert f"one in {dataset_rows.SAMPLE_EVERY}" in WORDS
    assert f"more than {single_steps.WIDEST_SHARED - 2} features" in WORDS
    p, rows = 10, 32
    assert round(rows * (2 * p + 2 * (p + 1) + 2), -2) == 1_400
    pairs, neighbours = rows * (rows - 1) / 2, (order.SEGMENT - 1) / (order.POOL - 1)
    assert 1 / (pairs * neighbours) == pytest.approx(20, rel=0.1)


class MyModel(LinearRegression):
    """A subclass, which might do anything."""


class MyCallback(Callback):
    """Has a hook inside a step."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look."""


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_page_says_why_steps_are_single(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reason(model: LinearRegression, data: Any = None, **options: Any) -> str | None:
        make_trainer(max_epochs=1, **options).fit(model, data or DummyData())
        return model.single_steps

    tensors = TensorDataset(torch.ones(3, 1), torch.ones(3))
    loader = DataLoader(tensors, batch_size=3)
    found = [
        reason(LinearRegression(steps_per_execution=1)),
        reason(LinearRegression(), precision="bf16-mixed"),
        reason(MyModel()),
        reason(LinearRegression(), callbacks=[MyCallback()]),
        reason(LinearRegression(), loader),
    ]
    with monkeypatch.context() as patch:
        patch.delattr(Loop, "compile")
        without_numba = reason(LinearRegression()) or ""
    told = re.findall(r"^\| one: (.*?) \| .* \|$", TEXT, re.M)
    assert told[:5] == found
    assert told[6].split(" (")[0] == without_numba.split(" (")[0]
    assert f'"{told[5]}"' in lines_of("many_steps/single_steps.py")
    assert len(told) == 7


class Operations(TorchDispatchMode):
    """Counts tensor operations."""

    count = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return op(*args, **(kwargs or {}))


def counts(train: Callable[[int], object], steps: int) -> tuple[int, int]:
    """Return the tensor operations and calls of functions of a training."""
    calls = 0

    def note(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        train(steps)
    finally:
        sys.setprofile(None)
    with Operations() as operations:
        train(steps)
    return operations.count, calls


# Stock Lightning's own.
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_page_counts_what_a_step_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from peers import stock, torch_loop

    X, y = torch.randn(3_200, 10), torch.randn(3_200)
    trainings = {
        "a loop in PyTorch": lambda steps: torch_loop(X, y, 32, False, steps),
        "Lightning, everything off": lambda steps: stock(X, y, False, steps, 32),
        "Lightning's defaults": lambda steps: stock(X, y, True, steps, 32),
    }
    for name, train in trainings.items():
        [row] = re.findall(rf"^\| {name} \| (\S+) \| (\S+) \| \S+ \|$", TEXT, re.M)
        train(50)  # imports
        few, many = (counts(train, steps) for steps in (50, 100))
        for cell, one, two in zip(row, few, many, strict=True):
            assert (two - one) / 50 == pytest.approx(float(cell.replace(",", "")), rel=0.15), name
