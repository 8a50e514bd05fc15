"""`docs/source.md` and the README name the files that there are, and all of them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/trueline"
PAGE = (ROOT / "docs/source.md").read_text("utf-8")
TREE = PAGE.split("src/trueline/\n")[1].split("```")[0]
NAMED = set(re.findall(r"[\w/]+\.(?:py|yaml)", TREE))


PACKAGES = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_tree_has_the_files_of_a_package(package: str) -> None:
    names = []
    for line in TREE.split(f"  {package}/")[1].split("\n")[1:]:
        if not line.startswith("    "):
            break
        names += re.split(r" {2,}", line.strip())[0].split(", ")
    found = {path.stem for path in (SOURCE / package).glob("[a-z]*.py")}
    found |= {f"{path.parent.name}/" for path in (SOURCE / package).glob("*/*.py")}
    assert sorted(names) == sorted(found - {"article"})


def test_tree_has_the_other_files() -> None:
    for name in NAMED:
        assert list(ROOT.glob(f"**/{name}")), name
    assert {path.name for path in SOURCE.glob("*.py")} - {"__init__.py", "__main__.py"} <= NAMED


def test_tree_of_the_readme_has_what_there_is() -> None:
    tree = (ROOT / "README.md").read_text("utf-8").split("## The files")[1].split("```")[1]
    for name in re.findall(r"[\w/]+/(?= )|\w+\.(?:py|yaml|md)", tree):
        assert list(ROOT.glob(f"**/{name}")), name
