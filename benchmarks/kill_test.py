"""Whether a training that is killed and resumed ends as if nothing had happened, to the bit.

    python benchmarks/kill_test.py [--runs 200] [--seed 0] [--only K] [--keep DIR] [--out FILE]

Each is drawn as in the test suite (`tests/killed_runs.py`): `trueline fit` with options of all
kinds runs once in peace; then again, stopped by a signal at a random moment, often while a
checkpoint is being written, and resumed by `--ckpt_path last`, up to three times, until it ends by
itself. Then the last checkpoint, result.json and TensorBoard's history are compared. The report is
Markdown; `--only K` repeats run K alone, `--keep DIR` leaves all that was written in DIR.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from reports import machine, publish

from killed_runs import Outcome, kill_and_resume, prepare

COUNTED = {
    "killed": "kills by SIGKILL",
    "while_writing": "of them while a checkpoint was being written",
    "signalled": "stops by SIGTERM or SIGINT",
    "saved": "of them saved at that very step, and said so",
    "resumed": "resumed from a checkpoint",
    "from_nothing": "started from nothing, there being no checkpoint yet",
    "finished_before": "finished before the kill",
}
LONGEST_LIST = 20
"""Of differences of one run; the others are counted."""


def one(seed: int, folder: Path, number: int) -> Outcome:
    """Do one run; what goes wrong with it is a difference too."""
    try:
        return kill_and_resume(seed, number, folder / f"run_{number}")
    except Exception as error:
        return Outcome(number, [], differences=[f"{type(error).__name__}: {error}"])


def differing(outcome: Outcome, seed: int) -> list[str]:
    """Return the lines of the report on a run that differs."""
    found = outcome.differences
    more = len(found) - LONGEST_LIST
    return [
        "",
        f"Run {outcome.number}: `python benchmarks/kill_test.py --seed {seed} --only "
        f"{outcome.number}`",
        "",
        f"- `trueline fit {' '.join(outcome.options)}`",
        *(f"- stopped: {stop}" for stop in outcome.stops),
        *(f"- **{difference}**" for difference in found[:LONGEST_LIST]),
        *([f"- and {more} more"] if more > 0 else []),
    ]


def report(outcomes: Sequence[Outcome], seed: int) -> list[str]:
    """Return the lines of the report."""
    unlike = [outcome for outcome in outcomes if outcome.differences]
    return [
        f"{len(outcomes):,} trainings, each once in peace and once stopped and resumed until it "
        f"ended by itself; {len(unlike)} of them differ in a bit of the last checkpoint, of "
        "result.json or of TensorBoard's history.",
        "",
        "| | |",
        "|---|---|",
        *(
            f"| {text} | {sum(getattr(outcome, name) for outcome in outcomes):,} |"
            for name, text in COUNTED.items()
        ),
        f"| **trainings that differ** | {len(unlike)} |",
        *(line for outcome in unlike for line in differing(outcome, seed)),
    ]


def run() -> None:
    """Draw, train, stop, resume, compare, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="K", help="do run K alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new folder for all files")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    numbers = range(arguments.runs) if arguments.only is None else [arguments.only]
    start = time.perf_counter()
    os.environ["OMP_NUM_THREADS"] = "1"  # a process with more threads is no good for forking
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(2, mp_context=spawn, initializer=prepare) as pool:
            outcomes = list(pool.map(partial(one, arguments.seed, folder), numbers))
    minutes = (time.perf_counter() - start) / 60
    about = f"{machine('torch', 'lightning')}; seed {arguments.seed}, {minutes:.0f} minutes."
    lines = report(outcomes, arguments.seed)
    publish("Trainings killed and resumed", about, lines, arguments.out)
    sys.exit(1 if any(outcome.differences for outcome in outcomes) else 0)


if __name__ == "__main__":
    run()
