"""What training rows determine: predictions within their span, and some of the coefficients.

Where columns of `[1, x]` depend on each other, many lines fit the training rows alike. They predict
the same for a row in which the columns depend on each other as in the training rows, and anything
for another row. Each column that `independent` leaves out gives one equation,
`x_d − Σ share·x_kept = constant`, that all training rows satisfy. A coefficient is determined if it
is in no equation; the intercept is determined if every constant is 0.

A category level without a training row is a column of zeros, so that its equation is `x_d = 0`.

References:
    Searle, "Linear Models" (1971), section 5.4: estimable functions. Tibshirani, "The lasso problem
    and uniqueness" (2013): which columns an L1 penalty leaves undetermined.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueline.reference.triangle import KEPT, Array, Line, Triangle
from trueline.statistics.independent import independent

TERMS = 6
"""Terms of an equation that a message shows."""
ROUNDINGS = 8
"""Rounding errors of half an eps that a number of a new row may carry, for its unit, say."""
AT_THE_LIMIT = 1e-3
"""Distance of a gradient from the L1 penalty, as a fraction of the penalty, below which a
coefficient of 0 may as well be another: trainings end near their minimum, not at it."""

EPS = float(np.finfo(np.float64).eps)
Mask = NDArray[np.bool_]
Categories = Mapping[str, Sequence[str]]
"""Levels of each category, the base level first; the others have columns `category[level]`."""


@dataclass(frozen=True, eq=False)
class Span:
    """The equations of all training rows, `X[:, left_out] − X[:, kept]·shares = constant`.

    Args:
        n_features: Columns of X.
        kept: Columns of X that depend on none before them, shape (n_kept,).
        left_out: The column of X that each equation is for, shape (n_equations,).
        shares: Multiples of the columns kept, shape (n_kept, n_equations).
        constant: Right sides of the equations, shape (n_equations,).
        sizes: Root mean square of each column over the training rows, shape (n_features,).
        tolerance: Deviation that rounding explains, as a fraction of the sum of the magnitudes of
            an equation's terms, shape (n_equations,).
        intercept: Whether the intercept is determined.
    """

    n_features: int
    kept: NDArray[np.int64]
    left_out: NDArray[np.int64]
    shares: Array
    constant: Array
    sizes: Array
    tolerance: Array
    intercept: bool

    @property
    def determined(self) -> Mask:
        """Whether each coefficient is determined, the intercept first; shape (1 + n_features,)."""
        found = np.ones(1 + self.n_features, dtype=bool)
        found[0] = self.intercept
        found[1 + self.left_out] = False
        found[1 + self.kept[self.shares.any(axis=1)]] = False
        return found

    @property
    def is_whole(self) -> bool:
        """Whether the training rows determine every prediction and every coefficient."""
        return not len(self.left_out)

    @property
    def allowance(self) -> Array:
        """Deviation that rounding explains for terms of the training's sizes, (n_equations,)."""
        terms = self.sizes[self.left_out] + self.sizes[self.kept] @ np.abs(self.shares)
        return np.asarray(self.tolerance * (terms + np.abs(self.constant)))

    def broken(self, X: ArrayLike, eps: float = EPS) -> Mask:
        """Return which equations rows break.

        Args:
            X: Rows in the units of the training rows, shape (n_rows, n_features).
            eps: Relative spacing of the numbers of the dtype that the rows are held in.

        Returns:
            Shape (n_rows, n_equations).
        """
        rows = np.asarray(X, np.float64)
        own, others = rows[:, self.left_out], rows[:, self.kept]
        off = np.abs(own - others @ self.shares - self.constant)
        size = np.abs(own) + np.abs(others) @ np.abs(self.shares)
        rounded = np.maximum(self.tolerance, ROUNDINGS * eps)
        return np.asarray(off > rounded * size + self.allowance * (rounded / self.tolerance))

    def is_off(self, X: ArrayLike) -> Mask:
        """Return which rows lie off the span, so that no prediction is determined; (n_rows,)."""
        return np.asarray(self.broken(X).any(axis=1))

    def terms(self, d: int) -> dict[int, float]:
        """Return the coefficients of an equation's left side, by the column of X."""
        others = np.flatnonzero(self.shares[:, d])
        shares = {int(self.kept[k]): -float(self.shares[k, d]) for k in others}
        return shares | {int(self.left_out[d]): 1.0}

    def reasons(
        self,
        names: Sequence[str],
        categories: Categories | None = None,
        equations: Iterable[int] | None = None,
    ) -> list[str]:
        """Say why a row that breaks an equation has no prediction, equation by equation.

        Args:
            names: One for each column of X.
            categories: Categories among the columns; none unless given.
            equations: Numbers of the equations; all unless given.
        """
        levels = {
            f"{category}[{level}]": (category, level)
            for category, listed in (categories or {}).items()
            for level in listed[1:]
        }
        of_column = [levels.get(name) for name in names]
        numbers = range(len(self.left_out)) if equations is None else equations
        return [self._reason(int(d), names, of_column) for d in numbers]

    def _reason(
        self, d: int, names: Sequence[str], levels: Sequence[tuple[str, str] | None]
    ) -> str:
        own, constant, terms = int(self.left_out[d]), float(self.constant[d]), self.terms(d)
        if (of_level := levels[own]) is not None:
            category, level = of_level
            if len(terms) == 1 and constant == 0:
                return f"no training row has the level {level!r} of {category}"
            # The levels with a column make up all training rows, so that none is left for the base.
            same = all((levels[j] or ("",))[0] == category for j in terms)
            if same and np.allclose([constant, *terms.values()], 1):
                return f"no training row has the base level of {category}"
        return f"in every training row {_equation(dict(sorted(terms.items())), names, constant)}"


def span(rows: Triangle) -> Span:
    """Return the equations that rows satisfy.

    Args:
        rows: Training rows in the units that new rows will have.

    Raises:
        ValueError: When the rows are not finite.

    Example:
        >>> from trueline.reference.triangle import triangle
        >>> rows = triangle([[0, 1, 40], [1, 0, 44], [0, 1, 50], [1, 0, 51]], [1, 2, 3, 5])
        >>> found = span(rows)
        >>> found.reasons(["north", "south", "area"])
        ['in every training row north + south = 1']
        >>> found.is_off([[1, 0, 60], [0, 0, 60]]).tolist(), found.determined.tolist()
        ([False, True], [False, False, False, True])
    """
    return _span(rows)


@functools.lru_cache(maxsize=KEPT)
def _span(rows: Triangle) -> Span:
    fit, p = independent(rows), rows.columns
    kept, left_out = np.array(fit.kept[1:], np.int64) - 1, np.array(fit.left_out, np.int64) - 1
    sizes = np.linalg.norm(rows.plain[:, 1:], axis=0) / math.sqrt(rows.rows)
    center = rows.center[: p - 1]
    # Shares that rounding explains are 0: their columns take no part in the equation.
    error = np.outer(fit.errors, fit.rounding) if fit.left_out else fit.shares
    shares, error = fit.plain_shares[1:], error[1:]
    shares = np.where(np.abs(shares) > error, shares, 0.0)
    constant = center[left_out] + fit.shares[0] - center[kept] @ shares
    reach = np.abs(center[left_out]) + np.abs(fit.shares[0]) + np.abs(center[kept]) @ np.abs(shares)
    unsure = np.abs(center[kept]) @ np.where(shares, error, 0.0)
    unsure += fit.rounding / math.sqrt(rows.rows) + ROUNDINGS * EPS * reach
    constant = np.where(np.abs(constant) > unsure, constant, 0.0)
    terms = sizes[left_out] + sizes[kept] @ np.abs(shares) + np.abs(constant)
    of_errors = sizes[kept] @ np.where(shares, error, 0.0) + unsure
    tolerance = ROUNDINGS * EPS + of_errors / np.where(terms > 0, terms, 1.0)
    intercept = not constant.any()
    return Span(p - 1, kept, left_out, shares, constant, sizes, tolerance, intercept)


def span_under(rows: Triangle, trained_on: Triangle, line: Line, h: Mapping[str, Any]) -> Span:
    """Return the equations whose breaking leaves a prediction undetermined, given the penalties.

    An L2 penalty or weight decay makes the line unique, and shares effects out among columns that
    vary together. It knows nothing of a column that never varied, whose coefficient it sets to 0:
    the equations of these columns stay. An L1 penalty does the same if the columns that take part
    in its line are independent.

    Args:
        rows: Training rows in the units that new rows will have.
        trained_on: The same rows as they are trained on.
        line: The line trained on them.
        h: Hyperparameters of LinearRegression.

    Raises:
        ValueError: When the rows are not finite.
    """
    found = span(rows)
    if found.is_whole or not (h["l1"] or h["l2"] or h["weight_decay"]):
        return found
    same = ~found.shares.any(axis=0)
    constant = dataclasses.replace(
        found,
        left_out=found.left_out[same],
        shares=found.shares[:, same],
        constant=found.constant[same],
        tolerance=found.tolerance[same],
        intercept=True,
    )
    if h["l2"] or h["weight_decay"]:
        return constant
    part = np.setdiff1d(_takes_part(trained_on, line, h["l1"]), constant.left_out)
    among = _span.__wrapped__(rows.of_features(part))
    shares = np.zeros((len(among.kept), len(constant.left_out)))
    return Span(
        n_features=found.n_features,
        kept=part[among.kept],
        left_out=np.concatenate([part[among.left_out], constant.left_out]),
        shares=np.hstack([among.shares, shares]),
        constant=np.concatenate([among.constant, constant.constant]),
        sizes=found.sizes,
        tolerance=np.concatenate([among.tolerance, constant.tolerance]),
        intercept=among.intercept,
    )


def _takes_part(rows: Triangle, line: Line, l1: float) -> NDArray[np.int64]:
    """Return the columns whose coefficients are not 0, or may as well not be, under an L1 penalty.

    The gradient of the loss by a coefficient is −l1 or l1 if the coefficient is not 0 in some line
    of the least objective.
    """
    gradient = rows.gradient(line)[1:]
    at_limit = np.abs(gradient) >= (1 - AT_THE_LIMIT) * l1
    weight = np.reshape(line.weight, gradient.shape)
    return np.flatnonzero((at_limit | (weight != 0)).any(axis=1))


def _equation(terms: Mapping[int, float], names: Sequence[str], constant: float) -> str:
    """Write an equation with the sign that makes its first term positive.

    Example:
        >>> _equation({0: -2.0, 1: 1.0}, ["a", "b"], -0.0)
        '2·a - b = 0'
    """
    sign = math.copysign(1.0, next(iter(terms.values())))
    words = ""
    for j, coefficient in [*terms.items()][:TERMS]:
        c = sign * coefficient
        multiple = "" if math.isclose(abs(c), 1) else f"{abs(c):.6g}·"
        join = (" - " if c < 0 else " + ") if words else ""
        words += f"{join}{multiple}{names[j]}"
    more = " + …" if len(terms) > TERMS else ""
    return f"{words}{more} = {sign * constant + 0.0:.6g}"
