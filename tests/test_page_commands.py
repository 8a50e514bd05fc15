"""The comparison of what a page says with what its commands print can fail."""

from pathlib import Path

import pytest

from conftest import Run
from page_commands import check_commands, console_calls, same


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


def test_commands_are_run_in_order_with_what_they_print() -> None:
    page = "```console\n$ one a 'b c'\nfirst\n$ two\n```\n\n```\n$ not this\n```\n"
    assert console_calls(page) == [("one a 'b c'", ["first"]), ("two", [])]


@pytest.mark.parametrize(
    ("status", "printed"), [(0, "first\nand more"), (0, ""), (0, "other"), (1, "first")]
)
def test_check_of_commands_can_fail(status: int, printed: str, tmp_path: Path) -> None:
    page = "```console\n$ one a\nfirst\n```\n"
    assert check_commands(page, lambda *_: Run(0, "first\n", "", tmp_path)).keys() == {"one a"}
    with pytest.raises(AssertionError):
        check_commands(page, lambda *_: Run(status, printed, "", tmp_path))
