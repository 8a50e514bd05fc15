"""Trueline's side of the benchmarks: in this process, its steps alone, and as a whole command."""

import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparisons import ALONE, OURS
from lightning.pytorch import Trainer
from peers import LR, OFF, elsewhere, peak, seconds_of_fit, wall

from trueline.cli.lightning_cli import TruelineCLI
from trueline.cli.run_length import points_per_curve
from trueline.data import DummyData, RegressionData
from trueline.module import LinearRegression
from trueline.results.report import Report
from trueline.tensorboard import RunLogger, Scalars

LINE = np.arange(1, 11, dtype=np.float32)
"""Weights behind the drawn rows of ten columns."""
RETURNED = f"{OURS}, until `fit` has returned"
IMPORTING = "import lightning.pytorch.cli, os; os._exit(0)"
"""What a command cannot save: Lightning's CLI is imported, and the process left at once."""


def draw(rows: int, columns: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Draw float32 rows near a plane with bias 3 and noise 1."""
    generator = np.random.default_rng(0)
    X = generator.standard_normal((rows, columns), dtype=np.float32)
    line = np.arange(1, columns + 1, dtype=np.float32)
    return X, X @ line + 3 + generator.standard_normal(rows, dtype=np.float32)


def module(n_features: int, **options: Any) -> LinearRegression:
    """Return our module, with those of the options that it has."""
    known = inspect.signature(LinearRegression).parameters
    options = {name: value for name, value in options.items() if name in known}
    return LinearRegression(n_features=n_features, lr=LR, **options)


def trueline(
    data: Callable[[], RegressionData],
    epochs: int = 1,
    precision: str = "32-true",
    crosscheck: str = "raise",
    model: dict[str, Any] | None = None,
    **trainer: Any,
) -> list[float]:
    """Train as `trueline fit` does, everything on but validation; the data is made beforehand.

    Returns:
        What `peers.seconds_of_fit` does.
    """
    rows = data()
    steps = epochs * -(-rows.steps_per_epoch // trainer.get("accumulate_grad_batches", 1))
    trainer = {
        "max_epochs": epochs,
        "precision": precision,
        "accelerator": "cpu",
        "limit_val_batches": 0,
        "log_every_n_steps": max(1, steps // points_per_curve(rows.n_features, rows.n_targets)),
    } | trainer
    options = [f"--crosscheck={crosscheck}", *(f"--trainer.{n}={v}" for n, v in trainer.items())]
    with elsewhere():
        cli = TruelineCLI(options, run=False)
        line = module(rows.n_features, **(model or {}))
        before = [isinstance(c, Report) for c in cli.trainer.callbacks].index(True)  # type: ignore[attr-defined]
        found = seconds_of_fit(cli.trainer, line, rows, steps, before)
    if type(rows) is RegressionData and rows.n_features == len(LINE) and steps >= 30_000:
        error = float((line.weight.detach() - torch.from_numpy(LINE)).abs().max())
        if not error < 0.5:
            raise SystemExit(f"expected weights near {LINE}, found them {error} off")
    return found


def steps_alone(data: Callable[[], RegressionData], epochs: int, precision: Any) -> float:
    """Train with our loader and module and nothing else."""
    rows = data()
    trainer = Trainer(
        accelerator="cpu", precision=precision, max_epochs=epochs, limit_val_batches=0, **OFF
    )
    return seconds_of_fit(trainer, module(rows.n_features), rows, epochs * rows.steps_per_epoch)[0]


def both(
    data: Callable[[], RegressionData], epochs: int = 1, precision: str = "32-true"
) -> list[Callable[[], dict[str, float]]]:
    """Return our runs of a work: with everything on, and the steps alone."""

    def on() -> dict[str, float]:
        return dict(zip((OURS, RETURNED), trueline(data, epochs, precision), strict=False))

    return [on, lambda: {ALONE: steps_alone(data, epochs, precision)}]


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


def command(*options: str) -> dict[str, float]:
    """Run `trueline fit` as a process of its own.

    Returns:
        Seconds of the whole command, of importing Lightning's CLI in a process of its own, of the
        one less the other, and the `seconds` of `result.json`.
    """
    quiet: Any = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    importing = [sys.executable, "-c", IMPORTING]
    lightning = wall(lambda: subprocess.run(importing, **quiet))
    with tempfile.TemporaryDirectory() as folder:
        fit = [sys.executable, "-m", "trueline", "fit", *options]
        whole = wall(lambda: subprocess.run(fit, cwd=folder, **quiet))
        result = json.loads(Path(folder, "lightning_logs/version_0/result.json").read_text("utf-8"))
    return {
        "`trueline fit`": whole,
        "Lightning's CLI imported": lightning,
        COMMAND: whole - lightning,
        RESULT: result["seconds"],
    }


COMMAND = "`trueline fit`, less the import"
RESULT = "`seconds` in its result.json"


def memory(rows: int) -> dict[str, float]:
    """Train for an epoch on so many rows; return what this process held, in MB."""
    few = draw(1_000)
    trueline(lambda: RegressionData(*few, 32, True))  # imports and first uses
    before = peak()
    X, y = draw(rows)
    data = RegressionData(X, y, 32, True)
    bytes_of_data = X.nbytes + y.nbytes + data.matrix.nbytes
    training = trueline(lambda: data)[2]
    return {"before": before, "data": bytes_of_data / 1e6, "training": training, "peak": peak()}


def growth_of_memory(rows: int, script: str) -> list[str]:
    """Return the lines on the memory of so many rows and of a tenth, in processes of their own.

    Args:
        rows: Number of rows of the larger training.
        script: File that prints `memory` for `--memory ROWS`.
    """
    lines = [
        "## Memory of ten times the rows",
        "",
        "An epoch in shuffled batches of 32. Memory is the largest resident size of a process of "
        "its own, in MB, by the last step and until `fit` has returned; the data, taken off, is "
        "the arrays that were given and the copy that is held. Before them the process has "
        "trained on 1,000 rows.",
        "",
        "| rows | data | before it | beyond it by the last step | until `fit` returned |",
        "|---|---|---|---|---|",
    ]
    beyond, data = [], []
    for n in (rows // 10, rows):
        done = subprocess.run(
            [sys.executable, script, "--memory", str(n)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ},
        )
        found = json.loads(done.stdout.splitlines()[-1])
        data.append(found["data"])
        beyond.append(found["peak"] - found["data"])
        cells = [found["data"], found["before"], found["training"] - found["data"], beyond[-1]]
        lines.append(f"| {n:,} | {' | '.join(f'{cell:,.0f}' for cell in cells)} |")
    more = (beyond[1] - beyond[0]) / (data[1] - data[0])
    met = "yes" if more <= CONSTANT else "**no**"
    return [
        *lines,
        "",
        f"Asked: constant beyond the data; found {more:.1%} of what it grew: {met}.",
    ]


CONSTANT = 0.05
"""Share of the growth of the data by which the memory beyond it may grow: what malloc rounds."""
