"""The works of the speed benchmark: rows, who trains on them, and what is asked of Trueline."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from comparisons import ALONE, OURS, Run, Target, Work, timed
from ours import COMMAND, RESULT, both, command, draw, scalars_alone, trueline
from peers import (
    numpy_loop,
    pandas_and_sklearn,
    reading,
    sgd_regressor,
    stock,
    straight_on,
    torch_loop,
    vowpal_wabbit,
    wall,
)
from pyarrow import csv

from trueline.data import DummyData, RegressionData, SyntheticData
from trueline.reference import article

NUMPY, TORCH, SGD, VW = (
    "NumPy loop",
    "PyTorch loop",
    "SGDRegressor",
    "Vowpal Wabbit, from its cache",
)
DEFAULTS, OFF = "stock Lightning, defaults", "stock Lightning, everything off"


@dataclass(frozen=True)
class Size:
    """How much of everything; `few` and `many` steps of a slow peer give the time of one.

    Attributes:
        rows: Number of rows of the large table.
        rows_in_order: Number of rows of the table that is read in order.
        wide: Rows and columns of the wide table.
        csv_rows: Number of rows of the CSV file.
        epochs: Epochs on the 15 points.
        full_epochs: Full-batch epochs on the large table.
        single_epochs: Epochs on the 15 points, step by step.
        stock_epochs: Few and many epochs of stock Lightning on the 15 points.
        loader_batches: Few and many batches of stock Lightning on the large table.
        loop_batches: Few and many batches of the PyTorch loop there.
        loop_epochs: Few and many epochs of the PyTorch loop with full batches.
        vw_rows: Few and many rows of Vowpal Wabbit.
    """

    rows: int = 4_000_000
    rows_in_order: int = 40_000_000
    wide: tuple[int, int] = (100_000, 1_000)
    csv_rows: int = 1_000_000
    epochs: int = 50_000
    full_epochs: int = 1_000
    single_epochs: int = 2_000
    stock_epochs: tuple[int, int] = (50, 1_000)
    loader_batches: tuple[int, int] = (100, 2_000)
    loop_batches: tuple[int, int] = (500, 5_000)
    loop_epochs: tuple[int, int] = (2, 20)
    vw_rows: tuple[int, int] = (20_000, 400_000)


QUICK = Size(
    rows=100_000,
    rows_in_order=400_000,
    wide=(10_000, 200),
    csv_rows=20_000,
    epochs=5_000,
    full_epochs=100,
    single_epochs=300,
    stock_epochs=(10, 60),
    loader_batches=(20, 200),
    loop_batches=(100, 1_000),
    loop_epochs=(2, 10),
    vw_rows=(1_000, 10_000),
)


def points(size: Size) -> Work:
    """Return the article's training: full batches of its 15 points."""
    x, t = article.X[:, 0].astype(float), article.y.astype(float)
    tensors = torch.from_numpy(x)[:, None], torch.from_numpy(t)

    def lightning(on: bool) -> float:
        return straight_on(lambda n: stock(*tensors, on, n, None), *size.stock_epochs, size.epochs)

    some = f"{size.stock_epochs[1]:,} epochs"
    return Work(
        f"15 points, {size.epochs:,} full-batch epochs",
        [
            *both(DummyData, size.epochs, "64-true"),
            timed(NUMPY, lambda: wall(lambda: numpy_loop(x, t, size.epochs))),
            timed(DEFAULTS, lambda: lightning(True)),
            timed(OFF, lambda: lightning(False)),
        ],
        [
            Target(OURS, NUMPY, share=0.12),
            Target(ALONE, NUMPY, share=0.02),
            Target(OURS, DEFAULTS, faster=2_500),
        ],
        {DEFAULTS: some, OFF: some},
    )


def _named(rows: int, columns: int = 10) -> str:
    return f"{rows:,} x {columns:,} float32"


def _torch(X: Any, y: Any, batch: int, shuffle: bool, some: tuple[int, int], epochs: int) -> Run:
    """Return a run of the PyTorch loop, taken on from some of its steps."""
    train = partial(torch_loop, torch.from_numpy(X), torch.from_numpy(y), batch, shuffle)
    steps = epochs * -(-len(X) // batch)
    return timed(TORCH, lambda: straight_on(lambda n: wall(lambda: train(n)), *some, steps))


def batch_32(size: Size) -> Work:
    """Return mini-batches in a shuffled order."""
    X, y = draw(size.rows)
    tensors, batches = (torch.from_numpy(X), torch.from_numpy(y)), -(-size.rows // 32)

    def lightning(on: bool) -> float:
        return straight_on(lambda n: stock(*tensors, on, n, 32), *size.loader_batches, batches)

    some = f"{size.loader_batches[1]:,} batches"
    return Work(
        f"{_named(size.rows)}, batch 32, one shuffled epoch",
        [
            *both(partial(RegressionData, X, y, 32, True)),
            _torch(X, y, 32, True, size.loop_batches, 1),
            timed(SGD, lambda: wall(lambda: sgd_regressor(X, y, True))),
            timed(DEFAULTS, lambda: lightning(True)),
            timed(OFF, lambda: lightning(False)),
        ],
        [
            Target(OURS, TORCH, faster=200),
            Target(ALONE, TORCH, faster=300),
            Target(OURS, SGD, faster=7),
        ],
        {TORCH: f"{size.loop_batches[1]:,} batches", DEFAULTS: some, OFF: some},
    )


def batch_1(size: Size) -> Work:
    """Return a step for each row, as SGDRegressor and Vowpal Wabbit take them."""
    X, y = draw(size.rows)
    wabbit = vowpal_wabbit(X, y, size.vw_rows)
    return Work(
        f"{_named(size.rows)}, batch 1, one shuffled epoch",
        [
            *both(partial(RegressionData, X, y, 1, True)),
            timed(SGD, lambda: wall(lambda: sgd_regressor(X, y, True))),
            *([] if wabbit is None else [timed(VW, wabbit)]),
        ],
        [Target(OURS, SGD, faster=2.5)],
        {VW: f"{size.vw_rows[1]:,} rows, in order"},
    )


def in_order(size: Size) -> Work:
    """Return larger batches in order, beside reading the same bytes."""
    X, y = draw(size.rows_in_order)
    once = "reading the bytes once"
    tensors = torch.from_numpy(X), torch.from_numpy(y)
    return Work(
        f"{_named(size.rows_in_order)}, batch 1,024, one epoch in order",
        [
            *both(partial(RegressionData, X, y, 1024, False)),
            timed(once, lambda: reading(*tensors)),
            _torch(X, y, 1024, False, size.loop_batches, 1),
            timed(SGD, lambda: wall(lambda: sgd_regressor(X, y, False))),
        ],
        [Target(OURS, once, share=3)],
        {TORCH: f"{size.loop_batches[1]:,} batches"},
    )


def full_batch(size: Size) -> Work:
    """Return full batches of many rows."""
    X, y = draw(size.rows)
    return Work(
        f"{_named(size.rows)}, {size.full_epochs:,} full-batch epochs",
        [
            *both(partial(RegressionData, X, y), size.full_epochs),
            _torch(X, y, size.rows, False, size.loop_epochs, size.full_epochs),
        ],
        [Target(OURS, TORCH, faster=200)],
        {TORCH: f"{size.loop_epochs[1]:,} epochs"},
    )


def options(size: Size) -> Work:
    """Return mini-batches with options, beside the same without; the cross-check is one."""
    data = partial(RegressionData, *draw(size.rows), 32, True)
    unchecked = "cross-check off"
    given: dict[str, dict[str, Any]] = {
        OURS: {},
        "with L1": {"model": {"l1": 0.001}},
        "with clipping by norm": {"gradient_clip_val": 1.0},
        "with accumulation of 4": {"accumulate_grad_batches": 4},
        unchecked: {"crosscheck": "off"},
    }
    return Work(
        f"{_named(size.rows)}, batch 32, options",
        [timed(name, lambda o=o: trueline(data, **o)[0]) for name, o in given.items()],
        [Target(name, OURS, share=1.5) for name in given if name.startswith("with ")]
        + [Target(OURS, unchecked, share=1.1)],
    )


def wide(size: Size) -> Work:
    """Return mini-batches of a thousand columns."""
    X, y = draw(*size.wide)
    return Work(
        f"{_named(*size.wide)}, batch 256, one shuffled epoch",
        [
            *both(partial(RegressionData, X, y, 256, True)),
            _torch(X, y, 256, True, (10**9, 10**9), 1),
            timed(SGD, lambda: wall(lambda: sgd_regressor(X, y, True))),
        ],
        [Target(OURS, TORCH, faster=2)],
    )


def single_steps(size: Size) -> Work:
    """Return the 15 points step by step, as Lightning takes steps."""
    tensors = torch.from_numpy(article.X.astype(float)), torch.from_numpy(article.y.astype(float))
    n, bare, defaults = size.single_epochs, "bare Lightning", "Lightning's defaults"
    return Work(
        f"15 points step by step, {n:,} epochs",
        [
            timed(OURS, lambda: scalars_alone(n)),
            timed(bare, lambda: stock(*tensors, False, n, None, ready=True)),
            timed(defaults, lambda: stock(*tensors, True, n, None, ready=True)),
        ],
        [Target(OURS, bare, share=1.1)],
    )


def growth(size: Size) -> Work:
    """Return the same training on ten times the rows."""
    few, many = size.rows // 10, size.rows
    data = {n: partial(RegressionData, *draw(n), 32, True) for n in (few, many)}
    return Work(
        "batch 32, one shuffled epoch, by rows",
        [timed(f"{n:,} rows", lambda n=n: trueline(data[n])[0]) for n in data],
        [Target(f"{many:,} rows", f"{few:,} rows", share=10)],
    )


def synthetic_command(size: Size) -> Work:
    """Return the whole command on rows that it makes itself, all defaults."""
    given: dict[str, Any] = {"n_samples": size.rows, "batch_size": 32, "shuffle": "true"}
    typed = [f"--data.{name}={value}" for name, value in given.items()]
    data = SyntheticData(**given | {"shuffle": True})
    X, y, here = data.X.numpy().copy(), data.y.numpy().copy(), "Trueline in this process"
    return Work(
        f"`trueline fit`: SyntheticData {size.rows:,} x 10, batch 32, one shuffled epoch",
        [
            lambda: command("--data=SyntheticData", *typed, "--trainer.max_epochs=1"),
            timed(SGD, lambda: wall(lambda: sgd_regressor(X, y, True))),
            timed(here, lambda: trueline(lambda: data, 1, "64-true")[0]),
        ],
        [Target(COMMAND, SGD, share=4), Target(RESULT, here, within=0.2)],
    )


def csv_command(size: Size) -> Work:
    """Return the whole command on a CSV file, all defaults."""
    folder = tempfile.TemporaryDirectory()  # goes with the functions that hold it

    def path() -> Path:
        return Path(folder.name) / "rows.csv"

    data = SyntheticData(size.csv_rows)
    named = {f"x{j}": x for j, x in enumerate(data.X.numpy().T)}
    csv.write_csv(pa.table(named | {"y": data.y.numpy()}), path())
    peer = "pandas.read_csv and LinearRegression.fit"

    def fit() -> dict[str, float]:
        return command("--data=TableData", f"--data.path={path()}", "--data.target=y")

    return Work(
        f"`trueline fit`: CSV of {size.csv_rows:,} x 10",
        [fit, timed(peer, lambda: pandas_and_sklearn(path()))],
        [Target(COMMAND, peer, share=2)],
    )


WORKS: dict[str, Callable[[Size], Work]] = {
    "points": points,
    "batch-32": batch_32,
    "batch-1": batch_1,
    "in-order": in_order,
    "full-batch": full_batch,
    "options": options,
    "wide": wide,
    "single-steps": single_steps,
    "growth": growth,
    "synthetic-command": synthetic_command,
    "csv-command": csv_command,
}
