"""Processes of their own, forked from one that has imported torch, which takes seconds."""

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["trueline.cli.commands", "trueline.sweep.trial"])
ENDS_WITHIN = 10
"""Seconds in which the processes that a process has begun end after it."""


def trueline(*arguments: str) -> None:
    """Be `python -m trueline` with these arguments."""
    from trueline.cli.entry import main

    spec = importlib.util.find_spec("trueline.__main__")
    assert spec is not None
    assert spec.origin is not None
    sys.modules["__main__"].__spec__ = spec  # by which Lightning begins more of them
    sys.argv = [spec.origin, *arguments]
    sys.exit(main(list(arguments)))


def run(
    target: Callable[..., None],
    *of_each: Sequence[Any],
    cwd: Path,
    environments: Sequence[Mapping[str, str]] | None = None,
    seconds: float = 280,
) -> list[subprocess.CompletedProcess[str]]:
    """Run a function in processes side by side, which must end in time with all that they begin.

    Args:
        target: Of the top level of a file.
        of_each: The arguments of each process.
        cwd: Where they run.
        environments: What the environment of each has beside that of this process.
        seconds: That they may take.
    """
    with tempfile.TemporaryDirectory() as folder:
        begun, said = [], []
        for i, arguments in enumerate(of_each):
            said.append([Path(folder) / f"{i}-stdout", Path(folder) / f"{i}-stderr"])
            environment = {**os.environ, **(environments[i] if environments else {})}
            of_process = target, arguments, cwd, environment, said[i]
            begun.append(CONTEXT.Process(target=_be, args=of_process))
        end = time.monotonic() + seconds
        try:
            for process in begun:
                process.start()
            for process in begun:
                process.join(max(end - time.monotonic(), 0))
            late = [process.pid for process in begun if process.exitcode is None]
            assert not late, f"still running after {seconds} s: {late}\n{_errors(said)}"
            end = time.monotonic() + ENDS_WITHIN
            while left := [pid for process in begun for pid in _alive(process.pid)]:
                assert time.monotonic() < end, f"still there: processes {left}\n{_errors(said)}"
                time.sleep(0.05)
        finally:
            for process in begun:
                if _alive(process.pid):
                    os.killpg(process.pid, signal.SIGKILL)
        texts = [[path.read_text() for path in paths] for paths in said]
        codes = [process.exitcode for process in begun]
    ends = zip(of_each, codes, texts, strict=True)
    return [subprocess.CompletedProcess(a, code, *text) for a, code, text in ends]


def _be(
    target: Callable[..., None],
    arguments: Sequence[Any],
    cwd: Path,
    environment: Mapping[str, str],
    said: Sequence[Path],
) -> None:
    """Become, in a process that was forked for it, what is to run."""
    os.setsid()
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    target(*arguments)


def _errors(said: Sequence[Sequence[Path]]) -> str:
    return "\n".join(stderr.read_text() for _, stderr in said if stderr.exists())


def _alive(session: int | None) -> list[str]:
    """Return the processes of a session that have not ended, zombies aside."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = path.read_text().partition(" ")
        except OSError:
            continue  # ended meanwhile
        state, _, _, of = rest.rpartition(") ")[2].split()[:4]
        if int(of) == session and state != "Z":
            found.append(pid)
    return found
