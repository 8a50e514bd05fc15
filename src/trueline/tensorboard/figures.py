"""The figures of a run, drawn once it is over."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from trueline.data import RegressionData
from trueline.reference.triangle import Line
from trueline.tensorboard.beside import rows_of
from trueline.tensorboard.drawing import (
    draw_effects,
    draw_line,
    draw_residuals,
    draw_surface,
    effects_size,
    png,
)
from trueline.tensorboard.ending import scalars_of
from trueline.tensorboard.pictured import effects, fitted, sample, surface


def log_figures(trainer: Trainer, module: LightningModule, result: dict[str, Any]) -> None:
    """Draw the figures of a training that has ended, into the event file of its run.

    There are none where the run has no such file.

    Args:
        trainer: Of the training.
        module: That was trained.
        result: The entries of its `result.json`.
    """
    logger = trainer.logger
    data = rows_of(trainer, module)
    if not isinstance(logger, TensorBoardLogger) or data is None or not trainer.is_global_zero:
        return
    files = sorted(Path(logger.log_dir).glob("events.out.tfevents.*"))
    if not files:
        return
    with files[-1].open("ab") as file:
        writer = RecordWriter(file)
        for tag, picture in figures(trainer, module, data, result):
            value = Summary.Value(tag=tag, image=Summary.Image(encoded_image_string=picture))
            summary = Summary(value=[value])
            event = Event(wall_time=time.time(), step=trainer.global_step, summary=summary)
            writer.write(event.SerializeToString())
            writer.flush()


def figures(
    trainer: Trainer, module: LightningModule, data: RegressionData, result: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """Return each figure's tag and picture; those of one target, where there is one."""
    trained = Line(np.asarray(result["weight"]), np.asarray(result["bias"]))
    names = data.feature_names or [f"x{j}" for j in range(data.n_features)]
    names = ["x"] if data.feature_names is None and data.n_features == 1 else names
    y = (data.target_names or ["y"])[0]
    if data.n_targets == 1:
        rows = sample(data)
        if data.n_features == 1:
            found = fitted(data.triangle, trained, rows.X[:, 0])
            yield "figures/line", png(draw_line, rows, found, names[0], y)
        yield from _surface(trainer, module, data, names)
        predicted = rows.X @ np.ravel(trained.weight) + float(trained.bias)
        sigma = None if data.weighted else _sigma(data, trained)
        yield "figures/residuals", png(draw_residuals, rows, predicted, sigma, y)
    weights = np.reshape(trained.weight, (data.n_features, data.n_targets))
    for t, summary in enumerate(result["summary"] or []):
        bars = effects(data.triangle, summary, weights[:, t])
        if bars.names:
            tag = "figures/coefficients" + (f"_{summary['target']}" if data.n_targets > 1 else "")
            yield tag, png(draw_effects, bars, summary["target"], size=effects_size(bars))


def _surface(
    trainer: Trainer, module: LightningModule, data: RegressionData, names: Any
) -> Iterator[tuple[str, bytes]]:
    scalars = scalars_of(trainer)
    if scalars is None:
        return
    _, walked = scalars.walk.taken()
    if not len(walked) or not np.isfinite(walked).all():
        return
    last = [p.detach().cpu().double().numpy().ravel() for p in module.parameters()]
    walked = np.vstack([walked, np.concatenate(last)])
    h: Any = module.hparams
    best = scalars.closed_form.line if scalars.closed_form else None
    found = surface(data.trained_on, walked, best, h.l1, h.l2, h.weight_decay)
    scaled = ", standardised" if data.scaling is not None else ""
    labels = [f"weight of {names[0]}{scaled}", "bias"]
    if data.n_features > 1:
        ordinal = ("stiffest", "second stiffest")
        labels = [
            f"{which} direction, curvature {curvature:.3g}"
            for which, curvature in zip(ordinal, found.curvature, strict=True)
        ]
    penalised = h.l1 or h.l2 or h.weight_decay
    what = "loss with penalties" if penalised else "loss"
    yield "figures/surface", png(draw_surface, found, *labels, what)


def _sigma(data: RegressionData, trained: Line) -> float | None:
    """Return the standard error of the residuals; None where no rows are left to tell it by."""
    freedom = data.n_samples - data.n_features - 1
    squares = data.triangle.loss(trained) * data.n_samples
    return (squares / freedom) ** 0.5 if freedom > 0 else None
