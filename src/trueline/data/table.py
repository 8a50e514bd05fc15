"""Rows of a table: a CSV, Parquet, Arrow or NumPy file, or a folder of Parquet files."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor

from trueline.data.blocks import BatchLoader
from trueline.data.gathered import Gathered, GatheredData, InMemory, gather
from trueline.data.learned import Asked, Learned
from trueline.data.problems import serving_problems
from trueline.data.table_problems import check_held_out, check_left, check_sizes
from trueline.data.table_rows import TableRows
from trueline.errors import RequestError
from trueline.reference.triangle import Triangle, triangle_of
from trueline.scaling import standardising
from trueline.statistics.span import span
from trueline.terminal.printing import visible

if TYPE_CHECKING:
    from trueline.tables import Columns, Table

Names = str | list[str] | None
OF_ROWS = (
    *("X", "y", "sample_weight", "joined", "spooled", "n_samples", "order", "held_out"),
    *("largest", "_longest", "_raw", "triangle", "trained_on", "digest"),
)
"""Attributes that hold the rows or follow from them."""


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
        standardize: Whether training sees features with mean 0 and standard deviation 1; yes unless
            given. Whatever is reported, saved or predicted is in the units of the table.
        val_fraction: Of the rows, for validation, drawn by the seed. Without any, validation sees
            the training rows.
        test_fraction: The same for tests.
        val_path: A table of rows for validation.
        test_path: The same for tests.
        batch_size: Rows per optimizer step; full batch unless given.
        shuffle: Whether each epoch visits the rows in an order of its own.
        seed: Seed of those orders, and of what is held out, ≥ 0.
        dtype: In which the rows are held.
        in_memory: Bytes of rows up to which they are held in memory, more being in a file; auto is
            a quarter of the available memory.
        like: A checkpoint whose columns and scaling are taken over; the command line gives that of
            --ckpt_path. What else is given of columns and scaling must agree with it, and the rows
            are read when they are first asked for.

    Columns and scaling belong to the model that was trained with them: it hands them to the table
    that it validates, tests, predicts or goes on with.

    Attributes:
        keys: Columns of the table that prediction batches carry beside the features.

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
        standardize: bool | None = None,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        val_path: str | None = None,
        test_path: str | None = None,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        dtype: Literal["float64", "float32"] = "float64",
        in_memory: InMemory = "auto",
        like: str | None = None,
    ) -> None:
        # Here, and not above: a training on other data does not wait for the table reader.
        from trueline.tables import choose, open_table

        LightningDataModule.__init__(self)
        self._fractions = {"val": val_fraction, "test": test_fraction}
        self._paths = {"val": val_path, "test": test_path}
        check_held_out(self._fractions, self._paths)
        if wrong := serving_problems(batch_size, seed):
            raise RequestError("; ".join(wrong))
        self.batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._missing: Literal["error", "drop"] = missing
        self._dtype: Literal["float64", "float32"] = dtype
        self._in_memory = in_memory
        targets, given, categories = map(_listed, (target, features, categorical))
        self._asked = Asked(targets, given, weight, categories, standardize)
        self.keys: Sequence[str] = ()
        self.table = open_table(path)
        self._is_trained = like is not None
        if like is not None:
            self._use(Learned.of(like))
        elif targets:
            columns = choose(self.table, targets, given, weight, categories or ())
            if given is None and (index := {*self.table.index} - {*columns.used()}):
                said = (
                    f"{path}: {', '.join(map(repr, sorted(index)))} is the index of a pandas frame "
                    "and no feature; name the features to have it among them"
                )
                rank_zero_only(print)(visible(said))
            self._read_rows(columns, None)
        else:
            raise RequestError(
                f"--data.target: expected the column to predict, found none; give one of "
                f"{', '.join(self.table.names)}"
            )

    def __getattr__(self, name: str) -> Any:
        """Read the rows when one of their attributes is first asked for."""
        if name not in OF_ROWS or "n_samples" in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._read_rows(self.learned.columns, self.learned)
        return getattr(self, name)

    @cached_property
    def triangle(self) -> Triangle:
        """All training rows as their triangle, in the units of the table."""
        return self._raw

    @property
    def fitted_rows(self) -> Triangle:
        """The rows that the line was trained on, of this table or of another."""
        return self.learned.rows

    def has_notes(self, module: LightningModule, intervals: bool) -> bool:
        """Return whether some row may have no prediction: it misses a value, or is off the span.

        Args:
            module: A LinearRegression.
            intervals: Whether there are to be intervals, which no penalty determines.
        """
        found = span(self.learned.rows) if intervals else self.span(module)
        return self._missing == "drop" or not (found is None or found.is_whole)

    def reasons(self, X: Tensor, module: LightningModule) -> NDArray[np.object_] | None:
        """Say why rows off the span of the training rows have no prediction.

        Args:
            X: Features as they are served, shape (n_rows, n_features).
            module: A LinearRegression.

        Returns:
            A text for each row, empty where the row has a prediction; None where all rows have one.
        """
        found = self.span(module)
        if found is None or found.is_whole:
            return None
        rows = X.detach().cpu().double().numpy()
        units = rows if self.scaling is None else self.scaling.undone(rows)
        broken = found.broken(units, torch.finfo(X.dtype).eps)
        off = broken.any(axis=1)
        if not off.any():
            return None
        columns = self.learned.columns
        equations, of_row = np.unique(broken[off].argmax(axis=1), return_inverse=True)
        texts = found.reasons(columns.feature_names, columns.categories, equations)
        reasons = np.full(len(rows), "", dtype=object)
        reasons[off] = np.array(texts, dtype=object)[of_row]
        return reasons

    def _read_rows(self, columns: "Columns", learned: Learned | None) -> None:
        """Read the table, hold rows out, and scale the features.

        Args:
            columns: What is what.
            learned: Columns and scaling of an earlier training; None to learn them of these rows.

        Raises:
            RequestError: When the table has no targets, or not the numbers that are asked for.
        """
        from trueline.tables import open_table

        if learned and not {*columns.targets} <= {*self.table.names}:
            raise RequestError(
                f"{self.table.path}: expected the target column {', '.join(columns.targets)}; "
                f"found {', '.join(self.table.names)}"
            )
        options: Any = columns, self._missing, self._dtype, self._in_memory
        rows = _gather(self.table, *options)
        fractions = self._fractions.items()
        counts = {name: math.ceil(fraction * len(rows)) for name, fraction in fractions}
        check_left(len(rows), counts)
        parts = rows.drawn_apart(counts, self._seed)
        for name, other in self._paths.items():
            if other:
                parts[name] = _gather(open_table(other), *options)
        mine = parts.pop("train")
        raw = triangle_of(mine.blocks())
        check_sizes(str(self.table.path), raw, columns)
        if learned is None:
            scaling = None if self._asked.standardize is False else standardising(raw)
            learned = Learned(columns, scaling, raw)
        if learned.scaling is not None:
            for part in (mine, *parts.values()):
                part.change_features(learned.scaling.applied_to)
        self.hold(mine, self.batch_size, self._shuffle, self._seed)
        self._raw = self.triangle = raw
        self.held_out = {name: GatheredData(part) for name, part in parts.items()}
        self._use(learned)

    def _use(self, learned: Learned) -> None:
        """Take columns and scaling; rows that were read with others are let go.

        Raises:
            RequestError: When other ones were asked for, or the table has no such features.
        """
        self._asked.check(learned)
        if wrong := self.table.problems(learned.columns.used(targets=False)):
            raise RequestError("; ".join(wrong))
        if not learned.prepares_as(vars(self).get("learned", learned)):
            for name in OF_ROWS:
                vars(self).pop(name, None)
        self.learned, self.scaling = learned, learned.scaling
        self._state = learned.state()
        self.feature_names = learned.columns.feature_names
        self.target_names = learned.columns.targets
        self.categories = learned.columns.categories
        self.n_features, self.n_targets = len(self.feature_names), len(self.target_names)

    def state_dict(self) -> dict[str, Any]:
        """Return columns and scaling for the checkpoint."""
        return self._state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take columns and scaling from a checkpoint, or from the model that was trained with them.

        Raises:
            RequestError: When other ones were asked for, or the table has no such features.
        """
        if state_dict is not self._state:
            self._use(Learned.from_state(state_dict, "the checkpoint"))
            self._state = state_dict
        self._is_trained = True

    def _agree_with_model(self) -> None:
        """Take columns and scaling from the model; give ours to one that is trained from scratch.

        Raises:
            RequestError: When they are not as asked for, or it is not known how the model was
                trained.
        """
        trainer: Any = self.trainer
        if (model := getattr(trainer, "lightning_module", None)) is None:
            return
        fitting = trainer.state.fn == "fit"
        state = getattr(model, "preprocessing", None)
        if state:
            self.load_state_dict(state)
        elif state is not None or not (fitting or self._is_trained):
            self._leave_as_is(model)
        if fitting:
            if self.learned.rows is not self.triangle:
                self._use(self.learned._replace(rows=self.triangle))
            model.preprocessing, self._is_trained = self._state, True

    def _leave_as_is(self, model: Any) -> None:
        """Serve the columns as they are to a model that was trained on no table.

        Raises:
            RequestError: When they were to be changed, or the model may have been trained on one.
        """
        learned, known = self.learned._replace(scaling=None), hasattr(model, "preprocessing")
        if learned.columns.categorical or not (known or self.learned.scaling is None):
            raise RequestError(
                "data: expected a model that was trained on a table and knows its levels and "
                f"scaling, found none in {type(model).__name__}; give "
                "--data.like CHECKPOINT of its training, or --data.standardize false if it was "
                "trained on the columns as they are"
            )
        self._use(learned)

    def train_dataloader(self) -> BatchLoader:
        """Serve the rows in the order of each epoch; of each batch, this process's share."""
        self._agree_with_model()
        return super().train_dataloader()

    def _in_order(self, name: str) -> BatchLoader:
        self._agree_with_model()
        return super()._in_order(name)

    def predict_dataloader(self) -> TableRows:  # type: ignore[override]
        """Serve every row of the table in its order, whatever is held out."""
        self._agree_with_model()
        return TableRows(self.table, self.learned, self._missing, self._dtype, self.keys)


def _listed(names: Names) -> list[str] | None:
    """Return column names: one string may hold several, separated by commas."""
    if isinstance(names, str):
        return [name.strip() for name in names.split(",")]
    return None if names is None else list(names)


def _gather(
    table: "Table",
    columns: "Columns",
    missing: Literal["error", "drop"],
    dtype: Literal["float64", "float32"],
    in_memory: InMemory,
) -> Gathered:
    """Read all rows.

    Raises:
        RequestError: When there are none, or they are not as asked for.
    """
    from trueline.tables import count_missing, read

    blocks = read(table, columns, missing, dtype=dtype)
    sizes = len(columns.feature_names), len(columns.targets)
    rows = gather(blocks, *sizes, columns.weight is not None, in_memory)
    if rows is None:
        raise RequestError(f"{table.path}: expected rows, found none; give another table")
    if missing == "drop":
        found = f"{table.path}: {count_missing(table, columns)}"
        rank_zero_only(print)(visible(found))
    return rows
