"""What checking every step costs: `trueline fit` with and without the cross-check, in turns.

    python benchmarks/crosscheck_cost.py [--rounds 7] [--epochs 3000] [FIT OPTIONS]

Both sides run in this process, on one thread, with everything else on that `fit` has on. The time
is that of the processor, which other processes on the machine do not lengthen; what a run costs
before its first steps is measured by itself and taken off. The report is what was printed, as
Markdown.
"""

import argparse
import contextlib
import io
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from trueline.cli import main

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


def run() -> None:
    """Measure in turns and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=3000)
    arguments, rest = parser.parse_known_args()
    torch.set_num_threads(1)
    options = ["--trainer.enable_progress_bar=false", *rest]
    seconds(options, "raise", FEW)  # imports and caches
    epochs = arguments.epochs
    pairs = [
        (per_epoch(options, "off", epochs), per_epoch(options, "raise", epochs))
        for _ in range(arguments.rounds)
    ]
    off, on = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(b / a for a, b in pairs)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread")
    print(f"{arguments.epochs} epochs, {arguments.rounds} rounds in turns; {' '.join(rest)}\n")
    print("| | median µs per epoch |")
    print("|---|---|")
    print(f"| without the cross-check | {off:.0f} |")
    print(f"| with every step checked | {on:.0f} |\n")
    print(
        f"cost: {100 * (statistics.median(ratios) - 1):.1f} % (median of the rounds' ratios; "
        f"from {100 * (ratios[0] - 1):.1f} to {100 * (ratios[-1] - 1):.1f})"
    )


if __name__ == "__main__":
    run()
