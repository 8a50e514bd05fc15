"""The logger of a run: one folder, one event file, points written together."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary

from trueline.results.run_folder import claim_folder, next_folder
from trueline.tensorboard.names import AFTER_STEP, CONSTANTS

MOST_WAITING = 10_000
"""Records that wait to be written; with the usual ten, each one waits for the thread's turn."""
HOLD_SECONDS = 1.0
"""How long points may wait to be written; TensorBoard looks every thirty."""


class RunLogger(TensorBoardLogger):
    """Logs into `version_N`, a folder that is made when it is first asked for.

    Args:
        runs: The folder that holds one folder a run.
        compared: Options by which the run is compared with others, beside those of the model.

    Attributes:
        carried: The curves of another run that this one began with, by tag and step.
    """

    def __init__(self, runs: Path, compared: Mapping[str, str] | None = None) -> None:
        super().__init__(runs.parent, runs.name, default_hp_metric=False, max_queue=MOST_WAITING)
        self.runs, self.compared = runs, compared or {}
        self._claimed: Path | None = None
        self._held: dict[int, tuple[float, dict[str, float]]] = {}
        self._handed_over = time.monotonic()
        self.carried: dict[str, dict[int, float]] = {}

    @property
    def version(self) -> str:
        """The name of the run's folder; in processes other than the first it is not the run's."""
        if self._claimed is None:
            first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
            self._claimed = (claim_folder if first else next_folder)(self.runs, "version")
        return self._claimed.name

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers.

        Raises:
            OSError: When they cannot be written; Lightning says that they are not supported.
        """
        self._hand_over()  # what was logged before comes before
        try:
            super().log_metrics(metrics, step)
        except ValueError as error:
            raise (error.__cause__ if isinstance(error.__cause__, OSError) else error) from None

    @rank_zero_only
    def log_points(self, names: list[str], rows: list[list[float]], steps: list[int]) -> None:
        """Log many points, all numbers of a step as one record: a tenth of the time.

        Those of a second are written together, which costs a fraction of writing each by itself:
        the thread that writes would hand the interpreter to and fro with the one that trains.

        Args:
            names: Of the numbers of a point.
            rows: Of each point.
            steps: Of each point.
        """
        now = time.time()
        for step, row in zip(steps, rows, strict=True):
            self._held.setdefault(step, (now, {}))[1].update(zip(names, row, strict=True))
        if time.monotonic() - self._handed_over >= HOLD_SECONDS:
            self._hand_over()

    def _hand_over(self) -> None:
        """Have the points written that are held, and wait until they are."""
        held, self._held = self._held, {}
        if held:
            writer = self.experiment.file_writer
            assert writer is not None
            for step, (at, named) in sorted(held.items()):
                values = [Summary.Value(tag=name, simple_value=x) for name, x in named.items()]
                writer.add_summary(Summary(value=values), step, at)
            writer.flush()
        self._handed_over = time.monotonic()

    @rank_zero_only
    def save(self) -> None:
        """Put on disk what was logged."""
        self._hand_over()
        super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Put on disk what was logged, at the end or at an error, and close it."""
        self._hand_over()
        super().finalize(status)

    @rank_zero_only
    def carry_on(self, run: Path, steps: int) -> None:
        """Begin with the curves of another run, as far as they go before a checkpoint of it.

        Args:
            run: The folder of that run, which stays as it is. Without curves, nothing is carried.
            steps: That it had taken when the checkpoint was made.
        """
        if not any(run.glob("events.out.tfevents.*")):
            return
        # Loading it takes 40 ms, which a run from the start needs not.
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            if tag.startswith(CONSTANTS):
                continue  # they are drawn anew
            end = steps + 1 if tag in AFTER_STEP else steps
            points = [point for point in events.Scalars(tag) if point.step < end]
            for point in points:
                self.experiment.add_scalar(tag, point.value, point.step, point.wall_time)
            self.carried[tag] = {point.step: point.value for point in points}


def log_points(
    loggers: Iterable[Logger], names: list[str], rows: list[list[float]], steps: list[int]
) -> None:
    """Log many points with every logger.

    Args:
        loggers: Loggers of the run.
        names: Names of the numbers of a point.
        rows: Numbers of each point.
        steps: Step of each point.
    """
    for logger in loggers:
        if isinstance(logger, RunLogger):
            logger.log_points(names, rows, steps)
            continue
        for step, row in zip(steps, rows, strict=True):
            logger.log_metrics(dict(zip(names, row, strict=True)), step)
