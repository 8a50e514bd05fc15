"""The line as JSON: all that it takes to predict by hand, in the units of the table."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trueline.export.trained import Trained
from trueline.results.json_files import jsonable
from trueline.results.versions import versions

FORMAT = 1
"""Of the document; a higher one has keys that mean something else."""


def document(trained: Trained) -> str:
    """Write a line as JSON.

    Args:
        trained: The line.

    Returns:
        JSON, see docs/your_table.md for its keys.
    """
    rows = trained.rows
    content = {
        "format": FORMAT,
        "lines": _lines(trained),
        "means": {
            f.name: trained.scaling.mean[at.start] for f, at in trained.features if f.levels is None
        },
        "base_levels": {f.name: f.levels[0] for f, _ in trained.features if f.levels},
        "conditions": _conditions(trained),
        "rows": rows and rows.n_samples,
        "loss": rows and rows.loss(trained.in_units),
        "versions": versions(),
    }
    return json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def predict(
    text: str, columns: Mapping[str, NDArray[Any]], by: Literal["means", "intercept"] = "means"
) -> NDArray[np.float64]:
    """Predict from the document alone, in NumPy.

    Args:
        text: What `document` has written.
        columns: Numbers or texts by the name of their column; where columns have no names, all of
            them under `X`, shape (n_samples, n_features).
        by: From where numbers are counted: from their means, or from 0.

    Returns:
        Predictions, shape (n_samples, n_targets); NaN where a text is none of the levels, or a row
        does not meet a condition.
    """
    found, content = [], json.loads(text)
    for line in content["lines"]:
        line = line.get("one_of_many", line)
        if "weight" in line:
            found.append(columns["X"] @ np.array(line["weight"]) + line["bias"])
            continue
        total = line["at_means" if by == "means" else by]
        for name, coefficient in line["coefficients"].items():
            values = columns[name]
            if isinstance(coefficient, dict):
                total = total + np.array([coefficient.get(value, np.nan) for value in values])
            else:
                total = total + coefficient * (
                    values - (content["means"][name] if by == "means" else 0.0)
                )
        found.append(total)
    predictions = np.stack(found, axis=1)
    for condition in content["conditions"]:
        terms = np.stack([_term(columns, *item) for item in condition["coefficients"].items()])
        off = np.abs(terms.sum(axis=0) - condition["equals"])
        allowed = condition["tolerance"] + condition["relative_tolerance"] * abs(terms).sum(axis=0)
        predictions[off > allowed] = np.nan
    return predictions


def _term(columns: Mapping[str, NDArray[Any]], name: str, coefficient: Any) -> NDArray[np.float64]:
    """Return what a column adds to the left side of a condition, row by row."""
    if isinstance(coefficient, dict):
        return np.array([coefficient.get(value, 0.0) for value in columns[name]])
    if name not in columns:  # X_j, of columns without names
        return np.asarray(coefficient * columns["X"][:, int(name.partition("_")[2] or 0)])
    return np.asarray(coefficient * columns[name].reshape(-1))


def _conditions(trained: Trained) -> list[dict[str, Any]]:
    """Return the equations that the training rows satisfy, and a row with a prediction must."""
    if (span := trained.span) is None:
        return []
    categories = {} if trained.learned is None else trained.learned.columns.categories
    place: dict[int, tuple[str, str | None]] = {j: (n, None) for j, n in enumerate(trained.names)}
    for feature, at in trained.features:
        levels = feature.levels[1:] if feature.levels else [None]
        place |= {at.start + k: (feature.name, level) for k, level in enumerate(levels)}
    found = []
    for d, reason in enumerate(span.reasons(trained.names, categories)):
        coefficients: dict[str, Any] = {}
        for j, share in sorted(span.terms(d).items()):
            name, level = place[j]
            if level is None:
                coefficients[name] = share
            else:
                coefficients.setdefault(name, {})[level] = share
        found.append(
            {
                "coefficients": coefficients,
                "equals": span.constant[d],
                "tolerance": span.allowance[d],
                "relative_tolerance": span.tolerance[d],
                "reason": reason,
            }
        )
    return found


def _lines(trained: Trained) -> list[dict[str, Any]]:
    """Return one entry for each target."""
    weight, bias = (array.T.tolist() for array in trained.in_units)
    base = trained.at_means.tolist()
    names = _target_names(trained)
    whole = [_line(trained, *given) for given in zip(names, weight, bias, base, strict=True)]
    if (span := trained.span) is None:
        return whole
    known = span.determined.tolist()
    at_means = np.where(trained.numeric, trained.scaling.mean, 0.0)
    is_off = bool(span.is_off(at_means[None])[0])
    lines = []
    for name, w, b, m, one in zip(names, weight, bias, base, whole, strict=True):
        shown = [value if is_known else None for value, is_known in zip(w, known[1:], strict=True)]
        given = shown, b if known[0] else None, None if is_off else m
        numbers = {key: one[key] for key in one if key not in ("target", "equation")}
        lines.append(_line(trained, name, *given) | {"one_of_many": numbers})
    return lines


def _target_names(trained: Trained) -> list[str]:
    if trained.learned is not None:
        return list(trained.learned.columns.targets)
    n_targets = trained.line.weight.shape[1]
    return ["y"] if n_targets == 1 else [f"y_{t}" for t in range(n_targets)]


def _line(
    trained: Trained,
    target: str,
    weight: Sequence[float | None],
    intercept: float | None,
    at_means: float | None,
) -> dict[str, Any]:
    """Return the entry of a target; None stands for a number that the rows do not determine."""
    if trained.learned is None:
        equation = _equation(target, intercept, dict(zip(trained.names, weight, strict=True)))
        return {"equation": equation, "weight": list(weight), "bias": intercept}
    coefficients: dict[str, Any] = {}
    for feature, part in trained.features:
        if feature.levels is None:
            coefficients[feature.name] = weight[part.start]
        else:
            by_level = zip(feature.levels, [0.0, *weight[part]], strict=True)
            coefficients[feature.name] = dict(by_level)
    return {
        "target": target,
        "equation": _equation(target, intercept, coefficients),
        "intercept": intercept,
        "at_means": at_means,
        "coefficients": coefficients,
    }


def _equation(target: str, intercept: float | None, coefficients: Mapping[str, Any]) -> str:
    """Return the line in words, to six digits; `?` stands for what the rows do not determine.

    Example:
        >>> _equation("y", -1.0, {"x": -2.0, "z": None, "color": {"blue": -0.0, "red": 0.5}})
        'y = -1 - 2·x + ?·z + color (blue 0, red 0.5)'
    """
    words = f"{target} = {_shown(intercept)}"
    for name, coefficient in coefficients.items():
        if isinstance(coefficient, dict):
            levels = ", ".join(f"{level} {_shown(value)}" for level, value in coefficient.items())
            words += f" + {name} ({levels})"
        else:
            sign = "-" if coefficient is not None and coefficient < 0 else "+"
            words += f" {sign} {_shown(coefficient and abs(coefficient))}·{name}"
    return words


def _shown(value: float | None) -> str:
    return "?" if value is None else f"{value + 0.0:.6g}"
