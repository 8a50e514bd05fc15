"""The README's commands run, and print what the README says they print."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from planted_bugs import PLANTED
from trueline.baselines import train_builtin
from trueline.reference import article

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def console_calls(text: str) -> list[tuple[str, list[str]]]:
    """Return each `$ command` of the console blocks, with the lines that it prints."""
    calls: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                calls.append((line[2:], []))
            else:
                calls[-1][1].append(line)
    return calls


def same(expected: str, found: str) -> bool:
    """Compare two lines: words equal, numbers as printed, but for what a clock or rounding says."""
    one, two = expected.split(), found.split()
    if len(one) != len(two):
        return False
    for i, (want, got) in enumerate(zip(one, two, strict=True)):
        seconds = one[i + 1 : i + 2] == ["s"]
        microseconds = i == len(one) - 1 and any("e-" in word or "e+" in word for word in one)
        if seconds or microseconds:
            continue
        if re.fullmatch(r"\d\.\de[+-]\d\d", want):  # a distance from NumPy: rounding, no more
            if not float(got) <= 1e-12:
                return False
        elif "bounds" in one and re.fullmatch(r"0\.\d+", want):  # the machine's business
            if not 0 < float(got) <= 1:
                return False
        elif want != got:
            return False
    return True


def lines_of(text: str) -> list[str]:
    """Drop progress lines, which come by the clock, and empty ones."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("epoch ")]


def test_readme_commands_print_what_it_says(process: Callable[..., Any], tmp_path: Path) -> None:
    calls = console_calls(README)
    assert [command.split()[:2] for command, _ in calls] == [
        ["trueline", name] for name in ("fit", "compare", "predict", "fit", "fit", "predict")
    ]
    shutil.copytree(ROOT / "tests/data", tmp_path / "tests/data")
    for command, expected in calls:
        run = process(*shlex.split(command))
        assert run.status == 0, run.stderr
        want, found = lines_of("\n".join(expected)), lines_of(run.stdout)
        assert len(found) == len(want), run.stdout
        for line, printed in zip(want, found, strict=True):
            assert same(line, printed), f"{command}\nREADME:  {line}\nprinted: {printed}"
    # More digits than the README shows: least squares, as any statistics package gives it, to half
    # a unit of its last digit and the 2e-9 that 50,000 epochs at this learning rate leave.
    result = run.result("version_0")
    assert result["weight"] == pytest.approx(1.81878822, abs=7e-9)
    assert result["bias"] == pytest.approx(36.64702613, abs=7e-9)
    assert result["loss"] == pytest.approx(3.46466555, abs=7e-9)
    assert result["crosscheck"]["steps_checked"] == result["steps"] == 50_000
    assert result["converged"] is True


@pytest.mark.parametrize(
    ("expected", "found", "equal"),
    [
        ("weight 1.818788", "weight 1.818788", True),
        ("weight 1.818788", "weight 1.818789", False),
        ("lr 0.001, 55.0 s", "lr 0.001, 61.3 s", True),
        ("lr 0.001, 55.0 s", "lr 0.002, 55.0 s", False),
        ("1-numpy 1.8 2.9e-15 11", "1-numpy 1.8 1.0e-13 14", True),
        ("1-numpy 1.8 2.9e-15 11", "1-numpy 1.8 1.0e-09 14", False),
        ("of their bounds at most 0.86 in", "of their bounds at most 0.20 in", True),
        ("of their bounds at most 0.86 in", "of their bounds at most 1.20 in", False),
        ("income 0.485178", "income 0.485179", False),
        ("one two", "one", False),
    ],
)
def test_comparison_of_lines_can_fail(expected: str, found: str, equal: bool) -> None:
    assert same(expected, found) is equal


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    assert namespace["trainer"].global_step == 100


def test_readme_says_where_float32_stalls() -> None:
    (said,) = re.findall(r"in float32 the bias of the 15 points stalls at (\d+\.\d+)", README)
    X, y = torch.tensor(article.X[:, 0]).float(), torch.tensor(article.y).float()
    bias = train_builtin(X, y, weight=0.0, bias=0.0, lr=0.001, epochs=50_000).bias
    assert bias[-1] == bias[-5000]
    assert f"{bias[-1]:.3f}" == said


def test_readme_counts_the_planted_bugs() -> None:
    assert re.findall(r"(\S+) planted errors", README) == [str(len(PLANTED))]


def test_readme_names_targets_and_files_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)`", README) + re.findall(
        r"^make (\w+)$", README, re.M
    ):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    tree = README.split("src/trueline/\n")[1].split("```")[0]
    named = set(re.findall(r"[\w/]+\.(?:py|yaml)", tree))
    for name in named:
        assert list(ROOT.glob(f"**/{name}")), name
    for package in ("reference", "crosscheck", "checkpoints", "tables", "export"):
        listed = tree.split(f"  {package}/")[1].split("\n")[1:]
        names = []
        for line in listed:
            if not line.startswith("    "):
                break
            names += re.split(r", ", re.split(r" {2,}", line.strip())[0])
        found = {path.stem for path in (ROOT / "src/trueline" / package).glob("[a-z]*.py")}
        found |= {
            f"{path.parent.name}/" for path in (ROOT / "src/trueline" / package).glob("*/*.py")
        }
        assert sorted(names) == sorted(found - {"article"}), package
    modules = {path.name for path in (ROOT / "src/trueline").glob("*.py")} - {
        "__init__.py",
        "__main__.py",
    }
    assert modules <= named


def test_speed_table_is_that_of_the_newest_report() -> None:
    newest = max((ROOT / "benchmarks/results").glob("????-??-??-speed.md"))
    table = newest.read_text("utf-8").split("## In short\n\n")[1].strip()
    assert table in README
