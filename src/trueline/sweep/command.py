"""`trueline sweep`: trains once for each of many options, side by side, and says which is best."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trueline.errors import CheckFailed, RequestError
from trueline.results.run_folder import claim_folder
from trueline.sweep.plan import folder_to_resume, make_plan, read_plan, write_plan
from trueline.sweep.report import METRICS, print_end
from trueline.sweep.swept import grid, read
from trueline.sweep.workers import run
from trueline.terminal.printing import visible

USAGE = """\
usage: trueline sweep --over NAME=VALUES [--over ...] [--trials N] [OPTIONS OF FIT]

Train once for each of many options, and say which is best. Each trial is a trueline fit and
leaves a run of its own in lightning_logs/sweep_N, which TensorBoard compares under HPARAMS.

  --over NAME=A,B,C     an option of trueline fit and the values to try, such as
                        --over data.batch_size=5,15; of several lists, all combinations;
                        values that hold a comma as a JSON list, NAME='["a,b","c"]'
  --over NAME=LOW..HIGH a range to draw from, such as --over model.lr=1e-4..1e-1; evenly by the
                        logarithm where it spans a factor of 10, or as :linear and :log say
  --trials N            how many in all; unless given all combinations, 20 where there is a range
  --metric NAME         what is to be small, val_loss where rows are held out, else loss, unless
                        given: {metrics}
  --jobs N              trainings at a time; one for each core unless given
  --seed N              of what is drawn from ranges; 0 unless given
  --resume DIR          go on with a sweep that was stopped; last is the newest one

All else is for trueline fit; trueline fit --help lists it. Figures are drawn with --figures true.
"""


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
            "pip install optuna filelock"
        ) from error
    asked, options = _parse(arguments)
    if asked.resume:
        folder = folder_to_resume(asked.resume, options)
        check_journal(folder)
        plan = read_plan(folder, asked, options)
        swept = read(plan["over"])
    else:
        swept = read(asked.over)
        plan = make_plan(asked, swept, options)
        folder = claim_folder(Path(plan.pop("runs")), "sweep")
    combinations = grid(swept)
    if combinations is not None:
        plan["trials"] = min(plan["trials"], len(combinations))
    with _alone_in(folder):
        study = Study(folder, swept, plan["trials"], plan["seed"])
        rows = [trial.user_attrs[FACTS] for trial in study.ended()]
        if len(rows) > plan["trials"]:
            raise RequestError(
                f"--trials {plan['trials']}: expected how many there are to be in all, at least "
                f"the {len(rows):,} that have ended; give more"
            )
        for one in swept:
            print(visible(str(one)))
        print(_what_is_to_do(plan, combinations, len(rows)) + "\n")
        try:
            run(study, plan, folder, rows)
        except KeyboardInterrupt:
            raise CheckFailed(
                f"interrupted after {len(rows)} of {plan['trials']} trials; to go on: "
                f"trueline sweep --resume {folder}"
            ) from None
        finally:
            write_plan(folder, plan, rows)
    print_end(rows, plan, folder)
    if all(row["value"] is None for row in rows):
        raise CheckFailed(f"expected a trial that ends well, found none: {rows[0]['error']}")


def _what_is_to_do(
    plan: dict[str, Any], combinations: list[dict[str, str]] | None, ended: int
) -> str:
    trials = plan["trials"]
    said = f"{trials:,} trial{'s' if trials > 1 else ''}"
    if combinations is not None and trials < len(combinations):
        said = f"the first {trials:,} of {len(combinations):,} trials"
    said += f", {min(plan['jobs'], trials):,} at a time, for the least {plan['metric']}"
    return f"{said}; {ended:,} already ended" if ended else said


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


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep a folder from another sweep, as long as this one is at work or until it is killed."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "sweep.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RequestError(
            f"--resume {folder}: expected no sweep at work there, found one; wait until it has "
            "ended, or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()
