"""`docs/four_rungs.md`: its blocks run in order and print what the page says; its picture is true.

The numbers are also held against sums done by hand and against closed forms.
"""

import importlib.util
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from page_blocks import blocks, run
from page_commands import check_commands
from trueline.reference import article

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "four_rungs.md"
TEXT = PAGE.read_text("utf-8")
BLOCKS = blocks(PAGE)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Run the page once; return its names, and what each block printed."""
    names: dict[str, Any] = {}
    folder = tmp_path_factory.mktemp("page")
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield names, [run(block.code, names, PAGE) for block in BLOCKS]
    assert not list(folder.iterdir())


# Lightning's own, on machines with more cores than these.
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_page_prints_what_it_says(page: Any) -> None:
    assert page[1] == [block.expected for block in BLOCKS]
    assert sum(len(block.expected) for block in BLOCKS) == 14


def test_page_first_step_is_the_one_done_by_hand() -> None:
    sums = re.search(r"−2·mean\(x·y\) = −2·(\d+)/15 .* −2·mean\(y\) = −2·(\d+)/15", TEXT, re.S)
    assert sums is not None
    X, y = article.X[:, 0].tolist(), article.y.tolist()
    by_hand = [sum(a * b for a, b in zip(X, y, strict=True)), sum(y)]
    assert [int(group) for group in sums.groups()] == by_hand
    first = "w {:.6f}, b {:9.6f}".format(*(0.002 * total / 15 for total in by_hand))
    assert first in BLOCKS[1].expected[0]


def test_page_rungs_take_the_steps_of_the_closed_form(page: Any) -> None:
    names, _ = page
    A = np.column_stack([article.X, np.ones(15)])
    curvature, directions = np.linalg.eigh(2 / 15 * A.T @ A)
    best = np.linalg.solve(A.T @ A, A.T @ article.y)
    away = directions.T @ -best * (1 - 0.001 * curvature) ** np.arange(1000)[:, None]
    loss = np.mean((article.y - A @ best) ** 2) + (curvature * away**2).sum(axis=1) / 2
    for name in ("numpy_losses", "autograd_losses", "builtin_losses"):
        assert_allclose(names[name], loss, rtol=1e-11, err_msg=name)
    assert_allclose(names["line"].losses, loss, rtol=1e-11)
    assert names["check"].report()["passed"]
    steps = [math.log(0.01) / math.log(1 - 0.001 * c) for c in curvature[::-1]]
    assert "After nine steps a hundredth" in TEXT
    assert "some 9,700\nfor as much" in TEXT
    assert [math.ceil(steps[0]), round(steps[1], -2)] == [9, 9_700]


def test_page_command_prints_what_it_says(process: Callable[..., Any]) -> None:
    assert len(check_commands(TEXT, process)) == 1


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    """Return the script that draws the picture, as a module."""
    spec = importlib.util.spec_from_file_location("four_rungs", DOCS / "pictures/four_rungs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_picture_shows_four_real_curves(pictures: ModuleType, tmp_path: Path) -> None:
    found = pictures.read(pictures.compare(30, tmp_path))
    A = np.column_stack([article.X, np.ones(15)])
    assert found.floor == pytest.approx(np.linalg.lstsq(A, article.y)[1][0] / 15, rel=1e-12)
    for name, losses in found.losses.items():
        assert found.steps[name].tolist() == list(range(31)), name
        assert (np.diff(losses) < 0).all()
        # TensorBoard keeps float32.
        assert_allclose(losses, found.losses["1-numpy"], rtol=2e-7, err_msg=name)
        assert found.furthest[name] < 1e-12
    assert len(found.losses) == 4
    pytest.importorskip("matplotlib", reason="the picture is not drawn: pip install -e '.[docs]'")
    pictures.draw(found, tmp_path / "drawn.png")
    for picture in (tmp_path / "drawn.png", DOCS / "pictures/four_rungs.png"):
        data = picture.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert 10_000 < len(data) < 300_000
