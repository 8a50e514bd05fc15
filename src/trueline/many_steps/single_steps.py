"""Why the steps of a training go through Lightning's loop one by one, where they do."""

from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from trueline.data.blocks import BatchLoader
from trueline.hooks import has_hook
from trueline.loop.state import WIDEST
from trueline.unchanged import changed, optimizer_changed

PRECISIONS = ("64-true", "32-true")
"""Precisions of the loop. Others round within a step, as only torch does it."""
WIDEST_SHARED = 128
"""Columns up to which processes exchange the moments of a step: a message of 128 KB. Wider ones
take longer than the step of Lightning's loop that they would spare."""
LARGEST = 1e140
"""Largest entry whose moments float64 can hold."""
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


def reason_for_single_steps(trainer: Trainer, module: Any, own: type) -> str | None:
    """Say why the steps of a training go through Lightning's loop one by one, if they do.

    Args:
        trainer: Trainer at the start of its training.
        module: The module that it trains.
        own: Class whose training step the loop takes.
    """
    h: Any = module.hparams
    asked = h.steps_per_execution
    if asked == 1:
        return "--model.steps_per_execution 1"
    if str(trainer.precision) not in PRECISIONS:
        return f"precision {trainer.precision} rounds each step"
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return f"of {type(trainer.strategy).__name__}"
    if getattr(trainer.strategy, "_ddp_comm_hook", None) is not None:
        return "a hook of DDP changes the gradients"
    if trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
        return "the data is loaded anew"
    loader = trainer.train_dataloader
    if type(loader) is not BatchLoader or loader.matrix is None:
        return "the data does not come from a RegressionData"
    if trainer.world_size > 1:
        full_batch = loader.batch_size >= len(loader.dataset)
        if h.n_features + 1 + h.n_targets > (WIDEST if full_batch else WIDEST_SHARED):
            return "with so many features, the moments of a step are a longer message than its rows"
        if loader.largest > LARGEST:
            return "the data is too large for its squares"
    if type(module) is not own:
        return f"{type(module).__name__} may do other steps than {own.__name__}"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if wants := _wants_every_step(callback, asked):
            return f"{type(callback).__name__} looks into each ({wants})"
    return None


def reason_by_now(module: Any, defined: Mapping[str, Any]) -> str | None:
    """Say why steps go through Lightning's loop one by one, of what may change during a training.

    Args:
        module: A LinearRegression in training.
        defined: The definition of its class when it was made.
    """
    if reason := changed(module, defined):
        return reason
    return optimizer_changed(module.optimizers(use_pl_optimizer=False), module)


def _wants_every_step(callback: Callback, asked: int | Literal["auto"]) -> str | None:
    """Return the hook for which a callback must see each step, if it has one."""
    if getattr(callback, "knows_executions", False):
        return None
    if isinstance(callback, WeightAveraging):
        return "on_train_batch_end"  # it averages what each step leaves
    hooks = INSIDE_A_STEP if asked != "auto" else (*INSIDE_A_STEP, *AROUND_A_STEP)
    own = (name for name in hooks if has_hook(callback, name))
    if isinstance(callback, WITHOUT_EVERY_STEP):  # and what a subclass adds
        own = (n for n in own if not getattr(callback, n).__module__.startswith("lightning."))
    return next(own, None)
