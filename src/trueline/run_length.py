"""How often a run logs and validates: as fits its length, where nothing is said."""

from typing import Any

POINTS_PER_CURVE = 500
"""More than a screen shows of a curve, and half of what TensorBoard keeps of one."""
FEWEST_POINTS = 100
NUMBERS_PER_RUN = 3_000
"""Of all curves together, as long as that leaves each the fewest points: to write so many takes
TensorBoard 30 milliseconds."""
CHECKS_PER_RUN = 20
"""Validations; together they cost a run a tenth of a second."""


def points_per_curve(n_features: int, n_targets: int) -> int:
    """Return how many points a run logs of each of its curves.

    Example:
        >>> points_per_curve(1, 1), points_per_curve(10, 1), points_per_curve(1000, 1)
        (500, 125, 100)
    """
    curves = 2 * (n_features + 1) * n_targets + 2  # parameters and gradients, lr and loss
    return max(FEWEST_POINTS, min(POINTS_PER_CURVE, NUMBERS_PER_RUN // curves))


def fit_intervals(options: Any, data: Any) -> None:
    """Put intervals where nothing was said.

    Args:
        options: Of the Trainer, which are changed.
        data: That is trained on.
    """
    epochs = max(options.max_epochs or 0, 0)
    if options.check_val_every_n_epoch is None and options.val_check_interval is None:
        options.check_val_every_n_epoch = max(1, epochs // CHECKS_PER_RUN)
    elif options.check_val_every_n_epoch is None and type(options.val_check_interval) is float:
        options.check_val_every_n_epoch = 1  # a fraction is one of an epoch
    steps = epochs * getattr(data, "steps_per_epoch", 0)
    if options.max_steps > 0:
        steps = min(steps or options.max_steps, options.max_steps)
    if options.log_every_n_steps is None and steps:
        points = points_per_curve(getattr(data, "n_features", 1), getattr(data, "n_targets", 1))
        options.log_every_n_steps = max(1, steps // points)
