"""A training stopped by Ctrl-C or SIGTERM says so, and how to go on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from trueline.cli import commands
from trueline.cli.entry import COMMANDS
from trueline.cli.lightning_cli import TruelineCLI


class Interrupt(Callback):
    def __init__(self, number: int, step: int = 30) -> None:
        self.number = number
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Put back the signal handlers, which Lightning changes for good when it is interrupted."""
    signals = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = {each: signal.getsignal(each) for each in signals}
    # Whatever this process inherited: a shell has its jobs in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_interrupted_before_or_after_training_it_says_so(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", interrupted)
    run = cli("validate")
    assert (run.status, run.stderr) == (1, "trueline: error: interrupted\n")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_every_command_ends_on_a_signal_as_on_ctrl_c(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, command: str, number: int
) -> None:
    monkeypatch.setattr(commands, "run", lambda _: os.kill(os.getpid(), number))
    run = cli(command)
    assert (run.status, run.stderr) == (1, "trueline: error: interrupted\n")
    assert signal.getsignal(number) == signal.SIG_DFL


def test_training_under_nohup_goes_on(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks = TruelineCLI.callbacks

    def interrupted(self: TruelineCLI, given: list[Callback]) -> list[Callback]:
        return [*callbacks(self, given), Interrupt(signal.SIGHUP)]

    monkeypatch.setattr(TruelineCLI, "callbacks", interrupted)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run = cli("fit", "--trainer.max_epochs=40")
    assert run.status == 0, run.stderr
    assert run.result()["steps"] == 40


def test_sweep_ends_on_a_signal_with_its_processes(tmp_path: Path) -> None:
    fit = ["--over=model.lr=1e-5,2e-5", "--trainer.max_epochs=100000000", "--jobs=2"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "trueline", "sweep", *fit, "--crosscheck=off"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("lightning_logs/sweep_0/trial_*"))) < 2:
        assert time.monotonic() < deadline
        assert sweep.poll() is None, sweep.communicate()
        time.sleep(0.1)
    sweep.send_signal(signal.SIGHUP)
    _, stderr = sweep.communicate(timeout=60)
    assert sweep.returncode == 1
    assert re.fullmatch(r"trueline: error: interrupted after 0 of 2 trials; to go .*\n", stderr)
    while time.monotonic() < deadline:
        try:
            os.killpg(sweep.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a process of the sweep has stayed")


def test_training_that_max_steps_cuts_inside_an_epoch_says_that_it_cannot_go_on(
    cli: Callable[..., Any],
) -> None:
    fit = ("fit", "--data.batch_size=5", "--trainer.max_epochs=-1")
    line = "not to go on    from lightning_logs/version_0/checkpoints/last.ckpt: the training ended"
    cut = cli(*fit, "--trainer.max_steps=4")
    assert cut.status == 0
    assert line in cut.stdout
    assert cut.stderr == ""
    again = cli(*fit, "--trainer.max_steps=9", "--ckpt_path=last")
    assert again.status == 2
    assert again.stderr.count("\n") == 1
    assert "not to go on" not in cli(*fit, "--trainer.max_steps=6").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_run_says_how_to_go_on(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    callbacks = TruelineCLI.callbacks
    fit = ("fit", "--trainer.max_epochs", "40")

    def interrupted(self: TruelineCLI, given: list[Callback]) -> list[Callback]:
        return [*callbacks(self, given), Interrupt(number)]

    with monkeypatch.context() as patch:
        patch.setattr(TruelineCLI, "callbacks", interrupted)
        run = cli(*fit)
    assert run.status == 1
    assert run.stderr.count("\n") == 1
    assert "after step 30, and saved; to go on, run trueline fit" in run.stderr
    assert run.result()["error"]
    again = cli(*fit, "--ckpt_path", "last")
    assert again.status == 0, again.stderr
    # As if it had never stopped: the checkpoint holds the state to the bit.
    whole = cli(*fit)
    assert again.result("version_1")["steps"] == whole.result("version_2")["steps"] == 40
    assert again.result("version_1")["weight"] == whole.result("version_2")["weight"]


def test_interrupted_run_says_what_the_page_shows(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parent.parent / "docs/same_numbers.md").read_text("utf-8")
    (shown,) = re.findall(r"^trueline: error: interrupted by .*$", page, re.M)
    (step,) = re.findall(r"after step (\d+)", shown)
    callbacks = TruelineCLI.callbacks

    def interrupted(self: TruelineCLI, given: list[Callback]) -> list[Callback]:
        return [*callbacks(self, given), Interrupt(signal.SIGINT, int(step))]

    monkeypatch.setattr(TruelineCLI, "callbacks", interrupted)
    run = cli("fit", "--trainer.max_epochs=1000")
    assert run.status == 1
    assert run.stderr.strip() == shown


def test_nothing_of_lightning_stands_beside_what_is_said_of_checkpoints(
    cli: Callable[..., Any],
) -> None:
    saver = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
    fit = ("fit", "--trainer.max_epochs=3", saver, "--trainer.callbacks.dirpath=mine")
    # Warnings are errors here, but for those that the command leaves out.
    for command in (fit, fit, ("validate",), ("predict",)):
        run = cli(*command)
        assert (run.status, run.stderr) == (0, "")
