"""How fast Trueline trains, beside what one would otherwise write, on the same work in turns.

    python benchmarks/speed.py [--rounds 5] [--quick] [--out FILE]

Everything runs in one process, one after another, in rounds that turn back and forth. A ratio is
the median over the rounds, with its range. Slow peers run a few of their steps, and are taken on in
a straight line; the report says how many. It is Markdown.
"""

import argparse
import contextlib
import gc
import inspect
import io
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import sklearn
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.linear_model import LinearRegression as LeastSquares
from sklearn.linear_model import SGDRegressor
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from trueline.data import DummyData, RegressionData
from trueline.lightning_cli import TruelineCLI, points_per_curve
from trueline.module import LinearRegression
from trueline.reference import article
from trueline.tensorboard import RunLogger, Scalars

LR = 0.001
LINE = np.arange(1, 11, dtype=np.float32)
"""The weights behind the drawn rows; their bias is 3, their noise 1."""
OFF: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


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


class Clock(Callback):
    """Notes when the last step has been taken, before anything is made of the result."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note it, with all points written, and what has been held at most."""
        for logger in trainer.loggers:
            logger.save()
        self.end, self.peak = time.perf_counter(), peak()


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Work in a folder of its own, and print nothing."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        nowhere = io.StringIO()
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            os.chdir(folder)
            try:
                yield
            finally:
                os.chdir(before)


def peak() -> float:
    """Return the largest resident size of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def wall(work: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def straight_on(seconds: Callable[[int], float], few: int, many: int, steps: int) -> float:
    """Return the seconds of so many steps, from those of fewer: what starting costs counts once."""
    if steps <= many:
        return seconds(steps)
    before = seconds(few)
    return before + (seconds(many) - before) * (steps - few) / (many - few)


def seconds_of_fit(trainer: Trainer, model: LightningModule, data: Any, steps: int) -> list[float]:
    """Return the seconds from the call of fit to the last step, and until it has returned.

    Then what the process held at most by the last step, in MB.
    """
    clock = Clock()
    trainer.callbacks.insert(0, clock)  # type: ignore[attr-defined]
    start = time.perf_counter()
    trainer.fit(model, data)
    returned = time.perf_counter()
    if trainer.global_step != steps:
        raise SystemExit(f"expected {steps} steps, found {trainer.global_step}")
    return [clock.end - start, returned - start, clock.peak]


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


# Its peers


def numpy_loop(X: np.ndarray, y: np.ndarray, epochs: int) -> None:
    """Train as the article does in NumPy, with the gradient by hand."""
    w = b = 0.0
    for _ in range(epochs):
        error = y - (w * X + b)
        w -= LR * -2 * (X * error).mean()
        b -= LR * -2 * error.mean()


def torch_loop(X: Tensor, y: Tensor, batch_size: int, shuffle: bool, steps: int) -> None:
    """Train as PyTorch's tutorials do, shuffled by one gather an epoch."""
    model = torch.nn.Linear(X.shape[1], 1, dtype=X.dtype, device=X.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    loss = torch.nn.MSELoss()
    y = y[:, None]
    taken = 0
    while taken < steps:
        if shuffle:
            order = torch.randperm(len(X))
            X, y = X[order], y[order]
        for first in range(0, len(X), batch_size):
            optimizer.zero_grad()
            part = slice(first, first + batch_size)
            loss(model(X[part]), y[part]).backward()
            optimizer.step()
            taken += 1
            if taken == steps:
                break


class Stock(LightningModule):
    """The module of Lightning's tutorials."""

    def __init__(self, n_features: int, dtype: torch.dtype, log: bool) -> None:
        super().__init__()
        self.model = torch.nn.Linear(n_features, 1, dtype=dtype)
        self.loss = torch.nn.MSELoss()
        self.logs = log

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        loss: Tensor = self.loss(self.model(batch[0]), batch[1])
        if self.logs:
            self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Return SGD."""
        return torch.optim.SGD(self.parameters(), lr=LR)


class Ready:
    """Serves one batch as it is."""

    def __init__(self, *batch: Tensor) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return iter([self.batch])


def stock(
    X: Tensor, y: Tensor, defaults: bool, steps: int, batch_size: int | None, ready: bool = False
) -> float:
    """Train with stock Lightning, with its defaults or with everything off.

    Args:
        X: Features.
        y: Targets.
        defaults: Whether TensorBoard, checkpoints, the bar and `self.log` are on.
        steps: Full-batch epochs, or batches of an epoch.
        batch_size: None for full batches in order, else they are shuffled.
        ready: Whether the batch is served as it is, without a DataLoader.
    """
    y = y[:, None]
    loader: Any = Ready(X, y)
    if not ready:
        size = batch_size or len(X)
        loader = DataLoader(TensorDataset(X, y), batch_size=size, shuffle=batch_size is not None)
    length: dict[str, Any] = (
        {"limit_train_batches": steps, "max_epochs": 1} if batch_size else {"max_epochs": steps}
    )
    with elsewhere():
        precision: Any = "32-true" if X.dtype == torch.float32 else "64-true"
        options: dict[str, Any] = {} if defaults else OFF
        trainer = Trainer(accelerator="cpu", precision=precision, **length, **options)
        return seconds_of_fit(trainer, Stock(X.shape[1], X.dtype, defaults), loader, steps)[0]


def sgd_regressor(X: np.ndarray, y: np.ndarray, shuffle: bool) -> None:
    """Train scikit-learn's SGDRegressor for one epoch, a step a row."""
    options = {"penalty": None, "learning_rate": "constant", "eta0": LR, "shuffle": shuffle}
    SGDRegressor(max_iter=1, tol=None, random_state=0, **options).fit(X, y)


def reading(X: Tensor, y: Tensor) -> float:
    """Return the seconds of reading all bytes once, median of five."""
    return statistics.median(wall(lambda: (X.sum(), y.sum())) for _ in range(5))


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
    """Return the table for the README."""
    lines = ["## In short", "", "| work | Trueline | beside others |", "|---|---|---|"]
    for work in todo:
        ours = [seconds[0] for seconds in work.seconds]
        beside = []
        for peer in work.peers:
            slower = statistics.median(b / a for a, b in zip(ours, peer.seconds, strict=True))
            if peer.share and peer.share > 1:
                beside.append(f"{rounded(1 / slower)} x the time of {peer.name}")
            elif peer.name != ALONE:
                beside.append(f"{rounded(slower)} x as fast as {peer.name}")
        lines.append(f"| {work.title} | {time_of(ours)} | {'; '.join(beside)} |")
    return lines


def verdict(met: bool) -> str:
    """Return the word for it."""
    return "yes" if met else "**no**"


def times(ratios: list[float], what: str) -> str:
    """Return the median of some ratios, with their range."""
    low, high = min(ratios), max(ratios)
    return f"{number(statistics.median(ratios))} x {what} ({number(low)} to {number(high)})"


def rounded(x: float) -> str:
    """Return a number with two digits that count."""
    return f"{float(f'{x:.2g}'):,g}"


def number(x: float) -> str:
    """Return a number with three digits, or all before the point."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def time_of(seconds: list[float]) -> str:
    """Return the median time in a readable unit."""
    s = statistics.median(seconds)
    return f"{number(1e3 * s)} ms" if s < 1 else f"{number(s)} s"


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


def machine() -> str:
    """Describe where this runs."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).split(":")[1].strip()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {"torch": torch, "Lightning": lightning, "NumPy": np, "scikit-learn": sklearn}
    return (
        f"{cpu}, {os.cpu_count()} cores, {total:.0f} GiB, {platform.system()}; Python "
        f"{platform.python_version()}, "
        + ", ".join(f"{name} {package.__version__}" for name, package in versions.items())
        + f"; {torch.get_num_threads()} threads of torch"
    )


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
    lines = [
        f"# How fast it trains{', little of everything' if arguments.quick else ''}",
        "",
        f"{time.strftime('%Y-%m-%d')}; {machine()}. Medians of rounds, of which there were "
        f"{rounds}, in turns in one process; a ratio is the median of theirs, with its range.",
        "",
        "Counted is wall time without imports and the making of data: Trueline and stock Lightning "
        "from the call of `Trainer.fit` to the end of the last step and its logging; the others, "
        "the whole call. Trueline has on what `trueline fit` has on: the cross-check of every "
        "step, TensorBoard, checkpoints and the progress bar; validation is off on all sides. "
        "Until `fit` has returned, it also solves for the closed form and writes result.json. "
        "Where a peer ran only some of its steps, its time goes on from there in a straight line, "
        "with what starting costs counted once. Its steps alone are Trueline's loader and module "
        "in a Trainer with everything off. Step by step, Trueline has its loader, module and "
        "TensorBoard on, and checkpoints, bar and cross-check off.",
        "",
        "| work | who | ran | time | asked of Trueline | found | met |",
        "|---|---|---|---|---|---|---|",
        *(line for work in todo for line in work.rows()),
        cost_of_features(todo[-1]),
        "",
        *growth(size, rounds, peaks),
        "",
        *in_short(todo),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, "utf-8")


if __name__ == "__main__":
    run()
