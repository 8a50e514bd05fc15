"""Problems that NIST certified, and how many digits of a figure are right."""

import json
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"


def certified(name: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return X, with the powers of x where the model is a polynomial, y, and what is certified."""
    contents = json.loads((DATA / f"{name}.json").read_text("utf-8"))
    rows = np.array(contents["rows"])
    X = rows[:, :-1]
    if degree := contents.get("polynomial_degree"):
        X = X ** np.arange(1, degree + 1)
    return X, rows[:, -1], contents


def digits(found: Any, expected: Any) -> float:
    """Count the decimal digits that agree, of the entry where they are fewest."""
    found, expected = np.atleast_1d(found), np.atleast_1d(expected)
    with np.errstate(divide="ignore"):
        return float(np.min(-np.log10(np.abs(found - expected) / np.abs(expected))))
