"""The four rungs side by side: the same line, from the same start, by four trainers."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
    Timer,
)
from lightning.pytorch.cli import SaveConfigCallback
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from trueline.baselines import as_trace, train_autograd, train_builtin
from trueline.data import RegressionData
from trueline.errors import RequestError
from trueline.module import LinearRegression
from trueline.reference import SGD, Trace, mean_squared_error, train
from trueline.reference.solve import least_squares, simple_regression
from trueline.results.json_files import write_json
from trueline.tensorboard.ending import log_final
from trueline.terminal.printing import visible

DTYPES = {"64-true": torch.float64, "32-true": torch.float32}
OBSERVERS = (
    *(DeviceStatsMonitor, LearningRateMonitor, ModelCheckpoint, ModelSummary, ProgressBar),
    SaveConfigCallback,
)
"""Callbacks of Lightning that do not change a training."""


class TraceRecorder(Callback):
    """Records loss and parameters before every step of a Lightning training and at its end.

    Args:
        data: Over whose rows the last loss is.
    """

    def __init__(self, data: RegressionData) -> None:
        self.data = data
        self.seen: list[tuple[float, float, float]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the parameters before the step."""
        self._before = [p.item() for p in pl_module.parameters()]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the loss."""
        self.seen.append((outputs["loss"].item(), *self._before))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the state after the last step, and log it."""
        weight, bias = (p.item() for p in pl_module.parameters())
        X, y = self.data.X.double().numpy(), self.data.y.double().numpy()
        loss = mean_squared_error(X, y, np.array([weight]), bias)
        self.seen.append((loss, weight, bias))
        log_final(trainer, pl_module, loss, {"final/loss": loss})


def check_request(trainer: Trainer, model: LinearRegression, data: Any) -> None:
    """Refuse, before anything is trained, what not every rung can do.

    Raises:
        RequestError: Naming every such option.
    """
    wrong = _data_problems(data)
    wrong += [
        f"--model.{name}: expected 0, found {model.hparams[name]}; set it to 0"
        for name in ("momentum", "weight_decay", "l1", "l2")
        if model.hparams[name]
    ]
    if schedule := model.hparams["schedule"]:
        wrong.append(
            f"--model.schedule: expected a constant lr, found {schedule.get('name')}; leave it out"
        )
    if trainer.accumulate_grad_batches > 1:
        wrong.append(
            "--trainer.accumulate_grad_batches: expected 1, found "
            f"{trainer.accumulate_grad_batches}; leave it out"
        )
    if trainer.gradient_clip_val:
        wrong.append(
            f"--trainer.gradient_clip_val: expected none, found {trainer.gradient_clip_val}; "
            "leave it out"
        )
    if str(trainer.precision) not in DTYPES:
        wrong.append(
            f"--trainer.precision: expected {' or '.join(DTYPES)}, found {trainer.precision}; "
            "choose one of these"
        )
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        wrong.append("--trainer.fast_dev_run: expected false, found true; leave it out")
    elif not trainer.max_epochs or trainer.max_epochs < 1 or trainer.max_steps != -1:
        wrong.append(
            "--trainer.max_epochs: expected 1 or more, and no max_steps; found "
            f"{trainer.max_epochs}, and max_steps {trainer.max_steps}; set max_epochs alone"
        )
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        known = isinstance(callback, OBSERVERS) or getattr(callback, "knows_executions", False)
        if not known:
            option = "max_time" if isinstance(callback, Timer) else "callbacks"
            wrong.append(
                f"--trainer.{option}: expected nothing that may stop or change rung 4 alone, found "
                f"{type(callback).__name__}; leave it out"
            )
    if trainer.world_size > 1:
        wrong.append(f"--trainer.devices: expected 1, found {trainer.world_size}; set it to 1")
    if wrong:
        raise RequestError("compare trains four plain loops: " + "; ".join(wrong))


def _data_problems(data: Any) -> list[str]:
    """Return what keeps the four rungs from training on the same rows."""
    if not isinstance(data, RegressionData):
        return ["--data: expected data with one feature and one target, such as DummyData"]
    wrong = []
    if data.n_features != 1 or data.n_targets != 1 or data.weighted:
        wrong.append(
            "--data: expected n_features 1, n_targets 1 and no sample weights, as DummyData has; "
            f"found n_features {data.n_features}, n_targets {data.n_targets} and "
            f"{'' if data.weighted else 'no '}sample weights"
        )
    if not data.full_batch:
        wrong.append(
            f"--data.batch_size: expected full batch, found {data.batch_size}; leave it out"
        )
    if data.scaling is not None:
        wrong.append(
            "--data.standardize: expected false, since the table of compare is in the units of the "
            "data; set it to false"
        )
    if data.spooled is not None:
        wrong.append(
            "--data.in_memory: expected rows in memory, found them in a file; raise it, or train "
            "on fewer rows"
        )
    return wrong


def compare(trainer: Trainer, model: LinearRegression, data: Any) -> dict[str, Any]:
    """Train the four rungs, print one table of them and the closed forms, and leave it as JSON.

    Rung 1 is the NumPy reference in float64. Rungs 2 to 4 train in the precision of `trainer`;
    rung 4 is `trainer` itself, with all that `trueline fit` has switched on.

    Args:
        trainer: For rung 4; its log directory is `compare_N/4-lightning`.
        model: For rung 4; its initial parameters are those of all rungs.
        data: One feature, one target, no sample weights, full batch.

    Returns:
        The table, as written to `compare_N/compare.json`.

    Raises:
        CheckFailed: When rung 4 fails the cross-check, is no longer finite, or is interrupted.
    """
    folder = Path(trainer.log_dir).parent if trainer.logger and trainer.log_dir else None
    rungs = _rungs(trainer, model, data)
    judge: Trace | None = None
    rows = []
    for name, train_rung in rungs.items():
        start = time.perf_counter()
        with np.errstate(all="ignore"):  # rung 4 will tell, if training diverges
            trace = train_rung()
        seconds = time.perf_counter() - start
        judge = judge or trace
        if folder and name != "4-lightning":
            _log(trace, folder / name, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        rows.append(_row(name, trace, judge) | {"us_per_epoch": 1e6 * seconds / trainer.max_epochs})  # type: ignore[operator]
    X, y = data.X.double().numpy(), data.y.double().numpy()
    closed_forms = {
        "least squares by QR": least_squares(X, y),
        "covariance / variance": simple_regression(X, y),
    }
    for name, line in closed_forms.items():
        loss = mean_squared_error(X, y, *line)
        rows.append(
            {"name": name, "weight": line.weight.item(), "bias": line.bias.item(), "loss": loss}
        )
    table = {
        "epochs": trainer.max_epochs,
        "lr": model.hparams["lr"],
        "precision": str(trainer.precision),
        "rows": rows,
        "log_dir": os.path.normpath(folder) if folder else None,
    }
    if folder:
        write_json(folder / "compare.json", table)
    print_table(table)
    return table


def _rungs(
    trainer: Trainer, model: LinearRegression, data: RegressionData
) -> dict[str, Callable[[], Trace]]:
    """Return the four trainers, by the names of their TensorBoard runs."""
    lr, epochs = model.hparams["lr"], trainer.max_epochs or 0
    weight, bias = model.weight.item(), model.bias.item()
    dtype = DTYPES[str(trainer.precision)]
    x, y = data.X[:, 0].to(dtype), data.y.to(dtype)
    recorder = TraceRecorder(data)
    trainer.callbacks.append(recorder)  # type: ignore[attr-defined]

    def train_lightning() -> Trace:
        trainer.fit(model, datamodule=data)
        return as_trace(recorder.seen)

    return {
        "1-numpy": lambda: train(data.X.numpy(), data.y.numpy(), [weight], bias, SGD(lr), epochs),
        "2-autograd": lambda: train_autograd(x, y, weight, bias, lr, epochs),
        "3-mseloss-sgd": lambda: train_builtin(x, y, weight, bias, lr, epochs),
        "4-lightning": train_lightning,
    }


def _row(name: str, trace: Trace, judge: Trace) -> dict[str, Any]:
    """Say where a rung ended, and how far from NumPy it was at its furthest epoch."""
    return {
        "name": name,
        "weight": float(trace.weight[-1, 0]),
        "bias": float(trace.bias[-1]),
        "loss": float(trace.loss[-1]),
        "distance": {
            quantity: _largest_distance(found, expected)
            for quantity, found, expected in zip(Trace._fields, trace, judge, strict=True)
        },
    }


def _largest_distance(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Return the largest relative distance over all epochs; 0 and 0 are no distance apart."""
    found = found.reshape(expected.shape)
    apart = found != expected
    if not apart.any():
        return 0.0
    return float(np.max(np.abs(found - expected)[apart] / np.abs(expected[apart])))


def _log(trace: Trace, folder: Path, every: int) -> None:
    """Leave a trace as a TensorBoard run, under the names that Lightning's run has."""
    with SummaryWriter(str(folder)) as writer:
        last = len(trace.loss) - 1
        for step in [*range(0, last, every), last]:
            writer.add_scalar("train/loss", trace.loss[step], step)
            writer.add_scalar("parameters/weight", trace.weight[step, 0], step)
            writer.add_scalar("parameters/bias", trace.bias[step], step)


def print_table(table: dict[str, Any]) -> None:
    """Print the rungs and the closed forms, a line each."""
    heads = ("weight", "bias", "loss", "Δ loss", "Δ weight", "Δ bias", "µs/epoch")
    print(f"\n{'':<24}" + "".join(f"{head:>11}" for head in heads))
    for row in table["rows"]:
        line = f"{row['name']:<24}" + "".join(
            f" {row[k]:>z10.6f}" for k in ("weight", "bias", "loss")
        )
        if "distance" in row:
            line += "".join(f"{row['distance'][quantity]:>11.1e}" for quantity in Trace._fields)
            line += f"{row['us_per_epoch']:>11,.0f}"
        print(line)
    print(
        f"\n{table['epochs']:,} epochs at lr {table['lr']:g}, {table['precision']}; "
        "Δ: largest relative distance from NumPy over all epochs"
    )
    if table["log_dir"]:
        print(f"log directory   {visible(table['log_dir'])}")
