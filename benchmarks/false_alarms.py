"""How close healthy trainings come to their bounds: thousands of them, drawn at random.

    python benchmarks/false_alarms.py [--trainings 10000] [--seed 0] [--out FILE]

Each is drawn as in the test suite (`tests/healthy_trainings.py`): 1 to 500 rows, 1 to 20 features,
scales from 1e-6 to 1e6, and every setting that the cross-check follows. None may exceed its bound.
The report, Markdown, has a histogram of the worst ratio of each training, by precision.
"""

import argparse
import logging
import multiprocessing
import statistics
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from lightning.pytorch import Trainer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from reports import machine, publish

from healthy_trainings import PRECISIONS, Training, healthy_trainings

EDGES = (0, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def make_trainer(**options: Any) -> Trainer:
    """Return a Trainer that logs, saves and prints nothing."""
    quiet: dict[str, Any] = {"logger": False, "limit_val_batches": 0, "log_every_n_steps": 1}
    for name in ("checkpointing", "progress_bar", "model_summary"):
        quiet[f"enable_{name}"] = False
    return Trainer(accelerator="cpu", **(quiet | options))


def worst_ratios(precision: str, trainings: int, first_seed: int) -> tuple[list[float], list[str]]:
    """Train; return the worst ratio of each training, and what went wrong."""
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    ratios: list[float] = []
    alarms: list[str] = []

    @seed(first_seed)
    @settings(
        max_examples=trainings,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(training=healthy_trainings(precision))
    def draw(training: Training) -> None:
        try:
            report = training.run(make_trainer)
        except Exception as error:
            alarms.append(f"{training}: {error}")
            return
        ratios.append(report["worst_ratio"])
        if not report["passed"] or report["worst_ratio"] > 1:
            alarms.append(f"{training}: {report}")

    draw()
    return ratios, alarms


def histogram(found: dict[str, list[float]]) -> list[str]:
    """Return the lines of a Markdown table: trainings by worst ratio and precision."""
    lines = ["| worst ratio | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    counts = {name: np.histogram(ratios, EDGES)[0] for name, ratios in found.items()}
    for i, (low, high) in enumerate(pairwise(EDGES)):
        cells = " | ".join(str(counts[name][i]) for name in found)
        lines.append(f"| {low:g} to {high:g} | {cells} |")
    for name, summary in (("median", statistics.median), ("largest", max)):
        cells = " | ".join(f"{summary(ratios):.3g}" for ratios in found.values())
        lines.append(f"| **{name}** | {cells} |")
    return lines


def run() -> None:
    """Draw, train, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainings", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    start, each = time.perf_counter(), -(-arguments.trainings // len(PRECISIONS))
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        draws = [pool.submit(worst_ratios, name, each, arguments.seed) for name in PRECISIONS]
        results = [draw.result() for draw in draws]
    found = {name: ratios for name, (ratios, _) in zip(PRECISIONS, results, strict=True)}
    alarms = [alarm for _, wrong in results for alarm in wrong]
    total = sum(map(len, found.values()))
    minutes = (time.perf_counter() - start) / 60
    about = (
        f"{machine('numpy', 'torch', 'lightning')}; seed {arguments.seed}, {minutes:.0f} minutes."
    )
    lines = [
        f"{total:,} trainings, {len(alarms)} false alarms. How many trainings had their worst "
        "ratio where:",
        "",
        *histogram(found),
        *(f"\nALARM: {alarm}" for alarm in alarms),
    ]
    publish("Healthy trainings and their bounds", about, lines, arguments.out)
    sys.exit(1 if alarms else 0)


if __name__ == "__main__":
    run()
