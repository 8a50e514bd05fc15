"""`docs/sweeps.md`: its commands run, and print what the page says they print."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from page_commands import check_commands
from trueline.sweep.report import METRICS

PAGE = (Path(__file__).parent.parent / "docs/sweeps.md").read_text("utf-8")


def test_page_prints_what_it_says(process: Callable[..., Any]) -> None:
    assert len(check_commands(PAGE, process)) == 1


def test_page_names_the_metrics() -> None:
    assert all(f"`{name}`" in PAGE for name in METRICS)
