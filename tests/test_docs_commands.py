"""`docs/commands.md`: its commands run, and print what the page says they print."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from page_commands import check_commands
from trueline.baselines import train_builtin
from trueline.reference import article

PAGE = (Path(__file__).parent.parent / "docs/commands.md").read_text("utf-8")


def test_page_prints_what_it_says(process: Callable[..., Any]) -> None:
    names = [command.split()[1] for command in check_commands(PAGE, process)]
    assert names == ["fit", "predict", "plan"]


def test_page_schedule_is_one(cli: Callable[..., Any]) -> None:
    (option,) = re.findall(r"`(--model\.schedule .*?)`", PAGE)
    name, value = shlex.split(option)
    run = cli("fit", "--trainer.max_epochs=201", f"{name}={value}")
    assert run.status == 0, run.stderr
    assert run.result()["lr"] == 0.001


def test_page_says_where_float32_stalls() -> None:
    (said,) = re.findall(r"in float32 the bias of the 15 points stalls at (\d+\.\d+)", PAGE)
    X, y = torch.tensor(article.X[:, 0]).float(), torch.tensor(article.y).float()
    bias = train_builtin(X, y, weight=0.0, bias=0.0, lr=0.001, epochs=50_000).bias
    assert bias[-1] == bias[-5000]
    assert f"{bias[-1]:.3f}" == said
