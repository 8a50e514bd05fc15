"""The line as JSON: all that it takes to predict by hand, in the units of the table."""

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trueline.export.trained import Trained
from trueline.reference.triangle import Triangle
from trueline.results.versions import versions

FORMAT = 1
"""Of the document; a higher one has keys that mean something else."""


def document(trained: Trained, rows: Triangle | None = None) -> str:
    """Write a line as JSON.

    Args:
        trained: The line.
        rows: That it was trained on, where its checkpoint does not know them.

    Returns:
        JSON, see docs/your_table.md for its keys.
    """
    rows = rows if trained.learned is None else trained.learned.rows
    content = {
        "format": FORMAT,
        "lines": _lines(trained),
        "means": {
            f.name: trained.scaling.mean[at.start] for f, at in trained.features if f.levels is None
        },
        "base_levels": {f.name: f.levels[0] for f, _ in trained.features if f.levels},
        "rows": rows and rows.n_samples,
        "loss": rows and rows.loss(trained.in_units),
        "versions": versions(),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


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
        Predictions, shape (n_samples, n_targets); NaN where a text is none of the levels.
    """
    found, content = [], json.loads(text)
    for line in content["lines"]:
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
    return np.stack(found, axis=1)


def _lines(trained: Trained) -> list[dict[str, Any]]:
    """Return one entry for each target."""
    weight, bias = (array.T.tolist() for array in trained.in_units)
    if trained.learned is None:
        names = ["y"] if len(bias) == 1 else [f"y_{t}" for t in range(len(bias))]
        return [
            {"equation": _equation(name, b, _named(w)), "weight": w, "bias": b}
            for name, w, b in zip(names, weight, bias, strict=True)
        ]
    lines, base = [], trained.at_means.tolist()
    for name, w, b, m in zip(trained.learned.columns.targets, weight, bias, base, strict=True):
        coefficients: dict[str, Any] = {}
        for feature, part in trained.features:
            if feature.levels is None:
                coefficients[feature.name] = w[part.start]
            else:
                coefficients[feature.name] = dict(zip(feature.levels, [0.0, *w[part]], strict=True))
        equation = _equation(name, b, coefficients)
        lines.append(
            {"target": name, "equation": equation}
            | {"intercept": b, "at_means": m, "coefficients": coefficients}
        )
    return lines


def _named(weight: list[float]) -> dict[str, float]:
    """Name columns that have no names as `predictions.csv` does."""
    return {("X" if len(weight) == 1 else f"X_{j}"): w for j, w in enumerate(weight)}


def _equation(target: str, intercept: float, coefficients: Mapping[str, Any]) -> str:
    """Return the line in words, to six digits.

    Example:
        >>> _equation("y", -1.0, {"x": -2.0, "color": {"blue": 0.0, "red": 0.5}})
        'y = -1 - 2·x + color (blue 0, red 0.5)'
    """
    words = f"{target} = {intercept:.6g}"
    for name, coefficient in coefficients.items():
        if isinstance(coefficient, dict):
            levels = ", ".join(f"{level} {value:.6g}" for level, value in coefficient.items())
            words += f" + {name} ({levels})"
        else:
            words += f" {'-' if coefficient < 0 else '+'} {abs(coefficient):.6g}·{name}"
    return words
