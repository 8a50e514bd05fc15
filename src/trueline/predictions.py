"""Writes predictions beside their inputs, as CSV."""

import csv
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from trueline.errors import RequestError


class PredictionWriter(Callback):
    """Writes `predictions.csv` into the log directory, batch by batch.

    The columns are the features, `X` or `X_0`, `X_1` and so on, and `prediction`, or for several
    targets `prediction_0`, `prediction_1` and so on.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file, in the first process alone: it has all rows."""
        self._file: IO[str] | None = None
        # All processes ask for the directory, since the first one tells it to the others.
        self.path = Path(trainer.log_dir or trainer.default_root_dir) / "predictions.csv"
        if not trainer.is_global_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # "x": a file of an earlier run is not overwritten.
        try:
            self._file = self.path.open("x", newline="", encoding="utf-8")
        except FileExistsError as error:
            raise RequestError(
                f"expected no file {self.path} yet, found one; move it, or predict with a logger, "
                "which gives each run a directory"
            ) from error
        self._rows = csv.writer(self._file, lineterminator="\n")
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
        X, predictions = batch[0].tolist(), outputs.reshape(len(outputs), -1).tolist()
        if self._header_due:
            self._rows.writerow([*_names("X", X[0]), *_names("prediction", predictions[0])])
            self._header_due = False
        self._rows.writerows([*x, *p] for x, p in zip(X, predictions, strict=True))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the file and say where it is."""
        if self._file is not None:
            self._file.close()
            print(f"predictions written to {self.path}")


def _names(name: str, row: list[float]) -> list[str]:
    """Name the columns of one array: by its name where there is one, else numbered."""
    return [name] if len(row) == 1 else [f"{name}_{j}" for j in range(len(row))]
