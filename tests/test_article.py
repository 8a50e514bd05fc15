"""`docs/article.md`: each of its blocks is run and must print what the page says it prints.

The numbers themselves are then held against sums done by hand, closed forms, an optimizer of
PyTorch's and all four rungs, so that the page is right and not only repeatable.
"""

import inspect
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from page_blocks import Block, blocks, run

PAGE = Path(__file__).parent.parent / "docs" / "article.md"
SEED = torch.random.seed


BLOCKS = blocks(PAGE)


class Ran(NamedTuple):
    """The page after one run from top to bottom."""

    names: dict[str, Any]
    printed: dict[str, list[str]]


@pytest.fixture(scope="module")
def page() -> Iterator[Ran]:
    """Run the page once; leave torch's seed function and generator as they were."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(torch.random, "seed", SEED)
        yield Ran(names, {block.name: run(block.code, names, PAGE) for block in BLOCKS})


@pytest.fixture(scope="module")
def eigen(page: Ran) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the Hessian's eigenvalues, the start's distance from the best line along each
    eigenvector, and the loss of the best line."""
    A, Y = np.column_stack([page.names["X"], np.ones(15)]), page.names["Y"]
    best = np.linalg.lstsq(A, Y)[0]
    curvature, directions = np.linalg.eigh(2 / 15 * A.T @ A)
    return curvature, directions.T @ -best, float(np.mean((Y - A @ best) ** 2))


@pytest.mark.parametrize("block", BLOCKS, ids=[block.name for block in BLOCKS])
def test_article_block_prints_what_the_page_says(page: Ran, block: Block) -> None:
    assert page.printed[block.name] == block.expected


@pytest.mark.parametrize("section", range(1, 7))
def test_article_section_runs_the_wrong_code_and_the_right(section: int) -> None:
    text = PAGE.read_text("utf-8").split("\n## ")[section]
    assert text.startswith(f"{section}. ")
    assert "**Wrong" in text
    assert "**Right:**" in text
    assert any(block.expected for block in BLOCKS if block.name.startswith(f"section{section}-"))


def test_article_first_step_is_the_one_done_by_hand(page: Ran) -> None:
    X, Y = page.names["X"].tolist(), page.names["Y"].tolist()
    # From zero the residual is -Y: the gradients are -2·mean(XY) and -2·mean(Y).
    weight = 0.001 * 2 * sum(x * y for x, y in zip(X, Y, strict=True)) / 15
    bias = 0.001 * 2 * sum(Y) / 15
    (block,) = (b for b in BLOCKS if b.name.startswith("section1-") and "Type" not in b.code)
    assert page.printed[block.name] == [f"w {weight:.6f}, b {bias:.6f}"]


def test_article_formulas_of_the_gradients_are_right(page: Ran) -> None:
    X, Y = page.names["X"], page.names["Y"]

    def loss(w: float, b: float) -> float:
        return float(np.mean((Y - (w * X + b)) ** 2))

    residual = Y - (0.5 * X - 0.25)
    # A parabola: central differences err by rounding alone.
    assert_allclose(np.mean(-2 * X * residual), (loss(1.5, -0.25) - loss(-0.5, -0.25)) / 2)
    assert_allclose(np.mean(-2 * residual), (loss(0.5, 0.75) - loss(0.5, -1.25)) / 2)


def test_article_without_step_the_loss_is_that_of_the_start(page: Ran) -> None:
    start = sum(y * y for y in page.names["Y"].tolist()) / 15
    assert page.names["train"](50, step=False) == pytest.approx([start] * 50, rel=1e-15)


def test_article_right_training_has_the_closed_form(
    page: Ran, eigen: tuple[np.ndarray, np.ndarray, float]
) -> None:
    curvature, start, best = eigen
    epochs = np.arange(20_000)[:, None]
    away = start * (1 - 0.001 * curvature) ** epochs
    loss = best + (curvature * away**2).sum(axis=1) / 2
    assert_allclose(page.names["right"], loss[:10_000], rtol=1e-10)
    assert (np.diff(page.names["right"]) < 0).all()
    assert f"{best:.4f}" == "3.4647"
    assert 15_500 < np.argmax(loss < 3.46475) < 16_500  # "about 16,000 epochs"


def test_article_unzeroed_training_swings_for_ever(
    page: Ran, eigen: tuple[np.ndarray, np.ndarray, float]
) -> None:
    curvature, start, best = eigen
    # With v ← v + λq, q ← q − lr·v along an eigenvector: an undamped cosine, for lr·λ < 4.
    angle = np.arccos(1 - 0.001 * curvature / 2)
    away = start * np.cos((np.arange(10_000)[:, None] + 0.5) * angle) / np.cos(angle / 2)
    wrong = best + (curvature * away**2).sum(axis=1) / 2
    assert_allclose(page.names["wrong"], wrong, rtol=1e-8)
    assert page.names["wrong"][3] > page.names["wrong"][2]


def test_article_seed_lands_in_the_generator_only_by_manual_seed(page: Ran) -> None:
    assert torch.random.seed is SEED
    generator = torch.Generator().manual_seed(2)
    w, b = (torch.randn(1, generator=generator).item() for _ in range(2))
    (block,) = (block for block in BLOCKS if "torch.manual_seed(2)" in block.code)
    assert page.printed[block.name] == [f"w {w:.4f}, b {b:.4f}"]


def test_article_losses_take_input_then_target() -> None:
    for loss in (torch.nn.MSELoss, torch.nn.BCELoss):
        assert list(inspect.signature(loss.forward).parameters) == ["self", "input", "target"]


def test_article_swapped_cross_entropy_is_the_formula_swapped(page: Ran) -> None:
    def cross_entropy(prediction: float, target: float) -> float:
        # BCELoss documents that it holds each logarithm at -100 or above.
        logs = (max(math.log(p), -100) if p else -100 for p in (prediction, 1 - prediction))
        return -sum(t * log for t, log in zip((target, 1 - target), logs, strict=True))

    (block,) = (block for block in BLOCKS if block.name.startswith("section5-"))
    for line, arguments in zip(page.printed[block.name], [(0.9, 1.0), (1.0, 0.9)], strict=True):
        assert line.endswith(f"BCE {cross_entropy(*arguments):.4f}")


UNINDENTED = "IndentationError: expected an indented block after '{}' statement on line 1"


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("steps = 0\nfor i in range(3): print(i)\nsteps += 1\nprint(steps)", ["0", "1", "2", "1"]),
        ("for i in range(3):\nprint(i)", [UNINDENTED.format("for")]),
        ("with open('none'):\nprint(0)", [UNINDENTED.format("with")]),
        ("for i in range(epochs): print(i)", ["NameError: name 'epochs' is not defined"]),
        ("X = np.array([1])", ["NameError: name 'np' is not defined"]),
    ],
    ids=["heading-loop", "for", "with", "epochs", "numpy"],
)
def test_article_smaller_faults_end_as_the_page_says(code: str, printed: list[str]) -> None:
    assert run(code, {}, PAGE) == printed


def test_article_empty_predictions_are_never_read(page: Ran) -> None:
    def train(reserved: np.ndarray | None) -> list[float]:
        X, Y, w, b, losses = page.names["X"], page.names["Y"], 0.0, 0.0, []
        y_pred = reserved
        for _ in range(100):
            y_pred = w * X + b
            losses.append(float(np.mean((Y - y_pred) ** 2)))
            gradient_w, gradient_b = np.mean(-2 * X * (Y - y_pred)), np.mean(-2 * (Y - y_pred))
            w, b = w - 0.001 * gradient_w, b - 0.001 * gradient_b
        return losses

    # np.empty may hold anything: nan would spread to all that read it.
    assert train(np.full(15, np.nan)) == train(None)
    assert_allclose(train(None), page.names["right"][:100], rtol=1e-12)


def test_article_all_four_rungs_take_the_steps_of_the_page(
    page: Ran, cli: Callable[..., Any]
) -> None:
    done = cli("compare", "--model.init=zeros", "--trainer.max_epochs=20")
    assert done.status == 0, done.stderr
    (path,) = done.directory.glob("lightning_logs/compare_*/compare.json")
    rungs = {row["name"]: row for row in json.loads(path.read_text())["rows"] if "distance" in row}
    assert list(rungs) == ["1-numpy", "2-autograd", "3-mseloss-sgd", "4-lightning"]
    for name, row in rungs.items():
        assert row["loss"] == pytest.approx(page.names["right"][20], rel=1e-12), name
        assert max(row["distance"].values()) < 1e-12, name


def test_article_fit_seeds_before_it_draws(cli: Callable[..., Any]) -> None:
    weights = []
    for version, disturbance in (("version_0", 3), ("version_1", 4)):
        torch.manual_seed(disturbance)
        done = cli("fit", "--trainer.max_epochs=1")
        assert done.status == 0, done.stderr
        weights.append(done.result(version)["weight"])
    assert weights[0] == weights[1]
