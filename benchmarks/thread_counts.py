"""How far the number of threads moves the trained parameters, and that the same number moves none.

    python benchmarks/thread_counts.py [--out FILE]

Trains on one and on two threads, and on two again. The compiled loop takes its steps in one thread,
so that no parameter should move. The report is Markdown.
"""

import argparse
import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from reports import machine, publish

from trueline.data import DummyData, RegressionData
from trueline.module import LinearRegression

DTYPES = {"64-true": np.float64, "32-true": np.float32}


def table(n_samples: int, batch_size: int | None, precision: str) -> RegressionData:
    """Draw rows of 10 features near a plane."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(n_samples, 10)).astype(DTYPES[precision])
    y = X @ np.arange(1, 11) + generator.normal(size=n_samples)
    return RegressionData(X, y.astype(X.dtype), batch_size)


WORK: dict[str, tuple[Callable[[str], RegressionData], float, int]] = {
    "the 15 points, 1,000 steps": (lambda _: DummyData(), 1e-3, 1000),
    "200,000 x 10, batches of 1,024, 392 steps": (partial(table, 200_000, 1024), 0.1, 2),
    "1,000,000 x 10, full batch, 20 steps": (partial(table, 1_000_000, None), 0.1, 20),
}


def train(threads: int, precision: str, data: RegressionData, lr: float, epochs: int) -> np.ndarray:
    """Return weight and bias after a training on so many threads."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = LinearRegression(n_features=data.n_features, lr=lr)
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        max_epochs=epochs,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    return torch.cat([model.weight, model.bias[None]]).detach().double().numpy()


def run() -> None:
    """Train, compare, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    lines = [
        "| work | precision | one thread and two | two threads and two |",
        "|---|---|---|---|",
    ]
    for precision in DTYPES:
        for name, (make, lr, epochs) in WORK.items():
            one, two, again = (
                train(threads, precision, make(precision), lr, epochs) for threads in (1, 2, 2)
            )
            apart, same = (np.abs(other / two - 1).max() for other in (one, again))
            lines.append(f"| {name} | {precision} | {apart:.1e} | {same:.1e} |")
    about = f"{machine('torch')}. Largest relative distance of a parameter."
    publish("One thread and two", about, lines, arguments.out)


if __name__ == "__main__":
    run()
