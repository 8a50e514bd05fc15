"""Trainings stopped at random moments and resumed, held against the same ones left in peace.

Each is a real process: forked from one that has imported everything, and stopped by a real signal.
"""

import contextlib
import io
import json
import math
import os
import random
import re
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

from trueline.cli.entry import main

PARTIAL = ".partial"
"""What a checkpoint's name ends in while it is being written."""
CHECKPOINTS = "lightning_logs/version_*/checkpoints"
PATHS = {"dirpath", "best_model_path", "kth_best_model_path", "last_model_path", "best_k_models"}
"""What Lightning's ModelCheckpoint keeps that names a run's own directory."""
SECONDS = 120.0
"""No run takes as long; one that does hangs."""
RATES = {"0.0001", "0.0002"}
"""Stable with a row a step and Nesterov's momentum."""


@dataclass(frozen=True)
class Stop:
    """How and when a run is to be stopped.

    Attributes:
        number: The signal.
        when: `moment`, or the first time after it that a checkpoint is seen being `written`, or is
            about to be `renamed` to its name.
        fraction: Where the moment is, as a fraction of the training that is left.
        delay: Seconds from the time it is seen to the signal.
    """

    number: int
    when: str
    fraction: float
    delay: float


@dataclass
class Ended:
    """How a run ended: `status` is negative where a signal ended it; `setup` is its share of
    `seconds` before it had a log directory."""

    status: int
    seconds: float
    setup: float
    sent: bool
    said: str


@dataclass
class Outcome:
    """What one training, stopped and resumed, came to."""

    number: int
    options: list[str]
    stops: list[str] = field(default_factory=list)
    killed: int = 0
    signalled: int = 0
    saved: int = 0
    while_writing: int = 0
    resumed: int = 0
    from_nothing: int = 0
    finished_before: int = 0
    differences: list[str] = field(default_factory=list)


def draw(seed: int, number: int) -> tuple[list[str], list[Stop]]:
    """Draw the options of `trueline fit` and the stops of one training."""
    chance = random.Random(f"{seed}-{number}")
    batch_size = chance.choice([None, 1, 4, 7])
    accumulate = chance.choice([1, 2, 3])
    batches = -(-15 // (batch_size or 15))
    steps = -(-batches // accumulate)
    epochs = max(4, chance.randint(150, 350) // batches)
    momentum = chance.choice([0, 0.9])
    every = chance.choice([1, 3, None])
    log_every = chance.choice([1, 7, None])
    given: dict[str, Any] = {
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": epochs,
        "trainer.precision": chance.choice(["64-true", "32-true"]),
        "trainer.accumulate_grad_batches": accumulate,
        "trainer.check_val_every_n_epoch": every,
        "trainer.log_every_n_steps": log_every,
        "data.batch_size": batch_size,
        "data.shuffle": chance.choice(["true", "false"]),
        "model.lr": chance.choice(sorted(RATES)),
        "model.momentum": momentum,
        "model.nesterov": "true" if momentum and chance.random() < 0.5 else "false",
        "model.l2": chance.choice([0, 0.1]),
        "model.weight_decay": chance.choice([0, 0.1]),
        "figures": "false",  # a run that is killed over them has ended, and has none
        **{f"model.schedule.{k}": v for k, v in _schedule(chance, epochs, steps).items()},
    }
    given |= {f"trainer.callbacks{k}": v for k, v in _saver(chance, epochs * steps).items()}
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    stops = [_stop(chance)]
    while len(stops) < 3 and chance.random() < 0.4:
        stops.append(_stop(chance))
    return options, stops


def _schedule(chance: random.Random, epochs: int, steps: int) -> dict[str, Any]:
    """Draw a schedule, or none."""
    name = chance.choice([None, "StepLR", "CosineAnnealingLR", "ReduceLROnPlateau"])
    if name is None:
        return {}
    if name == "ReduceLROnPlateau":  # a threshold that it misses now and then
        return {"name": name, "patience": chance.randint(0, 2), "threshold": 0.1, "factor": 0.7}
    interval = chance.choice(["epoch", "step"])
    length = epochs * (steps if interval == "step" else 1)
    if name == "StepLR":
        own = {"step_size": chance.randint(1, max(1, length // 3)), "gamma": 0.8}
    else:
        own = {"T_max": chance.randint(max(1, length // 2), length + 3)}
    return {"name": name, "interval": interval, **own}


def _saver(chance: random.Random, steps: int) -> dict[str, Any]:
    """Draw what saves inside epochs too, and often; or nothing, for what saves anyway."""
    often = chance.randint(1, max(2, steps // 15))
    ours = "trueline.checkpoints.saving.Checkpoints"
    return chance.choice(
        [
            {},
            {"": ours, ".every_n_steps": often},
            {"": "ModelCheckpoint", ".every_n_train_steps": often},  # ours saves beside it
        ]
    )


def _stop(chance: random.Random) -> Stop:
    # Ctrl-C, or what a batch system sends, in a tenth; no warning in all others.
    if chance.random() < 0.1:
        number, when = chance.choice([signal.SIGTERM, signal.SIGINT]), "moment"
    else:
        number = signal.SIGKILL
        when = chance.choice(["moment", "moment", "written", "renamed"])
    if when == "moment" and chance.random() < 0.1:
        # While a resumed run still takes over what the one before it left.
        return Stop(number, when, 0, chance.uniform(0, 0.05))
    # Up to what it takes to write a checkpoint and rename it.
    return Stop(number, when, chance.random(), chance.choice([0, chance.uniform(0, 0.003)]))


def prepare() -> None:
    """Bring this process to where a run can be forked from it: everything is imported."""
    torch.set_num_threads(1)
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(["fit", "--print_config"])  # imports what is left, and trains nothing


def train(options: list[str], folder: Path, stop: Stop | None = None, left: float = 0) -> Ended:
    """Run `trueline fit` in a process of its own, and stop it, if it gets so far.

    Args:
        options: Of `fit`.
        folder: Where it runs.
        stop: How and when; never unless given.
        left: Seconds of training that are left; the moment is a fraction of them.
    """
    folder.mkdir(exist_ok=True)
    version = folder / f"lightning_logs/version_{len(list(folder.glob('lightning_logs/*')))}"
    output = folder / f"{version.name}.txt"
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(options, folder, output, stop, version, left)
    setup, sent, end = 0.0, False, None
    while end is None:
        now = time.monotonic()
        if not setup and version.exists():
            setup = now - start
        if stop and not sent and setup and now >= start + setup + stop.fraction * left:
            written = version / "checkpoints"
            if stop.when == "moment" or (stop.when == "written" and _partial(written)):
                time.sleep(stop.delay)
                os.kill(child, stop.number)
                sent = True
        if now - start > SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"{options} in {folder} took more than {SECONDS} s")
        pid, status = os.waitpid(child, os.WNOHANG)
        end = os.waitstatus_to_exitcode(status) if pid else None
        # A checkpoint is written in a millisecond or two.
        time.sleep(5e-5 if stop and stop.when == "written" and not sent else 1e-3)
    said = output.read_text("utf-8", "replace")
    return Ended(end, time.monotonic() - start, setup, sent or end == -signal.SIGKILL, said)


def _run(
    options: list[str],
    folder: Path,
    output: Path,
    stop: Stop | None,
    version: Path,
    left: float,
) -> None:
    """Train in the forked process, which ends here."""
    status = 1
    try:
        os.chdir(folder)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        # Whatever this process inherited: a shell has its jobs in the background ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if stop and stop.when == "renamed":
            sys.addaudithook(_killer(version, stop.fraction * left))
        status = main(["fit", *options])
    except KeyboardInterrupt:
        traceback.print_exc()
        status = 130  # a shell's name for it
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _killer(version: Path, after: float) -> Any:
    """Return an audit hook that kills this process before it renames a checkpoint."""
    moment = math.inf

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal moment
        if event == "os.mkdir" and Path(arguments[0]).name == version.name:
            moment = time.monotonic() + after
        whole = event == "os.rename" and os.fspath(arguments[0]).endswith(PARTIAL)
        if whole and time.monotonic() >= moment:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _partial(folder: Path) -> bool:
    """Say whether a checkpoint is being written into a folder."""
    try:
        return any(path.name.endswith(PARTIAL) for path in folder.iterdir())
    except FileNotFoundError:
        return False


def kill_and_resume(seed: int, number: int, folder: Path) -> Outcome:
    """Train once in peace, once stopped and resumed until it ends; compare the two.

    Args:
        seed: Of all draws.
        number: Of this training.
        folder: A new one, for both.
    """
    folder.mkdir(parents=True)
    options, stops = draw(seed, number)
    outcome = Outcome(number, options)
    peace = train(options, folder / "whole")
    if peace.status:
        outcome.differences.append(f"uninterrupted: exit status {peace.status}: {peace.said}")
        return outcome
    again = folder / "again"
    whole = left = peace.seconds - peace.setup
    for stop in [*stops, None]:
        saved = any(again.glob(f"{CHECKPOINTS}/last.ckpt"))
        resume = ["--ckpt_path=last"] if saved else []
        outcome.resumed += bool(resume)
        outcome.from_nothing += not resume and bool(outcome.stops)
        left = left if saved else whole
        run = train([*options, *resume], again, stop, left)
        if resume and run.status == 2 and "expected more than" in run.said:
            # Nothing was left to do: it had been killed after its last step.
            outcome.resumed -= 1
            outcome.finished_before += 1
            break
        if run.status == 0:
            outcome.finished_before += stop is not None
            break
        if stop is None or not run.sent:
            said = " ".join(run.said.split())[-600:]
            how = " ".join(resume) or "anew"
            outcome.differences.append(f"exit status {run.status} when started {how}: {said}")
            return outcome
        outcome.killed += run.status == -signal.SIGKILL
        if run.status != -signal.SIGKILL:
            outcome.signalled += 1
            if interrupted := re.search("after step ([0-9,]+), and saved; to go on", run.said):
                outcome.saved += run.status == 1
                step = int(interrupted[1].replace(",", ""))
                if problem := _not_saved_at(step, again):
                    outcome.differences.append(f"{interrupted[0]}: {problem}")
        outcome.while_writing += any(again.glob(f"{CHECKPOINTS}/*{PARTIAL}"))
        name = signal.Signals(stop.number).name
        place = f"{name} at {run.seconds - run.setup:.3f} of {left:.3f} s"
        said = " ".join(run.said.splitlines()[-1:])
        outcome.stops.append(f"{place} ({stop.when}), status {run.status}; {said}")
        left *= 1 - stop.fraction
    outcome.differences += differences(newest(folder / "whole"), newest(again))
    return outcome


def _not_saved_at(step: int, folder: Path) -> str | None:
    """Say what of an interrupted run is lost, if it is not saved as it stood."""
    saved = folder.glob(f"{CHECKPOINTS}/last.ckpt")
    found = max(saved, key=lambda path: path.stat().st_mtime, default=None)
    at = torch.load(found, weights_only=True)["global_step"] if found else 0
    return None if at == step else f"{found or 'nothing'} is saved, of step {at}"


def newest(folder: Path) -> Path:
    """Return the directory of the newest run in a folder."""
    runs = (folder / "lightning_logs").glob("version_*")
    return max(runs, key=lambda path: int(path.name.removeprefix("version_")))


def differences(whole: Path, again: Path) -> list[str]:
    """Compare two runs by what they left in their directories, to the bit.

    Left out are times and the names of directories.
    """
    found = [f"{path.name} is left" for path in again.glob(f"checkpoints/*{PARTIAL}")]
    for what, read in (("last.ckpt", last), ("result.json", result), ("events", history)):
        try:
            first, second = read(whole), read(again)
        except Exception as error:  # a file that is missing or broken, in many ways
            found.append(f"{what}: {type(error).__name__}: {error}")
        else:
            found += _unlike(first, second, what)
    return found


def last(directory: Path) -> dict[str, Any]:
    """Read `last.ckpt`, without the time that it took and the paths that callbacks keep in it."""
    saved = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)
    del saved["seconds"]
    for state in saved["callbacks"].values():
        for name in PATHS & state.keys():
            del state[name]
    # How far the latest validation came, which a training resumed after its last one does not know.
    del saved["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    return saved


def result(directory: Path) -> dict[str, Any]:
    """Read `result.json`, without what differs between any two runs."""
    read = json.loads((directory / "result.json").read_text())
    return {name: value for name, value in read.items() if name not in ("seconds", "log_dir")}


def history(directory: Path) -> dict[str, list[tuple[int, float | bytes | None]]]:
    """Read what TensorBoard is given: by tag all points in the order they are in the files."""
    points: dict[str, list[tuple[int, float | bytes | None]]] = {}
    for file in sorted(directory.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                points.setdefault(value.tag, []).append((event.step, _content(value)))
    return points


def _content(value: Any) -> float | bytes | None:
    # Hyperparameters come with the time at which they were written, and of a run that went on, the
    # path in the figures begins with the points that its curves had.
    if value.tag.startswith(("_hparams_/", "figures/")):
        return None
    found = make_ndarray(value.tensor).item()
    return found if isinstance(found, bytes) else float(found)


def _unlike(first: Any, second: Any, where: str) -> list[str]:
    """List the places in which two trees of values differ."""
    return list(_walk(first, second, where))


def _walk(first: Any, second: Any, where: str) -> Iterator[str]:
    if type(first) is not type(second):
        yield f"{where}: {first!r:.200} is now {second!r:.200}"
    elif isinstance(first, dict):
        for name in [*first, *(key for key in second if key not in first)]:
            at = f"{where}/{name}"
            if name not in second:
                yield f"{at}: {first[name]!r:.200} is missing"
            elif name not in first:
                yield f"{at}: {second[name]!r:.200} is there too"
            else:
                yield from _walk(first[name], second[name], at)
    elif isinstance(first, torch.Tensor):
        if first.dtype != second.dtype or not torch.equal(first, second):
            yield f"{where}: {first!r:.200} is now {second!r:.200}"
    elif isinstance(first, list | tuple):
        if len(first) != len(second):
            yield f"{where}: {len(first)} entries are now {len(second)}"
        for k, (one, other) in enumerate(zip(first, second, strict=False)):
            if unlike := _unlike(one, other, f"{where}[{k}]"):
                yield unlike[0]  # those after it follow from it
                return
    elif isinstance(first, float):
        if struct.pack("d", first) != struct.pack("d", second):
            yield f"{where}: {first!r} is now {second!r}"
    elif first != second:
        yield f"{where}: {first!r} is now {second!r}"
