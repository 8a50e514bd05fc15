"""Lightning's CLI with this project's model, data, callbacks and defaults."""

import argparse
import contextlib
import inspect
import math
import pydoc
import re
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO

from trueline.checkpoints import loading, reading, resuming
from trueline.checkpoints.kept_options import keep, recall
from trueline.checkpoints.plugin import WholeCheckpoints
from trueline.checkpoints.saving import Checkpoints
from trueline.crosscheck import CrossCheck
from trueline.data.learned import SAVED_AS
from trueline.divergence import StopWhenNotFinite
from trueline.errors import CheckFailed, RequestError
from trueline.forecast import MOST_EPOCHS, planned_epochs, tune
from trueline.hooks import FewHooks
from trueline.module import LinearRegression
from trueline.option_errors import check_configs, check_counts, one_line, with_remedy
from trueline.predictions import PredictionWriter
from trueline.progress_bar import TrainingBar
from trueline.report import Report
from trueline.result_table import print_start
from trueline.run_folder import open_folder
from trueline.run_length import choose_intervals
from trueline.schedule import check_same_schedule
from trueline.tensorboard import RunLogger, Scalars

TRAINER_DEFAULTS = {
    # What the article's 15 points need at its learning rate, until the ninth digit stands still.
    "max_epochs": 50_000,
    # In float32 the bias of the 15 points stalls at 36.643: a step is less than half a rounding.
    "precision": "64-true",
    # None: `run_length.choose_intervals` chooses by the length of the run.
    "check_val_every_n_epoch": None,
    "enable_model_summary": False,
}
PLANNED = {"model.lr": "auto", "model.momentum": "auto", "trainer.max_epochs": None}
"""Defaults of the data classes whose rows say what they need."""

DESCRIPTIONS = {
    "fit": "Train w*X + b; with no options, on the article's 15 points.",
    "validate": "Compute the loss of a trained line on the validation rows.",
    "test": "Compute the loss of a trained line on the test rows.",
    "predict": "Write predictions.csv, inputs beside predictions.",
}
DEFAULT_DATA = "DummyData"
DATA_OPTIONS = (
    "The default data, DummyData, takes --data.batch_size N (full batch unless given), "
    "--data.shuffle true and --data.seed N."
)


class SavedConfig(FewHooks, SaveConfigCallback):
    """Leaves `config.yaml` in the log directory, and costs the steps nothing."""


class TruelineCLI(LightningCLI):
    """`trueline fit | validate | test | predict`: Lightning's options, and ours before them."""

    def __init__(self, args: list[str], run: bool = True, prog: str = "trueline") -> None:
        self.parsers: list[LightningArgumentParser] = []
        self.checkpoint_path: str | None = None
        self.kept_options: dict[str, Any] = {}
        self.subcommand: str | None = args[0] if run else None
        self.prog = prog
        # Errors come here as exceptions, and no option may be abbreviated: that hides typos.
        strict: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
        kwargs = {"prog": prog, "usage": f"{prog} [OPTIONS]", "description": DATA_OPTIONS, **strict}
        for name, text in DESCRIPTIONS.items() if run else ():
            usage = f"{prog} {name} [OPTIONS]"
            kwargs[name] = {**strict, "usage": usage, "description": f"{text} {DATA_OPTIONS}"}
        super().__init__(
            LinearRegression,
            LightningDataModule,
            subclass_mode_data=True,
            save_config_callback=SavedConfig,
            seed_everything_default=0,
            parser_kwargs=kwargs,
            args=args,
            run=run,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # it would write an import path into checkpoints
        )

    @property
    def options(self) -> Any:
        """The options of the command, as parsed."""
        return self.config[self.subcommand] if self.subcommand else self.config

    @property
    def runs(self) -> Path:
        """The folder that holds one folder a run."""
        return Path(self.options.trainer.default_root_dir or "") / "lightning_logs"

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add model and data before the Trainer, so that --help shows them first."""
        parser.add_lightning_class_args(LinearRegression, "model")
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
        parser.set_defaults({"data": {"class_path": f"trueline.data.{DEFAULT_DATA}"}})
        parser.link_arguments("data.n_features", "model.n_features", apply_on="instantiate")
        parser.link_arguments("data.n_targets", "model.n_targets", apply_on="instantiate")
        parser.add_argument(
            "--crosscheck",
            type=Literal["raise", "warn", "off", False],  # YAML reads off as False
            default="raise",
            help="What to do where training and the NumPy reference differ by more than rounding.",
        )
        parser.add_argument(
            "--free_run",
            type=bool,
            default=False,
            help="Whether the reference also trains on its own, with a bound on how far apart the "
            "two may come.",
        )
        parser.add_argument(
            "--figures",
            type=bool,
            default=True,
            help="Whether a training is drawn for TensorBoard once it is over, which takes a third "
            "of a second.",
        )
        if (parser.usage or "").startswith(f"{self.prog} predict "):
            parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
        self.parsers.append(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse so that the command line wins over a config, and both over a checkpoint."""
        arguments = list(args)  # type: ignore[arg-type]
        check_configs(arguments)
        try:
            self.config = parser.parse_args([a for a in arguments if "--print_config" not in a])
            self.subcommand = self.config.get("subcommand")
            # Else the options of the default class would stay behind where another is asked for.
            path = self.options.data.class_path
            self._set_defaults({"data": {"class_path": path}})
            if getattr(pydoc.locate(path), "plans_epochs", False):
                self._set_defaults(PLANNED)
            if (path := self._requested_checkpoint()) is not None:
                self.checkpoint = loading.load(path, resume=self.subcommand == "fit")
                self.checkpoint_path = path
                if not any(re.match("--data(=|$)", argument) for argument in arguments):
                    data = self.options.data.class_path.rpartition(".")[2]
                    loading.check_trained_on(path, self.checkpoint, data, DEFAULT_DATA)
                self._default_to_checkpoint()
            self.config = parser.parse_args(arguments)
        except RequestError:
            raise
        except (argparse.ArgumentError, ValueError, TypeError, OSError) as error:
            options = [*self.parsers[0].get_defaults().keys()]
            options += ["ckpt_path"] if self.subcommand else []
            command = self.subcommand or self.prog.split()[-1]
            message = with_remedy(one_line(str(error)), options, command)
            raise RequestError(message) from error
        check_counts(self.options)
        self.kept_options = keep(self.options)
        if self.subcommand:
            # Lightning would parse the checkpoint next, and let its values win over typed ones.
            self.options.ckpt_path = None

    def _default_to_checkpoint(self) -> None:
        """Take the checkpoint's options where nothing else is said."""
        known = set(inspect.signature(LinearRegression).parameters)
        known -= {"n_features", "n_targets"}  # linked to the data
        saved = self.checkpoint["hyper_parameters"]
        defaults = {f"model.{name}": value for name, value in saved.items() if name in known}
        data = dict(self.options.data.get("init_args") or {})
        of_data = {}
        for name, value in recall(self.checkpoint, self.subcommand == "fit").items():
            if not name.startswith("data."):
                defaults[name] = value
            elif name.removeprefix("data.") in data:
                of_data[name.removeprefix("data.")] = value
        if "like" in data and SAVED_AS in self.checkpoint:
            of_data["like"] = self.checkpoint_path
        defaults["data"] = {"class_path": self.options.data.class_path, "init_args": of_data}
        self._set_defaults(defaults)

    def _set_defaults(self, defaults: dict[str, Any]) -> None:
        for parser in self.parsers:
            parser.set_defaults(defaults)

    def before_instantiate_classes(self) -> None:
        """Give the checkpoint back, and leave GPUs without float64 aside."""
        if self.checkpoint_path:
            self.options.ckpt_path = self.checkpoint_path
        trainer = self.options.trainer
        if trainer.accelerator == "auto" and torch.backends.mps.is_available():
            # Apple's GPU has no float64.
            trainer.accelerator = "cpu" if trainer.precision == "64-true" else "auto"

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer, and refuse a checkpoint of another shape."""
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
        choose_intervals(self.options.trainer, self.datamodule)
        options = self.options.trainer
        if options.logger in (None, True):
            kwargs["logger"] = self.default_logger()
        elif options.logger is False:
            # Without a log directory there is no place of this run's own for its files.
            self.save_config_callback = None
            kwargs["enable_checkpointing"] = options.enable_checkpointing or False
        init = self.config_init[self.subcommand] if self.subcommand else self.config_init
        given = init.trainer.callbacks or []
        self.trainer_defaults["callbacks"] = self.callbacks(
            given if isinstance(given, list) else [given]
        )
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
        """Put numbers where the data decides: lr and momentum auto, and epochs that it plans."""
        if self.subcommand not in (None, "fit"):
            return
        options = self.options
        try:
            tune(self.datamodule, self.model, self._most_epochs())
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

    def default_logger(self) -> Logger:
        """Log for TensorBoard into `lightning_logs/version_N`."""
        return RunLogger(self.runs)

    def callbacks(self, given: list[Callback]) -> list[Callback]:
        """Return what every run gets; a bar of the user's own replaces ours."""
        options = self.options.trainer
        own_bar = any(isinstance(c, ProgressBar) for c in given)
        bar: list[Callback] = (
            [TrainingBar()] if options.enable_progress_bar is not False and not own_bar else []
        )
        if self.subcommand == "predict":
            return bar  # and the PredictionWriter that Lightning adds
        # Each callback, used or not, costs a step 3 % of its time in Lightning: none to spare.
        mine: list[Callback] = [StopWhenNotFinite(), Scalars(), Report()]
        if self.options.crosscheck not in ("off", False):
            check = CrossCheck(on_failure=self.options.crosscheck, free_run=self.options.free_run)
            mine.insert(1, check)
        unsaved = options.enable_checkpointing is False or options.logger is False
        if not (unsaved or options.fast_dev_run):
            own = [c for c in given if isinstance(c, Checkpoint)]
            _check_savers(own)
            savers = [c for c in own if isinstance(c, Checkpoints)] or [Checkpoints(named=not own)]
            savers[0].options = self.kept_options
            mine += [saver for saver in savers if saver not in given]
        return [*mine, *bar]

    def fit(self, **kwargs: Any) -> None:
        """Train; say where a training was interrupted, which Lightning leaves to its log."""
        try:
            self.trainer.fit(**kwargs)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C and SIGTERM
            raise CheckFailed(
                f"interrupted at once, after step {self.trainer.global_step:,}; to go on from the "
                "newest checkpoint, if there is one, add --ckpt_path last"
            ) from stop

    def after_fit(self) -> None:
        """Leave the end of the training as `last.ckpt`, and draw its figures."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpoints):
                callback.save_end(self.trainer)
        if self.options.figures:
            self.draw()

    def draw(self) -> None:
        """Draw the figures of the training; who is in a hurry may stop it, all else is done."""
        from trueline.tensorboard.figures import log_figures

        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Report) and callback.result:
                with contextlib.suppress(KeyboardInterrupt):
                    log_figures(self.trainer, self.model, callback.result)

    def before_fit(self) -> None:
        """Refuse what the cross-check cannot follow, and a training that is at its end."""
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
        self.before_predict()
        logger = self.trainer.logger
        if self.checkpoint_path and isinstance(logger, RunLogger):
            run = Path(self.checkpoint_path).resolve().parent.parent
            logger.carry_on(run, self.checkpoint["global_step"])
        if self.trainer.is_global_zero:
            print_start(self.trainer, self.datamodule)

    def before_predict(self) -> None:
        """Refuse a log directory that cannot be written or holds another run."""
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

    before_validate = before_test = before_predict

    def _requested_checkpoint(self) -> str | None:
        """Return the file that --ckpt_path asks for; a line is needed to do anything but fit."""
        if not self.subcommand:
            return None
        asked = self.options.get("ckpt_path")
        if asked is None and self.subcommand != "fit":
            asked = reading.LAST
        if asked == reading.LAST:
            return reading.find_last(self.runs)
        return None if asked is None else str(asked)


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
