"""A training that is killed and resumed ends as if nothing had happened, to the bit.

`benchmarks/kill_test.py` does the same hundreds of times.
"""

import json
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from killed_runs import differences, draw, kill_and_resume, newest, prepare

RUNS = 6
SEED = 234
"""Of a handful with all kinds of stops, savers and schedules."""


def in_folder(folder: Path, seed: int, number: int) -> Any:
    return kill_and_resume(seed, number, folder / str(number))


def test_killed_and_resumed_runs_end_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process with more threads is no good for forking, and pytest's has them.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=prepare) as pool:
        outcomes = list(pool.map(partial(in_folder, tmp_path, SEED), range(RUNS)))
    unlike = {o.number: (o.options, o.stops, o.differences) for o in outcomes if o.differences}
    assert not unlike, json.dumps(unlike, indent=2)
    # Or nothing would have been shown.
    assert sum(outcome.killed for outcome in outcomes)
    assert sum(outcome.resumed for outcome in outcomes)
    assert sum(outcome.while_writing for outcome in outcomes)


def test_draws_depend_on_the_seed_and_the_number_alone() -> None:
    assert draw(0, 1) == draw(0, 1)
    assert len({json.dumps(draw(seed, number)[0]) for seed in (0, 1) for number in (0, 1)}) == 4


@pytest.fixture
def pair(cli: Callable[..., Any], tmp_path: Path) -> tuple[Path, Path]:
    """Return the directories of two runs with the same options, one of them in peace."""
    options = ("--trainer.max_epochs=6", "--model.momentum=0.9", "--trainer.log_every_n_steps=1")
    for _ in range(2):
        assert cli("fit", *options).status == 0
    second = newest(tmp_path)
    return second.parent / "version_0", second


def change_checkpoint(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    change(saved)
    torch.save(saved, path)


def one_rounding_off(saved: dict[str, Any]) -> None:
    weight = saved["state_dict"]["weight"]
    saved["state_dict"]["weight"] = torch.nextafter(weight, weight + 1)


def half_as_wide(saved: dict[str, Any]) -> None:
    # The buffers' values are no longer compared, since they are of another kind.
    state = saved["optimizer_states"][0]["state"][1]
    state["momentum_buffer"] = torch.zeros((), dtype=torch.float32)


def a_step_too_many(saved: dict[str, Any]) -> None:
    saved["global_step"] += 1


def no_optimizer(saved: dict[str, Any]) -> None:
    del saved["optimizer_states"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (one_rounding_off, "state_dict/weight: "),
        (half_as_wide, "optimizer_states[0]/state/1/momentum_buffer: "),
        (a_step_too_many, "global_step: 6 is now 7"),
        (no_optimizer, "optimizer_states: "),
    ],
)
def test_a_checkpoint_that_differs_is_seen(
    pair: tuple[Path, Path], change: Callable[[dict[str, Any]], None], where: str
) -> None:
    assert differences(*pair) == []
    change_checkpoint(pair[1], change)
    (found,) = differences(*pair)
    assert found.startswith(f"last.ckpt/{where}")


def test_a_result_that_differs_is_seen(pair: tuple[Path, Path]) -> None:
    path = pair[1] / "result.json"
    result = json.loads(path.read_text())
    result["crosscheck"]["steps_checked"] -= 1
    path.write_text(json.dumps(result))
    assert differences(*pair) == ["result.json/crosscheck/steps_checked: 6 is now 5"]


def test_a_step_twice_or_never_in_the_history_is_seen(pair: tuple[Path, Path]) -> None:
    whole, again = pair
    writer = EventFileWriter(str(again))
    event = Event(step=6)
    event.summary.value.add(tag="lr", simple_value=0.001)
    writer.add_event(event)
    writer.close()
    assert differences(whole, again) == ["events/lr: 6 entries are now 7"]
    assert differences(again, whole) == ["events/lr: 7 entries are now 6"]


def test_a_file_that_is_missing_broken_or_too_many_is_seen(pair: tuple[Path, Path]) -> None:
    whole, again = pair
    last = again / "checkpoints/last.ckpt"
    shutil.copy(last, last.with_name("last.ckpt.partial"))
    last.write_bytes(last.read_bytes()[:1000])
    (again / "result.json").unlink()
    partial, broken, missing = differences(whole, again)
    assert partial == "last.ckpt.partial is left"
    assert broken.startswith("last.ckpt: ")
    assert missing.startswith("result.json: FileNotFoundError")
