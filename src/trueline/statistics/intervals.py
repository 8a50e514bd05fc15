"""Predictions for new rows, and how far to trust them: confidence and prediction intervals.

The variance of the line at x is `σ²·‖R⁻ᵀ[1, x − c]‖²`, that of an observation σ² more.

References:
    Seber & Lee, "Linear Regression Analysis" (2003), sections 5.2 and 5.3.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from trueline.reference.triangle import Array, Triangle
from trueline.statistics.independent import independent, solve_triangular
from trueline.statistics.span import span
from trueline.statistics.summary import check_level

ROWS_AT_ONCE = 2**12
"""Rows that are worked out at a time; they stay in the processor's caches."""


class Intervals(NamedTuple):
    """Predictions for new rows, each of shape (n_rows,), or (n_rows, n_targets).

    All are nan for a row off the span of the rows of the fit, see `trueline.statistics.span`.

    Args:
        mean: Predicted.
        low: Lower end of the confidence interval of the line.
        high: Its upper end.
        prediction_low: Lower end of the interval for a new observation of weight 1.
        prediction_high: Its upper end.
    """

    mean: Array
    low: Array
    high: Array
    prediction_low: Array
    prediction_high: Array


def intervals(rows: Triangle, X: ArrayLike, level: float = 0.95) -> Intervals:
    """Predict new rows, with confidence and prediction intervals.

    Args:
        rows: That the line is fitted to.
        X: New rows, shape (n_rows, n_features).
        level: Of both intervals, in (0, 1).

    Returns:
        The predictions and both intervals, row by row.

    Raises:
        ValueError: When X has other columns than the rows, the level is out of range, the rows are
            not finite, or there are no more of them than parameters, so that no residuals are left.

    Example:
        >>> from trueline.reference.triangle import triangle
        >>> rows = triangle([[1.0], [2.0], [3.0], [4.0]], [3.0, 5.0, 6.0, 9.0])
        >>> found = intervals(rows, [[2.5]])
        >>> [round(float(value[0]), 4) for value in found]
        [5.75, 4.4773, 7.0227, 2.9041, 8.5959]
    """
    from scipy.special import stdtrit

    X = np.asarray(X)
    if X.ndim != 2 or X.shape[1] != rows.columns - 1:
        raise ValueError(
            f"expected new rows of shape (n_rows, {rows.columns - 1}), found {X.shape}; give the "
            "features of the fit"
        )
    check_level(level)
    fit = independent(rows)
    freedom = rows.n_samples - len(fit.kept)
    if freedom <= 0:
        raise ValueError(
            f"expected more rows than parameters; found {rows.n_samples} for {len(fit.kept)}; "
            "intervals need residuals, so add rows or remove features"
        )
    theta = solve_triangular(fit.R, fit.y)
    features = np.array(fit.kept[1:], dtype=int) - 1
    reach = stdtrit(freedom, (1 + level) / 2) * fit.residual / math.sqrt(freedom)
    found = np.empty((5, len(X), rows.n_targets))
    for first in range(0, len(X), ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        A = np.ones((len(X[part]), len(fit.kept)))
        A[:, 1:] = X[part][:, features]
        A -= fit.center
        leverage = np.sum(solve_triangular(fit.R, A.T, transposed=True) ** 2, axis=0)[:, None]
        mean = A @ theta + rows.center[rows.columns - 1 :]
        line, observed = np.sqrt(leverage) * reach, np.sqrt(1 + leverage) * reach
        found[:, part] = mean, mean - line, mean + line, mean - observed, mean + observed
    found[:, span(rows).is_off(X)] = np.nan
    return Intervals(*(found[:, :, 0] if rows.single else found))
