"""Without a numba that works, steps are taken one by one by Lightning, and the run says so."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from trueline.data import DummyData
from trueline.loop.loop import Loop
from trueline.many_steps import compiling
from trueline.module import LinearRegression
from trueline.terminal.progress_bar import TrainingBar

HIDDEN = "import sys; sys.modules['{}'] = None; from trueline.cli.entry import main; main({})"
SHORT = ["fit", "--trainer.max_epochs", "3"]


@pytest.mark.parametrize("module", ["numba", "llvmlite.binding"])
def test_fit_without_numba_goes_step_by_step(python: Callable[..., Any], module: str) -> None:
    done = python("-c", HIDDEN.format(module, SHORT))
    assert done.status == 0, done.stderr
    reason = (
        "one: numba, which compiles the loop, does not work here "
        f"(ModuleNotFoundError: import of {module}"
    )
    assert done.stdout.count(reason) == 1
    result = done.result()
    assert result["steps_at_once"].startswith(reason)
    assert result["steps"] == 3
    assert result["crosscheck"]["passed"]


def fitted(trainer: Trainer, **options: Any) -> LinearRegression:
    module = LinearRegression(init="zeros", **options)
    trainer.fit(module, DummyData())
    return module


def test_error_of_the_compiler_leaves_the_steps_to_lightning(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("LLVM has no\n    target for this processor")

    monkeypatch.setattr(Loop, "compile", fail)
    module = fitted(make_trainer())
    assert module.single_steps == (
        "numba, which compiles the loop, does not work here "
        "(RuntimeError: LLVM has no target for this processor)"
    )
    alone = fitted(make_trainer(), steps_per_execution=1)
    assert torch.equal(module.weight, alone.weight)
    assert torch.equal(module.bias, alone.bias)
    assert module.weight.item() != 0


class Misses:
    """A kernel that numba has compiled so many times, rather than read it from its cache."""

    def __init__(self, n: int) -> None:
        self.stats, self.cache_misses = self, [None] * n


class AtOnce:
    """A timer whose time is up as it starts."""

    def __init__(self, seconds: float, function: Callable[..., None], args: Any) -> None:
        self.start = lambda: function(*args)

    def cancel(self) -> None: ...


@pytest.mark.parametrize("misses", [0, 1])
@pytest.mark.parametrize("bar", [True, False])
def test_progress_line_says_that_the_loop_is_compiled(
    make_trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    misses: int,
    bar: bool,
) -> None:
    monkeypatch.setattr(compiling.threading, "Timer", AtOnce)
    monkeypatch.setattr(Loop, "kernel", Misses(misses))
    monkeypatch.setattr(Loop, "compile", lambda *_: None)
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")  # others may raise it
    fitted(make_trainer(enable_progress_bar=bar, callbacks=[TrainingBar()] if bar else []))
    text = "compiling the loop, which only the first run does"
    assert capsys.readouterr().out.count(f"epoch 0/5, {text}\n") == (misses if bar else 0)
    assert caplog.messages.count(text) == (0 if bar else misses)
