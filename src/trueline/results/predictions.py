"""Writes predictions beside what they were made from, as CSV or Parquet."""

import csv
import io
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from trueline.data import TableData
from trueline.errors import RequestError
from trueline.statistics.summary import check_level

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".parquet")


class PredictionWriter(Callback):
    """Writes predictions into a file, batch by batch.

    Beside `prediction`, or for several targets `prediction_` and each name, there are the features;
    of a table all of its columns, or those that are asked for.

    Args:
        path: Of the file, .csv or .parquet; predictions.csv in the log directory unless given.
        keys: Columns of the table to copy, separated by commas; all unless given.
        intervals: Which intervals to add, as `confidence_low` and `_high`, of the mean at such a
            row, and `prediction_low` and `_high`, of a new row. They are those of least squares.
        level: That the intervals hold, above 0 and below 1.

    Raises:
        RequestError: When the file would be of another kind, the level is out of range, there are
            no such columns, or the file is there already.
    """

    def __init__(
        self,
        path: str | None = None,
        keys: str | list[str] | None = None,
        intervals: Literal["none", "confidence", "prediction", "both"] = "none",
        level: float = 0.95,
    ) -> None:
        if path is not None and Path(path).suffix not in SUFFIXES:
            raise RequestError(
                f"--predictions.path: expected a name that ends in {' or '.join(SUFFIXES)}; found "
                f"{path}"
            )
        try:
            check_level(level)
        except ValueError as error:
            raise RequestError(f"--predictions.{error}") from error
        self._asked = path
        self.keys = keys.split(",") if isinstance(keys, str) else keys
        self.intervals = intervals
        self.level = level
        self._file: IO[bytes] | None = None
        self._parquet: Any = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file, in the first process alone: it has all rows."""
        data = getattr(trainer, "datamodule", None)
        self._inputs = _Inputs(data, self.keys)
        if self.intervals != "none" and not isinstance(data, TableData):
            raise RequestError(
                "--predictions.intervals: expected a TableData, whose training rows the checkpoint "
                f"knows; found {type(data).__name__}; leave it out"
            )
        # All processes ask for the directory, since the first one tells it to the others.
        log_dir = trainer.log_dir or trainer.default_root_dir
        self.path = Path(self._asked or Path(log_dir) / "predictions.csv")
        if not trainer.is_global_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # "x": a file of an earlier run is not overwritten.
        try:
            self._file = self.path.open("xb")
        except FileExistsError as error:
            raise RequestError(
                f"expected no file {self.path} yet, found one; move it, or predict with a logger, "
                "which gives each run a directory"
            ) from error
        self._header_due = True

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write one batch."""
        if self._file is None:
            return
        data: Any = getattr(trainer, "datamodule", None)
        X, found = (t.cpu().numpy() for t in (batch[0], outputs))
        columns = self._inputs.take(X)
        found = found.reshape(len(found), -1)
        names = getattr(data, "target_names", None) or list(map(str, range(found.shape[1])))
        half_widths = self._half_widths(data, X)
        for t, name in enumerate(names):
            end = f"_{name}" if found.shape[1] > 1 else ""
            columns[f"prediction{end}"] = found[:, t]
            for label, half in half_widths.items():
                columns[f"{label}_low{end}"] = found[:, t] - half[:, t]
                columns[f"{label}_high{end}"] = found[:, t] + half[:, t]
        self._write(columns)

    def _half_widths(self, data: Any, X: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        """Return half the width of each kind of interval asked for, shape (n_rows, n_targets)."""
        if self.intervals == "none":
            return {}
        from trueline.statistics.intervals import intervals

        rows, scaling = data.learned.rows, data.learned.scaling
        found = intervals(rows if scaling is None else scaling.rows(rows), X, self.level)
        low_ends = {"confidence": found.low, "prediction": found.prediction_low}
        return {
            kind: (found.mean - low).reshape(len(X), -1)
            for kind, low in low_ends.items()
            if self.intervals in (kind, "both")
        }

    def _write(self, columns: "dict[str, Any]") -> None:
        import pyarrow as pa
        import pyarrow.compute
        from pyarrow import csv as arrow_csv
        from pyarrow import parquet

        batch = pa.RecordBatch.from_pydict(columns)
        if self.path.suffix == ".parquet":
            if self._parquet is None:
                self._parquet = parquet.ParquetWriter(self._file, batch.schema)
            self._parquet.write_batch(batch)
            return
        assert self._file is not None
        if self._header_due:
            header = io.StringIO()  # quoted only where it must be, unlike Arrow's own
            csv.writer(header, lineterminator="\n").writerow(columns)
            self._file.write(header.getvalue().encode())
            self._header_due = False
        special = any(
            pa.compute.any(pa.compute.match_substring_regex(column, '[",\r\n]')).as_py()
            for column in batch.columns
            if pa.types.is_string(column.type)
        )
        style = "needed" if special else "none"  # which is all text, or no field
        options = arrow_csv.WriteOptions(include_header=False, quoting_style=style)
        arrow_csv.write_csv(batch, self._file, options)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the file and say where it is."""
        if self._file is not None:
            if self._parquet is not None:
                self._parquet.close()
            self._file.close()
            print(f"predictions written to {self.path}")


class _Inputs:
    """What is written beside predictions, batch by batch.

    Args:
        data: What predictions are made from.
        keys: Columns of a table; None for all.

    Raises:
        RequestError: When there are no such columns, or one is named as predictions are.
    """

    def __init__(self, data: Any, keys: list[str] | None) -> None:
        self._data = data
        if not isinstance(data, TableData):
            if keys is not None:
                raise RequestError(
                    "--predictions.keys: expected a TableData, found "
                    f"{type(data).__name__}; leave it out"
                )
            return
        self._keys = list(data.table.names) if keys is None else keys
        if clash := [key for key in self._keys if key.startswith("prediction")]:
            raise RequestError(
                f"--predictions.keys: expected no column named as predictions are, found "
                f"{', '.join(clash)}; give the columns to copy"
            )
        if unknown := [key for key in self._keys if key not in data.table.names]:
            raise RequestError(
                f"--predictions.keys: expected columns of {data.table.path}, found "
                f"{', '.join(unknown)}; it has {', '.join(data.table.names)}"
            )
        self._batches = data.table.batches(self._keys, text=self._keys)
        self._read: Any = None
        self._first = self._begun = 0

    def take(self, X: NDArray[Any]) -> "dict[str, pa.Array | NDArray[Any]]":
        """Return the columns for the next rows."""
        if isinstance(self._data, TableData):
            first, self._first = self._first, self._first + len(X)
            return self._of_table(self._data.numbers(first, self._first))
        names = ["X"] if X.shape[1] == 1 else [f"X_{j}" for j in range(X.shape[1])]
        return {name: np.ascontiguousarray(X[:, j]) for j, name in enumerate(names)}

    def _of_table(self, numbers: NDArray[np.int64]) -> dict[str, Any]:
        """Return the keys of some rows of the table, which come after those asked for before."""
        import pyarrow as pa

        parts = [] if self._read is None else [self._read]
        while sum(map(len, parts)) <= numbers[-1] - self._begun:
            parts.append(pa.Table.from_batches([next(self._batches).record]))
        read = pa.concat_tables(parts)
        rows = read.take(numbers - self._begun).combine_chunks()
        self._read = read.slice(numbers[-1] + 1 - self._begun)
        self._begun = int(numbers[-1]) + 1
        return {name: rows.column(name).chunk(0) for name in self._keys}
