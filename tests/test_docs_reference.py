"""`docs/reference.md` has the public names, and the docstring of each says what it has to say."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import docstring_parser
import pytest

import trueline.crosscheck
import trueline.data
import trueline.reference

PAGE = (Path(__file__).parent.parent / "docs/reference.md").read_text("utf-8")
NAMES = re.findall(r"^::: (\S+)$", PAGE, re.M)


def named(name: str) -> Any:
    """Return the class or function of that name."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def gaps(thing: Any) -> list[str]:
    """Return what the docstring of a class or function leaves out."""
    text = inspect.getdoc(thing) or ""
    told = docstring_parser.parse(text, style=docstring_parser.DocstringStyle.GOOGLE)
    found = []
    if not re.match(r"[^\n]+[.;:]($|\n)", text):
        found.append("no first sentence")
    try:
        taken = set(inspect.signature(thing).parameters) - {"args", "kwargs"}
    except ValueError:
        taken = set()
    # The first of args is the section's kind: attributes are told under the same roof.
    described = {p.arg_name for p in told.params if p.args[0] == "param" and p.description}
    found += [f"{name} not described" for name in sorted(taken - described)]
    found += [f"{name} described, not taken" for name in sorted(described - taken)]
    if inspect.isfunction(thing):
        if thing.__annotations__.get("return") is not None and not told.returns:
            found.append("no Returns")
        if ">>>" not in text:
            found.append("no Example")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_public_name_says_what_it_takes_and_returns(name: str) -> None:
    assert gaps(named(name)) == []


def test_page_has_what_the_packages_offer() -> None:
    offered = {"trueline.module.LinearRegression"}
    for package in (trueline.reference, trueline.data, trueline.crosscheck):
        offered |= {f"{package.__name__}.{name}" for name in package.__all__}
    assert offered <= set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


def half(x: float) -> float:
    """Halve.

    Args:
        x: Any number.

    Returns:
        Its half.

    Example:
        >>> half(3.0)
        1.5
    """
    return x / 2


@pytest.mark.parametrize(
    ("old", "new", "gap"),
    [
        ("Halve.", "Halve", "no first sentence"),
        ("x: Any", "y: Any", "x not described"),
        ("x: Any", "y: Any", "y described, not taken"),
        ("Returns:", "Beside:", "no Returns"),
        (">>> half(3.0)", "half(3.0)", "no Example"),
    ],
)
def test_gaps_are_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str, gap: str) -> None:
    assert gaps(half) == []
    monkeypatch.setattr(half, "__doc__", (half.__doc__ or "").replace(old, new))
    assert gap in gaps(half)
