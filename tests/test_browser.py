"""What a user sees of runs in TensorBoard, in a real browser.

Screenshots are left in the folder SCREENSHOTS, where that is given. `make test-browser` installs
what is needed.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from board import browser, find_browser, open_tab, tensorboard
from conftest import Run

pytest.importorskip("playwright", reason="no playwright: run make test-browser")
pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no chromium on this machine: run make test-browser"
)

ENGEL = Path(__file__).parent / "data/engel.csv"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make three runs and a comparison, as a user does."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("runs")
    commands = (
        "fit",
        "fit --trainer.max_epochs 4000 --model.lr 0.002 --model.momentum 0.9",
        f"fit --data TableData --data.path {ENGEL} --data.target foodexp",
        "compare --trainer.max_epochs 2000",
    )
    for command in commands:
        arguments = [sys.executable, "-m", "trueline", *command.split()]
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "lightning_logs"


@pytest.fixture(scope="module")
def look(runs: Path) -> Iterator[Callable[[str], Any]]:
    """Return what opens a tab of TensorBoard on these runs."""
    with tensorboard(runs) as address, browser() as page:

        def opened(tab: str) -> Any:
            open_tab(page, address, tab)
            return page

        yield opened


@pytest.fixture
def shoot(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[Any], None]:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def shot(page: Any) -> None:
        page.wait_for_timeout(1500)  # for charts to be drawn
        page.screenshot(path=str(folder / f"{request.node.name}.png"))

    return shot


Look = Callable[[str], Any]
Shoot = Callable[[Any], None]


def results(runs: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for version in ("version_0", "version_1", "version_2"):
        found[version] = Run(0, "", "", runs.parent).result(version)
    return found


def test_loss_curve_is_shown(look: Look, shoot: Shoot) -> None:
    page = look("scalars")
    page.locator("tf-tag-filterer input").fill("train/loss")
    page.get_by_text("train/loss", exact=True).first.wait_for()
    numbers = page.locator("tf-scalar-card text")
    numbers.first.wait_for(state="attached")
    assert numbers.count() > 4  # on the axes of a chart that is drawn
    shoot(page)


def test_custom_layout_draws_curves_beside_their_lines(look: Look, shoot: Shoot) -> None:
    page = look("custom_scalars")
    charts = page.locator("tf-custom-scalar-multi-line-chart-card")
    charts.first.wait_for()
    page.get_by_text("loss beside that of the closed form").wait_for()
    page.get_by_text("learning rate beside the largest stable one").wait_for()
    page.get_by_text("deviation from NumPy as a fraction of its bound").wait_for()
    chart = charts.filter(has_text="loss beside that of the closed form").first
    chart.get_by_text("Matches (").wait_for()
    page.wait_for_timeout(2000)  # for the answers of all runs
    matches = [text.strip() for text in chart.locator(".match-list-entry").all_text_contents()]
    for run in ("version_0", "version_1", "version_2", "compare_0/4-lightning"):
        for tag in ("train/loss", "val/loss", "closed_form/loss"):
            assert any(run in match and tag in match for match in matches), (run, tag, matches)
    for rung in ("1-numpy", "2-autograd", "3-mseloss-sgd"):
        assert any(rung in match and "train/loss" in match for match in matches), matches
    assert chart.locator("text").count() > 4
    shoot(page)


def test_each_figure_is_shown(look: Look, shoot: Shoot) -> None:
    page = look("images")
    for name in ("line", "surface", "residuals", "coefficients"):
        card = page.locator("tf-image-loader").filter(has_text=f"figures/{name}").first
        card.wait_for()
        picture = card.locator("img").first
        picture.wait_for()
        page.wait_for_function(
            "e => e.complete && e.naturalWidth > 500", arg=picture.element_handle()
        )
    assert page.locator("tf-image-loader").count() == 10  # three of each run, and one of the table
    shoot(page)


def test_hyperparameters_and_metrics_are_those_of_the_runs(
    look: Look, shoot: Shoot, runs: Path
) -> None:
    page = look("hparams")
    found = results(runs)
    page.get_by_text("version_2", exact=True).first.wait_for()
    page.wait_for_timeout(1000)
    text = page.locator("vaadin-grid").first.inner_text()
    heads, rows = text.split("\n")[:11], text.split("\n")[11:]
    shown = ("lr", "momentum", "batch_size", "weight_decay", "max_epochs")
    metrics = ("final/loss", "final/val_loss", "final/epochs_to_converge", "final/worst_ratio")
    assert set(heads) == {"Trial ID", "Show Metrics", *shown, *metrics}
    numbers = [float(cell) for cell in rows if cell.replace(".", "").isdigit()]
    for result in found.values():
        for value in (result["loss"], result["lr"], result["crosscheck"]["worst_ratio"]):
            assert any(number == pytest.approx(value, rel=1e-3) for number in numbers), value
    shoot(page)


def test_texts_are_rendered_as_tables(look: Look, shoot: Shoot) -> None:
    page = look("text")
    tables = page.locator("tf-text-loader table")
    tables.first.wait_for()
    page.get_by_text("passed: 50,000 steps compared with NumPy").wait_for()
    page.locator("tf-text-loader td", has_text="parameters").nth(2).wait_for()  # of three runs
    shoot(page)


def test_four_rungs_lie_in_one_chart(look: Look, shoot: Shoot) -> None:
    page = look("scalars")
    page.locator(
        "tf-runs-selector input[type=text], tf-runs-selector paper-input input"
    ).first.fill("compare")
    page.locator("tf-tag-filterer input").fill("train/loss")
    names = ["1-numpy", "2-autograd", "3-mseloss-sgd", "4-lightning"]
    for name in names:
        page.get_by_text(f"compare_0/{name}").first.wait_for()
    places = [page.get_by_text(f"compare_0/{n}").first.bounding_box()["y"] for n in names]
    assert places == sorted(set(places))
    shoot(page)
