"""The processes in which the trials of a sweep train, side by side."""

import contextlib
import multiprocessing
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from trueline.errors import CheckFailed
from trueline.sweep.plan import write_plan
from trueline.sweep.report import METRICS, line_of
from trueline.sweep.trial import prepare, train


def run(study: Any, plan: dict[str, Any], folder: Path, rows: list[dict[str, Any]]) -> None:
    """Run the trials that are left; add what each came to to the rows."""
    write_plan(folder, plan, rows)
    for number in study.stopped:
        shutil.rmtree(folder / f"trial_{number:04d}", ignore_errors=True)
    pool = ProcessPoolExecutor(plan["jobs"], _context(), prepare, (plan["jobs"],))
    with _terminal_ignored():  # which the processes inherit: this one ends them
        pool.submit(int)
    running: dict[Future[dict[str, Any]], Any] = {}
    try:
        while True:
            while study.left() > 0 and len(running) < plan["jobs"]:
                trial = study.ask()
                tried, place = study.options(trial), folder / f"trial_{trial.number:04d}"
                running[pool.submit(train, tried, plan["options"], place)] = trial
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial = running.pop(future)
                row = _row(trial.number, study.options(trial), future.result(), plan["metric"])
                study.tell(trial, row["value"], row)
                rows.append(row)
                print(line_of(row, len(rows), plan), flush=True)
                write_plan(folder, plan, rows)
                if row["status"] == "wrong":
                    raise CheckFailed(f"trial {trial.number}: {row['error']}")
    except BrokenProcessPool as error:
        raise CheckFailed(
            f"expected the trials' processes to go on, found one ended ({error}), as by too little "
            f"memory; give fewer --jobs; to go on: trueline sweep --resume {folder}"
        ) from error
    finally:
        # Not SIGTERM, after which a training saves itself and its process waits for another.
        for process in multiprocessing.active_children():
            process.kill()
        pool.shutdown(cancel_futures=True)


def _context() -> Any:
    """Return how processes are begun: from one that has imported torch, where the system can."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([train.__module__])
    return context


def _row(number: int, tried: dict[str, Any], result: dict[str, Any], metric: str) -> dict[str, Any]:
    """Return what a trial came to."""
    measured = {name: find(result) for name, find in METRICS.items()}
    value = measured[metric] if result["status"] == "done" else None
    error = result["error"]
    if result["status"] == "done" and value is None:
        error = f"no {metric}" + (": not converged" if metric == "epochs_to_converge" else "")
    return {
        "trial": number,
        "options": tried,
        "status": result["status"],
        "value": value,
        **measured,
        "converged": result.get("converged"),
        "error": error,
    }


@contextlib.contextmanager
def _terminal_ignored() -> Iterator[None]:
    """Ignore what a terminal sends to all processes: Ctrl-C, and SIGHUP as it goes."""
    names = [name for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
    signals = [getattr(signal, name) for name in names]
    before = {each: signal.signal(each, signal.SIG_IGN) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
