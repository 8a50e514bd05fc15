"""How a training takes its steps: through Lightning's loop, or many at once, and by which way."""

from typing import Any, Literal, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
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
from trueline.hooks import has_hook

LARGEST = {"64-true": 1e140, "32-true": 1e15}
"""Of what is squared and summed in these precisions; in others, steps are taken one by one."""
CALL = 1_000_000
"""Operations in the time that the calls of one step take, some 20 microseconds."""
TURN = 25_000_000
"""Operations in the time of one turn of Lightning's loop, half a millisecond."""
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


def choose(trainer: Trainer, module: LightningModule, own: type) -> Method:
    """Choose how the steps of a training are taken.

    Args:
        trainer: At the start of its training.
        module: What it trains.
        own: The class whose training step is known to be affine.
    """
    reason = _reason_for_single_steps(trainer, module, own)
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


def _reason_for_single_steps(trainer: Trainer, module: LightningModule, own: type) -> str | None:
    """Say why the steps of a training go through Lightning's loop one by one, if they do."""
    h: Any = module.hparams
    asked = h.steps_per_execution
    if asked == 1:
        return "--model.steps_per_execution 1"
    if h.l1:
        return "the soft threshold of an L1 penalty is not affine"
    if trainer.gradient_clip_val:
        return "gradient clipping is not affine"
    schedule = h.schedule or {}
    if schedule.get("name") == "ReduceLROnPlateau" and schedule.get("interval") == "step":
        return "the schedule waits for the loss of each step"
    if trainer.accumulate_grad_batches > 1:
        return "batches are accumulated"
    if str(trainer.precision) not in LARGEST:
        return f"precision {trainer.precision} rounds each step"
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return f"of {type(trainer.strategy).__name__}"
    if trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
        return "the data is loaded anew"
    loader = trainer.train_dataloader
    if type(loader) is not BatchLoader or not loader.is_joined:
        return "the data does not come from a RegressionData"
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
    if isinstance(callback, WITHOUT_EVERY_STEP) or getattr(callback, "knows_executions", False):
        return None
    hooks = INSIDE_A_STEP if asked != "auto" else (*INSIDE_A_STEP, *AROUND_A_STEP)
    return next((name for name in hooks if has_hook(callback, name)), None)
