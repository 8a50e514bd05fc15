"""The end of a run: what it came to, as `result.json`; `result_table.py` prints the same."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from trueline.crosscheck import CrossCheck
from trueline.data import RegressionData
from trueline.data.datamodule import line_of
from trueline.hooks import FewHooks
from trueline.planning.closed_form import closed_form
from trueline.planning.convergence import CONVERGED_WITHIN
from trueline.planning.shortfall import remedy
from trueline.reference.triangle import Line
from trueline.results.json_files import write_json
from trueline.results.result_table import print_table
from trueline.results.versions import versions
from trueline.statistics.span import Span
from trueline.statistics.summary import summarise
from trueline.tensorboard import ending, texts
from trueline.terminal.printing import to_whoever_reads
from trueline.unchanged import is_least_squares


class Report(FewHooks):
    """Writes `result.json` into the log directory at the end of training, and prints it.

    A run that fails a check leaves a `result.json` too, with `error` saying why.
    """

    knows_executions = True

    def __init__(self) -> None:
        self.result: dict[str, Any] | None = None
        self._start: float | None = None
        self._earlier = self._validating = self._validation_start = 0.0
        self._log_dir: str | None = None
        self._epochs = 0
        self._validated_at: int | None = None  # steps by then

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
        """Count whole passes over the data; Lightning also counts one that was cut short."""
        if trainer.is_last_batch:
            self._epochs = trainer.current_epoch + 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock: validation is not training."""
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._validated_at = trainer.global_step
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
        if self.result and self.has_ended and trainer.is_global_zero:
            with to_whoever_reads():
                print_table(self.result)

    @property
    def has_ended(self) -> bool:
        """Whether the training has run to its end."""
        return self.result is not None and self.result["error"] is None

    def _write(self, trainer: Trainer, pl_module: LightningModule, error: str | None) -> None:
        if self._start is None:
            return  # it failed before training, so there is no result
        seconds = self._seconds(self._start)  # without the making of this report
        self.result = result_of(trainer, pl_module) | {
            "val_loss": _val_loss(trainer) if self._validated_at == trainer.global_step else None,
            "epochs": self._epochs,
            "seconds": seconds,
            "log_dir": os.path.normpath(self._log_dir) if self._log_dir else None,
            "error": error,
        }
        if not trainer.is_global_zero:
            return
        loss, check = self.result["loss"], self.result["crosscheck"]
        by_epoch = ending.epochs_to_converge(trainer) if self.result["converged"] else None
        self.result["epochs_to_converge"] = by_epoch
        if loss is not None:
            metrics = {
                "final/loss": loss,
                "final/val_loss": self.result["val_loss"],
                "final/distance": self.result["distance"],
                "final/epochs_to_converge": by_epoch,
                "final/worst_ratio": check["worst_ratio"] if check else None,
            }
            markdown = texts.of_run(self.result)
            ending.log_final(trainer, pl_module, loss, metrics, markdown, failed=error is not None)
        if self.result["log_dir"]:
            write_json(Path(self.result["log_dir"]) / "result.json", self.result)


def _val_loss(trainer: Trainer) -> float | None:
    """Return the latest loss over the rows held out for validation; None where there are none."""
    data = getattr(trainer, "datamodule", None)
    loss = trainer.callback_metrics.get("val/loss")
    if loss is None or "val" not in getattr(data, "held_out", ()):
        return None
    return None if loss.isnan() else float(loss)


def result_of(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Say what a run came to.

    Returns:
        The entries of `result.json` but those that only a run knows, such as `epochs`, `seconds`
        and `val_loss`. What is not known is None: the summary under an L1 penalty, say, or the
        correlation where there is more than one feature and one target, or where rows have weights.
    """
    h: Any = pl_module.hparams
    as_trained = line_of(pl_module)
    data = getattr(trainer, "datamodule", None)
    trained, span = as_trained, None
    if isinstance(data, RegressionData):
        trained, span = data.in_units(as_trained), data.span(pl_module)
    check = next((c for c in trainer.callbacks if isinstance(c, CrossCheck)), None)  # type: ignore[attr-defined]
    return {
        **_plain(trained, span),
        "undetermined": _undetermined(data, span),
        **_fit(data, as_trained, h, span, is_least_squares(pl_module)),
        "steps": trainer.global_step,
        "lr": h.lr,
        "steps_at_once": _steps_at_once(pl_module),
        "crosscheck": check.report() if check else None,
        "environment": {
            **versions(),
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
def _fit(
    data: Any, trained: Line, h: Any, span: Span | None, by_least_squares: bool
) -> dict[str, Any]:
    """Hold the trained line against the data and against the closed form.

    Both in the units that they are trained in: in those of the table, the bias may have digits that
    predictions lose.
    """
    names = "loss n_samples n_features n_targets features targets base_levels correlation"
    of_best = "largest_stable_lr converged distance remedy closed_form summary"
    fit: dict[str, Any] = dict.fromkeys(f"{names} {of_best}".split())
    if not isinstance(data, RegressionData):
        return fit
    rows, scaled = data.triangle, data.trained_on
    fit["loss"] = scaled.loss(trained)
    fit |= {name: getattr(data, name) for name in ("n_samples", "n_features", "n_targets")}
    if data.feature_names and data.target_names:
        fit |= {"features": list(data.feature_names), "targets": list(data.target_names)}
        fit["base_levels"] = {name: levels[0] for name, levels in data.categories.items()}
        if not h.l1:  # under which standard errors of least squares do not hold
            columns = data.feature_names, data.target_names
            found = summarise(rows, *columns, categories=data.categories)
            fit["summary"] = [of_target.to_dict() for of_target in found]
    if by_least_squares:
        fit["largest_stable_lr"] = data.largest_stable_lr(h)
    if data.n_features == data.n_targets == 1 and not data.weighted:
        fit["correlation"] = rows.correlation
    best = closed_form(data, h) if by_least_squares else None
    if best is None:
        return fit
    distance = best.distance(trained)
    converged = bool(np.all(distance <= CONVERGED_WITHIN))
    if not converged and np.isfinite(distance).all():
        fit["remedy"] = remedy(scaled, trained, h, CONVERGED_WITHIN, data.full_batch)
    if best.unique:
        # Penalties are of the weights as they are trained.
        penalised = h.l1 or h.l2 or h.weight_decay
        closed = data.in_units(best.line) if penalised else rows.least_squares()
        fit["closed_form"] = {
            **_plain(closed, span),
            "loss": scaled.loss(best.line),
        }
    return fit | {"converged": converged, "distance": float(distance.max())}


def _undetermined(data: Any, span: Span | None) -> dict[str, list[str]] | None:
    """Say which coefficients are not determined by the rows, and why; None where all are."""
    if span is None or span.determined.all():
        return None
    names = data.feature_names or [f"X_{j}" for j in range(span.n_features)]
    found = zip(["(intercept)", *names], span.determined, strict=True)
    return {
        "coefficients": [name for name, is_determined in found if not is_determined],
        "reasons": span.reasons(names, data.categories),
    }


def _plain(line: Line, span: Span | None) -> dict[str, Any]:
    """Return weight and bias as numbers or lists; None for what the rows do not determine."""
    found = {}
    mask = np.ones(1 + len(line.weight), bool) if span is None else span.determined
    of_weight = mask[1:].reshape(-1, *[1] * (line.weight.ndim - 1))
    for name, value, determined in (
        ("weight", line.weight, of_weight),
        ("bias", np.asarray(line.bias), mask[0]),
    ):
        shown: Any = np.where(determined, value, None)  # type: ignore[call-overload]
        found[name] = shown.item() if shown.size == 1 else shown.tolist()
    return found
