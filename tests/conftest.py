"""What all tests share: small Trainers, runs of the command line, and quiet imports."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

import forked
from trueline.cli.entry import main

# Lightning's own calls of what jsonargparse will rename; read by jsonargparse at each call.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"

# Two test processes on two cores: each keeps to one thread, and results do not depend on it.
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures out of trainings in this process, where they are not what is tested."""
    if "figures" not in request.keywords:
        monkeypatch.setattr("trueline.cli.lightning_cli.TruelineCLI.draw", lambda _: None)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Return a maker of Trainers that log, save and print nothing unless told to."""

    def make(**options: Any) -> Trainer:
        quiet = {
            "accelerator": "cpu",
            "precision": "64-true",
            "max_epochs": 5,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
            "default_root_dir": tmp_path,
        }
        return Trainer(**(quiet | options))

    return make


class Run:
    """What one call of the command line came to."""

    def __init__(self, status: int, stdout: str, stderr: str, directory: Path) -> None:
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        self.directory = directory

    def result(self, version: str = "version_0") -> dict[str, Any]:
        """Return `result.json` of one version."""
        text = (self.directory / "lightning_logs" / version / "result.json").read_text()
        return json.loads(text)


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Run]:
    """Return a caller of the command line in this process, in a folder of the test's own."""

    def call(*arguments: str) -> Run:
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        try:
            status = main(arguments)
        except SystemExit as stop:  # --help and --print_config end so
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Run(status, captured.out, captured.err, tmp_path)

    return call


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., Run]:
    """Return a caller of Python as a process of its own: slower, but for real."""

    def call(*arguments: str, cwd: Path = tmp_path) -> Run:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr, cwd)

    return call


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Run]:
    """Return a caller of the command `trueline ...` as a process of its own."""

    def call(command: str, *arguments: str) -> Run:
        assert command == "trueline"
        [done] = forked.run(forked.trueline, arguments, cwd=tmp_path)
        return Run(done.returncode, done.stdout, done.stderr, tmp_path)

    return call
