"""Every file in `configs/` says what it is for, parses, and runs by the command in its comment."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import ROOT, Run

Cli = Callable[..., Run]
CONFIGS = sorted(ROOT.glob("configs/*.yaml"))
OVERLAYS = [path for path in CONFIGS if "Overlay:" in path.read_text("utf-8")]
BASE = ("--config", "configs/dummy.yaml")


@pytest.fixture(autouse=True)
def configs(tmp_path: Path) -> None:
    """Put the files where the commands in them expect the files."""
    for folder in ("configs", "tests/data"):
        shutil.copytree(ROOT / folder, tmp_path / folder)


def options(path: Path) -> tuple[str, ...]:
    """Give a file as it is meant to be given: an overlay after the base."""
    own = "--config", f"configs/{path.name}"
    return (*BASE, *own) if path in OVERLAYS else own


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        below = isinstance(value, dict)
        flat |= leaves(value, f"{prefix}{key}.") if below else {f"{prefix}{key}": value}
    return flat


def test_configs_are_all_found() -> None:
    assert {path.stem for path in CONFIGS} >= {"dummy", "synthetic", "table", "cpu", "gpu", "ddp"}
    assert {path.stem for path in OVERLAYS} >= {"cpu", "gpu", "ddp"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_says_what_it_is_for(path: Path) -> None:
    first = path.read_text("utf-8").splitlines()[0]
    assert re.fullmatch(r"# \w.{20,}", first)
    if path in OVERLAYS:
        command = " ".join(("trueline fit", *options(path)))
        assert first == f"# Overlay: {command}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_reaches_the_run(path: Path, cli: Cli) -> None:
    run = cli("fit", *options(path), "--print_config")
    assert run.status == 0, run.stderr
    parsed = leaves(yaml.safe_load(run.stdout))
    given = leaves(yaml.safe_load(path.read_text("utf-8")))
    given |= {k: f"trueline.data.{v}" for k, v in given.items() if k == "data.class_path"}
    assert given
    assert {name: parsed[name] for name in given} == given


def test_dummy_config_spells_the_defaults_out(cli: Cli) -> None:
    assert cli("fit", *BASE, "--print_config").stdout == cli("fit", "--print_config").stdout


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_trains(path: Path, cli: Cli, process: Cli, tmp_path: Path) -> None:
    command = ("fit", *options(path), "--trainer.max_epochs", "3")
    # Lightning starts the other processes by the command line of this one.
    run = process("trueline", *command) if path.stem == "ddp" else cli(*command)
    if path.stem == "gpu" and not torch.cuda.is_available():
        assert run.status == 2
        assert "--trainer.accelerator gpu: expected such a device" in run.stderr
        assert not (tmp_path / "lightning_logs").exists()
        return
    assert run.status == 0, run.stderr
    result = run.result()
    assert (result["epochs"], result["crosscheck"]["passed"]) == (3, True)
    assert result["environment"]["devices"] == (2 if path.stem == "ddp" else 1)
    expected = {"cpu": "cpu", "gpu": "cuda"}.get(path.stem, result["environment"]["accelerator"])
    assert result["environment"]["accelerator"] == expected


def test_config_turns_the_crosscheck_off_with_a_bare_off(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "off.yaml").write_text("crosscheck: off\n")  # to YAML that is False
    run = cli("fit", "--config", "off.yaml", "--trainer.max_epochs", "2")
    assert run.status == 0, run.stderr
    assert run.result()["crosscheck"] is None
