"""The commands that need Lightning: its own, and ours beside them."""

import argparse
import gc
import logging
import math
import re
import threading
import warnings
from collections.abc import Callable

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from trueline.cli.lightning_cli import TruelineCLI
from trueline.cli.matrix import EPOCHS, available_settings, run_matrix
from trueline.cli.option_errors import one_line
from trueline.compare import check_request, compare
from trueline.errors import CheckFailed, RequestError, explain, on_command_line
from trueline.planning.convergence import CONVERGED_WITHIN
from trueline.planning.forecast import forecast
from trueline.results.report import Report
from trueline.results.run_folder import claim_folder, next_folder
from trueline.terminal.printing import to_whoever_reads

LOST = r"gloo.*(?i:connection|timed out|timeout)|Connection (closed|reset) by peer|NCCL|TCPStore"
"""What torch.distributed says when another process does not answer any more."""
MATRIX_OPTIONS = {
    "accelerators": "Which to try, such as cpu,cuda; all that are there unless given.",
    "precisions": "Which to try, such as 64-true,32-true; all unless given.",
    "devices": "How many to train on, such as 1,2; 1, 2 and all of them unless given.",
}

# What has been imported stays: to look through all of it for garbage takes longer than a training.
gc.freeze()


def run(arguments: list[str]) -> None:
    """Run any command but `--help` and `--version`.

    Args:
        arguments: The command and its options.

    Raises:
        RequestError: When the request or the input is wrong.
        CheckFailed: When the run fails a check.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # no tips, no list of absent devices
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # their reports
    # Lightning's own call of a torch function that is going away.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    # A resumed run goes on in a directory of its own; the run before it stays as it was.
    warnings.filterwarnings("ignore", message="The dirpath has changed.*")
    # A checkpoint is used with what it holds, whichever callbacks the training had.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")
    # Files of a ModelCheckpoint of the user's own get a version in their names.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    # Steps are counted over the run here, not within an epoch, so this interval is no slip.
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # LinearRegression brings the losses of all processes together itself, by rows.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    hook = threading.excepthook
    threading.excepthook = _without_files(hook)
    elsewhere = on_command_line.set(True)
    try:
        with to_whoever_reads():
            _command(arguments)
    except MisconfigurationException as error:
        raise RequestError(one_line(str(error))) from error
    except OSError as error:
        raise RequestError(explain(error, "--trainer.default_root_dir")) from error
    except RuntimeError as error:
        if not re.search(LOST, str(error)):
            raise
        # Not "from error": what the network said helps nobody, and all that are left would say so.
        raise CheckFailed(
            "expected all processes of the training, found that another one has ended; its own "
            "message says why; to go on from the newest checkpoint, if there is one, add "
            "--ckpt_path last"
        ) from None
    finally:
        on_command_line.reset(elsewhere)
        threading.excepthook = hook


def _command(arguments: list[str]) -> None:
    if arguments[0] == "compare":
        CompareCLI(arguments[1:]).compare()
    elif arguments[0] == "crosscheck":
        MatrixCLI(arguments[1:]).run_matrix()
    elif arguments[0] == "plan":
        PlanCLI(arguments[1:]).plan()
    elif arguments[0] == "export":
        from trueline.export.command import export  # which loads pyarrow

        export(arguments[1:])
    elif arguments[0] == "sweep":
        from trueline.sweep.command import sweep

        sweep(arguments[1:])
    else:
        TruelineCLI(arguments)


def _without_files(hook: Callable[..., object]) -> Callable[..., object]:
    """Keep a thread quiet that could not write: TensorBoard raises the same in the training."""
    return lambda thread: None if issubclass(thread.exc_type, OSError) else hook(thread)


class CompareCLI(TruelineCLI):
    """`trueline compare`: the options of `fit`, for a training beside three others."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(args, run=False, prog="trueline compare")

    def compare(self) -> None:
        """Run the four rungs."""
        if self.options.trainer.logger not in (None, True, False):
            raise RequestError("--trainer.logger: compare logs for itself; leave it out")
        check_request(self.trainer, self.model, self.datamodule)
        self.before_fit()
        compare(self.trainer, self.model, self.datamodule)

    def default_logger(self) -> Logger:
        """Log into `lightning_logs/compare_N/4-lightning`, beside the other rungs."""
        folder = next_folder(self.runs, "compare")
        return TensorBoardLogger(
            folder.parent, folder.name, version="4-lightning", default_hp_metric=False
        )

    def callbacks(self, given: list[Callback]) -> list[Callback]:
        """Return those of fit without its report: compare prints a table of its own."""
        return [c for c in super().callbacks(given) if not isinstance(c, Report)]


class PlanCLI(TruelineCLI):
    """`trueline plan`: the options of `fit`, for a training that is not begun."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(args, run=False, prog="trueline plan")

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the option of plan before those of fit."""
        parser.add_argument(
            "--accuracy",
            type=float,
            default=CONVERGED_WITHIN,
            help="How near the closed form counts as converged, as a fraction of the spread of y.",
        )
        super().add_core_arguments_to_parser(parser)

    def plan(self) -> None:
        """Print the plan."""
        accuracy = self.options.accuracy
        if not 0 < accuracy < math.inf:
            raise RequestError(f"--accuracy: expected a finite number above 0; found {accuracy}")
        print(forecast(self.datamodule, self.model, accuracy).table())


class MatrixCLI(TruelineCLI):
    """`trueline crosscheck`: the options of `fit`, for a training under many settings."""

    def __init__(self, args: list[str]) -> None:
        ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for name in MATRIX_OPTIONS:
            ours.add_argument(f"--{name}")
        self.given = ours.parse_known_args(args)[1]  # the rest is for fit
        super().__init__(args, run=False, prog="trueline crosscheck")

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that choose settings before those of fit."""
        for name, text in MATRIX_OPTIONS.items():
            parser.add_argument(f"--{name}", type=str, default="", help=text)
        super().add_core_arguments_to_parser(parser)
        parser.set_defaults({"trainer.max_epochs": EPOCHS, "trainer.accelerator": "cpu"})

    def run_matrix(self) -> None:
        """Train under every setting."""
        chosen = [self.options[name].split(",") for name in MATRIX_OPTIONS]
        accelerators, precisions, devices = ([e for e in entries if e] for entries in chosen)
        if not all(count.isdigit() and int(count) > 0 for count in devices):
            raise RequestError(f"--devices: expected numbers above 0, found {self.options.devices}")
        settings = available_settings(accelerators, precisions, [int(n) for n in devices])
        options = [f"--trainer.max_epochs={EPOCHS}", *self.given]
        run_matrix(settings, options, claim_folder(self.runs, "crosscheck"))
