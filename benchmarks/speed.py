"""How fast Trueline trains, beside what one would otherwise write, on the same work in turns.

    python benchmarks/speed.py [--rounds 5] [--quick] [--only NAME ...] [--out FILE]

Everything runs one after another, in rounds that turn back and forth, in one process unless whole
commands are timed. A ratio is the median over the rounds, with its range. Slow peers run a few of
their steps, and are taken on in a straight line; the report says how many. It is Markdown.
"""

import argparse
import gc
import json
import logging
import sys
import warnings
from pathlib import Path

import torch
from comparisons import in_short, report
from ours import growth_of_memory, memory, trueline
from peers import stock
from reports import machine, publish
from works import QUICK, WORKS, Size

from trueline.data import DummyData

ABOUT = """\
{machine}; {threads} threads of torch. Medians of rounds, of which there were {rounds}, in turns; \
a ratio is the median of theirs, with its range.

Counted is wall time without imports and the making of data: Trueline and stock Lightning from the \
call of `Trainer.fit` to the end of the last step and its logging; the others, the whole call. \
Trueline has on what `trueline fit` has on: the cross-check, TensorBoard, checkpoints and the \
progress bar; validation is off on all sides. Until `fit` has returned, it also solves for the \
closed form and writes result.json. Where a peer ran only some of its steps, its time goes on from \
there in a straight line, with what starting costs counted once. Its steps alone are Trueline's \
loader and module in a Trainer with everything off. Step by step, Trueline has its loader, module \
and TensorBoard on, and checkpoints, bar and cross-check off.

A whole command is a process of its own with all defaults, from its start to its end, validation, \
figures and report too. The import of Lightning's CLI, which is taken off, is the time of a \
process that imports it and leaves at once."""


def run() -> None:
    """Measure in turns, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="5 unless given")
    parser.add_argument("--quick", action="store_true", help="little of everything, to try it out")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), help="some works")
    parser.add_argument("--out", type=Path, help="where to write the report")
    parser.add_argument("--memory", type=int, metavar="ROWS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    gc.freeze()  # for all alike: what has been imported is not looked through for garbage
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    if arguments.memory:
        print(json.dumps(memory(arguments.memory)))
        return
    size = QUICK if arguments.quick else Size()
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    # First: a process is born with the peak of the one that starts it.
    grown = growth_of_memory(size.rows, __file__) if "growth" in arguments.only else []
    trueline(DummyData, 20, "64-true")  # imports and first uses
    stock(torch.ones(2, 1), torch.ones(2), True, 2, None)
    done = []
    for name in arguments.only:
        work = WORKS[name](size)
        for k in range(rounds):
            work.turn(back=k % 2 == 1)
            print(f"{work.title}: round {k + 1} of {rounds}", file=sys.stderr)
        work.runs = []  # and with them their rows
        done.append(work)
    about = ABOUT.format(
        machine=machine("torch", "lightning", "numpy", "numba", "scikit-learn"),
        threads=torch.get_num_threads(),
        rounds=rounds,
    )
    title = f"How fast it trains{', little of everything' if arguments.quick else ''}"
    publish(title, about, [*report(done), "", *grown, "", *in_short(done)], arguments.out)


if __name__ == "__main__":
    run()
