"""The end of a run: its last point, its hyperparameters with what they came to, and text."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from trueline.tensorboard.names import columns_of, entries
from trueline.tensorboard.scalars import Scalars
from trueline.terminal.printing import visible

SHOWN_FIRST = ("lr", "momentum", "batch_size", "weight_decay", "max_epochs")
"""Of the hyperparameters TensorBoard shows five, beginning with those that are said to differ."""
METRICS = (
    "final/loss",
    "final/val_loss",
    "final/epochs_to_converge",
    "final/worst_ratio",
    "final/distance",
)
"""What runs are compared by. All runs declare all: TensorBoard asks one run which there are, and
shows the first four until more are asked for.
"""


def log_final(
    trainer: Trainer,
    pl_module: LightningModule,
    loss: float,
    metrics: Mapping[str, float | None],
    texts: Mapping[str, str] | None = None,
    failed: bool = False,
) -> None:
    """Log the point after the last step, the hyperparameters with the final metrics, and texts.

    Args:
        trainer: Of the training.
        pl_module: That was trained.
        loss: Over all rows.
        metrics: Some of `METRICS`; None is not known.
        texts: In Markdown, by tag.
        failed: Whether the training failed a check, or was stopped before its end.
    """
    if not trainer.loggers:
        return
    step = trainer.global_step
    named = dict(pl_module.named_parameters())
    row = entries("parameters", named, columns_of(trainer)) | {"train/loss": loss}
    for logger in trainer.loggers:
        logger.log_metrics(row, step)
    scalars = scalars_of(trainer)
    if scalars is not None:
        scalars.log_end(trainer, pl_module)
    known = {name: value for name, value in metrics.items() if value is not None}
    for logger in trainer.loggers:
        logger.log_metrics(known, step)
        if isinstance(logger, TensorBoardLogger):
            _log_hyperparameters(logger, hyperparameters(trainer, pl_module), step, failed)
            for name, text in (texts or {}).items():
                logger.experiment.add_text(visible(name), text, step)
        logger.save()


def scalars_of(trainer: Trainer) -> Scalars | None:
    """Return the callback that logged the curves of a training."""
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    return next((c for c in callbacks if isinstance(c, Scalars)), None)


def hyperparameters(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Return what runs differ in: the options of the model, how rows are served, what is swept."""
    data: Any = getattr(trainer, "datamodule", None)
    found = {name: value for name, value in pl_module.hparams.items() if value is not None}
    for name, value in (found.pop("schedule", None) or {}).items():
        found[f"schedule.{name}"] = value
    rows = getattr(data, "n_samples", None)
    if rows is not None:
        found["n_samples"] = rows
        found["batch_size"] = data.batch_size or rows
        found["shuffle"] = data.order.shuffle
    found |= {"max_epochs": trainer.max_epochs, "precision": str(trainer.precision)}
    for name, value in getattr(trainer.logger, "compared", {}).items():
        found.setdefault(name.rpartition(".")[2], value)
    return {name: v if type(v) in (int, float, str) else str(v) for name, v in found.items()}


def epochs_to_converge(trainer: Trainer) -> int | None:
    """Return by which epoch a training had converged for good, by the points that were logged."""
    scalars = scalars_of(trainer)
    if scalars is None or scalars.too_far_at is None:
        return None
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    step = min(scalars.too_far_at + every, trainer.global_step)
    per_epoch = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
    return -(-step // per_epoch)


def _log_hyperparameters(
    logger: TensorBoardLogger, found: dict[str, Any], step: int, failed: bool
) -> None:
    from torch.utils.tensorboard.summary import hparams

    logger.log_hyperparams(found)  # for hparams.yaml
    swept = (name.rpartition(".")[2] for name in getattr(logger, "compared", {}))
    shown_first = {*SHOWN_FIRST, *swept}
    experiment, start, end = hparams(found, dict.fromkeys(METRICS))
    with _content(experiment) as content:
        for info in content.experiment.hparam_infos:
            info.differs = info.name in shown_first
    if failed:
        with _content(end) as content:
            content.session_end_info.status = Status.Value("STATUS_FAILURE")
    for summary in (experiment, start, end):
        logger.experiment.file_writer.add_summary(summary, step)


@contextlib.contextmanager
def _content(summary: Summary) -> Iterator[HParamsPluginData]:
    """Give what a record says, and write back what is changed of it."""
    plugin = summary.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    yield content
    plugin.content = content.SerializeToString()
