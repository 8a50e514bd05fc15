"""The Python blocks of a page of docs/: what they print, and what the page says that they print."""

import contextlib
import io
import re
import traceback
from pathlib import Path
from typing import Any, NamedTuple

SHOWN = "#> "
"""What begins a line that a block prints."""


class Block(NamedTuple):
    """A block of Python on a page, and what the page says it prints."""

    name: str
    code: str
    expected: list[str]


def blocks(page: Path) -> list[Block]:
    """Return the Python blocks in order, named by section and line, at their own line numbers."""
    found, text = [], page.read_text("utf-8")
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
        before = text[: match.start(1)]
        section, line = len(re.findall(r"^## ", before, re.M)), before.count("\n")
        expected = [s.removeprefix(SHOWN) for s in match[1].splitlines() if s.startswith(SHOWN)]
        found.append(Block(f"section{section}-line{line + 1}", "\n" * line + match[1], expected))
    return found


def run(code: str, names: dict[str, Any], page: Path) -> list[str]:
    """Run a block; return what it prints, and of an error the last line, as Python shows it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(code, str(page), "exec"), names)
        except Exception as error:
            print(traceback.format_exception_only(error)[-1], end="")
    return printed.getvalue().splitlines()
