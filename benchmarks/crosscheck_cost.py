"""What checking every step costs, with and without the cross-check in turns.

    python benchmarks/crosscheck_cost.py [--rounds 9] [--epochs 2500] [--out FILE]

First step by step: `trueline fit` on the article's 15 points, with everything else on that it has
on, and batches of more rows beside Lightning's bare loop, with every other callback off. Then many
steps at once, with every other callback off. All on one thread of this process. The time is that
of the processor, which other processes on the machine do not lengthen; what a run costs before its
first steps is measured by itself and taken off. The report is Markdown.
"""

import argparse
import contextlib
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from reports import machine, publish

from trueline.cli.entry import main
from trueline.crosscheck import CrossCheck
from trueline.data import DummyData, RegressionData
from trueline.module import LinearRegression

ROWS = (32, 256, 1024, 10_000)

FEW = 20
"""Epochs of the run that shows what everything but training costs."""


def seconds(options: list[str], crosscheck: str, epochs: int) -> float:
    """Train once, in a folder of its own; return the processor time of it all."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        start = time.process_time()
        try:
            arguments = ["--crosscheck", crosscheck, f"--trainer.max_epochs={epochs}"]
            status = main(["fit", *arguments, *options])
        finally:
            os.chdir(before)
        if status:
            raise SystemExit(f"expected a training that passes, found exit status {status}")
        return time.process_time() - start


def per_epoch(options: list[str], crosscheck: str, epochs: int) -> float:
    """Return microseconds of processor time an epoch."""
    start = seconds(options, crosscheck, FEW)
    return 1e6 * (seconds(options, crosscheck, epochs) - start) / (epochs - FEW)


def trained(
    data: RegressionData, epochs: int, precision: Any, check: bool, steps: int | str
) -> tuple[float, int]:
    """Return the processor time of a training in the bare loop, in seconds, and its steps."""
    off: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing"), False)
    off |= dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False)
    off |= {"limit_val_batches": 0, "callbacks": [CrossCheck()] if check else []}
    trainer = Trainer(accelerator="cpu", precision=precision, max_epochs=epochs, **off)
    model = LinearRegression(data.n_features, steps_per_execution=steps)  # type: ignore[arg-type]
    start = time.process_time()
    trainer.fit(model, data)
    return time.process_time() - start, trainer.global_step


def per_step(rows: int, check: bool) -> float:
    """Return microseconds a step, with so many rows of 10 features a batch."""
    generator = np.random.default_rng(0)
    X, y = generator.standard_normal((20 * rows, 10)), generator.standard_normal(20 * rows)
    data = RegressionData(X, y, batch_size=rows, shuffle=True)
    seconds, steps = trained(data, max(5, 3000 // rows), "64-true", check, 1)
    return 1e6 * seconds / steps


def at_once(rows: int) -> dict[str, Callable[[bool], float]]:
    """Return trainings whose steps are taken many at once; each returns its milliseconds."""
    generator = np.random.default_rng(0)
    X = generator.standard_normal((rows, 10), dtype=np.float32)
    y = X.sum(axis=1) + generator.standard_normal(rows, dtype=np.float32)
    tables = {
        f"{rows:,} x 10 float32, batch 32, one shuffled epoch": (32, True, 1),
        f"{rows:,} x 10 float32, batch 1,024, one epoch in order": (1024, False, 1),
        f"{rows:,} x 10 float32, 1,000 full-batch epochs": (None, False, 1000),
    }

    def on_table(size: int | None, shuffle: bool, epochs: int, check: bool) -> float:
        data = RegressionData(X, y, size, shuffle)
        return 1e3 * trained(data, epochs, "32-true", check, "auto")[0]

    def on_points(check: bool) -> float:
        return 1e3 * trained(DummyData(), 50_000, "64-true", check, "auto")[0]

    return {
        "15 points, 50,000 full-batch epochs": on_points,
        **{name: partial(on_table, *of) for name, of in tables.items()},
    }


def row(name: str, pairs: list[tuple[float, float]]) -> str:
    """Return a line of the table: medians of both sides, and of their ratios, with the range."""
    off, on = (statistics.median(side) for side in zip(*pairs, strict=True))
    costs = sorted(100 * (b / a - 1) for a, b in pairs)
    spread = f"{costs[0]:.0f} to {costs[-1]:.0f}"
    return f"| {name} | {off:.0f} | {on:.0f} | {statistics.median(costs):.1f} % | {spread} |"


def run() -> None:
    """Measure in turns, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=2500)
    parser.add_argument("--rows", type=int, default=4_000_000, help="of the large table")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    options = ["--trainer.enable_progress_bar=false", "--model.steps_per_execution=1"]
    epochs = arguments.epochs
    seconds(options, "raise", FEW)  # imports and caches
    fit = [
        (per_epoch(options, "off", epochs), per_epoch(options, "raise", epochs))
        for _ in range(arguments.rounds)
    ]
    per_step(ROWS[0], False)
    bare = {
        rows: [(per_step(rows, False), per_step(rows, True)) for _ in range(5)] for rows in ROWS
    }
    many = {
        name: [(train(False), train(True)) for _ in range(5)]
        for name, train in at_once(arguments.rows).items()
    }
    lines = [
        "## Step by step",
        "",
        "| training | µs a step without | with | cost (median) | range |",
        "|---|---|---|---|---|",
        row("`trueline fit`, 15 points", fit),
        *(row(f"bare loop, {rows:,} rows a batch", pairs) for rows, pairs in bare.items()),
        "",
        "## Many steps at once",
        "",
        "| training | ms without | with | cost (median) | range |",
        "|---|---|---|---|---|",
        *(row(name, pairs) for name, pairs in many.items()),
    ]
    about = (
        f"{machine('torch', 'numpy')}, one thread of torch; {arguments.rounds} rounds of {epochs} "
        "steps, 5 of the others."
    )
    publish("What checking every step costs", about, lines, arguments.out)


if __name__ == "__main__":
    run()
