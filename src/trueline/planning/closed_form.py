"""How far a line is from the one that training comes to."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from trueline.data import RegressionData
from trueline.planning.convergence import unit_of_distance
from trueline.reference.lasso import Minimum, lasso
from trueline.reference.triangle import Array, Line, Triangle
from trueline.statistics.independent import independent

FEW_NUMBERS = 2**17
"""Of rows: they are factored in a millisecond, before the training instead of after it."""


class ClosedForm(NamedTuple):
    """The line of the least loss, as it is trained: in the units of standardised columns.

    In the units that the rows came in, a bias may have digits that predictions lose.

    Args:
        line: The line.
        rows: That it is fitted to.
        unique: Whether there is no other; where columns depend on others there are, and all predict
            the same.
        minimum: The minimum of the objective with its L1 penalty, where it has one.
    """

    line: Line
    rows: Triangle
    unique: bool = True
    minimum: Minimum | None = None

    def distance(self, line: Line) -> Array:
        """Return how far the predictions of another line are off, in root mean square.

        With an L1 penalty it is the root of the objective's excess over its minimum, times the
        number of targets, which is at least as large: predictions alone do not tell weights that
        are nearly 0 from those that are.

        Returns:
            By target, as a fraction of the spread of y; in units of y where that is the same in all
            rows. Shape (n_targets,).
        """
        if self.minimum is None:
            return np.asarray(self.rows.apart(line, self.line) / unit_of_distance(self.rows))
        parameters = np.concatenate([np.ravel(part) for part in line])
        return np.asarray(self.distances(parameters[None])[0])

    def distances(self, parameters: Array) -> Array:
        """Return the same for many lines at once.

        Args:
            parameters: Weight and bias of each in one vector, shape (n_lines, n_entries).

        Returns:
            Shape (n_lines, n_targets).
        """
        rows, best = self.rows, [np.ravel(part) for part in self.line]
        shape = len(parameters), rows.columns, rows.n_targets
        apart = (parameters - np.concatenate(best)).reshape(shape)
        weight, bias = apart[:, :-1], apart[:, -1:]
        bias = bias + rows.center[None, None, : rows.columns - 1] @ weight
        moved = rows.R[:, : rows.columns] @ np.concatenate([bias, weight], axis=1)
        apart = np.linalg.norm(moved, axis=1) / np.sqrt(rows.rows)
        if self.minimum is not None:
            excess = self.minimum.excess_of_penalties(parameters.reshape(shape))
            apart = np.sqrt(apart**2 + rows.n_targets * excess)
        return np.asarray(apart / unit_of_distance(rows))


def is_known(data: RegressionData) -> bool:
    """Return whether the triangle of the rows has been worked out."""
    return "triangle" in vars(data)


def is_cheap(data: RegressionData) -> bool:
    """Return whether the triangle of the rows is known, or worked out in no time."""
    return is_known(data) or data.n_samples * (data.n_features + 1) <= FEW_NUMBERS


def closed_form(data: RegressionData, h: Mapping[str, Any]) -> ClosedForm | None:
    """Return the closed form of a training.

    Args:
        data: That is trained on.
        h: Hyperparameters of LinearRegression.

    Returns:
        None where it is not known, such as that of rows that are not finite.
    """
    rows = data.trained_on
    try:
        if h["l1"]:
            minimum = lasso(rows, h["l1"], h["l2"], h["weight_decay"])
            return ClosedForm(minimum.line, rows, minimum.unique, minimum)
        return ClosedForm(rows.least_squares(h["l2"], h["weight_decay"]), rows)
    except (ValueError, np.linalg.LinAlgError):
        if h["l1"] or h["l2"] or h["weight_decay"] or not np.isfinite(rows.R).all():
            return None
        return ClosedForm(independent(rows).line(rows), rows, unique=False)
