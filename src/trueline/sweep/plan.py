"""What a sweep is to do, made from a request or read back from its `sweep.json`."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from trueline.errors import RequestError
from trueline.results.json_files import write_json
from trueline.results.run_folder import RUNS
from trueline.sweep.report import ranked
from trueline.sweep.swept import Swept, Values, grid, to_json
from trueline.sweep.trial import READ, check_options, cores, options_of

TRIALS = 20
"""Where there is a range and no number is given."""
MOST_CHECKS = 12
"""Requests that are read before any is trained; each takes half a second."""
NOT_SWEPT = ("trainer.logger", "trainer.default_root_dir", "ckpt_path", "config", "print_config")
"""Options that decide where a run goes or begins, which is for the sweep to decide."""
KEPT = ("over", "swept", "options", "metric", "trials", "seed", "jobs")
"""Of `sweep.json`, what a sweep goes on by."""


def make_plan(asked: argparse.Namespace, swept: list[Swept], options: list[str]) -> dict[str, Any]:
    """Say what is to be done, once the options of the trials have been read.

    Args:
        asked: The options of the sweep itself.
        swept: What it goes over.
        options: Of fit, for all trials.

    Raises:
        RequestError: When something of it cannot be done.
    """
    for one in swept:
        if one.name.startswith(NOT_SWEPT):
            raise RequestError(
                f"--over {one.name}: expected an option of the training itself; where it goes and "
                "begins is for the sweep to decide; leave it out"
            )
    for option in options:
        if option.startswith(("--trainer.logger", "--ckpt_path", "--print_config")):
            raise RequestError(f"{option.split('=')[0]}: the sweep decides it; leave it out")
    combinations = grid(swept)
    trials = asked.trials or (TRIALS if combinations is None else len(combinations))
    checked = [check_options(options_of(each, options)) for each in _ends(swept)]
    READ.clear()  # the processes of the trials have rows of their own
    metric = asked.metric or ("val_loss" if checked[0].held_out else "loss")
    if metric == "val_loss" and not checked[0].held_out:
        raise RequestError(
            "--metric val_loss: expected held-out rows, found none; give --data.val_fraction, or "
            "take loss"
        )
    return {
        "over": asked.over,
        "swept": to_json(swept),
        "options": options,
        "metric": metric,
        "trials": trials,
        "seed": asked.seed,
        "jobs": min(asked.jobs or cores(), trials),
        "runs": str(checked[0].runs),
    }


def _ends(swept: list[Swept]) -> list[dict[str, Any]]:
    """Return requests among which each value of a list, and both ends of a range, occur."""
    values: list[tuple[Any, ...]] = [
        o.values if isinstance(o, Values) else tuple(map(o.number, (o.low, o.high))) for o in swept
    ]
    longest = min(MOST_CHECKS, max(map(len, values)))
    return [
        {o.name: some[k % len(some)] for o, some in zip(swept, values, strict=True)}
        for k in range(longest)
    ]


def folder_to_resume(asked: str, options: list[str]) -> Path:
    """Return the folder of a sweep that is to go on.

    Args:
        asked: Its path, or last for the newest.
        options: Of fit, among which may be where the sweeps are.

    Raises:
        RequestError: When there is none.
    """
    if asked != "last":
        return Path(asked)
    root, _ = _root_of(options)
    runs = Path(root) / RUNS
    found = [path for path in runs.glob("sweep_*") if path.name[6:].isdigit()]
    if not found:
        raise RequestError(f"--resume last: expected a sweep in {runs}, found none; start one")
    return max(found, key=lambda path: int(path.name[6:]))


def _root_of(options: list[str]) -> tuple[str, list[str]]:
    """Return the folder that sweeps are in, and the options that do not say so.

    Raises:
        RequestError: When the option has no value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--trainer.default_root_dir", dest="root", default="")
    try:
        found, others = parser.parse_known_args(options)
    except argparse.ArgumentError as error:
        raise RequestError(f"{error.argument_name}: {error.message}") from None
    return found.root, others


def read_plan(folder: Path, asked: argparse.Namespace, options: list[str]) -> dict[str, Any]:
    """Return the plan of a sweep that goes on; more trials and other jobs may be asked for."""
    _, others = _root_of(options)
    if asked.over or asked.metric or asked.seed or others:
        raise RequestError(
            "--resume: expected no options but --trials and --jobs, since a sweep goes on as it "
            "began; leave the others out"
        )
    try:
        plan: dict[str, Any] = json.loads((folder / "sweep.json").read_text("utf-8"))
        plan["trials"] = asked.trials or int(plan["trials"])
        plan["jobs"] = asked.jobs or int(plan["jobs"])
        return {key: plan[key] for key in KEPT}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError(
            f"--resume {folder}: expected the sweep.json of a sweep, found none that can be read "
            f"({type(error).__name__}: {error}); start a sweep anew"
        ) from error


def write_plan(folder: Path, plan: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Leave `sweep.json`, whole."""
    log_dir = os.path.normpath(folder)
    write_json(folder / "sweep.json", {**plan, "log_dir": log_dir, "rows": ranked(rows)})
