"""The options of a training: what may be said on the command line, and what holds unless said.

The command line wins over configs, and both over what a checkpoint has kept.
"""

import argparse
import inspect
import pydoc
import re
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)

from trueline.checkpoints import loading, reading
from trueline.checkpoints.kept_options import keep, recall
from trueline.cli.option_errors import check_counts, one_line, read_configs, with_remedy
from trueline.errors import RequestError
from trueline.hooks import FewHooks
from trueline.module import LinearRegression
from trueline.results.predictions import PredictionWriter
from trueline.results.run_folder import RUNS
from trueline.results.whole_files import write_whole

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


def _name_enums(callbacks: Any) -> None:
    """Put names in the place of members of enumerations, which no config file can hold."""
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        for name, value in dict((callback or {}).get("init_args") or {}).items():
            if isinstance(value, Enum):
                callback.init_args[name] = value.value


class SavedConfig(FewHooks, SaveConfigCallback):
    """Leaves a whole `config.yaml` in the log directory, and costs the steps nothing."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the options, as the first process has them."""
        log_dir = str(trainer.log_dir)  # asked for in all processes: the first one tells it
        if "://" in log_dir:
            super().setup(trainer, pl_module, stage)
        elif trainer.is_global_zero and not self.already_saved:
            # It was checked when it was parsed.
            text = self.parser.dump(self.config, skip_none=False, skip_validation=True)
            path = Path(log_dir) / self.config_filename
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: file.write(text.encode()))
            self.already_saved = True


class OptionsCLI(LightningCLI):
    """Reads Lightning's options, and ours before them; what is done with them is for subclasses.

    Args:
        args: Of the command line, the subcommand first if there is one.
        run: Whether there is a subcommand, which is then carried out.
        prog: How the command is called in its help.

    Raises:
        RequestError: When the options are wrong, or the checkpoint that they ask for is.
    """

    def __init__(self, args: list[str], run: bool = True, prog: str = "trueline") -> None:
        self.parsers: list[LightningArgumentParser] = []
        self.checkpoint_path: str | None = None
        self.kept_options: dict[str, Any] = {}
        self.subcommand: str | None = args[0] if run else None
        self.prog = prog
        # Errors come here as exceptions, and no option may be abbreviated: that hides typos.
        strict: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
        kwargs = {"prog": prog, "usage": f"{prog} [OPTIONS]", "description": DATA_OPTIONS, **strict}
        if self.subcommand:
            text = f"{DESCRIPTIONS[self.subcommand]} {DATA_OPTIONS}"
            usage = f"{prog} {self.subcommand} [OPTIONS]"
            kwargs[self.subcommand] = {**strict, "usage": usage, "description": text}
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

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the subcommand at hand alone: building the parsers of the others takes 0.1 s."""
        known = super().subcommands().items()
        return {name: skipped for name, skipped in known if name == self.subcommand}

    @property
    def options(self) -> Any:
        """The options of the command, as parsed; those of its subcommand where it has one."""
        return self.config[self.subcommand] if self.subcommand else self.config

    @property
    def is_like_checkpoint(self) -> bool:
        """Whether the data takes columns and scaling from the checkpoint at hand."""
        kept = self.checkpoint_path is not None and reading.PREPROCESSING in self.checkpoint
        return kept and "like" in (self.options.data.get("init_args") or {})

    @property
    def runs(self) -> Path:
        """The folder that holds one folder a run."""
        return Path(self.options.trainer.default_root_dir or "") / RUNS

    def _runs_of_loggers(self) -> list[Path]:
        """Return the folders in which loggers of the user keep runs."""
        loggers = self.options.trainer.logger
        loggers = loggers if isinstance(loggers, list) else [loggers]
        given = [
            logger.get("init_args") or {} for logger in loggers if isinstance(logger, Namespace)
        ]
        return [
            Path(options["save_dir"]) / (options.get("name") or "")
            for options in given
            if options.get("save_dir")
        ]

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
            "--figures",
            type=bool,
            default=True,
            help="Whether a training is drawn for TensorBoard: once it is over, which takes 0.3 s, "
            "and from 10 s on each time that it has taken twice as long.",
        )
        if (parser.usage or "").startswith(f"{self.prog} predict "):
            parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
        self.parsers.append(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse so that the command line wins over a config, and both over a checkpoint.

        Raises:
            RequestError: When the options are wrong, or the checkpoint that they ask for is.
        """
        arguments = list(args)  # type: ignore[arg-type]
        configs = read_configs(arguments)
        try:
            self.config = parser.parse_args([a for a in arguments if "--print_config" not in a])
            self.subcommand = self.config.get("subcommand")
            # Else the options of the default class would stay behind where another is asked for.
            data = self.options.data.class_path
            self._set_defaults({"data": {"class_path": data}})
            if getattr(pydoc.locate(data), "plans_epochs", False):
                self._set_defaults(PLANNED)
            if (path := self._requested_checkpoint()) is not None:
                self.checkpoint = loading.load(path, resume=self.subcommand == "fit")
                self.checkpoint_path = path
                typed = any(re.match("--data(=|$)", argument) for argument in arguments)
                if not typed and not any("class_path" in str(c.get("data")) for c in configs):
                    name = data.rpartition(".")[2]
                    loading.check_trained_on(path, self.checkpoint, name, DEFAULT_DATA)
                self._default_to_checkpoint()
            self.config = parser.parse_args(arguments)
        except RequestError:
            raise
        except (argparse.ArgumentError, ValueError, TypeError, OSError, RecursionError) as error:
            options = [*self.parsers[0].get_defaults().keys()]
            options += ["ckpt_path"] if self.subcommand else []
            command = self.subcommand or self.prog.split()[-1]
            message = with_remedy(one_line(str(error)), options, command)
            raise RequestError(message) from error
        check_counts(self.options)
        _name_enums(self.options.trainer.callbacks)
        self.kept_options = keep(self.options)
        if self.subcommand:
            # Lightning would parse the checkpoint next, and let its values win over typed ones.
            self.options.ckpt_path = None

    def _default_to_checkpoint(self) -> None:
        """Make the options that the checkpoint has kept the defaults."""
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
        defaults["data"] = {"class_path": self.options.data.class_path, "init_args": of_data}
        self._set_defaults(defaults)

    def _set_defaults(self, defaults: dict[str, Any]) -> None:
        for parser in self.parsers:
            parser.set_defaults(defaults)

    def _requested_checkpoint(self) -> str | None:
        """Return the file that --ckpt_path asks for; a line is needed to do anything but fit."""
        if not self.subcommand:
            return None
        asked = self.options.get("ckpt_path")
        if asked is None and self.subcommand != "fit":
            asked = reading.LAST
        if asked == reading.LAST:
            return reading.find_last(self.runs, *self._runs_of_loggers())
        return None if asked is None else str(asked)
