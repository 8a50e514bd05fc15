"""Resuming: to the bit from inside an epoch, and refused where it could not be right."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from trueline.crosscheck import CrossCheck
from trueline.data import DummyData, RegressionData
from trueline.module import LinearRegression
from trueline.reference.article import X, y


class Targets(RegressionData):
    """The article's points with as many targets, and row k of weight k."""

    def __init__(
        self, batch_size: int | None = None, shuffle: bool = False, n_targets: int = 2
    ) -> None:
        targets = y[:, None] * np.arange(1, n_targets + 1)
        super().__init__(X, targets, batch_size, shuffle, sample_weight=np.arange(1, 16))


def fit(
    make_trainer: Callable[..., Any], folder: Path, resume: int = 0, lr: float = 0.001
) -> LinearRegression:
    """Train five epochs, saving every step in `folder`, or go on from one of those."""
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    callbacks = [CrossCheck()] if resume else [CrossCheck(), saver]
    trainer = make_trainer(callbacks=callbacks, enable_checkpointing=not resume)
    path = folder / f"step={resume}.ckpt" if resume else None
    torch.manual_seed(0)
    model = LinearRegression(momentum=0.9, lr=lr)
    trainer.fit(model, DummyData(batch_size=4, shuffle=True), ckpt_path=path)
    assert trainer.global_step == 20
    return model


# The saver is left out when going on, so that it saves nothing over what the test compares.
going_on = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


@going_on
@pytest.mark.parametrize("step", [1, 6, 8])
def test_resumed_run_of_targets_and_weights_is_the_same_to_the_bit(
    make_trainer: Any, tmp_path: Path, step: int
) -> None:
    def train(**options: Any) -> LinearRegression:
        torch.manual_seed(0)
        model, data = LinearRegression(n_targets=2, momentum=0.9), Targets(4, shuffle=True)
        make_trainer(max_epochs=3, enable_checkpointing=True, **options).fit(
            model, data, ckpt_path=saved if "callbacks" not in options else None
        )
        return model

    saved = tmp_path / f"step={step}.ckpt"
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole, resumed = train(callbacks=[saver]), train()
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)


@pytest.mark.parametrize("command", ["fit --trainer.max_epochs=3", "predict", "validate"])
def test_checkpoint_of_other_targets_is_refused(cli: Any, command: str) -> None:
    options = ("--data=test_checkpoint.Targets", "--crosscheck=off")
    assert cli("fit", "--trainer.max_epochs=2", *options).status == 0
    again = (*command.split(), *options, "--ckpt_path=last")
    run = cli(*again, "--data.n_targets=3")
    assert run.status == 2
    assert "{'weight': (1, 3), 'bias': (3,)}" in run.stderr
    assert "found {'weight': (1, 2), 'bias': (2,)}" in run.stderr
    assert run.stderr.count("\n") == 1
    assert cli(*again).status == 0  # and one of the same targets is not


@going_on
@pytest.mark.parametrize("step", [1, 2, 4, 6, 11, 16, 19])
def test_resumed_run_is_the_same_to_the_bit(make_trainer: Any, tmp_path: Path, step: int) -> None:
    whole = fit(make_trainer, tmp_path)
    resumed = fit(make_trainer, tmp_path, resume=step)
    assert resumed.weight.item() == whole.weight.item()
    assert resumed.bias.item() == whole.bias.item()


@going_on
def test_resumed_run_takes_the_learning_rate_that_is_asked_for(
    make_trainer: Any, tmp_path: Path
) -> None:
    # The cross-check fails the run if the checkpoint's lr were used.
    fit(make_trainer, tmp_path)
    fit(make_trainer, tmp_path, resume=8, lr=0.0005)


def test_resume_counts_the_epochs_of_both_runs(cli: Any) -> None:
    assert cli("fit", "--trainer.max_epochs=5", "--data.batch_size=4").status == 0
    run = cli("fit", "--trainer.max_epochs=8", "--ckpt_path=last")
    assert (run.result("version_1")["epochs"], run.result("version_1")["steps"]) == (8, 32)


def test_resume_of_a_finished_run_is_refused(cli: Any) -> None:
    assert cli("fit", "--trainer.max_epochs=5").status == 0
    run = cli("fit", "--trainer.max_epochs=5", "--ckpt_path=last")
    assert run.status == 2
    assert "--trainer.max_epochs: expected more than the 5 that" in run.stderr
    assert not (run.directory / "lightning_logs/version_1").exists()


def test_resume_of_an_epoch_cut_short_is_refused(cli: Any) -> None:
    assert cli("fit", "--trainer.max_steps=6", "--data.batch_size=4").status == 0
    run = cli("fit", "--trainer.max_epochs=5", "--data.batch_size=4", "--ckpt_path=last")
    assert run.status == 2
    assert "max_steps cut short" in run.stderr


def test_an_error_nobody_foresaw_is_one_line(cli: Any) -> None:
    options = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val_loss"]
    run = cli("fit", "--trainer.max_epochs=2", *options)
    assert run.status == 1
    assert run.stderr.count("\n") == 1
    assert "val_loss" in run.stderr
    assert "`val/loss`" in run.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            "--model.lr=0.0001",
            "--model.lr: expected that of .*, 0.001, .* found 0.0001; leave it out",
        ),
        ("--model.schedule.gamma=0.5", "--model.schedule: expected .* found .*'gamma': 0.5"),
    ],
)
def test_schedule_goes_on_as_it_was(cli: Any, changed: str, said: str) -> None:
    schedule = ("--model.schedule.name=StepLR", "--model.schedule.step_size=2")
    assert cli("fit", "--trainer.max_epochs=3", *schedule).status == 0
    again = ("fit", "--ckpt_path=last", "--trainer.max_epochs=5")
    run = cli(*again, changed)
    assert run.status == 2
    assert run.stderr.count("\n") == 1
    assert re.search(said, run.stderr)
    assert cli(*again).status == 0
