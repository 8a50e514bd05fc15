"""A training stopped by Ctrl-C or SIGTERM says so, and how to go on."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from trueline.cli import commands
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
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    # Whatever this process inherited: a shell has its jobs in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
