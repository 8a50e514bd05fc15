"""`trueline sweep`: trains once for each of many options, side by side, and says which is best."""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from trueline.checkpoints.whole_files import write_whole
from trueline.errors import CheckFailed, RequestError
from trueline.run_folder import claim_folder
from trueline.sweep.report import METRICS, line_of, print_end, ranked
from trueline.sweep.swept import Swept, Values, grid, read, to_json
from trueline.sweep.trial import check_options, prepare, train

USAGE = """\
usage: trueline sweep --over NAME=VALUES [--over ...] [--trials N] [OPTIONS OF FIT]

Train once for each of many options, and say which is best. Each trial is a trueline fit and
leaves a run of its own in lightning_logs/sweep_N, which TensorBoard compares under HPARAMS.

  --over NAME=A,B,C     an option of trueline fit and the values to try, such as
                        --over data.batch_size=5,15; of several lists, all combinations
  --over NAME=LOW..HIGH a range to draw from, such as --over model.lr=1e-4..1e-1; evenly by the
                        logarithm where it spans a factor of 10, or as :linear and :log say
  --trials N            how many; all combinations, or 20 where there is a range, unless given
  --metric NAME         what is to be small, val_loss where rows are held out, else loss, unless
                        given: {metrics}
  --jobs N              trainings at a time; one for each core unless given
  --seed N              of what is drawn from ranges; 0 unless given
  --resume DIR          go on with a sweep that was stopped; last is the newest one

All else is for trueline fit; trueline fit --help lists it. Figures are drawn with --figures true.
"""
TRIALS = 20
"""Where there is a range and no number is given."""
MOST_CHECKS = 12
"""Requests that are read before any is trained; each takes half a second."""
NOT_SWEPT = ("trainer.logger", "trainer.default_root_dir", "ckpt_path", "config", "seed_everything")
"""Options whose values decide where a run goes, or that are not single values."""


def sweep(arguments: list[str]) -> None:
    """Run a sweep.

    Args:
        arguments: After the command's name.

    Raises:
        RequestError: When the request is wrong, or Optuna is not installed.
        CheckFailed: When a trial fails the cross-check, or all fail.
    """
    if {"-h", "--help"} & set(arguments):
        print(USAGE.format(metrics=", ".join(METRICS)), end="")
        return
    try:
        from trueline.sweep.study import FACTS, Study, check_journal
    except ImportError as error:
        raise RequestError(
            f"sweep: expected the package {error.name}, which is not installed; "
            "pip install 'trueline[sweep]'"
        ) from error
    asked, options = _parse(arguments)
    if asked.resume:
        folder = _folder_to_resume(asked.resume, options)
        check_journal(folder)
        plan = _read_plan(folder, asked, options)
        swept = read(plan["over"])
    else:
        swept = read(asked.over)
        plan = _plan(asked, swept, options)
        folder = claim_folder(Path(plan.pop("runs")), "sweep")
    study = Study(folder, swept, plan["trials"], plan["seed"])
    for one in swept:
        print(one)
    print(f"{plan['trials']:,} trials, {plan['jobs']} at a time, for the least {plan['metric']}\n")
    rows = [trial.user_attrs[FACTS] for trial in study.ended()]
    with _stopped_by_sigterm():
        try:
            _run(study, plan, folder, rows)
        except KeyboardInterrupt:
            _write(folder, plan, rows)
            raise CheckFailed(
                f"interrupted after {len(rows)} of {plan['trials']} trials; to go on: "
                f"trueline sweep --resume {folder}"
            ) from None
    _write(folder, plan, rows)
    print_end(rows, plan, folder)
    if all(row["value"] is None for row in rows):
        raise CheckFailed(f"expected a trial that ends well, found none: {rows[0]['error']}")


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    ours.add_argument("--over", action="append", default=[])
    ours.add_argument("--trials", type=_count)
    ours.add_argument("--metric", choices=METRICS)
    ours.add_argument("--jobs", type=_count)
    ours.add_argument("--seed", type=_count_from_0, default=0)
    ours.add_argument("--resume")
    try:
        return ours.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise RequestError(f"{error.argument_name}: {error.message}") from None


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, found {text}")
    return int(text)


def _count_from_0(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, found {text}")
    return int(text)


def _plan(asked: argparse.Namespace, swept: list[Swept], options: list[str]) -> dict[str, Any]:
    """Say what is to be done, once the options of the trials have been read."""
    for one in swept:
        if one.name.startswith(NOT_SWEPT):
            raise RequestError(f"--over {one.name}: expected an option of the training; leave it")
    for option in options:
        if option.startswith(("--trainer.logger", "--ckpt_path", "--print_config")):
            raise RequestError(f"{option.split('=')[0]}: sweep decides it; leave it out")
    combinations = grid(swept)
    every = TRIALS if combinations is None else len(combinations)
    trials = asked.trials or every
    checked = [check_options(_options_of(each, options)) for each in _ends(swept)]
    metric = asked.metric or ("val_loss" if checked[0].held_out else "loss")
    if metric == "val_loss" and not checked[0].held_out:
        raise RequestError(
            "--metric val_loss: expected held-out rows, found none; give --data.val_fraction, or "
            "take loss"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "over": asked.over,
        "swept": to_json(swept),
        "options": options,
        "metric": metric,
        "trials": trials if combinations is None else min(trials, every),
        "seed": asked.seed,
        "jobs": min(asked.jobs or cores or 1, trials),
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


def _options_of(tried: dict[str, Any], options: Sequence[str]) -> list[str]:
    return [*options, *(f"--{name}={value}" for name, value in tried.items())]


def _folder_to_resume(asked: str, options: list[str]) -> Path:
    if asked != "last":
        return Path(asked)
    roots = [o.partition("=")[2] for o in options if o.startswith("--trainer.default_root_dir=")]
    runs = Path(roots[-1] if roots else "") / "lightning_logs"
    found = [path for path in runs.glob("sweep_*") if path.name[6:].isdigit()]
    if not found:
        raise RequestError(f"--resume last: expected a sweep in {runs}, found none; start one")
    return max(found, key=lambda path: int(path.name[6:]))


def _read_plan(folder: Path, asked: argparse.Namespace, options: list[str]) -> dict[str, Any]:
    """Return the plan of a sweep that goes on; more trials and other jobs may be asked for."""
    given = [o for o in options if not o.startswith("--trainer.default_root_dir=")]
    if asked.over or asked.metric or asked.seed or given:
        raise RequestError(
            "--resume: expected no options but --trials and --jobs, since a sweep goes on as it "
            "began; leave the others out"
        )
    try:
        plan: dict[str, Any] = json.loads((folder / "sweep.json").read_text("utf-8"))
        plan["trials"] = asked.trials or int(plan["trials"])
        plan["jobs"] = asked.jobs or int(plan["jobs"])
        return {key: plan[key] for key in KEPT}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"--resume {folder}: expected the sweep.json of a sweep, found none that can be read "
            f"({type(error).__name__}: {error}); start a sweep anew"
        ) from error


KEPT = ("over", "swept", "options", "metric", "trials", "seed", "jobs")
"""Of `sweep.json`, what a sweep goes on by."""


def _run(study: Any, plan: dict[str, Any], folder: Path, rows: list[dict[str, Any]]) -> None:
    """Run the trials that are left; add what each came to to the rows."""
    _write(folder, plan, rows)
    for number in study.stopped:
        shutil.rmtree(folder / f"trial_{number:04d}", ignore_errors=True)
    threads = max(1, (os.cpu_count() or 1) // plan["jobs"])
    pool = ProcessPoolExecutor(plan["jobs"], _context(), prepare, (threads,))
    running: dict[Future[dict[str, Any]], Any] = {}
    try:
        while True:
            while study.left() > 0 and len(running) < plan["jobs"]:
                trial = study.ask()
                options = _options_of(study.options(trial), plan["options"])
                place = folder / f"trial_{trial.number:04d}"
                running[pool.submit(train, options, place)] = trial
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial = running.pop(future)
                row = _row(trial.number, study.options(trial), future.result(), plan["metric"])
                study.tell(trial, row["value"], row)
                rows.append(row)
                print(line_of(row, len(rows), plan), flush=True)
                _write(folder, plan, rows)
                if row["status"] == "wrong":
                    raise CheckFailed(f"trial {trial.number}: {row['error']}")
    except BrokenProcessPool as error:
        raise CheckFailed(
            f"expected the trials' processes to go on, found one ended ({error}), as by too little "
            f"memory; give fewer --jobs; to go on: trueline sweep --resume {folder}"
        ) from error
    finally:
        for process in (pool._processes or {}).values():
            process.terminate()
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


def _write(folder: Path, plan: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Leave `sweep.json`, whole."""
    content = {**plan, "log_dir": os.path.normpath(folder), "rows": ranked(rows)}
    text = json.dumps(content, indent=2) + "\n"
    write_whole(folder / "sweep.json", lambda file: file.write(text.encode()))


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C is taken."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
