"""The figures of a run, drawn once it is over, and now and then while it goes on."""

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from trueline.data import RegressionData
from trueline.data.datamodule import line_of
from trueline.reference.triangle import Line, Triangle
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
from trueline.tensorboard.pictured import Sample, effects, fitted, sample, surface
from trueline.terminal.printing import visible

MOST_TARGETS = 3
"""That are drawn, each as if there were no other."""
Figures = Iterator[tuple[str, bytes]]


def log_final_figures(trainer: Trainer, module: LightningModule, result: dict[str, Any]) -> None:
    """Draw the figures of a training that has ended, into the event file of its run.

    There are none where the run has no such file.

    Args:
        trainer: Of the training.
        module: That was trained.
        result: The entries of its `result.json`.
    """
    logger, data = trainer.logger, rows_of(trainer, module)
    if not isinstance(logger, TensorBoardLogger) or data is None or not trainer.is_global_zero:
        return
    files = sorted(Path(logger.log_dir).glob("events.out.tfevents.*"))
    if not files:
        return
    # The logger is closed by now, and would begin a file of its own.
    with files[-1].open("ab") as file:
        writer = RecordWriter(file)
        for summary in _summaries(figures(trainer, module, data, result["summary"] or [])):
            event = Event(wall_time=time.time(), step=trainer.global_step, summary=summary)
            writer.write(event.SerializeToString())
            writer.flush()


def log_figures(trainer: Trainer, module: LightningModule) -> None:
    """Draw the figures of a training as far as it has come.

    Args:
        trainer: Of the training.
        module: That is trained.
    """
    logger, data = trainer.logger, rows_of(trainer, module)
    if isinstance(logger, TensorBoardLogger) and data is not None and trainer.is_global_zero:
        for summary in _summaries(figures(trainer, module, data, [])):
            logger.experiment.file_writer.add_summary(summary, trainer.global_step)
        logger.experiment.flush()


def _summaries(drawn: Figures) -> Iterator[Summary]:
    try:
        for tag, picture in drawn:
            image = Summary.Image(encoded_image_string=picture)
            yield Summary(value=[Summary.Value(tag=f"figures/{visible(tag)}", image=image)])
    except Exception as error:  # a picture is not worth a training
        warnings.warn(f"not all figures are drawn: {type(error).__name__}: {error}", stacklevel=2)


def figures(
    trainer: Trainer, module: LightningModule, data: RegressionData, summaries: list[Any]
) -> Figures:
    """Draw each figure.

    Args:
        trainer: Of the training.
        module: That is trained.
        data: That it is trained on.
        summaries: Of each target, as in `result.json`; none for no coefficients.

    Yields:
        The figure's name, and the picture.
    """
    trained, rows, T = data.in_units(line_of(module)), sample(data), data.n_targets
    weights, biases = np.reshape(trained.weight, (-1, T)), np.reshape(trained.bias, T)
    features = data.feature_names or [f"x{j}" for j in range(data.n_features)]
    features = ["x"] if data.feature_names is None and data.n_features == 1 else list(features)
    targets = data.target_names or ([f"y{t}" for t in range(T)] if T > 1 else ["y"])
    walked = _walked(trainer, module)
    for t, y in enumerate(targets[:MOST_TARGETS]):
        end = f"_{y}" if T > 1 else ""
        line, triangle = Line(weights[:, t], biases[t]), data.triangle.of_target(t)
        seen = rows._replace(y=rows.y.reshape(-1, T)[:, t])
        if data.n_features == 1:
            found = fitted(triangle, line, rows.X[:, 0])
            yield f"line{end}", png(draw_line, seen, found, features[0], y)
        if len(walked) > 1 and np.isfinite(walked).all():
            yield f"surface{end}", _surface(trainer, module, data, t, walked[:, t::T], features)
        yield f"residuals{end}", _residuals(seen, triangle, line, y, data.weighted)
        for summary in summaries[t : t + 1]:
            bars = effects(triangle, summary, line.weight)
            if bars.names:
                yield f"coefficients{end}", png(draw_effects, bars, y, size=effects_size(bars))


def _walked(trainer: Trainer, module: LightningModule) -> NDArray[np.float64]:
    """Return the parameters at some steps, and those that the training has come to."""
    scalars = scalars_of(trainer)
    last = np.concatenate([np.ravel(part) for part in line_of(module)])
    return np.vstack([*([] if scalars is None else scalars.walk.taken()[1]), last])


def _surface(
    trainer: Trainer,
    module: LightningModule,
    data: RegressionData,
    target: int,
    walked: NDArray[np.float64],
    features: list[str],
) -> bytes:
    """Draw the objective of one target; its penalties count as they do in the mean over all."""
    scalars, h, T = scalars_of(trainer), module.hparams, data.n_targets
    best = scalars.closed_form.line if scalars and scalars.closed_form else None
    if best is not None:
        weight = np.reshape(best.weight, (-1, T))[:, target]
        best = Line(weight, np.reshape(best.bias, T)[target])
    penalties = [h[name] * T for name in ("l1", "l2", "weight_decay")]
    found = surface(data.trained_on.of_target(target), walked, best, *penalties)
    scaled = ", standardised" if data.scaling is not None else ""
    labels = [f"weight of {features[0]}{scaled}", "bias"]
    if data.n_features > 1:
        ordinal = ("stiffest", "second stiffest")
        labels = [
            f"{which} direction, curvature {curvature:.3g}"
            for which, curvature in zip(ordinal, found.curvature, strict=True)
        ]
    return png(draw_surface, found, *labels, "loss with penalties" if any(penalties) else "loss")


def _residuals(seen: Sample, rows: Triangle, line: Line, y: str, weighted: bool) -> bytes:
    """Draw residuals, beside their standard error where rows are left to tell it by."""
    predicted = seen.X @ line.weight + float(line.bias)
    freedom = rows.n_samples - rows.columns
    sigma = None
    if freedom > 0 and not weighted:
        sigma = (rows.loss(line) * rows.n_samples / freedom) ** 0.5
    return png(draw_residuals, seen, predicted, sigma, y)
