"""The one place that touches what Lightning keeps to itself about where a training stands."""

from dataclasses import fields
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor


class QuickNotes:
    """A LightningModule on which Lightning notes without detours what hook it is in.

    It does so fifty times a step, and torch would look through parameters, buffers and modules each
    time: a tenth of the time of a step on few rows.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


def validation_follows(trainer: Trainer) -> bool:
    """Return whether the batch that has just ended is followed by a validation.

    A checkpoint made between the two would leave that validation out when training goes on from it.
    """
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def tell(trainer: Trainer, name: str, value: Tensor) -> None:
    """Let callbacks know a number, without bringing together all the others first."""
    trainer._logger_connector._callback_metrics[name] = value


def hide_max_steps(trainer: Trainer) -> int:
    """Take `max_steps` off a Trainer and return it, while it takes up where a checkpoint was made.

    With it, Lightning takes an epoch that has ended for one to go on with, and counts it twice.
    """
    loop = trainer.fit_loop.epoch_loop
    hidden, loop.max_steps = loop.max_steps, -1
    return hidden


def restore_max_steps(trainer: Trainer, max_steps: int) -> None:
    """Put `max_steps` back."""
    trainer.fit_loop.epoch_loop.max_steps = max_steps


def at_end(trainer: Trainer) -> bool:
    """Return whether the epoch that has just ended is the training's last one."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    enough = epochs is not None and 0 <= epochs <= trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    stopped = trainer.should_stop and trainer.fit_loop._can_stop_early
    return enough or 0 <= steps <= trainer.global_step or stopped


def ends(trainer: Trainer) -> bool:
    """Return whether the batch that has just ended is the training's last one."""
    last_epoch = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
    stopped = trainer.should_stop and trainer.fit_loop._can_stop_early
    return last_epoch or trainer.global_step == trainer.max_steps or stopped


def at_step_end(trainer: Trainer) -> bool:
    """Return whether the batch that has just ended was the last one of its optimizer step."""
    return not trainer.fit_loop._should_accumulate()


def validates_every(trainer: Trainer) -> tuple[int | None, int | None]:
    """Return after how many epochs, and how many batches, validation comes; None for not by these.

    The batches are counted within an epoch where there is a number of epochs too.
    """
    if not trainer.enable_validation:
        return None, None
    epochs, batches = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if batches is None or (batches >= trainer.num_training_batches and epochs is not None):
        return epochs, None
    return epochs, int(batches)


def advance(trainer: Trainer, batches: int, steps: int, epochs: int) -> None:
    """Count the batches and steps that are taken in the place of one; Lightning counts that one.

    Args:
        trainer: Trainer at the start of a batch.
        batches: Number of batches, that one among them.
        steps: Number of optimizer steps, that one's among them.
        epochs: Number of epochs in which they lie; where these are several, they are whole.
    """
    fit, per_epoch = trainer.fit_loop, int(trainer.num_training_batches)
    loop, fetcher = fit.epoch_loop, fit._data_fetcher
    assert fetcher is not None
    in_epoch = (batches if epochs == 1 else per_epoch) - 1
    steps_in_epoch = (
        steps if epochs == 1 else -(-per_epoch // trainer.accumulate_grad_batches)
    ) - 1
    optimizer = loop.automatic_optimization.optim_progress.optimizer
    for progress, more in (
        (loop.batch_progress.total, batches - 1),
        (loop.batch_progress.current, in_epoch),
        (optimizer.step.total, steps - 1),
        (optimizer.step.current, steps_in_epoch),
        (optimizer.zero_grad.total, steps - 1),
        (optimizer.zero_grad.current, steps_in_epoch),
        (fit.epoch_progress.total, epochs - 1),
        (fit.epoch_progress.current, epochs - 1),
    ):
        for field in fields(progress):
            setattr(progress, field.name, getattr(progress, field.name) + more)
    loop._batches_that_stepped += steps - 1
    fetcher.fetched += in_epoch
    fetcher.done = fetcher.length is not None and fetcher.fetched >= fetcher.length
    loop.batch_progress.is_last_batch = fetcher.done
