"""One training of a sweep: a `trueline fit`, in a process that has others after it."""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.loggers import Logger

from trueline.cli.lightning_cli import TruelineCLI
from trueline.data import SyntheticData, TableData
from trueline.data.memory import JOBS
from trueline.errors import CheckFailed, RequestError, on_command_line
from trueline.tensorboard import RunLogger


class TrialLogger(RunLogger):
    """Logs into a folder that is given.

    Args:
        folder: Of the trial.
        tried: What it tries, by option.
    """

    def __init__(self, folder: Path, tried: Mapping[str, Any]) -> None:
        super().__init__(folder.parent, {name: str(value) for name, value in tried.items()})
        self.folder = folder

    @property
    def version(self) -> str:
        """The name of the trial's folder."""
        return self.folder.name


READ: dict[str, TableData | SyntheticData] = {}
"""The data that was built last, by its options: trials that agree in them share it."""


def build_once(kind: type[TableData | SyntheticData], **options: Any) -> TableData | SyntheticData:
    """Return data for some options, the same object where they are those of the last call.

    Args:
        kind: Class of the data.
        options: Its arguments.
    """
    key = repr((kind, sorted(options.items())))
    if key not in READ:
        READ.clear()
        READ[key] = kind(**options)
    return READ[key]


class SharingCLI(TruelineCLI):
    """`trueline` in a process that reads many requests for the same rows."""

    def before_instantiate_classes(self) -> None:
        """Have data built by `build_once`."""
        super().before_instantiate_classes()
        for kind in (TableData, SyntheticData):
            self.parser.add_instantiator(build_once, kind, subclasses=False, prepend=True)


class TrialCLI(SharingCLI):
    """`trueline fit` for a trial of a sweep.

    Args:
        args: The options of fit.
        folder: Of the trial.
        tried: Those of the options that it tries.
    """

    def __init__(self, args: Sequence[str], folder: Path, tried: Mapping[str, Any]) -> None:
        self.folder, self.tried = folder, tried
        super().__init__(["fit", *args], prog="trueline")

    @property
    def runs(self) -> Path:
        """The folder of the sweep, which holds one folder a trial."""
        return self.folder.parent

    def default_logger(self) -> Logger:
        """Log for TensorBoard into the trial's folder."""
        return TrialLogger(self.folder, self.tried)


class Checked(NamedTuple):
    """What the options of a trial say.

    Args:
        held_out: Whether rows are held out for validation.
        runs: The folder that holds one folder a run.
    """

    held_out: bool
    runs: Path


def cores() -> int:
    """Return how many cores this process may use, which can be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(jobs: int) -> None:
    """Make a process ready for trials; it ends with the one that began it, however that ends.

    Args:
        jobs: Number of processes that share cores and memory.
    """
    torch.set_num_threads(max(1, cores() // jobs))
    os.environ[JOBS] = str(jobs)
    on_command_line.set(True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def options_of(tried: Mapping[str, Any], options: Sequence[str]) -> list[str]:
    """Return the options of a trial: those of all, and what it tries, by name."""
    return [*options, *(f"--{name}={value}" for name, value in tried.items())]


def train(tried: Mapping[str, Any], options: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a trial.

    Args:
        tried: What it tries, by option.
        options: Of `trueline fit`, for all trials.
        folder: A new one for it.

    Returns:
        Its `result.json`, with `status`: done, failed (a training that diverged, or whose options
        do not fit), or wrong (one that failed the cross-check), and `error` saying why.
    """
    said, status, error = io.StringIO(), "done", None
    # Figures of each trial would take as long as it does; who wants them asks for them.
    quiet = ["--trainer.enable_progress_bar=false", "--figures=false"]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            TrialCLI([*quiet, *options_of(tried, options)], folder, tried)
    except (CheckFailed, RequestError, SystemExit) as stop:
        status, error = "failed", str(stop)
    except Exception as stop:  # its message is the trial's result, as the command line's would be
        status, error = "failed", f"{type(stop).__name__}: {stop}"
    path = folder / "result.json"
    result = json.loads(path.read_text("utf-8")) if path.exists() else {}
    check = result.get("crosscheck")
    if check and check["first_failure"]:
        status = "wrong"
    return {**result, "status": status, "error": error and " ".join(error.split())}


def check_options(options: Sequence[str]) -> Checked:
    """Refuse options that `trueline fit` would refuse, before anything is trained.

    Raises:
        RequestError: As of fit.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        cli = SharingCLI(list(options), run=False, prog="trueline sweep")
    if cli.trainer.world_size > 1:
        raise RequestError(
            f"--trainer.devices: expected 1, since trials train side by side; found "
            f"{cli.trainer.world_size}; leave it out, and give --jobs"
        )
    return Checked("val" in getattr(cli.datamodule, "held_out", ()), cli.runs)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
