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


SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def test_page_tells_the_distances_that_were_measured() -> None:
    report = max((ROOT / "benchmarks/results").glob("*-threads.md")).read_text("utf-8")
    measured = re.findall(r"^\| .*? \| \d\d-true \| (\S+) \| 0\.0e\+00 \|$", report, re.M)
    rows = re.findall(r"^\| threads, .*? \| (.*?) \| `make threads` \|$", PAGE, re.M)
    told = [cell for row in rows for cell in row.split("; ")]
    (exact, *double), (exact_too, *single) = measured[:3], measured[3:]
    assert exact == exact_too == "0.0e+00"
    assert told[0] == "not a bit"
    for cell, number in zip(told[1:], double + single, strict=True):
        digits, power = cell.split("·10")
        assert f"{float(number):.0e}" == f"{digits}e{int(power.translate(SUPERSCRIPTS)):03}"
