"""The command `trueline`: a short entry that answers at once, then Lightning's CLI.

This file imports neither torch nor Lightning before it knows that they are needed.
"""

import io
import os
import sys
import warnings
from collections.abc import Sequence

from trueline import __version__
from trueline.errors import CheckFailed, RequestError

HELP = """\
Trueline trains linear regression, w*X + b, with PyTorch Lightning,
and checks every step of the training against NumPy.

usage: trueline COMMAND [OPTIONS]

  fit         train; with no options, the article's 15 points
  validate    the loss of a trained line
  test        the same, logged as test/loss
  predict     write predictions.csv
  compare     the article's ways to the line side by side: NumPy, PyTorch twice, Lightning
  crosscheck  one training under every accelerator, precision and number of devices here

  trueline COMMAND --help   the options of a command
  trueline --version

Runs land in lightning_logs/version_N; tensorboard --logdir lightning_logs shows them.
"""
COMMANDS = ("fit", "validate", "test", "predict", "compare", "crosscheck")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; those of the process unless given.

    Returns:
        The exit status: 0 done, 1 the run failed a check, 2 the request or the input was wrong.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or pipe without Δ and µ
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if arguments == ["--version"]:
        print(f"trueline {__version__}")
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        found = arguments[0] if arguments else "nothing"
        return _fail(f"expected a command, one of {', '.join(COMMANDS)}; found {found}", 2)
    return _run(arguments)


def _run(arguments: list[str]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # while importing: others' deprecations
        from trueline import commands
    try:
        commands.run(arguments)
    except (RequestError, CheckFailed) as error:
        return _fail(str(error), error.exit_status)
    except Exception as error:
        if os.environ.get("TRUELINE_TRACEBACK"):
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        return _fail(f"{type(error).__name__}: {reason} (set TRUELINE_TRACEBACK=1 to see where)", 1)
    return 0


def _fail(message: str, status: int) -> int:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the other processes would say the same
        print(f"trueline: error: {message}", file=sys.stderr)
    return status
