"""How often a run logs and validates: as fits its length, where nothing is said."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    Timer,
)

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
    epochs = max(options.max_epochs or 0, 0)
    chosen = options.check_val_every_n_epoch is None and options.val_check_interval is None
    if chosen:
        monitor = (schedule or {}).get("monitor", "train/loss")
        dependent = [c for c in callbacks if _depends_on_validation(c)]
        sparse = not dependent and monitor == "train/loss"
        options.check_val_every_n_epoch = max(1, epochs // CHECKS_PER_RUN) if sparse else 1
    elif options.check_val_every_n_epoch is None and type(options.val_check_interval) is float:
        options.check_val_every_n_epoch = 1  # a fraction is one of an epoch
    steps = epochs * getattr(data, "steps_per_epoch", 0)
    if options.max_steps > 0:
        steps = min(steps or options.max_steps, options.max_steps)
    if options.log_every_n_steps is None and steps:
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
