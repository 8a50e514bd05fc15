"""Rows of a table: a CSV, Parquet, Arrow or NumPy file, or a folder of Parquet files."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from trueline.data.gathered import IN_MEMORY, Gathered, GatheredData, gather
from trueline.data.learned import Learned
from trueline.errors import RequestError
from trueline.reference.triangle import Triangle, triangle_of
from trueline.scaling import standardising

if TYPE_CHECKING:
    from trueline.tables import Columns, Table

Names = str | list[str] | None
HELD_OUT = ("val", "test")
LARGEST = 1e140
"""Of numbers whose squares are summed; the largest square that float64 holds is that of 1e154."""


class TableData(GatheredData):
    """The rows of a table.

    Args:
        path: A file .csv, .csv.gz, .tsv, .parquet, .feather, .arrow or .npy; or a folder of Parquet
            files.
        target: The column to predict; or several, separated by commas.
        features: The columns to predict it from; all others unless given, but for the index of a
            pandas frame.
        weight: A column that says how much each row counts, > 0.
        categorical: Features of which each value but the first, sorted, gets a column of zeros and
            ones.
        missing: Whether a missing value is an error, or its row is dropped.
        standardize: Whether training sees features with mean 0 and standard deviation 1. Whatever
            is reported, saved or predicted is in the units of the table.
        val_fraction: Of the rows, for validation, drawn by the seed. Without any, validation sees
            the training rows.
        test_fraction: The same for tests.
        val_path: A table of rows for validation.
        test_path: The same for tests.
        batch_size: Rows per optimizer step; full batch unless given.
        shuffle: Whether each epoch visits the rows in an order of its own.
        seed: Seed of those orders, and of what is held out, ≥ 0.
        dtype: In which the rows are held.
        in_memory: Bytes of rows up to which they are held in memory; more are in a file.
        like: A checkpoint whose columns and scaling are taken over; the command line gives that of
            --ckpt_path.

    Raises:
        RequestError: When the table does not hold the numbers that are asked for; with file,
            column, row and remedy.
    """

    plans_epochs = True
    """Whether lr, momentum and the number of epochs, unless given, are those of its plan."""

    def __init__(
        self,
        path: str,
        target: Names = None,
        features: Names = None,
        weight: str | None = None,
        categorical: Names = None,
        missing: Literal["error", "drop"] = "error",
        standardize: bool = True,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        val_path: str | None = None,
        test_path: str | None = None,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        dtype: Literal["float64", "float32"] = "float64",
        in_memory: int = IN_MEMORY,
        like: str | None = None,
    ) -> None:
        # Here, and not above: a training on other data does not wait for the table reader.
        from trueline.tables import choose, open_table

        fractions = {"val": val_fraction, "test": test_fraction}
        paths = {"val": val_path, "test": test_path}
        _check_held_out(fractions, paths)
        self.table = open_table(path)
        learned = None if like is None else Learned.of(like)
        if learned:
            columns = learned.columns
            _check_targets(_listed(target), columns)
        elif targets := _listed(target):
            given = None if features is None else _listed(features)
            columns = choose(self.table, targets, given, weight, _listed(categorical))
            if given is None and (index := {*self.table.index} - {*columns.used()}):
                rank_zero_only(print)(
                    f"{path}: {', '.join(map(repr, sorted(index)))} is the index of a pandas frame "
                    "and no feature; name the features to have it among them"
                )
        else:
            raise RequestError(
                f"--data.target: expected the column to predict, found none; give one of "
                f"{', '.join(self.table.names)}"
            )
        self.predicts_only = bool(learned) and not {*columns.targets} <= {*self.table.names}
        self._reading: Any = columns, missing, dtype, in_memory
        rows = _gather(self.table, *self._reading, targets=not self.predicts_only)
        self._dropped = rows.dropped
        counts = {name: math.ceil(fraction * len(rows)) for name, fraction in fractions.items()}
        _check_left(len(rows), counts)
        parts = rows.drawn_apart(counts, seed)
        for name, other in paths.items():
            if other:
                parts[name] = _gather(open_table(other), *self._reading)
        mine = parts.pop("train")
        self.triangle = triangle_of(mine.blocks())
        if not self.predicts_only:
            _check_sizes(path, self.triangle, [*columns.feature_names, *columns.targets])
        if learned is None:
            scaling = standardising(self.triangle) if standardize else None
            learned = Learned(columns, scaling, self.triangle)
        if learned.scaling is not None:
            for part in (mine, *parts.values()):
                part.change_features(learned.scaling.applied_to)
        super().__init__(mine, batch_size, shuffle, seed)
        self.learned, self.scaling = learned, learned.scaling
        self.feature_names, self.target_names = columns.feature_names, columns.targets
        self.held_out = {name: GatheredData(part, batch_size) for name, part in parts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what predictions on another table need, for the checkpoint."""
        return self.learned.state()

    def numbers(self, first: int, stop: int) -> NDArray[np.int64]:
        """Return which rows of the table some rows are, counted from 0 and without any left out."""
        kept = np.arange(first, stop)
        return kept + np.searchsorted(self._dropped - np.arange(len(self._dropped)), kept, "right")

    def setup(self, stage: str) -> None:
        """Refuse to train or test on rows without targets.

        Raises:
            RequestError: Naming the column.
        """
        if self.predicts_only and stage != "predict":
            raise RequestError(
                f"{self.table.path}: expected the target column "
                f"{', '.join(self.learned.columns.targets)}; found {', '.join(self.table.names)}"
            )


def _listed(names: Names) -> list[str]:
    """Return column names: one string may hold several, separated by commas."""
    if isinstance(names, str):
        return [name.strip() for name in names.split(",")]
    return list(names or ())


def _gather(
    table: "Table",
    columns: "Columns",
    missing: Literal["error", "drop"],
    dtype: Literal["float64", "float32"],
    in_memory: int,
    targets: bool = True,
) -> Gathered:
    """Read all rows.

    Raises:
        RequestError: When there are none, or they are not as asked for.
    """
    from trueline.tables import count_missing, read

    blocks = read(table, columns, missing, targets, dtype)
    sizes = len(columns.feature_names), len(columns.targets)
    rows = gather(blocks, *sizes, targets and columns.weight is not None, in_memory)
    if rows is None:
        raise RequestError(f"{table.path}: expected rows, found none; give another table")
    if missing == "drop":
        rank_zero_only(print)(f"{table.path}: {count_missing(table, columns, targets)}")
    return rows


def _check_held_out(fractions: Mapping[str, float], paths: Mapping[str, str | None]) -> None:
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
    for name in HELD_OUT:
        if fractions[name] and paths[name]:
            raise RequestError(
                f"--data.{name}_path: expected it alone, found {name}_fraction too; leave one out"
            )


def _check_left(n_rows: int, counts: Mapping[str, int]) -> None:
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


def _check_sizes(path: str, rows: Triangle, names: Sequence[str]) -> None:
    """Refuse columns whose squares float64 does not hold, and which would look constant.

    Raises:
        RequestError: Naming the first.
    """
    differ = np.abs(rows.R[1:, 1:]).max(axis=0)
    sizes = np.maximum(np.maximum(np.abs(rows.center), np.abs(rows.R[0, 1:])), differ)
    wrong = ~(sizes <= LARGEST) | ((differ > 0) & (sizes < 1 / LARGEST))
    if wrong.any():
        j = int(np.argmax(wrong))
        raise RequestError(
            f"{path}, column '{names[j]}': expected numbers from {1 / LARGEST:g} to {LARGEST:g} in "
            f"size, whose squares float64 holds; found about {sizes[j]:.2g}; give it in another "
            "unit"
        )


def _check_targets(asked: Sequence[str], columns: "Columns") -> None:
    """Refuse another target than that of a checkpoint.

    Raises:
        RequestError: Naming both.
    """
    if asked and asked != list(columns.targets):
        raise RequestError(
            f"--data.target: expected that of the checkpoint, {', '.join(columns.targets)}; found "
            f"{', '.join(asked)}; leave it out, or train anew"
        )
