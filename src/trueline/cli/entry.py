"""The command `trueline`: a short entry that answers at once, then Lightning's CLI.

This file imports neither torch nor Lightning before it knows that they are needed.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trueline import __version__
from trueline.errors import CheckFailed, RequestError
from trueline.terminal.printing import (
    discard,
    name_output,
    open_streams,
    to_whoever_reads,
    visible,
)

HELP = """\
Trueline trains linear regression, w*X + b, with PyTorch Lightning,
and checks every step of the training against NumPy.

usage: trueline COMMAND [OPTIONS]

  fit         train; with no options, the article's 15 points
  validate    the loss of a trained line
  test        the same, logged as test/loss
  predict     write predictions.csv
  export      the trained line for use elsewhere, as JSON or ONNX
  plan        the learning rates, and how long they take, before any training
  sweep       many trainings that differ in some options, and which is the best
  compare     the article's ways to the line side by side: NumPy, PyTorch twice, Lightning
  crosscheck  one training under every accelerator, precision and number of devices here

  trueline COMMAND --help   the options of a command
  trueline --version

Runs land in lightning_logs/version_N; tensorboard --logdir lightning_logs shows them.
"""
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Where the environment may say which process of a training this is."""
STOPPING = ("SIGTERM", "SIGHUP")
LONGEST = 2_000
"""Characters of a message that are printed; nobody reads more."""
COMMANDS = (
    "fit",
    "validate",
    "test",
    "predict",
    "export",
    "plan",
    "sweep",
    "compare",
    "crosscheck",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; those of the process unless given.

    Returns:
        The exit status: 0 done, 1 the run failed a check, 2 the request or the input was wrong.
    """
    try:
        open_streams()
        if argv is None:
            name_output()
        with to_whoever_reads():
            return _main(list(sys.argv[1:] if argv is None else argv))
    except RequestError as error:
        return _fail(str(error), error.exit_status)


def _main(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if arguments == ["--version"]:
        print(f"trueline {__version__}")
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        found = arguments[0] if arguments else "nothing"
        raise RequestError(f"expected a command, one of {', '.join(COMMANDS)}; found {found}")
    try:
        Path.cwd()
    except OSError as error:
        raise RequestError(
            f"working directory: expected one that is there, found: {error.strerror}; change to "
            "another"
        ) from error
    with _stopped_by_signals():
        return _run(arguments)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Take SIGTERM and SIGHUP as Ctrl-C is taken, which every command ends on without remains."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    before = {each: signal.getsignal(each) for each in signals}
    # Where it is ignored, as under nohup, it stays so.
    heard = [each for each, handler in before.items() if handler is not signal.SIG_IGN]
    for each in heard:
        signal.signal(each, signal.default_int_handler)
    try:
        yield
    finally:
        for each in heard:
            signal.signal(each, before[each])


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Import without others' deprecations, and without looking for garbage: half a second."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if collects:
            gc.enable()


def _run(arguments: list[str]) -> int:
    try:
        with _importing():
            from trueline.cli import commands
        commands.run(arguments)
        status = 0
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and not stop.code:
            return 0  # --help and --print_config
        status = _fail("interrupted", 1)  # a training says how to go on instead, by CheckFailed
    except (RequestError, CheckFailed) as error:
        status = _fail(str(error), error.exit_status, shared=error.__cause__ is None)
    except Exception as error:
        if os.environ.get("TRUELINE_TRACEBACK"):
            raise
        reason = " ".join(str(error).split()) or f"raised by `{_line_of(error)}`"
        where = "(set TRUELINE_TRACEBACK=1 to see where)"
        status = _fail(f"{type(error).__name__}: {reason} {where}", 1, shared=False)
    if _joined():
        # At its end Python would wait for processes that may be gone, and gloo's threads abort it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _line_of(error: Exception) -> str:
    """Return the line of code that raised an error, for one that says nothing itself."""
    return traceback.extract_tb(error.__traceback__)[-1].line or "code without a source"


def _fail(message: str, status: int, shared: bool = True) -> int:
    """Say what went wrong; return the exit status.

    Args:
        message: On one line.
        status: The exit status.
        shared: Whether all processes of the training would say so; then the first one does.
    """
    # A message may hold what came from a file: control characters, and any length.
    message = visible(message)
    message = message if len(message) <= LONGEST else f"{message[:LONGEST]} …"
    rank = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    if not rank.isdigit() or int(rank) == 0:
        _say(f"trueline: error: {message}")
    elif not shared and _joined():
        _say(f"trueline: error: process {rank}: {message}")
    return status


def _say(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # a full disk: the status says it too
        discard(sys.stderr)


def _joined() -> bool:
    """Return whether this process has found the others; until then all do the same."""
    distributed: Any = sys.modules.get("torch.distributed")
    return bool(getattr(distributed, "is_initialized", lambda: False)())
