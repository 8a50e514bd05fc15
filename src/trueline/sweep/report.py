"""What a sweep prints: a line as each trial ends, and the best of them in a table, last."""

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trueline.terminal.printing import cut, visible, width_of


def _of_check(result: dict[str, Any]) -> float | None:
    check = result.get("crosscheck")
    return check["worst_ratio"] if check else None


METRICS: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "loss": lambda result: result.get("loss"),
    "val_loss": lambda result: result.get("val_loss"),
    "distance": lambda result: result.get("distance"),
    "epochs_to_converge": lambda result: result.get("epochs_to_converge"),
    "worst_ratio": _of_check,
    "seconds": lambda result: result.get("seconds"),
}
"""What a trial is measured by, all of it the better the smaller; from its result."""
BEST = 10
"""Trials of the table at the end."""
WIDEST = 24
"""Characters of a swept value."""


def line_of(row: dict[str, Any], done: int, plan: dict[str, Any]) -> str:
    """Return the line of a trial that has ended."""
    tried = ", ".join(f"{name} {_short(value)}" for name, value in row["options"].items())
    came_to = row["error"] if row["value"] is None else f"{plan['metric']} {row['value']:z.6g}"
    return visible(f"{done:>{len(str(plan['trials']))}}/{plan['trials']}  {tried}: {came_to}")


def print_end(rows: list[dict[str, Any]], plan: dict[str, Any], folder: Path) -> None:
    """Print the best trials, and how to train the best one again."""
    best = [row for row in ranked(rows) if row["value"] is not None]
    print()
    if best:
        measured = ["loss", *([plan["metric"]] if plan["metric"] != "loss" else [])]
        measured += [name for name in ("epochs_to_converge",) if name not in measured]
        names = list(best[0]["options"])
        heads = ["trial", *(name.rpartition(".")[2] for name in names), *measured]
        table = [
            [
                str(row["trial"]),
                *(_short(row["options"][name]) for name in names),
                *("-" if row[name] is None else f"{row[name]:z.6g}" for name in measured),
            ]
            for row in best[:BEST]
        ]
        widths = [max(map(width_of, column)) + 2 for column in zip(heads, *table, strict=True)]
        for cells in [[head.replace("_", " ") for head in heads], *table]:
            print("".join(" " * (w - width_of(c)) + c for c, w in zip(cells, widths, strict=True)))
        print()
        options = [f"--{name}={value}" for name, value in best[0]["options"].items()]
        best_of = shlex.join(["trueline", "fit", *plan["options"], *options])
        print(f"{'best':<16}{visible(best_of)}")
    if failed := [row for row in rows if row["value"] is None]:
        why = visible(failed[0]["error"])
        print(f"{'failed':<16}{len(failed)} of {len(rows)}; trial {failed[0]['trial']}: {why}")
    print(f"{'log directory':<16}{visible(str(folder))}")


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the trials from the best to those that failed; of two alike the faster one first."""

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        epochs = row["epochs_to_converge"]
        faster = math.inf if epochs is None else epochs
        return row["value"] is None, row["value"] or 0.0, faster, row["trial"]

    return sorted(rows, key=place)


def _short(value: Any) -> str:
    return cut(f"{value:z.6g}" if isinstance(value, float) else str(value), WIDEST)
