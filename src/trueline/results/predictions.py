"""Writes predictions beside what they were made from, as CSV or Parquet."""

import contextlib
import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from trueline.batches import as_batch
from trueline.data import TableData
from trueline.data.table_rows import TableBatch
from trueline.errors import RequestError, explain
from trueline.evaluation import LeftOut, reasons_of
from trueline.results.whole_files import WholeFile
from trueline.statistics.summary import check_level
from trueline.terminal.printing import visible

if TYPE_CHECKING:
    from trueline.tables import Table

PREDICTIONS = "predictions.csv"
"""Name of the file in the log directory."""
NOTE = "note"
"""Name of the column that says why a row has no prediction."""
NO_INTERVAL = "no interval: the row lies off the span of the training rows"
SUFFIXES = (".csv", ".parquet")
Intervals = Literal["none", "confidence", "prediction", "both"]


class PredictionWriter(Callback):
    """Writes predictions into a file, batch by batch; it appears when all are written.

    Beside `prediction`, or for several targets `prediction_` and each name, there are the features;
    of a table all of its columns, or those that are asked for. A row that cannot be predicted has
    an empty prediction, and the reason in the column `note`. There is such a column where rows may
    miss values, or the training rows do not determine every prediction.

    Args:
        path: Of the file, .csv or .parquet; predictions.csv in the log directory unless given.
        keys: Columns of the table to copy, separated by commas; all unless given.
        intervals: Which intervals to add, as `confidence_low` and `_high`, of the mean at such a
            row, and `prediction_low` and `_high`, of a new row. They are those of least squares.
        level: That the intervals hold, above 0 and below 1.

    Raises:
        RequestError: When the file would be of another kind, the level is out of range, there are
            no such columns, one has the name of a prediction, or the file is there already.
    """

    def __init__(
        self,
        path: str | None = None,
        keys: str | list[str] | None = None,
        intervals: Intervals = "none",
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
        self.keys = [k.strip() for k in keys.split(",")] if isinstance(keys, str) else keys
        self.intervals: Intervals = intervals
        self.level = level
        self._file: WholeFile | None = None
        self._parquet: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask the table for the columns to copy, before any row is read."""
        if stage != "predict":
            return
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, TableData):
            if self.intervals != "none" and pl_module.hparams.get("l1"):
                raise RequestError(
                    "--predictions.intervals: expected a model without an L1 penalty, since "
                    "intervals are those of least squares; found l1 "
                    f"{pl_module.hparams['l1']}; leave it out"
                )
            data.keys = _keys(data, self.keys, self.intervals)
            _check_types(data.table, data.keys, Path(self._asked or PREDICTIONS).suffix)
            return
        for option, asked in (("keys", self.keys), ("intervals", self.intervals != "none")):
            if asked:
                raise RequestError(
                    f"--predictions.{option}: expected a TableData, whose columns and training "
                    f"rows are known; found {type(data).__name__}; leave it out"
                )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file, in the first process alone: it has all rows."""
        # All processes ask for the directory, since the first one tells it to the others.
        log_dir = trainer.log_dir or trainer.default_root_dir
        self.path = Path(self._asked or Path(log_dir) / PREDICTIONS)
        data: Any = getattr(trainer, "datamodule", None)
        # Not before: which rows have a prediction is known once the model is.
        self._has_notes = isinstance(data, TableData) and data.has_notes(
            pl_module, self.intervals != "none"
        )
        if self._has_notes and NOTE in data.keys:
            raise RequestError(
                f"--predictions.keys: expected no column {NOTE!r}, where it is said why rows have "
                "no prediction, found one; give the columns to copy, or rename it"
            )
        if not trainer.is_global_zero:
            return
        self._check_free()
        with self._naming():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = WholeFile(self.path)
        self._parquet, self._header_due = None, True
        self._left_out, self._without_interval = LeftOut(), LeftOut("interval")

    def _check_free(self) -> None:
        """Refuse to overwrite a file of an earlier run.

        Raises:
            RequestError: Naming the file.
        """
        if os.path.lexists(self.path):
            raise RequestError(
                f"expected no file {self.path} yet, found one; move it, or predict with a logger, "
                "which gives each run a directory"
            )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write one batch; end where the process was told to by SIGTERM, which Lightning notes."""
        if trainer.received_sigterm:
            raise KeyboardInterrupt
        if self._file is None:
            return
        data: Any = getattr(trainer, "datamodule", None)
        served = as_batch(batch, pl_module.hparams["n_features"])[0]
        X, found = _numbers(served), _numbers(outputs)
        found = found.reshape(len(found), -1)
        notes = np.full(len(found), "", dtype=object)
        if isinstance(batch, TableBatch):
            inputs, notes = batch.origin.record, batch.origin.notes
            columns = dict(zip(inputs.column_names, inputs.columns, strict=True))
        else:
            names = ["X"] if X.shape[1] == 1 else [f"X_{j}" for j in range(X.shape[1])]
            columns = {name: np.ascontiguousarray(X[:, j]) for j, name in enumerate(names)}
        if (reasons := reasons_of(pl_module, served)) is not None:
            notes = np.where(notes == "", reasons, notes)
        self._left_out.add(notes, len(notes))
        predicted = notes == ""
        targets = getattr(data, "target_names", None) or list(map(str, range(found.shape[1])))
        kinds = self._kinds(data, np.where(predicted[:, None], X, 0), found)
        # A penalty may determine a prediction off the span of the rows, but no interval.
        bare = predicted & np.isnan(np.hstack([*kinds.values()])).any(axis=1)
        notes = np.where(bare, NO_INTERVAL, notes)
        self._without_interval.add(np.where(bare, notes, ""), len(notes))
        for t, name in enumerate(targets):
            for kind, values in kinds.items():
                shown = predicted & ~np.isnan(values[:, t])
                columns[_name(kind, name, len(targets))] = _nullable(values[:, t] + 0.0, shown)
        if self._has_notes:
            columns[NOTE] = _nullable(notes, notes != "")
        with self._naming():
            self._write(columns)

    def _kinds(
        self, data: Any, X: NDArray[Any], found: NDArray[Any]
    ) -> dict[str, NDArray[np.float64]]:
        """Return the numbers of each kind that is asked for, shape (n_rows, n_targets)."""
        kinds = {"prediction": found}
        if self.intervals == "none":
            return kinds
        from trueline.statistics.intervals import intervals

        rows, scaling = data.learned.rows, data.learned.scaling
        ends = intervals(rows, X if scaling is None else scaling.undone(X), self.level)
        low_ends = {"confidence": ends.low, "prediction": ends.prediction_low}
        for kind, low in low_ends.items():
            if self.intervals in (kind, "both"):
                half = (ends.mean - low).reshape(len(X), -1)
                kinds[f"{kind}_low"], kinds[f"{kind}_high"] = found - half, found + half
        return kinds

    def _write(self, columns: "dict[str, Any]") -> None:
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import csv as arrow_csv
        from pyarrow import parquet

        assert self._file is not None
        out = self._file.file
        table = pa.table(columns)
        if self.path.suffix == ".parquet":
            if self._parquet is None:
                self._parquet = parquet.ParquetWriter(out, table.schema)
            self._parquet.write_table(table)
            return
        table = pa.table([_as_text(column) for column in table.columns], table.column_names)
        if self._header_due:
            header = io.StringIO()  # quoted only where it must be, unlike Arrow's own
            csv.writer(header, lineterminator="\n").writerow(columns)
            out.write(header.getvalue().encode())
            self._header_due = False
        special = any(
            pc.any(pc.match_substring_regex(column, '[",\r\n]')).as_py()
            for column in table.columns
            if pa.types.is_string(column.type) or pa.types.is_binary(column.type)
        )
        style = "needed" if special else "none"  # which is all text, or no field
        options = arrow_csv.WriteOptions(include_header=False, quoting_style=style)
        arrow_csv.write_csv(table, out, options)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the file in its place and say where it is."""
        if self._file is not None:
            self._check_free()
            with self._naming():
                if self._parquet is not None:
                    self._parquet.close()
                self._file.finish()
            self._file = None
            print(f"predictions written to {visible(str(self.path))}")
            for left_out in (self._left_out, self._without_interval):
                left_out.say("")

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Name the file that cannot be written, and the option that says where it goes."""
        try:
            yield
        except OSError as error:
            error.filename = str(self.path)
            raise RequestError(explain(error, "--predictions.path")) from error

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave no part of a file behind."""
        if self._file is not None:
            with contextlib.suppress(Exception):
                self._parquet.close()
            self._file.discard()
            self._file = None


def _keys(data: TableData, keys: list[str] | None, intervals: Intervals) -> list[str]:
    """Return the columns of a table to copy.

    Raises:
        RequestError: When there are no such columns, or one is named as what is written.
    """
    table, targets = data.table, data.target_names or ()
    kept = list(table.names) if keys is None else keys
    if unknown := [key for key in kept if key not in table.names]:
        raise RequestError(
            f"--predictions.keys: expected columns of {table.path}, found "
            f"{', '.join(unknown)}; it has {', '.join(table.names)}"
        )
    written = _names(targets, intervals)
    if clash := [name for name in dict.fromkeys(written) if [*kept, *written].count(name) > 1]:
        raise RequestError(
            f"--predictions.keys: expected no column named as predictions are, found "
            f"{', '.join(clash)}; give the columns to copy, or rename it"
        )
    return kept


def _names(targets: Sequence[str], intervals: Intervals) -> list[str]:
    """Return the names of all columns that are written beside the keys."""
    kinds = ["prediction"]
    for kind in ("confidence", "prediction"):
        if intervals in (kind, "both"):
            kinds += [f"{kind}_low", f"{kind}_high"]
    return [_name(kind, target, len(targets)) for target in targets for kind in kinds]


def _name(kind: str, target: str, n_targets: int) -> str:
    return f"{kind}_{target}" if n_targets > 1 else kind


def _nullable(values: NDArray[Any], predicted: NDArray[np.bool_]) -> Any:
    """Return a column of numbers or texts, with null where there is none."""
    import pyarrow as pa

    kind = pa.string() if values.dtype == object else None
    return pa.array(np.ascontiguousarray(values), kind, mask=~predicted)


def _numbers(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a tensor as an array; NumPy has no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _as_text(column: Any) -> Any:
    """Return a column as CSV can have it, with every kind of text as plain text."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_large_string(kind) or types.is_string_view(kind):
        return column.cast(pa.string())
    if (
        types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    ):
        return column.cast(pa.binary())
    return column


def _check_types(table: "Table", keys: list[str], suffix: str) -> None:
    """Refuse columns that a file of this kind cannot have.

    Raises:
        RequestError: Naming each of them.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    wrong = []
    schema: Any = table.schema
    for key in keys if schema is not None else ():
        column = pa.schema([schema.field(key)]).empty_table()
        try:
            if suffix == ".csv":
                csv.write_csv(pa.table({key: _as_text(column[0])}), io.BytesIO())
            else:
                parquet.write_table(column, io.BytesIO())
        except pa.ArrowException:
            wrong.append(f"{key!r} of {column.schema[0].type}")
    if wrong:
        raise RequestError(
            f"--predictions.keys: expected columns that {suffix} can have, found "
            f"{', '.join(wrong)}; give the other columns to copy, or another --predictions.path"
        )
