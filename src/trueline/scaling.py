"""Standardisation: features with mean 0 and standard deviation 1, and the way back to units."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.reference.triangle import Line, Triangle

Array = NDArray[np.float64]

ROUNDINGS = 4
"""Rounding errors of one eps that the numbers of a column that is the same in all rows may have."""


class Scaling(NamedTuple):
    """Of each feature, what is taken off it, and by what it is then divided.

    Args:
        mean: Shape (n_features,).
        scale: Shape (n_features,), > 0; inf for a column that is the same in all training rows.

    Example:
        >>> scaling = Scaling(np.array([10.0]), np.array([2.0]))
        >>> scaling.applied_to(np.array([[8.0], [14.0]])).ravel()
        array([-1.,  2.])
        >>> scaling.in_units(Line(np.array([4.0]), np.array(1.0)))
        Line(weight=array([2.]), bias=array(-19.))
    """

    mean: Array
    scale: Array

    def applied_to(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return features, shape (n_samples, n_features), as they are trained on.

        A column that was the same in all training rows becomes 0 where it is so here too, and
        elsewhere its distance from that: there is no standard deviation to divide it by.
        """
        off = X - self.mean
        if (same := np.isinf(self.scale)).any():
            rounding = ROUNDINGS * np.finfo(np.result_type(X, np.float16)).eps
            off[:, same] *= np.abs(off[:, same]) > rounding * np.abs(self.mean[same])
        scaled: NDArray[Any] = off / np.where(same, 1.0, self.scale)
        return scaled.astype(X.dtype, copy=False) if X.dtype.kind == "f" else scaled

    def undone(self, X: NDArray[Any]) -> Array:
        """Return features that are trained on in the units that they came in, in float64."""
        return np.asarray(X * np.where(np.isinf(self.scale), 1.0, self.scale) + self.mean)

    def in_units(self, line: Line) -> Line:
        """Return the line that predicts from features in their own units what `line` does."""
        weight = (line.weight.T / self.scale).T
        return Line(weight, np.asarray(line.bias - self.mean @ weight))

    def rows(self, rows: Triangle) -> Triangle:
        """Return the triangle of the scaled rows, given that of the rows as they are."""
        R, center, p = rows.R.copy(), rows.center.copy(), len(self.mean)
        R[:, 1 : p + 1] /= self.scale
        center[:p] = (center[:p] - self.mean) / self.scale
        return replace(rows, R=R, center=center)


def standardising(rows: Triangle) -> Scaling:
    """Return the scaling after which features have mean 0 and standard deviation 1, by weight.

    A column that is the same in all rows, to rounding, becomes 0.

    Args:
        rows: As they are.
    """
    p = rows.columns
    mean = rows.center[: p - 1] + rows.R[0, 1:p] / rows.R[0, 0]
    spread = np.linalg.norm(rows.R[1:, 1:p], axis=0) / math.sqrt(rows.rows)
    rounding = ROUNDINGS * np.finfo(np.float64).eps * np.abs(mean)
    return Scaling(mean, np.where(spread > rounding, spread, np.inf))
