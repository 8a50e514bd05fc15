"""How often a run logs and validates: as fits its length, where nothing is said."""

from typing import Any

POINTS_PER_CURVE = 500
"""More than a screen shows of a curve, and half of what TensorBoard keeps of one."""
FEWEST_POINTS = 100
"""Of each curve, however many curves there are."""
NUMBERS_PER_RUN = 3_000
"""Points of all curves together, where each then has `FEWEST_POINTS` or more; TensorBoard writes so
many in 30 milliseconds."""
CHECKS_PER_RUN = 20
"""Validations; together they cost a run a tenth of a second."""


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


def choose_intervals(options: Any, data: Any) -> bool:
    """Choose how often to log and to validate, where the options do not say.

    Args:
        options: Of the Trainer; what is None among the intervals is filled in.
        data: That is trained on.

    Returns:
        Whether it has chosen when to validate; then the end is validated too, due or not.
    """
    epochs = max(options.max_epochs or 0, 0)
    chosen = options.check_val_every_n_epoch is None and options.val_check_interval is None
    if chosen:
        options.check_val_every_n_epoch = max(1, epochs // CHECKS_PER_RUN)
    elif options.check_val_every_n_epoch is None and type(options.val_check_interval) is float:
        options.check_val_every_n_epoch = 1  # a fraction is one of an epoch
    steps = epochs * getattr(data, "steps_per_epoch", 0)
    if options.max_steps > 0:
        steps = min(steps or options.max_steps, options.max_steps)
    if options.log_every_n_steps is None and steps:
        points = points_per_curve(getattr(data, "n_features", 1), getattr(data, "n_targets", 1))
        options.log_every_n_steps = max(1, steps // points)
    return chosen
