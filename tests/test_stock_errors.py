"""What stock Lightning gets wrong, and Trueline gets right: each by really running both.

The table is the one in docs/crosscheck.md, to the letter. All rows train on the article's 15
points, but for the mean over uneven processes and the epoch loss, which need losses known
beforehand.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import pytest
import torch

import stock_errors as stock
from stock_errors import PLATEAU, SAVED_AT, Place
from trueline.module import LinearRegression

ROOT = Path(__file__).parent.parent
TESTED = "2.6.6"
"""The Lightning whose numbers these are."""


class Row(NamedTuple):
    """A row of the table: what it says, and what computes what it says."""

    name: str
    situation: str
    stock: str
    ours: str
    run_stock: Callable[[Place], str]
    run_ours: Callable[[Place], str]


def fit(place: Place, *options: str) -> Any:
    """Train by our command line, from zero."""
    run = place.cli("fit", "--model.init=zeros", *options)
    assert run.status == 0, run.stderr
    return run


def newest(place: Place, name: str = "last") -> Path:
    """Return the checkpoint of that name in the newest run that has one."""
    found = (place.folder / "lightning_logs").glob(f"version_*/checkpoints/{name}.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime)


def load(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def of_ranks(name: str) -> Callable[[Place], str]:
    """Return what looks a result up in those of the two processes."""
    return lambda place: place.ranks()[name]


def accumulation(place: Place) -> str:
    options = ("--data.batch_size=5", "--trainer.accumulate_grad_batches=2")
    run = fit(place, *options, "--trainer.max_epochs=1")
    return f"w {run.result()['weight']:.4f}"


def stopped_and_not(place: Place, *options: str) -> tuple[np.ndarray, np.ndarray]:
    """Train 2 epochs and go on to 4, and train 4; return the parameters of both."""
    fit(place, *options, "--trainer.max_epochs=2")
    fit(place, *options, "--trainer.max_epochs=4", "--ckpt_path=last")
    run = fit(place, *options, "--trainer.max_epochs=4")
    results = [run.result(f"version_{version}") for version in (1, 2)]
    resumed, whole = (np.array([result["weight"], result["bias"]]) for result in results)
    return resumed, whole


def resumed_shuffle(place: Place) -> str:
    options = ("--data.batch_size=5", "--data.shuffle=true")
    resumed, whole = stopped_and_not(place, *options)
    alike = ", to the bit" if (resumed == whole).all() else ""
    return f"w {resumed[0]:.3f}, never stopped {whole[0]:.3f}{alike}"


def too_large_lr(place: Place) -> str:
    run = place.cli("fit", "--model.init=zeros", "--model.lr=1.0", "--trainer.max_epochs=200")
    said = (
        r"found (\w+) at step (\d+); --model.lr 1\.0 is above the largest stable one .*, ([\d.]+);"
    )
    [(loss, step, limit)] = re.findall(said, run.stderr)
    return f"stops there (loss {loss} after {int(step) - 1} steps), names the limit {limit}"


def typed_lr(place: Place) -> str:
    fit(place, "--trainer.max_epochs=2")
    first = newest(place)
    options = (f"--ckpt_path={first}", "--model.lr=0.0005", "--trainer.max_epochs=3")
    assert fit(place, *options).result("version_1")["lr"] == 0.0005
    return stock.lr_of_step(load(first), load(newest(place)), "weight", "bias")


def tensorboard(place: Place) -> str:
    fit(place, "--trainer.max_epochs=20")
    found = stock.scalars(place.folder / "lightning_logs/version_0")
    no_metric = "no hp_metric" if "hp_metric" not in found else "hp_metric"
    return f"{no_metric}, {len(found['train/loss'])} points of the loss"


def epoch_loss(_: Place) -> str:
    def validated(loader: Any) -> float:
        one = stock.trainer(precision="32-true")
        one.validate(LinearRegression(init="zeros"), loader, verbose=False)
        return one.callback_metrics["val/loss"].item()

    if not stock.sums_like(np.float64, validated):
        return "not summed in float64"
    off = 100 * stock.relative_errors()[np.float64]
    return "less than 0.0001 % off" if off < 0.0001 else f"{off} % off"


def resumed_float64(place: Place) -> str:
    resumed, whole = stopped_and_not(place, "--data.batch_size=5")
    off = np.abs(resumed / whole - 1).max()
    return "the same bits" if (resumed == whole).all() else f"{off:.0e} off"


def resumed_plateau(place: Place) -> str:
    def trained(*options: str) -> tuple[str, dict[str, Any]]:
        schedule = json.dumps({"name": "ReduceLROnPlateau", **PLATEAU})
        alike = ("--data.batch_size=5", "--trainer.max_epochs=4", f"--model.schedule={schedule}")
        fit(place, *alike, *options)
        end = load(newest(place))
        return f"{end['optimizer_states'][0]['param_groups'][0]['lr']:g}", end["state_dict"]

    of_saver = ("save_top_k=-1", "auto_insert_metric_name=false")
    steps = ("filename=after_{step}", "every_n_train_steps=1", *of_saver)
    ends = ("filename=end_{step}", *of_saver)
    options = []
    for saver in (steps, ends):
        options += ["--trainer.callbacks+=ModelCheckpoint"]
        options += [f"--trainer.callbacks.{option}" for option in saver]
    whole, expected = trained(*options)
    saved = [newest(place, name) for name in SAVED_AT]
    resumed = [trained(f"--ckpt_path={path}") for path in saved]
    alike = all(torch.equal(found[name], expected[name]) for _, found in resumed for name in found)
    lr = ", ".join(lr for lr, _ in resumed)
    return f"lr {lr}, never stopped {whole}{', to the bit' if alike else ''}"


ROWS = [
    Row(
        "rank_step",
        "One full-batch step from zero on 2 processes: 15 rows are padded to 16",
        "w 1.7800, b 0.1210",
        "w 1.6427, b 0.1184",
        of_ranks("stock step"),
        of_ranks("our step"),
    ),
    Row(
        "rank_validation",
        "Validation loss at zero on 2 processes, with `sync_dist`",
        "3532.69",
        "3666.80",
        of_ranks("stock validation"),
        of_ranks("our validation"),
    ),
    Row(
        "rank_mean",
        "Mean of a loss that is 1.0 in all batches, 3 on one process and 2 on the other",
        "1.25",
        "1.0",
        of_ranks("stock mean"),
        of_ranks("our mean"),
    ),
    Row(
        "accumulation",
        "One epoch in batches of 5, `accumulate_grad_batches=2`: the last window is short",
        "w 2.0583",
        "w 3.1274",
        stock.accumulation,
        accumulation,
    ),
    Row(
        "resumed_shuffle",
        "Batches of 5 shuffled with seed 0, saved after 2 epochs, resumed to 4",
        "w 3.938, never stopped 4.155",
        "w 3.906, never stopped 3.906, to the bit",
        stock.resumed_shuffle,
        resumed_shuffle,
    ),
    Row(
        "too_large_lr",
        "lr 1.0, above the largest stable one",
        "loss inf after 59 steps, finished, w nan",
        "stops there (loss inf after 59 steps), names the limit 0.004938",
        stock.too_large_lr,
        too_large_lr,
    ),
    Row(
        "typed_lr",
        "`--ckpt_path FILE --model.lr 0.0005`, where the file has lr 0.001",
        "lr 0.001",
        "lr 0.0005",
        stock.typed_lr,
        typed_lr,
    ),
    Row(
        "tensorboard",
        "TensorBoard after 20 full-batch epochs",
        "hp_metric -1, 0 points of the loss",
        "no hp_metric, 21 points of the loss",
        stock.tensorboard,
        tensorboard,
    ),
    Row(
        "epoch_loss",
        "Epoch loss in float32 over 10⁹ rows, batches of 32, residuals of variance 0.1",
        "18 % off",
        "less than 0.0001 % off",
        stock.epoch_loss,
        epoch_loss,
    ),
    Row(
        "resumed_float64",
        "Parameters in float64, saved after 2 epochs, resumed to 4, beside a run never stopped",
        "1e-08 off",
        "the same bits",
        stock.resumed_float64,
        resumed_float64,
    ),
    Row(
        "resumed_plateau",
        "`ReduceLROnPlateau`, saved within epoch 2 and at its end, resumed to 4",
        "lr 0.00025, 0.00025, never stopped 0.000125",
        "lr 0.000125, 0.000125, never stopped 0.000125, to the bit",
        stock.resumed_plateau,
        resumed_plateau,
    ),
]
EACH = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], dict[str, str]]:
    """Return what gives the results of two processes, launched once, where they are asked for."""
    folder = tmp_path_factory.mktemp("ranks")

    def results() -> dict[str, str]:
        files = [folder / f"rank{rank}.json" for rank in range(2)]
        if not files[0].exists():
            command = [sys.executable, stock.__file__, str(folder)]
            one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, env=one_thread, capture_output=True, text=True, timeout=280, check=False
            )
            assert done.returncode == 0, done.stderr
        first, second = (json.loads(path.read_text()) for path in files)
        assert first == second
        return first

    return results


@pytest.fixture
def place(tmp_path: Path, cli: Any, ranks: Any, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, cli, ranks)


# What stock Lightning advises about its own defaults, and its own deprecated calls.
@pytest.mark.filterwarnings("ignore")
@EACH
def test_stock_lightning_errs_as_said(row: Row, place: Place) -> None:
    found = row.run_stock(place)
    assert found == row.stock, (
        f"Lightning {lightning.__version__} gives {found} where {TESTED} gave {row.stock}: "
        "where that is mended, take the row out of here and out of docs/crosscheck.md"
    )


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:You called `self.log.*no logger configured")
# A resumed run need not save as often as the one before it.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@EACH
def test_trueline_is_right(row: Row, place: Place) -> None:
    assert row.run_ours(place) == row.ours


def test_page_shows_this_table() -> None:
    [section] = re.findall(
        r"^## What stock Lightning gets wrong\n(.*?)(?=^## |\Z)",
        (ROOT / "docs/crosscheck.md").read_text("utf-8"),
        re.M | re.S,
    )
    lines = [line for line in section.splitlines() if line.startswith("|")]
    head, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert head == ["Situation", f"Lightning {TESTED}", "Trueline"]
    assert set("".join(rule)) == {"-"}
    assert rows == [[row.situation, row.stock, row.ours] for row in ROWS]
