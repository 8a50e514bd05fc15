"""The summary of a least-squares line, as R's `summary(lm)` and statsmodels give it, at any size.

Everything comes from the triangle of the rows, `[1, x − c]·θ ≈ y − c_y` as `R·θ ≈ Qᵀy`:
the residual variance is `σ² = ‖residual‖² / (n_samples − rank)`, the covariance of the parameters
`σ²·R⁻¹R⁻ᵀ`. Weights are those of precision, as in statsmodels' WLS: a row of weight w has the
variance σ²/w, and counts as one row.

References:
    Chambers & Hastie, "Statistical Models in S" (1992), chapter 4; Seber & Lee, "Linear Regression
    Analysis" (2003), sections 3.5, 4.3 and 5.3.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from trueline.reference.triangle import Triangle
from trueline.results.json_files import jsonable
from trueline.statistics import summary_text
from trueline.statistics.independent import Independent, independent
from trueline.statistics.span import Categories, Span, span

NAMES_IN_NOTES = 6
"""Columns that a note names; `undetermined` and `aliased` have all columns."""
EQUATIONS_IN_NOTES = 6
"""Equations between columns that a note shows; of more it gives the rank instead."""


class Coefficient(NamedTuple):
    """One line of the summary; None where it is not defined, or not determined by the rows.

    Args:
        name: Of the feature, or `(intercept)`.
        value: Of the parameter.
        std_error: Its standard error.
        t: `value / std_error`.
        p: Of |t| or more by chance, were the parameter 0.
        low: Lower end of its confidence interval.
        high: Upper end.
    """

    name: str
    value: float | None = None
    std_error: float | None = None
    t: float | None = None
    p: float | None = None
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the rows say about a least-squares line of one target; None is not defined.

    Args:
        target: Its name.
        coefficients: The intercept first.
        level: Of the confidence intervals.
        n_samples: Rows.
        rank: Parameters that the rows determine.
        undetermined: Names of coefficients that may be anything: several lines fit alike.
        aliased: Names of columns without which all coefficients are determined.
        base_levels: Level of each category that the coefficients of its other levels add to.
        degrees_of_freedom: Of the residuals, `n_samples − rank`.
        r2: Share of the variance of y that is explained.
        adj_r2: The same of variances by degrees of freedom.
        residual_std_error: σ, of a row of weight 1.
        f: Explained variance by residual variance, each by its degrees of freedom.
        f_df: Those degrees of freedom.
        f_p: Of f or more by chance, were all weights 0.
        log_likelihood: Of normal residuals, at σ² = ‖residual‖²/n_samples.
        aic: `2·rank − 2·log_likelihood`, as statsmodels has it; R counts σ too, and adds 2.
        bic: `log(n_samples)·rank − 2·log_likelihood`; R adds log(n_samples).
        condition_number: Of the columns kept of `[1 x]`, each scaled to length 1.
        notes: What to know before the figures are believed.
    """

    target: str
    coefficients: list[Coefficient]
    level: float
    n_samples: int
    rank: int
    undetermined: list[str]
    aliased: list[str]
    base_levels: dict[str, str]
    degrees_of_freedom: int
    r2: float | None
    adj_r2: float | None
    residual_std_error: float | None
    f: float | None
    f_df: tuple[int, int] | None
    f_p: float | None
    log_likelihood: float | None
    aic: float | None
    bic: float | None
    condition_number: float | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the entries as JSON can hold them; what is beyond float64 is None."""
        entries = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        entries["coefficients"] = [c._asdict() for c in self.coefficients]
        found: dict[str, Any] = jsonable(entries)
        return found

    def table(self) -> list[str]:
        """Return the lines of a table for a terminal, of at most 100 characters."""
        return summary_text.table(self.to_dict())

    def markdown(self) -> str:
        """Return the table in Markdown, with all coefficients."""
        return summary_text.markdown(self.to_dict())


def check_level(level: float) -> None:
    """Refuse a level of confidence that is none.

    Raises:
        ValueError: When it is not in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1; found {level}; try 0.95")


def summarise(
    rows: Triangle,
    feature_names: Sequence[str],
    target_names: Sequence[str],
    level: float = 0.95,
    categories: Categories | None = None,
) -> list[Summary]:
    """Summarise the least-squares line of each target.

    Args:
        rows: All of them.
        feature_names: One for each column of X.
        target_names: One for each column of y.
        level: Of the confidence intervals, in (0, 1).
        categories: Categories among the features; none unless given.

    Returns:
        A summary for each target, in their order.

    Raises:
        ValueError: When the names do not fit the rows, the level is out of range, or the rows are
            not finite.

    Example:
        >>> from trueline.reference.triangle import triangle
        >>> rows = triangle([[1.0], [2.0], [3.0], [4.0]], [3.0, 5.0, 6.0, 9.0])
        >>> (summary,) = summarise(rows, ["x"], ["y"])
        >>> [(c.name, round(c.value, 6), round(c.std_error, 6)) for c in summary.coefficients]
        [('(intercept)', 1.0, 0.724569), ('x', 1.9, 0.264575)]
    """
    counts = (len(feature_names), len(target_names))
    if counts != (rows.columns - 1, rows.n_targets):
        raise ValueError(
            f"expected names of {rows.columns - 1} features and {rows.n_targets} targets; found "
            f"{counts[0]} and {counts[1]}; name each column once"
        )
    check_level(level)
    names = ["(intercept)", *feature_names]
    whole = span(rows)
    found = zip(names, whole.determined, strict=True)
    undetermined = [name for name, is_determined in found if not is_determined]
    notes = _notes_on_columns(undetermined, whole, feature_names, categories)
    categories = categories or {}
    notes += [
        f"{name} has one level alone, {levels[0]!r}: it has no coefficient"
        for name, levels in categories.items()
        if len(levels) == 1
    ]
    base_levels = {name: levels[0] for name, levels in categories.items()}
    return [
        _of_target(rows, t, names, target, level, (undetermined, base_levels, notes))
        for t, target in enumerate(target_names)
    ]


def _of_target(
    rows: Triangle,
    t: int,
    names: list[str],
    target: str,
    level: float,
    columns: tuple[list[str], dict[str, str], list[str]],
) -> Summary:
    from scipy.special import fdtrc

    fit, (undetermined, base_levels, notes) = independent(rows), columns
    n, rank = rows.n_samples, len(fit.kept)
    freedom = n - rank
    constant, exact = bool(rows.spread[t] == 0), bool(fit.exact[t])
    residual, explained = float(fit.residual[t]), float(np.linalg.norm(fit.y[1:, t]))
    sigma = residual / math.sqrt(freedom) if freedom else None
    total = math.hypot(explained, residual)
    f_df = (rank - 1, freedom) if rank > 1 and sigma and not constant else None
    ratio = explained / sigma if f_df and sigma else None
    f = None if ratio is None else ratio * ratio / (rank - 1)
    likelihood = _log_likelihood(rows, residual) if sigma else None
    return Summary(
        target=target,
        coefficients=[
            c if is_determined else Coefficient(c.name)
            for c, is_determined in zip(
                _coefficients(rows, fit, t, names, sigma, level), span(rows).determined, strict=True
            )
        ],
        level=level,
        n_samples=n,
        rank=rank,
        undetermined=undetermined,
        aliased=[names[j] for j in fit.left_out],
        base_levels=base_levels,
        degrees_of_freedom=freedom,
        r2=None if constant else (explained / total) ** 2,
        adj_r2=None if constant or sigma is None else 1 - (sigma / total) ** 2 * (n - 1),
        residual_std_error=sigma,
        f=f,
        f_df=f_df,
        f_p=float(fdtrc(*f_df, f)) if f_df and f is not None else None,
        log_likelihood=likelihood,
        aic=None if likelihood is None else 2 * rank - 2 * likelihood,
        bic=None if likelihood is None else math.log(n) * rank - 2 * likelihood,
        condition_number=fit.condition_number,
        notes=[*notes, *_notes(freedom, constant, exact)],
    )


def _coefficients(
    rows: Triangle, fit: Independent, t: int, names: list[str], sigma: float | None, level: float
) -> list[Coefficient]:
    from scipy.special import stdtr, stdtrit

    theta = fit.parameters[:, t].copy()
    theta[0] += rows.center[rows.columns - 1 + t]
    found = [Coefficient(name) for name in names]
    for j, value in zip(fit.kept, theta.tolist(), strict=True):
        found[j] = found[j]._replace(value=value)
    if sigma is None:
        return found
    freedom = rows.n_samples - len(fit.kept)
    quantile = float(stdtrit(freedom, (1 + level) / 2))
    errors = (sigma * fit.errors).tolist()
    for j, value, error in zip(fit.kept, theta.tolist(), errors, strict=True):
        t_value = value / error if error else None
        found[j] = found[j]._replace(
            std_error=error,
            t=t_value,
            # Twice the lower tail, which keeps its digits where 1 less the rest has none.
            p=None if t_value is None else float(2 * stdtr(freedom, -abs(t_value))),
            low=value - quantile * error,
            high=value + quantile * error,
        )
    return found


def _log_likelihood(rows: Triangle, residual: float) -> float:
    """Return `(Σlog w − n·(log 2π + 1 + log(‖residual‖²/n))) / 2`."""
    n = rows.n_samples
    variance = 2 * math.log(residual) - math.log(n)
    return (rows.log_weights - n * (math.log(2 * math.pi) + 1 + variance)) / 2


def _notes_on_columns(
    undetermined: list[str], whole: Span, names: Sequence[str], categories: Categories | None
) -> list[str]:
    if not undetermined:
        return []
    named, left_out = _listed(undetermined), len(whole.left_out)
    if left_out <= EQUATIONS_IN_NOTES:
        because = ", ".join(whole.reasons(names, categories))
    else:
        n = 1 + len(names)
        because = f"the rows have rank {n - left_out:,}, below their {n:,} coefficients"
    return [f"not determined, since several lines fit the rows alike: {named}; {because}"]


def _listed(texts: list[str]) -> str:
    more = len(texts) - NAMES_IN_NOTES
    return ", ".join(texts[:NAMES_IN_NOTES]) + (f" and {more:,} more" if more > 0 else "")


def _notes(freedom: int, constant: bool, exact: bool) -> list[str]:
    notes = []
    if not freedom:
        notes.append("no more rows than parameters: nothing is left to estimate errors by")
    if constant:
        notes.append("the target is the same in all rows: there is no variance to explain")
    elif exact and freedom:
        notes.append("essentially perfect fit: errors, t, F and the likelihood are of rounding")
    return notes
