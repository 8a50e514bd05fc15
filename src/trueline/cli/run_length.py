"""How often a run logs and validates: as fits its length, where nothing is said."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    Timer,
)

from trueline.hooks import FewHooks
from trueline.progress import ends

POINTS_PER_CURVE = 500
"""More than a screen shows of a curve, and half of what TensorBoard keeps of one."""
FEWEST_POINTS = 100
"""Of each curve, however many curves there are."""
NUMBERS_PER_RUN = 3_000
"""Points of all curves together, where each then has `FEWEST_POINTS` or more; TensorBoard writes so
many in 30 milliseconds."""
CHECKS_PER_RUN = 20
"""Validations; together they cost a run a tenth of a second."""

UNAFFECTED = (DeviceStatsMonitor, LearningRateMonitor, ModelSummary, ProgressBar, Timer)
"""Callbacks of Lightning that do not depend on when a training is validated."""


def points_per_curve(n_features: int, n_targets: int) -> int:
    """Return how many points a run logs of each of its curves.

    Args:
        n_features: Columns of X.
        n_targets: Columns of y.

    Example:
        >>> points_per_curve(1, 1), points_per_curve(10, 1), points_per_curve(1000, 1)
        (500, 125, 100)
    """
    curves = 2 * (n_features + 1) * n_targets + 2  # parameters and gradients, lr and loss
    return max(FEWEST_POINTS, min(POINTS_PER_CURVE, NUMBERS_PER_RUN // curves))


def choose_intervals(options: Any, data: Any, callbacks: Iterable[Callback], schedule: Any) -> bool:
    """Choose how often to log and to validate, where the options do not say.

    Each epoch is validated, as Lightning does, where a callback or the schedule may depend on it.

    Args:
        options: Options of the Trainer; intervals that are None are filled in.
        data: DataModule that is trained on.
        callbacks: Callbacks of the user.
        schedule: Schedule of the learning rate, as `LinearRegression` takes it.

    Returns:
        Whether it has chosen when to validate; then the last step is followed by a validation too.
    """
    per_epoch = getattr(data, "steps_per_epoch", 0)
    epochs = max(options.max_epochs or 0, 0)
    if not epochs and per_epoch and options.max_steps > 0:
        epochs = options.max_steps // per_epoch
    chosen = options.check_val_every_n_epoch is None and options.val_check_interval is None
    if chosen:
        monitor = (schedule or {}).get("monitor", "train/loss")
        dependent = [c for c in callbacks if _depends_on_validation(c)]
        sparse = not dependent and monitor == "train/loss"
        options.check_val_every_n_epoch = max(1, epochs // CHECKS_PER_RUN) if sparse else 1
    elif options.check_val_every_n_epoch is None and type(options.val_check_interval) is float:
        options.check_val_every_n_epoch = 1  # a fraction is one of an epoch
    steps = epochs * per_epoch
    if options.max_steps > 0:
        steps = min(steps or options.max_steps, options.max_steps)
    if options.log_every_n_steps is None and steps and not options.barebones:
        points = points_per_curve(getattr(data, "n_features", 1), getattr(data, "n_targets", 1))
        options.log_every_n_steps = max(1, steps // points)
    return chosen


def _depends_on_validation(callback: Callback) -> bool:
    """Return whether a callback may count validations or read their metrics; unknown ones may."""
    if isinstance(callback, EarlyStopping) and callback.monitor == "train/loss":
        if callback._check_on_train_epoch_end is None:
            # Lightning decides so where each epoch is validated.
            callback._check_on_train_epoch_end = True
        return not callback._check_on_train_epoch_end
    known = isinstance(callback, UNAFFECTED) or getattr(callback, "knows_executions", False)
    return not known


class SparseValidation(FewHooks):
    """Validates a training that nothing else depends on: seldom, and after its last step.

    In a training without a last epoch, validations come after 1, 2, 3, 4, 6, 8, 12, 16, 24, …
    epochs: two each time that the number of epochs doubles.

    Args:
        open_ended: Whether the training has no last epoch.
    """

    knows_executions = True

    def __init__(self, open_ended: bool) -> None:
        self._open_ended = open_ended

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the next validation."""
        self._choose(trainer, trainer.current_epoch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the next validation."""
        if not trainer.sanity_checking:
            self._choose(trainer, trainer.current_epoch + 1)

    def _choose(self, trainer: Trainer, epochs: int) -> None:
        if self._open_ended:
            trainer.check_val_every_n_epoch = 2 ** max(0, epochs.bit_length() - 2)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Have the last step followed by a validation."""
        if ends(trainer):
            trainer.check_val_every_n_epoch = 1
            if not trainer.is_last_batch:
                trainer.val_check_batch = batch_idx + 1
