"""What checking every step costs: `trueline fit` with and without the cross-check, in turns.

    python benchmarks/crosscheck_cost.py [--rounds 7] [--epochs 3000] [FIT OPTIONS]

Both sides run in this process, with everything else on that `fit` has on. The time is that of the
training alone, as `result.json` gives it. The report is what was printed, as Markdown.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

import torch

from trueline.cli import main


def seconds(options: list[str], crosscheck: str) -> float:
    """Train once, in a folder of its own; return the time of the training."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        before = Path.cwd()
        os.chdir(folder)
        try:
            status = main(["fit", "--crosscheck", crosscheck, *options])
        finally:
            os.chdir(before)
        if status:
            raise SystemExit(f"expected a training that passes, found exit status {status}")
        result = json.loads(Path(folder, "lightning_logs/version_0/result.json").read_text())
        return float(result["seconds"])


def run() -> None:
    """Measure in turns and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=3000)
    arguments, rest = parser.parse_known_args()
    torch.set_num_threads(1)
    options = [f"--trainer.max_epochs={arguments.epochs}", "--trainer.enable_progress_bar=false"]
    options += rest
    seconds([*options, "--trainer.max_epochs=200"], "raise")  # imports and caches
    pairs = [(seconds(options, "off"), seconds(options, "raise")) for _ in range(arguments.rounds)]
    off, on = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(b / a for a, b in pairs)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread")
    print(f"{arguments.epochs} epochs, {arguments.rounds} rounds in turns; {' '.join(rest)}\n")
    print("| | median µs per epoch |")
    print("|---|---|")
    print(f"| without the cross-check | {1e6 * off / arguments.epochs:.0f} |")
    print(f"| with every step checked | {1e6 * on / arguments.epochs:.0f} |\n")
    print(
        f"cost: {100 * (statistics.median(ratios) - 1):.1f} % (median of the rounds' ratios; "
        f"from {100 * (ratios[0] - 1):.1f} to {100 * (ratios[-1] - 1):.1f})"
    )


if __name__ == "__main__":
    run()
