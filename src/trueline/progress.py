"""The one place that reads what Lightning keeps to itself about where a training stands."""

from lightning.pytorch import Trainer


def validation_follows(trainer: Trainer) -> bool:
    """Return whether the batch that has just ended is followed by a validation.

    A checkpoint made between the two would leave that validation out when training goes on from it.
    """
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


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


def at_step_end(trainer: Trainer) -> bool:
    """Return whether the batch that has just ended was the last one of its optimizer step."""
    return not trainer.fit_loop._should_accumulate()
