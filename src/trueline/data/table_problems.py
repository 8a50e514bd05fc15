"""What is wrong with a table as rows to train on: what is held out, and the size of its numbers."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trueline.data.problems import LARGEST, weight_problems
from trueline.errors import RequestError
from trueline.reference.triangle import Triangle

if TYPE_CHECKING:
    from trueline.tables import Columns


def check_held_out(fractions: Mapping[str, float], paths: Mapping[str, str | None]) -> None:
    """Refuse fractions that are none, and two ways to say the same.

    Raises:
        RequestError: Naming the option.
    """
    if not all(0 <= f < 1 for f in fractions.values()) or sum(fractions.values()) >= 1:
        found = ", ".join(f"{name}_fraction {f}" for name, f in fractions.items())
        raise RequestError(
            f"--data.val_fraction and test_fraction: expected from 0 to below 1 together; found "
            f"{found}"
        )
    for name in fractions:
        if fractions[name] and paths[name]:
            raise RequestError(
                f"--data.{name}_path: expected it alone, found {name}_fraction too; leave one out"
            )


def check_left(n_rows: int, counts: Mapping[str, int]) -> None:
    """Refuse to hold all rows out.

    Raises:
        RequestError: With how many there are.
    """
    if sum(counts.values()) >= n_rows:
        found = " and ".join(f"{count} for {name}" for name, count in counts.items() if count)
        raise RequestError(
            f"--data.val_fraction and test_fraction: expected rows left to train on; found {found} "
            f"of {n_rows}; lower them, or give --data.val_path and test_path"
        )


def check_sizes(path: str, rows: Triangle, columns: "Columns") -> None:
    """Refuse columns whose squares float64 does not hold, and which would look constant.

    Raises:
        RequestError: Naming the first.
    """
    if columns.weight and (problems := weight_problems(rows.rows)):
        raise RequestError(f"{path}, column '{columns.weight}': {problems[0]}")
    # Each row is multiplied by the root of its weight.
    R = np.abs(rows.R[:, 1:]) / math.sqrt(rows.rows / rows.n_samples)
    differ = R[1:].max(axis=0, initial=0.0)
    sizes = np.maximum(np.maximum(np.abs(rows.center), R[0]), differ)
    wrong = ~(sizes <= LARGEST) | ((differ > 0) & (sizes < 1 / LARGEST))
    if wrong.any():
        j = int(np.argmax(wrong))
        found = f"about {sizes[j]:.2g}" if np.isfinite(sizes[j]) else "beyond float64"
        raise RequestError(
            f"{path}, column '{[*columns.feature_names, *columns.targets][j]}': expected numbers "
            f"from {1 / LARGEST:g} to {LARGEST:g} in size, whose squares float64 holds; found "
            f"{found}; give it in another unit"
        )
