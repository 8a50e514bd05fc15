"""`docs/same_numbers.md`: what it shows is what is printed, and its numbers are those measured."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/same_numbers.md").read_text("utf-8")
SHARES, _ = re.findall(r"```console\n(.*?)\n```", PAGE, re.S)


def test_page_command_says_how_rows_are_shared(process: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (command,) = re.findall(r"^(trueline fit --config .*)$", PAGE, re.M)
    run = process(*shlex.split(command), "--trainer.accelerator=cpu", "--trainer.max_epochs=2")
    assert run.status == 0, run.stderr
    assert SHARES in run.stdout.splitlines()


def test_page_tells_the_distances_that_were_measured() -> None:
    report = max((ROOT / "benchmarks/results").glob("*-threads.md")).read_text("utf-8")
    measured = re.findall(r"^\| .*? \| \d\d-true \| (\S+) \| (\S+) \|$", report, re.M)
    assert measured == [("0.0e+00", "0.0e+00")] * 6
    assert re.findall(r"^\| threads, .*? \| (.*?) \| `make threads` \|$", PAGE, re.M) == [
        "not a bit"
    ]
