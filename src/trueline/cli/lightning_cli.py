"""Lightning's CLI from the options on: builds what they ask for, with our callbacks; runs it."""

import argparse
import contextlib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    ModelCheckpoint,
    ProgressBar,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO

from trueline.checkpoints import loading, reading, resuming
from trueline.checkpoints.plugin import WholeCheckpoints
from trueline.checkpoints.saving import Checkpoints
from trueline.cli.option_errors import one_line
from trueline.cli.options import OptionsCLI
from trueline.cli.run_length import SparseValidation, choose_intervals
from trueline.crosscheck import CrossCheck
from trueline.data import TableData
from trueline.data.learned import Learned
from trueline.errors import CheckFailed, RequestError
from trueline.planning.forecast import MOST_EPOCHS, planned_epochs, tune
from trueline.results.report import Report
from trueline.results.result_table import print_start
from trueline.results.run_folder import open_folder
from trueline.schedule import check_same_schedule
from trueline.tensorboard import RunLogger, Scalars
from trueline.tensorboard.scalars import DRAW_AFTER
from trueline.terminal.progress_bar import TrainingBar


class TruelineCLI(OptionsCLI):
    """`trueline fit | validate | test | predict`, and what our other commands have in common."""

    def before_instantiate_classes(self) -> None:
        """Say again which checkpoint, which parsing hid; leave GPUs without float64 aside."""
        if self.checkpoint_path:
            self.options.ckpt_path = self.checkpoint_path
            if self.is_like_checkpoint:
                self.options.data.init_args.like = self.checkpoint_path
        trainer = self.options.trainer
        if trainer.accelerator == "auto" and torch.backends.mps.is_available():
            # Apple's GPU has no float64.
            trainer.accelerator = "cpu" if trainer.precision == "64-true" else "auto"

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer, and refuse a checkpoint of another shape.

        Raises:
            RequestError: When one of them cannot be built as asked, or the checkpoint does not fit.
        """
        try:
            super().instantiate_classes()
        except RequestError:
            raise
        except (MisconfigurationException, ImportError) as error:
            message, asked = one_line(str(error)), self.options.trainer.accelerator
            if re.search("backend found|can not run on your system|torch_xla", message):
                message = (
                    f"--trainer.accelerator {asked}: expected such a device on this machine, found "
                    "none; use --trainer.accelerator cpu or auto"
                )
            raise RequestError(message) from error
        except (argparse.ArgumentError, ValueError, TypeError, AttributeError) as error:
            raise RequestError(one_line(str(error))) from error
        if self.checkpoint_path:
            loading.check_fits(self.checkpoint_path, self.checkpoint, self.model)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with our callbacks beside those that the user asked for."""
        self.settle()
        if self.is_like_checkpoint and isinstance(self.datamodule, TableData):
            asked = self.options.data.init_args
            for name, value in _columns(self.datamodule.learned).items():
                if name in asked:
                    asked[name] = value
        options = self.options.trainer
        init = self.config_init[self.subcommand] if self.subcommand else self.config_init
        given = init.trainer.callbacks or []
        given = given if isinstance(given, list) else [given]
        schedule = self.model.hparams["schedule"]
        # Batches are those of a training: what is only evaluated is not asked for them.
        data = self.datamodule if self.subcommand in (None, "fit") else None
        self.validates_itself = choose_intervals(options, data, given, schedule)
        if self.is_unlogged:
            # Without a log directory there is no place of this run's own for its files.
            self.save_config_callback = None
            kwargs["enable_checkpointing"] = options.enable_checkpointing or False
        else:
            kwargs["logger"] = self.loggers(init.trainer.logger)
        kwargs["max_time"] = None  # a Timer among the callbacks has it
        self.trainer_defaults["callbacks"] = self.callbacks(given)
        plugins = init.trainer.plugins or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            loaded = self.checkpoint_path and (self.checkpoint_path, self.checkpoint)
            plugins = [*plugins, WholeCheckpoints(loaded or None)]
        kwargs["plugins"] = plugins
        for name in ("max_epochs", "check_val_every_n_epoch", "log_every_n_steps", "accelerator"):
            kwargs[name] = options[name]
        return super().instantiate_trainer(**kwargs)

    def settle(self) -> None:
        """Put numbers where the data decides: lr and momentum auto, and epochs that it plans.

        Raises:
            RequestError: When no numbers do, or the data cannot tell.
        """
        if self.subcommand not in (None, "fit"):
            return
        options = self.options
        try:
            tune(self.datamodule, self.model, self._most_epochs())
        except RequestError:
            raise
        except ValueError as error:
            raise RequestError(f"--model.{error}") from error
        for name in ("lr", "momentum"):
            options.model[name] = self.model.hparams[name]
        if options.trainer.max_epochs is None:
            options.trainer.max_epochs = planned_epochs(self.datamodule, self.model)
            self.kept_options["trainer.max_epochs"] = options.trainer.max_epochs

    def _most_epochs(self) -> int:
        """Return how many epochs the training may have; a million where that is not said."""
        trainer = self.options.trainer
        epochs = trainer.max_epochs if (trainer.max_epochs or 0) > 0 else MOST_EPOCHS
        if trainer.max_steps > 0:
            steps = getattr(self.datamodule, "steps_per_epoch", 1)
            epochs = min(epochs, math.ceil(trainer.max_steps / steps))
        return int(epochs)

    @property
    def is_unlogged(self) -> bool:
        """Whether the run has no logger, and so no folder."""
        trainer = self.options.trainer
        return trainer.logger is False or (trainer.barebones and trainer.logger is None)

    def loggers(self, given: Any) -> list[Logger]:
        """Return the loggers of a run, the one first whose folder the run keeps its files in."""
        if given in (None, True):
            return [self.default_logger()]
        given = list(given) if isinstance(given, Iterable) else [given]
        # Others have no folder of their own for each run.
        with_folder = given and isinstance(given[0], CSVLogger | TensorBoardLogger)
        return given if with_folder else [self.default_logger(), *given]

    def default_logger(self) -> Logger:
        """Log for TensorBoard into `lightning_logs/version_N`."""
        return RunLogger(self.runs)

    def callbacks(self, given: list[Callback]) -> list[Callback]:
        """Return what every run gets; a bar of the user's own replaces ours."""
        options = self.options.trainer
        own_bar = any(isinstance(c, ProgressBar) for c in given)
        shows_bar = options.enable_progress_bar is not False and not options.barebones
        bar: list[Callback] = [TrainingBar()] if shows_bar and not own_bar else []
        sizes = any(isinstance(c, BatchSizeFinder) for c in given)
        if sizes and getattr(self.datamodule, "batch_size", 1) is None:
            raise RequestError(
                "--trainer.callbacks: BatchSizeFinder needs a batch size to begin with, found full "
                "batch; give --data.batch_size, such as 2"
            )
        if self.subcommand == "predict":
            return bar  # and the PredictionWriter that Lightning adds
        # Each callback, used or not, costs a step 3 % of its time in Lightning: none to spare.
        mine: list[Callback] = [Scalars(DRAW_AFTER if self.options.figures else None), Report()]
        if self.validates_itself:
            mine.insert(0, SparseValidation(options.max_epochs == -1 and options.max_steps == -1))
        # A Timer comes before what has the last step validated.
        if options.max_time is not None and not any(isinstance(c, Timer) for c in given):
            mine.insert(0, _timer(options.max_time))
        if self.options.crosscheck not in ("off", False):
            mine.insert(0, CrossCheck(on_failure=self.options.crosscheck))
        unsaved = options.enable_checkpointing is False or self.is_unlogged
        if not (unsaved or options.fast_dev_run):
            own = [c for c in given if isinstance(c, Checkpoint)]
            _check_savers(own)
            savers = [c for c in own if isinstance(c, Checkpoints)] or [Checkpoints(named=not own)]
            savers[0].options = self.kept_options
            mine += [saver for saver in savers if saver not in given]
        return [*mine, *bar]

    def fit(self, **kwargs: Any) -> None:
        """Train; say where a training was interrupted, which Lightning leaves to its log.

        Raises:
            CheckFailed: When it was interrupted, or fails a check.
        """
        try:
            self.trainer.fit(**kwargs)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C and SIGTERM
            if any(isinstance(c, Report) and c.has_ended for c in self.trainer.callbacks):  # type: ignore[attr-defined]
                return  # it came when all was done
            raise CheckFailed(
                f"interrupted at once, after step {self.trainer.global_step:,}; to go on from the "
                "newest checkpoint, if there is one, add --ckpt_path last"
            ) from stop

    def after_fit(self) -> None:
        """Leave the end of the training as `last.ckpt`, and draw its figures."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpoints):
                callback.save_end(self.trainer)
                if not self.trainer.is_last_batch and self.trainer.is_global_zero:
                    print(
                        f"not to go on    from {callback.folder / reading.LAST_NAME}: the training "
                        "ended inside an epoch; train in whole ones, with --trainer.max_epochs, to "
                        "go on later"
                    )
        if self.options.figures:
            self.draw()

    def draw(self) -> None:
        """Draw the figures of the training; who is in a hurry may stop it, all else is done."""
        from trueline.tensorboard.figures import log_final_figures

        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Report) and callback.result:
                with contextlib.suppress(KeyboardInterrupt):
                    log_final_figures(self.trainer, self.model, callback.result)

    def before_fit(self) -> None:
        """Refuse what cannot be checked or resumed, open the log directory, and say what starts.

        Raises:
            RequestError: When a setting, the checkpoint or the log directory does not do.
        """
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, CrossCheck):
                callback.check_settings(self.trainer)
        if self.checkpoint_path:
            state = self.checkpoint, self.trainer, self.datamodule
            resuming.check_resumable(self.checkpoint_path, *state)
            try:
                check_same_schedule(self.checkpoint["hyper_parameters"], self.model.hparams)
            except ValueError as error:
                raise RequestError(f"--model.{error}") from error
        self.open_log_directory()
        logger = self.trainer.logger
        if self.checkpoint_path and isinstance(logger, RunLogger):
            run = reading.run_of(str(Path(self.checkpoint_path).resolve()))
            logger.carry_on(run, self.checkpoint["global_step"])
        if self.trainer.is_global_zero:
            print_start(self.trainer, self.datamodule)

    def open_log_directory(self) -> None:
        """Make the log directory.

        Raises:
            RequestError: When it cannot be written, or holds another run.
        """
        logger = self.trainer.logger
        # The other processes start when process 0 has begun the run.
        if not logger or not self.trainer.is_global_zero or self.options.trainer.fast_dev_run:
            return
        try:
            directory = Path(self.trainer.log_dir or "")
            open_folder(directory, Path(logger.save_dir or directory))
        except OSError as error:
            raise RequestError(
                f"log directory: expected to create {error.filename}, found {error.strerror}; "
                "choose another with --trainer.default_root_dir"
            ) from error

    before_validate = before_test = before_predict = open_log_directory


def _columns(learned: Learned) -> dict[str, Any]:
    """Return the options of a table that stand for what was taken over from a checkpoint."""
    columns = learned.columns
    return {
        "target": _names(columns.targets),
        "features": _names([feature.name for feature in columns.features]),
        "weight": columns.weight,
        "categorical": _names(columns.categorical),
        "standardize": learned.scaling is not None,
        "like": None,
    }


def _timer(duration: Any) -> Timer:
    """Return what ends a training after a time.

    Raises:
        RequestError: When it is no time.
    """
    try:
        return Timer(duration)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise RequestError(
            "--trainer.max_time: expected days, hours, minutes and seconds as DD:HH:MM:SS; found "
            f"{duration}"
        ) from error


def _names(names: Sequence[str]) -> str | list[str] | None:
    """Return names as one option: separated by commas, unless a name would be split or trimmed."""
    if any("," in name or name != name.strip() for name in names):
        return list(names)
    return ",".join(names) or None


def _check_savers(callbacks: list[Checkpoint]) -> None:
    """Refuse a callback that would write `last.ckpt` over that of the run.

    Raises:
        RequestError: Saying what saves as often as one likes.
    """
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.save_last and not callback.dirpath:
            raise RequestError(
                "--trainer.callbacks.save_last: expected none, since every run has a last.ckpt "
                f"from which it goes on to the bit; found {callback.save_last}; leave it out, or "
                "give a dirpath; trueline.checkpoints.saving.Checkpoints with every_n_steps saves "
                "more often"
            )
