"""The console blocks of a page: each command runs, and must print what the page says it prints."""

import re
import shlex
from collections.abc import Callable
from typing import Any


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


def check_commands(text: str, process: Callable[..., Any]) -> dict[str, Any]:
    """Run the commands of a page one after another in one folder, and compare what they print.

    Args:
        text: The page.
        process: Runs `python -m` with the arguments that it is given.

    Returns:
        What each command came to.
    """
    runs = {}
    for command, expected in console_calls(text):
        run = runs[command] = process(*shlex.split(command))
        assert run.status == 0, run.stderr
        want, found = lines_of("\n".join(expected)), lines_of(run.stdout)
        assert len(found) == len(want), run.stdout
        for line, printed in zip(want, found, strict=True):
            assert same(line, printed), f"{command}\nthe page: {line}\nprinted:  {printed}"
    return runs
