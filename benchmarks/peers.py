"""What one would otherwise write, and how its time is taken."""

import contextlib
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.linear_model import SGDRegressor
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

LR = 0.001
OFF: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


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


def seconds_of_fit(
    trainer: Trainer, model: LightningModule, data: Any, steps: int, place: int = 0
) -> list[float]:
    """Time a training.

    Args:
        trainer: Trainer of the training.
        model: Module that is trained.
        data: Data that it is trained on.
        steps: Number of steps that are expected.
        place: Number of callbacks whose work at the end of the training counts.

    Returns:
        Seconds from the call of fit to the last step, and until it has returned; then what the
        process held at most by the last step, in MB.
    """
    clock = Clock()
    trainer.callbacks.insert(place, clock)  # type: ignore[attr-defined]
    start = time.perf_counter()
    trainer.fit(model, data)
    returned = time.perf_counter()
    if trainer.global_step != steps:
        raise SystemExit(f"expected {steps} steps, found {trainer.global_step}")
    return [clock.end - start, returned - start, clock.peak]


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


def pandas_and_sklearn(path: Path) -> float:
    """Return the seconds of reading a CSV file and fitting its last column.

    As a command is, it is a process of its own, and its imports do not count.
    """
    program = f"""
import time
import pandas
from sklearn.linear_model import LinearRegression
start = time.perf_counter()
rows = pandas.read_csv({str(path)!r})
LinearRegression().fit(rows.iloc[:, :-1], rows.iloc[:, -1])
print(time.perf_counter() - start)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return float(done.stdout)


def vowpal_wabbit(
    X: np.ndarray, y: np.ndarray, some: tuple[int, int]
) -> Callable[[], float] | None:
    """Return a function with the seconds of Vowpal Wabbit's one pass over all rows.

    It reads them in order from its own cache, which is made here, and takes a step a row.

    Args:
        X: Features.
        y: Targets.
        some: Few and many rows, from whose times that of all rows is taken on.

    Returns:
        None where Vowpal Wabbit is not installed.
    """
    if find_spec("vowpalwabbit") is None:
        print("Vowpal Wabbit is not installed: left out; pip install vowpalwabbit", file=sys.stderr)
        return None
    from vowpalwabbit import Workspace

    folder = tempfile.TemporaryDirectory()
    options = f"--passes 1 --quiet --sgd -l {LR} --power_t 0 --initial_t 1"

    def one_pass(n: int) -> None:
        path = Path(folder.name) / f"{n}.txt"
        Workspace(f"-d {path} --cache_file {path}.cache {options}").finish()

    for n in some:
        lines = zip(X[:n].tolist(), y[:n].tolist(), strict=True)
        text = (f"{t} | " + " ".join(f"{j}:{x}" for j, x in enumerate(row)) for row, t in lines)
        (Path(folder.name) / f"{n}.txt").write_text("\n".join(text) + "\n", "utf-8")
        one_pass(n)  # makes the cache
    return lambda: straight_on(lambda n: wall(lambda: one_pass(n)), *some, len(X))


def reading(X: Tensor, y: Tensor) -> float:
    """Return the seconds of reading all bytes once, median of five."""
    return statistics.median(wall(lambda: (X.sum(), y.sum())) for _ in range(5))
