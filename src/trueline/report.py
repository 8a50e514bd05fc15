"""The end of a run: `result.json`, and the same as a short table."""

import contextlib
import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

import trueline
from trueline import tensorboard
from trueline.checkpoints.whole_files import write_whole
from trueline.crosscheck import CrossCheck
from trueline.data import RegressionData
from trueline.divergence import rows_of, stable_limit
from trueline.hooks import FewHooks
from trueline.reference.triangle import Line

CONVERGED_WITHIN = 1e-6
"""A run has converged when its predictions are, in root mean square, this close to those of the
closed form, as a fraction of the spread of y, for each target: six digits of the line are then
right."""
LINES_OF_PARAMETERS = 12
"""The table shows so many parameters; with the other facts it stays on a screen."""


class Report(FewHooks):
    """Writes `result.json` into the log directory at the end of training, and prints it.

    A run that fails a check leaves a `result.json` too, with `error` saying why.
    """

    knows_executions = True

    def __init__(self) -> None:
        self.result: dict[str, Any] | None = None
        self._start: float | None = None
        self._earlier = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, or go on with that of the training before a checkpoint."""
        self._start, self._earlier = time.perf_counter() - self._earlier, 0.0
        # Asked for here, where all processes are: the first one tells it to the others.
        self._log_dir = trainer.log_dir if trainer.logger else None
        self._epochs = trainer.current_epoch
        self._validating = 0.0

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add how long the training took so far."""
        if self._start is not None:
            checkpoint["seconds"] = self._seconds(self._start)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note how long the training took before."""
        seconds = checkpoint.get("seconds")
        self._earlier = seconds if isinstance(seconds, float) else 0.0

    def _seconds(self, start: float) -> float:
        return time.perf_counter() - start - self._validating

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count whole passes over the data; Lightning counts one that was cut short as one."""
        if trainer.is_last_batch:
            self._epochs = trainer.current_epoch + 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock: validation is not training."""
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._validating += time.perf_counter() - self._validation_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the result of a training that ran to its end."""
        self._write(trainer, pl_module, error=None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write the result of a training that failed after it had started."""
        with contextlib.suppress(OSError):  # a disk that is full may be why it failed
            self._write(trainer, pl_module, error=str(exception) or type(exception).__name__)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the table, last."""
        if self.result and self.result["error"] is None and trainer.is_global_zero:
            print_table(self.result)

    def _write(self, trainer: Trainer, pl_module: LightningModule, error: str | None) -> None:
        if self._start is None:
            return  # it failed before training, so there is no result
        self.result = summarise(trainer, pl_module) | {
            "epochs": self._epochs,
            "seconds": self._seconds(self._start),
            "log_dir": os.path.normpath(self._log_dir) if self._log_dir else None,
            "error": error,
        }
        if not trainer.is_global_zero:
            return
        loss, check = self.result["loss"], self.result["crosscheck"]
        if loss is not None:
            metrics = {"final/loss": loss}
            if check:
                metrics["final/worst_ratio"] = check["worst_ratio"]
            tensorboard.log_final(trainer, pl_module, loss, metrics)
        if self.result["log_dir"]:
            text = json.dumps(_jsonable(self.result), indent=2, allow_nan=False) + "\n"
            path = Path(self.result["log_dir"]) / "result.json"
            write_whole(path, lambda file: file.write(text.encode()))


def print_start(trainer: Trainer, data: Any) -> None:
    """Say what a step takes in, where that is more than one batch on one process."""
    batches, processes = trainer.accumulate_grad_batches, trainer.world_size
    if not isinstance(data, RegressionData) or (batches == 1 and processes == 1):
        return
    rows = data.batch_size or data.n_samples
    least, most = rows // processes, math.ceil(rows / processes)
    shares = f"{least:,}" if least == most else f"{least:,} or {most:,}"
    print(
        f"{min(rows * batches, data.n_samples):,} rows a step"
        + (f", in batches of {rows:,}" if batches > 1 else "")
        + (f"; each of {processes} processes has {shares} of a batch" if processes > 1 else "")
    )


def summarise(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Say what a run came to.

    Returns:
        The entries of `result.json` but `epochs`, `seconds`, `log_dir` and `error`. What is not
        known is None: the closed form under an L1 penalty, say, or the correlation where there is
        more than one feature and one target, or where rows have weights.
    """
    h: Any = pl_module.hparams
    parameters = {n: p.detach().cpu().double().numpy() for n, p in pl_module.named_parameters()}
    trained = Line(parameters["weight"], parameters["bias"])
    check = next((c for c in trainer.callbacks if isinstance(c, CrossCheck)), None)  # type: ignore[attr-defined]
    return {
        "weight": _plain(trained.weight),
        "bias": _plain(trained.bias),
        **_fit(getattr(trainer, "datamodule", None), trained, h),
        "steps": trainer.global_step,
        "lr": h.lr,
        "steps_at_once": _steps_at_once(pl_module),
        "crosscheck": check.report() if check else None,
        "environment": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "trueline": trueline.__version__,
            "accelerator": trainer.strategy.root_device.type,
            "precision": str(trainer.precision),
            "devices": trainer.world_size,
        },
    }


def _steps_at_once(pl_module: LightningModule) -> str | None:
    """Say how the steps were taken; None where the module does not say."""
    if not hasattr(pl_module, "single_steps"):
        return None
    return f"one: {pl_module.single_steps}" if pl_module.single_steps else "many"


@np.errstate(over="ignore", invalid="ignore")  # of a training that diverged
def _fit(data: Any, trained: Line, h: Any) -> dict[str, Any]:
    """Hold the trained line against the data and against the closed form."""
    names = "loss n_samples n_features n_targets correlation largest_stable_lr"
    fit: dict[str, Any] = dict.fromkeys([*names.split(), "converged", "closed_form"])
    if not isinstance(data, RegressionData):
        return fit
    rows = rows_of(data)
    fit["loss"] = rows.loss(trained)
    fit |= {name: getattr(data, name) for name in ("n_samples", "n_features", "n_targets")}
    fit["largest_stable_lr"] = stable_limit(rows, h)
    if data.n_features == data.n_targets == 1 and data.sample_weight is None:
        fit["correlation"] = rows.correlation
    if h.l1:
        return fit
    try:
        best = rows.least_squares(h.l2, h.weight_decay)
    except ValueError:
        return fit  # collinear columns: no single line to compare with
    spread = rows.spread
    spread = np.where(spread > 0, spread, 1.0)
    return fit | {
        "converged": bool(np.all(rows.apart(trained, best) <= CONVERGED_WITHIN * spread)),
        "closed_form": {
            "weight": _plain(best.weight),
            "bias": _plain(best.bias),
            "loss": rows.loss(best),
        },
    }


def print_table(result: dict[str, Any]) -> None:
    """Print a result: the line beside its closed form, and how it came about."""
    best = result["closed_form"] or {}
    print(f"\n{'':<12}{'trained':>14}" + (f"{'closed form':>16}" if best else ""))
    lines = [
        f"{label:<12}{_number(value):>14}{_number(expected.get(label)):>16}".rstrip()
        for name in ("weight", "bias")
        for expected in [_entries(name, best.get(name))]
        for label, value in _entries(name, result[name]).items()
    ]
    print("\n".join(lines[:LINES_OF_PARAMETERS]))
    if more := len(lines[LINES_OF_PARAMETERS:]):
        print(f"… and {more} more" + (" in result.json" if result["log_dir"] else ""))
    print(f"{'loss':<12}{_number(result['loss']):>14}{_number(best.get('loss')):>16}".rstrip())
    check, n_samples = result["crosscheck"], result["n_samples"]
    advice = "not yet: give more epochs, or with mini-batches a smaller lr"
    if (limit := result["largest_stable_lr"]) and result["lr"] > limit:
        advice = f"no: lr is above the largest stable one, {limit:.4g}"
    converged = {True: "yes", False: advice, None: None}
    facts = {
        "rows": _rows(n_samples, check) if n_samples else None,
        "correlation": _number(result["correlation"]) or None,
        "steps at once": result["steps_at_once"],
        "training": f"{result['epochs']:,} epochs, {result['steps']:,} steps, lr {result['lr']:g}, "
        f"{result['seconds']:.1f} s",
        "converged": converged[result["converged"]],
        "cross-check": _verdict(check) if check else "off",
        "deviations": _deviations(check) if check and check["steps_checked"] else None,
        "log directory": result["log_dir"],
    }
    print()
    for name, fact in facts.items():
        if fact is not None:
            print(f"{name:<16}{fact}")


def _rows(n_samples: int, check: dict[str, Any] | None) -> str:
    counted = check and check["passed"] and check["epochs_counted"]
    return f"{n_samples:,}" + (", each once in every epoch" if counted else "")


def _deviations(check: dict[str, Any]) -> str:
    ratios = check["worst_ratios"] | {"free run": check["free_run"]}
    listed = [f"{ratio:.2g} in {name}" for name, ratio in ratios.items() if ratio is not None]
    skipped = f"; {check['steps_skipped']:,} steps skipped by the loss scale"
    said = f"as fractions of their bounds at most {', '.join(listed)}"
    return said + (skipped if check["steps_skipped"] else "")


def _verdict(check: dict[str, Any]) -> str:
    failure = check["first_failure"]
    if isinstance(failure, dict):
        cause = f"; likely cause: {failure['cause']}" if failure["cause"] else ""
        return f"FAILED at step {failure['step']}: {failure['quantity']}{cause}"
    if not check["passed"]:
        return f"FAILED: {failure}"
    return f"passed: {check['steps_checked']:,} steps compared with NumPy"


def _plain(value: NDArray[np.float64]) -> Any:
    """Return a number where there is one entry, else a list."""
    return value.item() if value.size == 1 else value.tolist()


def _entries(name: str, value: Any) -> dict[str, Any]:
    """Name the entries of a parameter: `weight`, or `weight[j]`, or `weight[j,t]`."""
    array = np.asarray(value)
    places = {at: f"[{','.join(map(str, at))}]" if at else "" for at in np.ndindex(array.shape)}
    return {f"{name}{place}": array[at] for at, place in places.items()}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}" if 1e-3 <= abs(value) < 1e6 else f"{value:.6g}"


def _jsonable(value: Any) -> Any:
    """Replace what JSON has no word for: nan and infinities become null."""
    if isinstance(value, dict):
        return {key: _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_jsonable(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
