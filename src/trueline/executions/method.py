"""How a training takes its steps: through Lightning's loop, or many at once, and by which way."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
    Timer,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from trueline.data.blocks import BatchLoader
from trueline.data.memory import available
from trueline.hooks import has_hook
from trueline.unchanged import changed, optimizer_changed

LARGEST = {"64-true": 1e140, "32-true": 1e15}
"""Of what is squared and summed in these precisions; in others, steps are taken one by one."""
CALL = 1_000_000
"""Operations in the time that the calls of one step take, some 20 microseconds."""
TURN = 25_000_000
"""Operations in the time of one turn of Lightning's loop, half a millisecond."""
MAPS = 16
"""Products of all columns that are in memory at once: maps have twice as many rows and columns with
momentum, and a few are needed to compose them."""
INSIDE_A_STEP = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
AROUND_A_STEP = ("on_train_batch_start", "on_train_batch_end")
WITHOUT_EVERY_STEP = (
    *(DeviceStatsMonitor, EarlyStopping, LearningRateMonitor),
    *(ModelCheckpoint, ModelSummary, ProgressBar, Timer),
)
"""Lightning's callbacks that do with seeing some of the steps."""


class Method(NamedTuple):
    """How the steps of a training are taken.

    Args:
        single_steps: Why through Lightning's loop, one in a turn; None where many at once are.
        composed: Whether these are composed, or taken one after another.
    """

    single_steps: str | None
    composed: bool = True


def choose(trainer: Trainer, module: Any, own: type, defined: Mapping[str, Any]) -> Method:
    """Choose how the steps of a training are taken.

    Args:
        trainer: At the start of its training.
        module: What it trains.
        own: The class whose training step is known to be affine.
        defined: The definition of that class when it was made.
    """
    reason = _reason_for_single_steps(trainer, module, own) or reason_by_now(
        trainer, module, defined
    )
    if reason:
        return Method(reason)
    loader: Any = trainer.train_dataloader
    composing, one_by_one = operations(module.hparams, loader)
    if composing <= one_by_one:
        return Method(None)
    if trainer.world_size == 1:
        return Method(None, composed=False)
    if composing <= one_by_one + TURN:
        return Method(None)  # one message for many steps
    return Method("with so many features, composing them costs more than a message for each")


def reason_by_now(trainer: Trainer, module: Any, defined: Mapping[str, Any]) -> str | None:
    """Say why steps go through Lightning's loop one by one, of what may change during a training.

    Args:
        trainer: Of the training.
        module: A LinearRegression that it trains.
        defined: The definition of its class when it was made.
    """
    if module.hparams.l1:
        return "the soft threshold of an L1 penalty is not affine"
    if trainer.gradient_clip_val:
        return "gradient clipping is not affine"
    if trainer.accumulate_grad_batches > 1:
        return "batches are accumulated"
    if reason := changed(module, defined):
        return reason
    return optimizer_changed(module.optimizers(use_pl_optimizer=False), module)


def _reason_for_single_steps(trainer: Trainer, module: Any, own: type) -> str | None:
    """Say why the steps of a training go through Lightning's loop one by one, if they do."""
    h: Any = module.hparams
    asked = h.steps_per_execution
    if asked == 1:
        return "--model.steps_per_execution 1"
    schedule = module.schedule
    if schedule and schedule.name == "ReduceLROnPlateau" and schedule.interval == "step":
        return "the schedule waits for the loss of each step"
    if schedule and schedule.cycles_momentum:
        return f"{schedule.name} cycles the momentum"
    if str(trainer.precision) not in LARGEST:
        return f"precision {trainer.precision} rounds each step"
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return f"of {type(trainer.strategy).__name__}"
    if getattr(trainer.strategy, "_ddp_comm_hook", None) is not None:
        return "a hook of DDP changes the gradients"
    if trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
        return "the data is loaded anew"
    loader = trainer.train_dataloader
    if type(loader) is not BatchLoader or not loader.is_joined:
        return "the data does not come from a RegressionData"
    if MAPS * 8 * (h.n_features + 1 + h.n_targets) ** 2 > available():
        return "with so many features, products of columns take more memory than there is"
    if loader.largest > LARGEST[str(trainer.precision)]:
        return "the data is too large for its squares"
    if type(module) is not own:
        return f"{type(module).__name__} may do other steps than {own.__name__}"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if wants := _wants_every_step(callback, asked):
            return f"{type(callback).__name__} looks into each ({wants})"
    return None


def operations(h: Any, loader: BatchLoader) -> tuple[float, float]:
    """Count the operations of a step that is composed, and of one by itself.

    They are weighted by what they take: products of batches are twice as fast as those of maps, and
    those of matrix and vector four times slower.

    Args:
        h: Hyperparameters of LinearRegression.
        loader: Of the training rows.

    Returns:
        Operations a step, in products of maps: composed, and by itself.
    """
    size, width = loader.batch_size, h.n_features + 1 + h.n_targets
    state = width + (h.n_features + 1) * bool(h.momentum)
    full_batch = size >= len(loader.dataset)
    if full_batch and not h.schedule:
        # The powers of one map, applied and refined.
        return 40 * state**2, CALL + 4 * 2 * width**2 * h.n_targets
    composing = 2 * state**3 + (0 if full_batch else size * width**2)
    by_itself = 2 * width**2 if full_batch else 4 * size * width
    return composing, CALL + 4 * by_itself * h.n_targets


def _wants_every_step(callback: Callback, asked: int | Literal["auto"]) -> str | None:
    """Return the hook for which a callback must see each step, if it has one."""
    if getattr(callback, "knows_executions", False):
        return None
    hooks = INSIDE_A_STEP if asked != "auto" else (*INSIDE_A_STEP, *AROUND_A_STEP)
    own = (name for name in hooks if has_hook(callback, name))
    if isinstance(callback, WITHOUT_EVERY_STEP):  # and what a subclass adds
        own = (n for n in own if not getattr(callback, n).__module__.startswith("lightning."))
    return next(own, None)
