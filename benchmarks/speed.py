"""How fast Trueline trains, beside what one would otherwise write, on the same work in turns.

    python benchmarks/speed.py [--rounds 5] [--quick] [--out FILE]

Everything runs in one process, one after another, in rounds that turn back and forth. A ratio is
the median over the rounds, with its range. Slow peers run a few of their steps, and are taken on in
a straight line; the report says how many. It is Markdown.
"""

import argparse
import gc
import inspect
import json
import logging
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from peers import (
    LR,
    OFF,
    elsewhere,
    numpy_loop,
    peak,
    reading,
    seconds_of_fit,
    sgd_regressor,
    stock,
    straight_on,
    torch_loop,
    wall,
)
from reports import machine, publish, rounded, time_of, times, verdict
from sklearn.linear_model import LinearRegression as LeastSquares

from trueline.cli.lightning_cli import TruelineCLI
from trueline.cli.run_length import points_per_curve
from trueline.data import DummyData, RegressionData
from trueline.module import LinearRegression
from trueline.reference import article
from trueline.tensorboard import RunLogger, Scalars

LINE = np.arange(1, 11, dtype=np.float32)
"""The weights behind the drawn rows; their bias is 3, their noise 1."""


@dataclass(frozen=True)
class Size:
    """How much of everything; `few` and `many` steps of a slow peer give the time of one.

    Attributes:
        rows: Of the large table.
        epochs: On the 15 points.
        full_epochs: Full-batch epochs on the large table.
        single_epochs: On the 15 points, step by step.
        stock_epochs: Few and many, of stock Lightning on the 15 points.
        loader_batches: Few and many, of stock Lightning on the large table.
        loop_batches: Few and many, of the PyTorch loop there.
        loop_epochs: Few and many, of the PyTorch loop with full batches.
    """

    rows: int = 4_000_000
    epochs: int = 50_000
    full_epochs: int = 1_000
    single_epochs: int = 2_000
    stock_epochs: tuple[int, int] = (50, 1_000)
    loader_batches: tuple[int, int] = (100, 2_000)
    loop_batches: tuple[int, int] = (500, 5_000)
    loop_epochs: tuple[int, int] = (2, 20)


QUICK = Size(200_000, 5_000, 100, 300, (10, 60), (20, 200), (100, 1_000), (2, 10))


ALONE = "Trueline, its steps alone"
IN_SHORT = {
    "loop by hand": ("NumPy loop", "PyTorch loop"),
    "SGDRegressor": ("SGDRegressor",),
    "Lightning, everything off": (
        "stock Lightning, everything off",
        "bare Lightning, its batch ready",
    ),
    "Lightning's defaults": ("stock Lightning, defaults", "Lightning's defaults, its batch ready"),
}
"""Columns of the table for the README, by the peers in them."""


# Trueline


def module(n_features: int, **options: Any) -> LinearRegression:
    """Return our module, with those of the options that it has."""
    known = inspect.signature(LinearRegression).parameters
    options = {name: value for name, value in options.items() if name in known}
    return LinearRegression(n_features=n_features, lr=LR, **options)


def trueline(data: Callable[[], RegressionData], epochs: int, precision: str) -> list[float]:
    """Train as `trueline fit` does, everything on but validation; the data is made beforehand."""
    rows = data()
    steps = epochs * rows.steps_per_epoch
    options = {
        "max_epochs": epochs,
        "precision": precision,
        "accelerator": "cpu",
        "limit_val_batches": 0,
        "log_every_n_steps": max(1, steps // points_per_curve(rows.n_features, rows.n_targets)),
    }
    with elsewhere():
        cli = TruelineCLI([f"--trainer.{n}={v}" for n, v in options.items()], run=False)
        model = module(rows.n_features)
        found = seconds_of_fit(cli.trainer, model, rows, steps)
    if rows.n_features == len(LINE) and steps >= 1_000:
        error = float((model.weight.detach() - torch.from_numpy(LINE)).abs().max())
        far = 3.0 if rows.batch_size is None else 0.5
        if not error < far:
            raise SystemExit(f"expected weights near {LINE}, found them {error} off")
    return found


def steps_alone(data: Callable[[], RegressionData], epochs: int, precision: Any) -> float:
    """Train with our loader and module and nothing else."""
    rows = data()
    trainer = Trainer(
        accelerator="cpu", precision=precision, max_epochs=epochs, limit_val_batches=0, **OFF
    )
    return seconds_of_fit(trainer, module(rows.n_features), rows, epochs * rows.steps_per_epoch)[0]


def scalars_alone(epochs: int) -> float:
    """Train on the 15 points step by step, with our loader and module, and TensorBoard."""
    with elsewhere():
        trainer = Trainer(
            accelerator="cpu",
            precision="64-true",
            max_epochs=epochs,
            limit_val_batches=0,
            log_every_n_steps=max(1, epochs // 500),
            callbacks=[Scalars()],
            **OFF | {"logger": RunLogger(Path("lightning_logs"))},
        )
        return seconds_of_fit(trainer, module(1, steps_per_execution=1), DummyData(), epochs)[0]


# What is compared


@dataclass
class Peer:
    """Somebody's way of doing some work.

    Args:
        name: Who, and how.
        run: Does it, returns the seconds.
        ran: How much of the work it does.
        faster: How many times as fast Trueline is to be, if that is asked.
        share: How many times its time Trueline may take, if that is asked.
    """

    name: str
    run: Callable[[], float]
    ran: str = "all"
    faster: float | None = None
    share: float | None = None
    seconds: list[float] = field(default_factory=list)


@dataclass
class Work:
    """What all do.

    Args:
        title: In the report.
        ours: Trueline, doing it; returns the seconds to the last step, and until fit returned.
        peers: The others.
    """

    title: str
    ours: Callable[[], list[float]]
    peers: list[Peer]
    seconds: list[list[float]] = field(default_factory=list)

    def turn(self, back: bool) -> None:
        """Have each do the work once."""
        self.seconds.append([])
        turns: list[Callable[[], None]] = [lambda: self.seconds[-1].extend(self.ours())]
        turns += [partial(lambda p: p.seconds.append(p.run()), peer) for peer in self.peers]
        for each in reversed(turns) if back else turns:
            each()

    def rows(self) -> list[str]:
        """Return the lines of the report's table."""
        ours = [seconds[0] for seconds in self.seconds]
        lines = [f"| **{self.title}** | Trueline | all | {time_of(ours)} | | | |"]
        if len(self.seconds[0]) > 1:
            returned = time_of([seconds[1] for seconds in self.seconds])
            lines.append(f"| | Trueline, until `fit` has returned | all | {returned} | | | |")
        for peer in self.peers:
            faster = [b / a for a, b in zip(ours, peer.seconds, strict=True)]
            asked, met = "", ""
            if peer.share is None:
                found = times(faster, "as fast")
                if peer.faster is not None:
                    asked = f"{peer.faster:,g} x as fast"
                    met = verdict(statistics.median(faster) >= peer.faster)
            else:
                share = [1 / f for f in faster]
                found, asked = times(share, "its time"), f"at most {peer.share:g} x its time"
                met = verdict(statistics.median(share) <= peer.share)
            cells = [peer.name, peer.ran, time_of(peer.seconds), asked, found, met]
            lines.append("| | " + " | ".join(cells) + " |")
        return lines


def in_short(todo: list[Work]) -> list[str]:
    """Return the table for the README: how many times as fast as whom."""
    lines = ["## In short", "", f"| work | Trueline | {' | '.join(IN_SHORT)} |"]
    lines.append("|---" + "|--:" * (1 + len(IN_SHORT)) + "|")
    for work in todo:
        ours = [seconds[0] for seconds in work.seconds]
        cells = dict.fromkeys(IN_SHORT, "")
        for peer in work.peers:
            slower = statistics.median(b / a for a, b in zip(ours, peer.seconds, strict=True))
            for head, names in IN_SHORT.items():
                if peer.name in names:
                    cells[head] = f"{rounded(slower)} x"
        lines.append(f"| {work.title} | {time_of(ours)} | {' | '.join(cells.values())} |")
    return lines


def draw(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows near a plane, float32."""
    generator = np.random.default_rng(0)
    X = generator.standard_normal((rows, len(LINE)), dtype=np.float32)
    return X, X @ LINE + 3 + generator.standard_normal(rows, dtype=np.float32)


def works(size: Size) -> list[Work]:
    """Return what is compared on the 15 points and on the large table."""
    x, t = article.X[:, 0].astype(float), article.y.astype(float)
    points = torch.from_numpy(x)[:, None], torch.from_numpy(t)
    X, y = draw(size.rows)
    table = torch.from_numpy(X), torch.from_numpy(y)
    batches = -(-size.rows // 32)

    def loop(batch_size: int, shuffle: bool, some: tuple[int, int], steps: int) -> float:
        train = partial(torch_loop, *table, batch_size, shuffle)
        return straight_on(lambda n: wall(lambda: train(n)), *some, steps)

    def stock_points(on: bool) -> float:
        return straight_on(lambda n: stock(*points, on, n, None), *size.stock_epochs, size.epochs)

    def stock_table(on: bool) -> float:
        return straight_on(lambda n: stock(*table, on, n, 32), *size.loader_batches, batches)

    def on_table(batch_size: int | None, shuffle: bool, epochs: int) -> tuple[Any, Peer]:
        data = partial(RegressionData, X, y, batch_size, shuffle)
        alone = Peer(ALONE, lambda: steps_alone(data, epochs, "32-true"))
        return lambda: trueline(data, epochs, "32-true"), alone

    some_epochs = f"{size.stock_epochs[1]:,} epochs"
    some_batches = f"{size.loader_batches[1]:,} batches"
    loop_batches = f"{size.loop_batches[1]:,} batches"
    defaults, off = "stock Lightning, defaults", "stock Lightning, everything off"
    name = f"{size.rows:,} x {len(LINE)} float32"
    shuffled, ordered = on_table(32, True, 1), on_table(1024, False, 1)
    full = on_table(None, False, size.full_epochs)
    return [
        Work(
            f"15 points, {size.epochs:,} full-batch epochs",
            lambda: trueline(DummyData, size.epochs, "64-true"),
            [
                Peer(ALONE, lambda: steps_alone(DummyData, size.epochs, "64-true")),
                Peer("NumPy loop", lambda: wall(lambda: numpy_loop(x, t, size.epochs)), share=0.5),
                Peer(defaults, lambda: stock_points(True), some_epochs, faster=500),
                Peer(off, lambda: stock_points(False), some_epochs),
            ],
        ),
        Work(
            f"{name}, batch 32, one shuffled epoch",
            shuffled[0],
            [
                shuffled[1],
                Peer(
                    "PyTorch loop",
                    lambda: loop(32, True, size.loop_batches, batches),
                    loop_batches,
                    faster=250,
                ),
                Peer(defaults, lambda: stock_table(True), some_batches, faster=1000),
                Peer(off, lambda: stock_table(False), some_batches),
                Peer("SGDRegressor", lambda: wall(lambda: sgd_regressor(X, y, True)), faster=3),
            ],
        ),
        Work(
            f"{name}, batch 1,024, one epoch in order",
            ordered[0],
            [
                ordered[1],
                Peer("reading the bytes once", lambda: reading(*table), share=3),
                Peer(
                    "PyTorch loop",
                    lambda: loop(1024, False, size.loop_batches, -(-size.rows // 1024)),
                    "all" if size.rows <= 1024 * size.loop_batches[1] else loop_batches,
                ),
                Peer("SGDRegressor", lambda: wall(lambda: sgd_regressor(X, y, False))),
                Peer("least squares", lambda: wall(lambda: LeastSquares().fit(X, y))),
            ],
        ),
        Work(
            f"{name}, {size.full_epochs:,} full-batch epochs",
            full[0],
            [
                full[1],
                Peer(
                    "PyTorch loop",
                    lambda: loop(size.rows, False, size.loop_epochs, size.full_epochs),
                    f"{size.loop_epochs[1]:,} epochs",
                    faster=300,
                ),
            ],
        ),
        Work(
            f"15 points step by step, {size.single_epochs:,} epochs",
            lambda: [scalars_alone(size.single_epochs)],
            [
                Peer(
                    "bare Lightning, its batch ready",
                    lambda: stock(*points, False, size.single_epochs, None, ready=True),
                    share=1.1,
                ),
                Peer(
                    "bare Lightning, a DataLoader",
                    lambda: stock(*points, False, size.single_epochs, None),
                ),
                Peer(
                    "Lightning's defaults, its batch ready",
                    lambda: stock(*points, True, size.single_epochs, None, ready=True),
                ),
            ],
        ),
    ]


def cost_of_features(single: Work) -> str:
    """Return the line on what ours costs over the bare loop, beside what Lightning's costs."""
    ours = [seconds[0] for seconds in single.seconds]
    bare, _, defaults = (peer.seconds for peer in single.peers)
    shares = [(a - b) / (c - b) for a, b, c in zip(ours, bare, defaults, strict=True)]
    met = verdict(statistics.median(shares) < 1 / 3)
    what = "the same, over the bare loop"
    return f"| | {what} | all | | under 1/3 x its cost | {times(shares, 'its cost')} | {met} |"


# Growth


def memory(rows: int) -> dict[str, float]:
    """Train for an epoch on so many rows; return what this process held, in MB."""
    few = draw(1_000)
    trueline(partial(RegressionData, *few, 32, True), 1, "32-true")  # imports and first uses
    before = peak()
    X, y = draw(rows)
    data = RegressionData(X, y, 32, True)
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (data.X, data.y)}
    bytes_of_data = X.nbytes + y.nbytes + sum(held.values())
    training = trueline(lambda: data, 1, "32-true")[2]
    return {"before": before, "data": bytes_of_data / 1e6, "training": training, "peak": peak()}


def growth(size: Size, rounds: int, peaks: list[dict[str, float]]) -> list[str]:
    """Return the lines on time and memory of ten times the rows."""
    seconds: dict[int, list[float]] = {size.rows // 10: [], size.rows: []}
    tables = {rows: draw(rows) for rows in seconds}
    for _ in range(rounds):
        for rows, (X, y) in tables.items():
            data = partial(RegressionData, X, y, 32, True)
            seconds[rows].append(trueline(data, 1, "32-true")[0])
    small, large = seconds.values()
    ratios = [b / a for a, b in zip(small, large, strict=True)]
    lines = [
        "## Ten times the rows",
        "",
        "An epoch in shuffled batches of 32. Memory is the largest resident size of a process of "
        "its own, in MB, by the last step and until `fit` has returned; the data, taken off, is "
        "the arrays that were given and the copy that is held. Before them the process has "
        "trained on 1,000 rows.",
        "",
        "| rows | seconds | data | before it | beyond it by the last step | until `fit` returned |",
        "|---|---|---|---|---|---|",
    ]
    for (rows, times_), found in zip(seconds.items(), peaks, strict=True):
        beyond = (found[at] - found["data"] for at in ("training", "peak"))
        cells = [f"{x:,.0f}" for x in (found["data"], found["before"], *beyond)]
        lines.append(f"| {rows:,} | {statistics.median(times_):.3g} | {' | '.join(cells)} |")
    met = verdict(statistics.median(ratios) <= 11)
    lines += ["", f"Time: asked at most 11 x, found {times(ratios, 'the time')}: {met}."]
    return lines


def peaks_of(size: Size) -> list[dict[str, float]]:
    """Return memory's numbers for both sizes, each from a process of its own."""
    found = []
    for rows in (size.rows // 10, size.rows):
        command = [sys.executable, __file__, "--memory", str(rows)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def run() -> None:
    """Measure in turns, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="5 unless given")
    parser.add_argument("--quick", action="store_true", help="little of everything, to try it out")
    parser.add_argument("--out", type=Path, help="where to write the report")
    parser.add_argument("--memory", type=int, metavar="ROWS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    gc.freeze()  # for all alike: what has been imported is not looked through for garbage
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    if arguments.memory:
        print(json.dumps(memory(arguments.memory)))
        return
    size = QUICK if arguments.quick else Size()
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    # First: a process is born with the peak of the one that starts it.
    peaks = peaks_of(size)
    trueline(DummyData, 20, "64-true")  # imports and first uses
    stock(torch.ones(2, 1), torch.ones(2), True, 2, None)
    todo = works(size)
    for work in todo:
        for k in range(rounds):
            work.turn(back=k % 2 == 1)
            print(f"{work.title}: round {k + 1} of {rounds}", file=sys.stderr)
    about = (
        f"{machine('torch', 'lightning', 'numpy', 'scikit-learn')}; {torch.get_num_threads()} "
        f"threads of torch. Medians of rounds, of which there were {rounds}, in turns in one "
        "process; a ratio is the median of theirs, with its range.\n\n"
        "Counted is wall time without imports and the making of data: Trueline and stock Lightning "
        "from the call of `Trainer.fit` to the end of the last step and its logging; the others, "
        "the whole call. Trueline has on what `trueline fit` has on: the cross-check of every "
        "step, TensorBoard, checkpoints and the progress bar; validation is off on all sides. "
        "Until `fit` has returned, it also solves for the closed form and writes result.json. "
        "Where a peer ran only some of its steps, its time goes on from there in a straight line, "
        "with what starting costs counted once. Its steps alone are Trueline's loader and module "
        "in a Trainer with everything off. Step by step, Trueline has its loader, module and "
        "TensorBoard on, and checkpoints, bar and cross-check off."
    )
    lines = [
        "| work | who | ran | time | asked of Trueline | found | met |",
        "|---|---|---|---|---|---|---|",
        *(line for work in todo for line in work.rows()),
        cost_of_features(todo[-1]),
        "",
        *growth(size, rounds, peaks),
        "",
        *in_short(todo),
    ]
    title = f"How fast it trains{', little of everything' if arguments.quick else ''}"
    publish(title, about, lines, arguments.out)


if __name__ == "__main__":
    run()
