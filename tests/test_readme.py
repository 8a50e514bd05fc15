"""The README's commands run, and print what the README says they print."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from page_commands import check_commands
from planted_bugs import PLANTED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_readme_commands_print_what_it_says(process: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests/data", tmp_path / "tests/data")
    runs = check_commands(README, process)
    assert len(runs) == 2
    # More digits than the README shows: least squares, as any statistics package gives it, to half
    # a unit of its last digit and the 2e-9 that 50,000 epochs at this learning rate leave.
    result = runs["trueline fit"].result()
    assert result["weight"] == pytest.approx(1.81878822, abs=7e-9)
    assert result["bias"] == pytest.approx(36.64702613, abs=7e-9)
    assert result["loss"] == pytest.approx(3.46466555, abs=7e-9)
    assert result["crosscheck"]["steps_checked"] == result["steps"] == 50_000
    assert result["converged"] is True


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    assert namespace["trainer"].global_step == 100


def test_readme_counts_the_planted_bugs() -> None:
    assert re.findall(r"(\S+) planted errors", README) == [str(len(PLANTED))]


def test_readme_counts_the_healthy_trainings() -> None:
    newest = max((ROOT / "benchmarks/results").glob("????-??-??-false-alarms.md")).read_text(
        "utf-8"
    )
    (trained,) = re.findall(r"(\S+) healthy trainings drawn at random raise no false alarm", README)
    assert re.findall(r"^(\S+) trainings, (\d+) false alarms", newest, re.M) == [(trained, "0")]


def test_readme_names_targets_and_files_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)`", README) + re.findall(
        r"^make (\w+)$", README, re.M
    ):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for link in set(re.findall(r"\]\(([^)#]+)\)", README)):
        assert (ROOT / link).exists(), link


def test_readme_leads_to_every_page() -> None:
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert set(re.findall(r"\]\((docs/\w+\.md)\)", README)) == pages - {"docs/index.md"}


def test_readme_questions_are_those_of_the_pages() -> None:
    rows = re.findall(r"^\| (.*?) \| \[(docs/\w+\.md)\]", README, re.M)
    for question, page in rows:
        title = (ROOT / page).read_text("utf-8").splitlines()[0]
        assert re.fullmatch(r"# .*\?", title), page
        assert len(question) > 20


def test_speed_table_is_that_of_the_newest_report() -> None:
    newest = max((ROOT / "benchmarks/results").glob("????-??-??-speed.md"))
    table = newest.read_text("utf-8").split("## In short\n\n")[1].strip()
    assert table in README
