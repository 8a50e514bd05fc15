"""The site of docs/ builds without a warning, fetches nothing from elsewhere, and is whole."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REMEDY = "the site is not built: pip install -e '.[docs]'"
for needed in ("material", "mkdocstrings_handlers.python"):
    pytest.importorskip(needed, reason=REMEDY)

Build = Callable[[Path], subprocess.CompletedProcess[str]]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Return a copy of what the site is made from."""
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=hidden)
    return tmp_path


@pytest.fixture
def build() -> Build:
    """Return a builder of the site, by the command that `make docs` has."""

    def run(folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mkdocs", "build"],
            cwd=folder,
            env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_site_builds_and_fetches_nothing_from_elsewhere(sources: Path, build: Build) -> None:
    done = build(sources)
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (sources / "site").glob("*.html")} - {"404"}
    assert pages == {path.stem for path in (ROOT / "docs").glob("*.md")}
    for page in pages:
        html = (sources / "site" / f"{page}.html").read_text("utf-8")
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?([^\" >]+)", html)
        assert fetched, page
        assert not [address for address in fetched if "//" in address], page


@pytest.mark.parametrize(
    ("page", "planted", "said"),
    [
        ("index", "[gone](gone.md)", "gone.md"),
        ("index", "[gone](crosscheck.md#gone)", "does not contain an anchor '#gone'"),
        ("reference", "::: trueline.gone", "trueline.gone could not be found"),
    ],
)
def test_site_does_not_build_with_a_broken_link(
    sources: Path, build: Build, page: str, planted: str, said: str
) -> None:
    with (sources / f"docs/{page}.md").open("a") as file:
        file.write(f"\n{planted}\n")
    done = build(sources)
    assert done.returncode == 1
    assert said in done.stderr


def test_site_does_not_build_with_a_page_that_nothing_leads_to(sources: Path, build: Build) -> None:
    (sources / "docs/alone.md").write_text("# Alone\n")
    done = build(sources)
    assert done.returncode == 1
    assert "alone.md" in done.stderr
