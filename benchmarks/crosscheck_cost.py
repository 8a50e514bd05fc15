"""What checking every step costs, with and without the cross-check in turns.

    python benchmarks/crosscheck_cost.py [--rounds 9] [--epochs 2500] [--out FILE]

First `trueline fit` on the article's 15 points, with everything else on that it has on; then
batches of more rows beside Lightning's bare loop, with every other callback off. All on one
thread of this process. The time is that of the processor, which other processes on the machine
do not lengthen; what a run costs before its first steps is measured by itself and taken off.
The report is Markdown.
"""

import argparse
import contextlib
import io
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer

from trueline.cli import main
from trueline.crosscheck import CrossCheck
from trueline.data import RegressionData
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


def per_step(rows: int, callbacks: list[Callback]) -> float:
    """Return microseconds of processor time a step, with so many rows of 10 features a batch."""
    generator = np.random.default_rng(0)
    X, y = generator.standard_normal((20 * rows, 10)), generator.standard_normal(20 * rows)
    off: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing"), False)
    off |= dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False)
    epochs = max(5, 3000 // rows)
    off |= {"limit_val_batches": 0, "callbacks": callbacks}
    trainer = Trainer(accelerator="cpu", precision="64-true", max_epochs=epochs, **off)
    data = RegressionData(X, y, batch_size=rows, shuffle=True)
    start = time.process_time()
    trainer.fit(LinearRegression(n_features=10), data)
    return 1e6 * (time.process_time() - start) / trainer.global_step


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
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    options, epochs = ["--trainer.enable_progress_bar=false"], arguments.epochs
    seconds(options, "raise", FEW)  # imports and caches
    fit = [
        (per_epoch(options, "off", epochs), per_epoch(options, "raise", epochs))
        for _ in range(arguments.rounds)
    ]
    per_step(ROWS[0], [])
    bare = {
        rows: [(per_step(rows, []), per_step(rows, [CrossCheck()])) for _ in range(5)]
        for rows in ROWS
    }
    lines = [
        "# What checking every step costs",
        "",
        f"{time.strftime('%Y-%m-%d')}; {platform.machine()}, {os.cpu_count()} cores, one thread, "
        f"torch {torch.__version__}, NumPy {np.__version__}; {arguments.rounds} rounds of {epochs} "
        "steps, 5 of the others.",
        "",
        "| training | µs a step without | with | cost (median) | range |",
        "|---|---|---|---|---|",
        row("`trueline fit`, 15 points", fit),
        *(row(f"bare loop, {rows:,} rows a batch", pairs) for rows, pairs in bare.items()),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, "utf-8")


if __name__ == "__main__":
    run()
