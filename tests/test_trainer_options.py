"""Options of the Trainer that few give: each works, or is refused in one line with the remedy."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.loggers import Logger

from conftest import Run
from test_epoch_counting import Stock
from trueline.crosscheck import CrossCheck
from trueline.data import DummyData
from trueline.module import LinearRegression
from trueline.reference.article import X, y
from trueline.tensorboard import Scalars

Cli = Callable[..., Run]
SHORT = "--trainer.max_epochs=20"


@pytest.fixture
def table(tmp_path: Path) -> list[str]:
    """Write a table of columns x and y; return the options that train on it, some rows held out."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=40)
    rows = np.column_stack([x, 3 * x - 1 + rng.normal(0, 0.1, 40)])
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",", header="x,y", comments="")
    return ["--data=TableData", "--data.path=t.csv", "--data.target=y", "--data.val_fraction=0.2"]


# Barebones.


def test_barebones_trains_and_leaves_nothing(cli: Cli, table: list[str]) -> None:
    run = cli("fit", SHORT, *table, "--trainer.barebones=true")
    assert (run.status, run.stderr) == (0, "")
    assert "held-out loss" in run.stdout
    assert "cross-check     passed: 20 steps" in run.stdout
    assert [path.name for path in run.directory.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("steps", [1, "auto"])
def test_barebones_trains_in_python(tmp_path: Path, steps: Any) -> None:
    check = CrossCheck()
    trainer = Trainer(
        barebones=True, max_epochs=20, callbacks=[check, Scalars()], accelerator="cpu",
        precision="64-true", default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(LinearRegression(steps_per_execution=steps), DummyData())
    assert (check.steps_checked, [*tmp_path.iterdir()]) == (20, [])


@pytest.mark.parametrize("option", ["logger=true", "profiler=simple", "enable_checkpointing=true"])
def test_what_barebones_forbids_is_refused_by_name(cli: Cli, option: str) -> None:
    run = cli("fit", SHORT, "--trainer.barebones=true", f"--trainer.{option}")
    assert (run.status, run.stderr.count("\n")) == (2, 1)
    assert f"--trainer.{option.partition('=')[0]}: expected none with" in run.stderr


# Time.


@pytest.mark.parametrize(
    "limit",
    [
        ("--trainer.max_time=00:00:00:02",),
        ("--trainer.callbacks=Timer", "--trainer.callbacks.duration=00:00:00:02"),
    ],
)
@pytest.mark.parametrize("max_epochs", [-1, 1_000_000])
def test_a_time_limit_leaves_time_to_train(
    cli: Cli, table: list[str], limit: tuple[str, ...], max_epochs: int
) -> None:
    # A momentum that does not help, so that the time ends the training and nothing else.
    model = "--model.lr=1e-6", "--model.momentum=0"
    run = cli("fit", f"--trainer.max_epochs={max_epochs}", *table, *limit, *model)
    assert run.status == 0, run.stderr
    result = run.result()
    assert result["steps"] > 2_000  # a validation after each would leave time for a few hundred
    assert result["seconds"] < 5
    assert result["val_loss"] is not None


def test_open_ended_training_is_validated_twice_an_octave(cli: Cli) -> None:
    run = cli(
        *("fit", "--trainer.max_epochs=-1", "--trainer.callbacks=test_trainer_options.StopAt"),
        *("--trainer.check_val_every_n_epoch=null", "--trainer.logger=CSVLogger"),
        "--trainer.logger.save_dir=.",
    )
    assert run.status == 0, run.stderr
    with (run.directory / "lightning_logs/version_0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    validated = [int(row["step"]) for row in rows]
    assert validated == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]


class StopAt(Scalars):
    """Stops a training at step 48; known not to depend on validations."""

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        trainer.should_stop = trainer.global_step >= 48

    def on_validation_end(self, *_: Any) -> None:
        """Leave logging to the callback of the run."""


@pytest.mark.parametrize("found", ["5", "abc", "{days: x}", "{foo: 3}"])
def test_a_time_that_is_none_is_refused(cli: Cli, found: str) -> None:
    run = cli("fit", f"--trainer.max_time={found}")
    assert (run.status, run.stderr.count("\n")) == (2, 1)
    assert "--trainer.max_time: expected " in run.stderr
    assert "DD:HH:MM:SS" in run.stderr


def test_steps_alone_leave_validation_sparse(cli: Cli) -> None:
    run = cli("fit", "--trainer.max_epochs=-1", "--trainer.max_steps=2000")
    assert run.result()["steps"] == 2000
    config = (run.directory / "lightning_logs/version_0/config.yaml").read_text()
    assert "check_val_every_n_epoch: 100" in config


# Finders.


def test_batch_size_finder_needs_a_batch_size(cli: Cli) -> None:
    finder = "--trainer.callbacks=BatchSizeFinder"
    refused = cli("fit", SHORT, finder)
    assert (refused.status, refused.stderr.count("\n")) == (2, 1)
    assert "give --data.batch_size" in refused.stderr
    found = cli("fit", SHORT, finder, "--data.batch_size=2", "--trainer.callbacks.max_val=8")
    assert found.status == 0, found.stderr
    # All steps of the trials are taken back: a training in batches of 8 is the same.
    plain = cli("fit", SHORT, "--data.batch_size=8").result("version_1")
    names = ("weight", "bias", "steps")
    assert [found.result()[name] for name in names] == [plain[name] for name in names]


def test_learning_rate_finder_finds_what_stock_lightning_finds(
    make_trainer: Callable[..., Trainer],
) -> None:
    found = []
    points = torch.tensor(X, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)[:, None]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*points), 15)
    stock = Stock()
    torch.manual_seed(0)
    for model, *data in ((stock, loader, loader), (LinearRegression(), DummyData())):
        model.lr = 0.001
        finder = LearningRateFinder(num_training_steps=60, max_lr=1e-3)
        trainer = make_trainer(max_epochs=200, callbacks=[finder])
        trainer.fit(model, *data)
        found.append((finder.optimal_lr.suggestion(), finder.optimal_lr.results["loss"]))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-9)


def test_report_of_the_profiler_is_seen(process: Callable[..., Run]) -> None:
    run = process("trueline", "fit", SHORT, "--trainer.profiler=simple", "--figures=false")
    assert run.status == 0, run.stderr
    assert "FIT Profiler Report" in run.stderr
    assert "run_training_epoch" in run.stderr


# Messages.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.logger=MLFlowLogger"], "MLFlowLogger: expected the package mlflow|pip "),
        (["--trainer.logger=WandbLogger"], "WandbLogger: expected the package wandb|pip install"),
        (["--trainer.logger=CometLogger"], "CometLogger: expected the package comet|pip install"),
        (['--trainer.logger=[{class_path: CSVLogger, init_args: {save_dir: a}}, MLFlowLogger]'],
         "MLFlowLogger: expected the package mlflow"),
        (["--trainer.logger=NeptuneLogger"],
         "--trainer.logger: expected class (by name or import path) or bool; found NeptuneLogger"),
        (["--trainer.logger=CSVLogger"], "--trainer.logger.save_dir: expected a value; found none"),
        (["--trainer.logger=[CSVLogger]"], "--trainer.logger.save_dir: expected a value"),
        (["--trainer.callbacks=Foo"],
         "--trainer.callbacks: expected class (by name or import path); found Foo"),
        (["--trainer.callbacks=EarlyStopping"], "--trainer.callbacks.monitor: expected a value"),
        (["--trainer.callbacks=[EarlyStopping]"], "--trainer.callbacks.monitor: expected a value"),
        (["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss",
          "--trainer.callbacks.mode=foo"], "`mode` can be min, max, got foo"),
        (["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss",
          "--trainer.callbacks.patience=abc"],
         "--trainer.callbacks.patience: expected int; found abc"),
        (["--trainer.callbacks=Timer", "--trainer.callbacks.duration=5"], "format DD:HH:MM:SS"),
        (["--trainer.callbacks=Timer", "--trainer.callbacks.durations=5"],
         "--trainer.callbacks: Option 'durations' is not accepted"),
        (["--trainer.callbacks=no_such_module.Thing"], "No module named 'no_such_module'"),
        (["--trainer.callbacks=trueline.module.LinearRegression"],
         "--trainer.callbacks: Import path does not correspond to a subclass of Callback"),
        (["--trainer.plugins=Foo"], "--trainer.plugins: expected class (by name or import path)"),
        (["--trainer.profiler=foo"], "--trainer.profiler: expected 'simple', 'advanced'"),
        (["--crosscheck=foo"], "--crosscheck: expected raise, warn or off; found foo"),
        (["--model.schedule={name: ReduceLROnPlateau, monitor: foo}"],
         "expected under monitor a metric, one of train/loss, val/loss; found foo"),
        (["--data.pth=t.csv"], "--data: Option 'pth' is not accepted; did you mean --data.path?"),
    ],
)  # fmt: skip
def test_wrong_option_is_refused_in_words_of_its_own(
    cli: Cli, options: list[str], words: str
) -> None:
    run = cli("fit", "--trainer.max_epochs=2", *options)
    assert (run.status, run.stderr.count("\n")) == (2, 1), run.stderr
    assert [part for part in words.split("|") if part not in run.stderr] == [], run.stderr
    noise = "no reason given", "Iterable", "implement protocol", "Namespace", "dot import"
    assert [word for word in noise if word in run.stderr] == [], run.stderr
    assert len(run.stderr) < 250


class Wordless(ModelCheckpoint):
    """Fails without a message."""

    def on_train_start(self, *_: Any) -> None:
        raise ValueError


def test_an_error_without_words_names_its_line(cli: Cli) -> None:
    run = cli("fit", SHORT, "--trainer.callbacks=test_trainer_options.Wordless")
    assert (run.status, run.stderr.count("\n")) == (1, 1)
    assert "ValueError: raised by `raise ValueError`" in run.stderr


# Loggers.


class Notes(Logger):
    """A logger without a folder for each run, such as MLflow's."""

    def __init__(self, save_dir: str = "notes") -> None:
        super().__init__()
        self._save_dir = save_dir

    @property
    def save_dir(self) -> str:
        return self._save_dir

    name = version = None

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Leave hyperparameters out."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        path = Path(self._save_dir) / "metrics.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        (["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"], "logs/lightning_logs"),
        (["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs",
          "--trainer.logger.name=mine"], "logs/mine"),
        (["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=."], "lightning_logs"),
        (["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=logs"],
         "logs/lightning_logs"),
        (["--trainer.logger=test_trainer_options.Notes"], "lightning_logs"),
        (["--trainer.logger=[test_trainer_options.Notes, {class_path: CSVLogger, "
          "init_args: {save_dir: logs}}]"], "lightning_logs"),
    ],
)  # fmt: skip
def test_every_run_has_a_folder_whatever_logs(cli: Cli, options: list[str], runs: str) -> None:
    for version in (0, 1):
        run = cli("fit", SHORT, *options, "--trainer.log_every_n_steps=5")
        assert run.status == 0, run.stderr
        folder = run.directory / runs / f"version_{version}"
        kept = {path.name for path in folder.iterdir()}
        assert {"config.yaml", "result.json", "checkpoints"} <= kept
        if version == 0:
            before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {p: p.read_bytes() for p in before} == before
    resumed = cli("fit", "--trainer.max_epochs=30", *options, "--ckpt_path=last")
    assert resumed.status == 0, resumed.stderr
    result = json.loads((run.directory / runs / "version_2/result.json").read_text())
    assert result["steps"] == 30
    predicted = cli("predict", *options)
    assert predicted.status == 0, predicted.stderr
    [path] = run.directory.rglob("predictions.csv")
    found = np.loadtxt(path, delimiter=",", skiprows=1)
    expected = result["weight"] * found[:, 0] + result["bias"]
    np.testing.assert_allclose(found[:, -1], expected, rtol=1e-12)


def test_every_logger_of_a_list_has_the_curves(cli: Cli) -> None:
    both = (
        "[{class_path: CSVLogger, init_args: {save_dir: logs}}, "
        "{class_path: test_trainer_options.Notes}]"
    )
    options = "--trainer.log_every_n_steps=5", f"--trainer.logger={both}"
    assert cli("fit", SHORT, "--trainer.check_val_every_n_epoch=5", *options).status == 0
    directory = cli("--version").directory
    with (directory / "logs/lightning_logs/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    notes = [
        json.loads(line) for line in (directory / "notes/metrics.jsonl").read_text().splitlines()
    ]
    for name in ("train/loss", "val/loss", "parameters/weight", "crosscheck/worst_ratio"):
        table = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        points = [(row["step"], row[name]) for row in notes if name in row]
        assert sorted(set(table)) == sorted(set(points)), name
        assert len(points) >= 4
