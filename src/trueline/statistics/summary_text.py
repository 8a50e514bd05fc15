"""The summary of a line as text: a table for a terminal, and Markdown for TensorBoard."""

import html
import re
import textwrap
from typing import Any

from trueline.terminal.printing import cut, padded, visible, width_of

LINES_OF_COEFFICIENTS = 12
"""The table shows so many; with the other facts it stays on a screen."""
LINES_OF_MARKDOWN = 1000
"""The table in TensorBoard shows so many; a browser lays out more for seconds."""
WIDEST_NAME = 22
"""Beside six numbers of 12 characters and the spaces between, a line is then 100 long."""
UNDETERMINED = "undetermined"
"""The place of a number that the training rows do not determine."""
SMALLEST_P = 2.2e-16
"""Below it R shows `< 2e-16`: float64's eps."""


def table(summary: dict[str, Any]) -> list[str]:
    """Lay out the entries of a `Summary` in lines of at most 100 characters."""
    shown = summary["coefficients"][:LINES_OF_COEFFICIENTS]
    rows = [
        (cut(name, WIDEST_NAME), *entries)
        for name, *entries in [_heads(summary), *map(_entries, shown)]
    ]
    width = max(width_of(name) for name, *_ in rows)
    lines = [
        padded(name, width) + "".join(f" {entry:>12}" for entry in entries)
        for name, *entries in rows
    ]
    if more := len(summary["coefficients"]) - len(shown):
        lines.append(f"… and {more:,} more in result.json")
    return [*lines, "", *_wrapped(_facts(summary))]


def markdown(summary: dict[str, Any]) -> str:
    """Lay out the entries of a `Summary` as a table in Markdown, and what follows as a list."""
    shown = summary["coefficients"][:LINES_OF_MARKDOWN]
    rows = markdown_table(_heads(summary), list(map(_entries, shown)))
    facts = _facts(summary)
    if more := len(summary["coefficients"]) - len(shown):
        facts.insert(0, f"{more:,} more coefficients in result.json")
    return "\n".join([rows, "", *(f"- {escaped(fact)}" for fact in facts)])


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    r"""Lay out rows in Markdown, numbers to the right.

    Example:
        >>> print(markdown_table(["", "trained"], [["a|b", "1.5"]]))
        |  | trained |
        |:--|--:|
        | a\|b | 1.5 |
    """
    lines = ["| " + " | ".join(map(escaped, row)) + " |" for row in [head, *rows]]
    lines.insert(1, "|:--" + "|--:" * (len(head) - 1) + "|")
    return "\n".join(lines)


def escaped(text: str) -> str:
    r"""Return a text that Markdown, with HTML in it, shows as it is.

    Example:
        >>> print(escaped("<b>[a](b)|`c_d`"))
        &lt;b&gt;\[a\](b)\|\`c\_d\`
    """
    return html.escape(re.sub(r"([\\`*_{}\[\]#!|])", r"\\\1", visible(text)), quote=False)


def _heads(summary: dict[str, Any]) -> list[str]:
    level = f"{100 * summary['level']:g} %"
    return [
        summary["target"],
        "value",
        "std error",
        "t",
        "p > |t|",
        f"{level} low",
        f"{level} high",
    ]


def _entries(coefficient: dict[str, Any]) -> list[str]:
    c = coefficient
    value = UNDETERMINED if c["value"] is None else _number(c["value"])
    texts = [_number(c[name]) for name in ("std_error", "t")]
    return [c["name"], value, *texts, _p(c["p"]), _number(c["low"]), _number(c["high"])]


def _facts(s: dict[str, Any]) -> list[str]:
    """Say the rest in a few lines, without what is not defined."""
    facts = [f"{s['n_samples']:,} rows, {s['degrees_of_freedom']:,} degrees of freedom"]
    if s["residual_std_error"] is not None:
        facts[0] += f", residual standard error {_number(s['residual_std_error'])}"
    if s["r2"] is not None:
        adjusted = "" if s["adj_r2"] is None else f", adjusted {_number(s['adj_r2'])}"
        facts.append(f"R² {_number(s['r2'])}{adjusted}")
    if s["f"] is not None:
        of, on = s["f_df"]
        p = _p(s["f_p"])
        p = p if p.startswith("<") else f"= {p}"
        facts.append(f"F {_number(s['f'])} on {of:,} and {on:,} degrees of freedom, p {p}")
    if s["log_likelihood"] is not None:
        named = {"log-likelihood": "log_likelihood", "AIC": "aic", "BIC": "bic"}
        facts.append(", ".join(f"{name} {_number(s[entry])}" for name, entry in named.items()))
    if s["condition_number"] is not None:
        facts.append(f"condition number {_number(s['condition_number'])}, columns of length 1")
    if s["base_levels"]:
        listed = [f"{name} {level}" for name, level in s["base_levels"].items()]
        facts.append(f"base level{'s' * (len(listed) > 1)}: {', '.join(listed)}")
    return facts + [f"note: {note}" for note in s["notes"]]


def _wrapped(facts: list[str]) -> list[str]:
    return [
        line for fact in facts for line in textwrap.wrap(visible(fact), 100, subsequent_indent="  ")
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:z.6g}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 2e-16" if value < SMALLEST_P else f"{value:.3g}"
