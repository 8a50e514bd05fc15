"""Sweeps: grids and ranges, the best of them, stops and resumes, and requests that are refused."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from conftest import Run
from trueline.data import TableData
from trueline.errors import RequestError
from trueline.planning.convergence import epochs
from trueline.reference import SGD, article
from trueline.reference.triangle import Line, triangle
from trueline.sweep import swept as reading
from trueline.sweep.plan import make_plan
from trueline.sweep.report import ranked
from trueline.sweep.trial import READ, cores, train

Cli = Callable[..., Run]
SHORT = ("--trainer.max_epochs=2000", "--crosscheck=off", "--model.init=zeros")
GRID = ("--over", "model.lr=0.001,0.002,0.004", "--over", "model.momentum=0,0.5")
ROWS = triangle(article.X, article.y)


def table(folder: Path) -> dict[str, Any]:
    """Read what a sweep has left."""
    found: dict[str, Any] = json.loads((folder / "sweep.json").read_text("utf-8"))
    return found


def written(folder: Path) -> dict[int, int]:
    """Map each trial that has ended to when its result was written."""
    trials = [row["trial"] for row in table(folder)["rows"]]
    return {k: (folder / f"trial_{k:04d}/result.json").stat().st_mtime_ns for k in trials}


def by_options(content: dict[str, Any]) -> dict[str, float]:
    """Map what was tried to what it came to."""
    return {json.dumps(row["options"]): row["value"] for row in content["rows"]}


def loss_after(lr: float, momentum: float, steps: int) -> float:
    """Take full-batch steps from zero, in plain Python."""
    w = b = v_w = v_b = 0.0
    pairs = list(zip(article.X[:, 0].tolist(), article.y.tolist(), strict=True))
    for k in range(steps):
        r = [w * x + b - y for x, y in pairs]
        g_w = 2 / 15 * sum(e * x for e, (x, _) in zip(r, pairs, strict=True))
        g_b = 2 / 15 * sum(r)
        v_w, v_b = (g_w, g_b) if k == 0 else (momentum * v_w + g_w, momentum * v_b + g_b)
        w, b = w - lr * v_w, b - lr * v_b
    return sum((w * x + b - y) ** 2 for x, y in pairs) / 15


def test_grid_leaves_a_run_for_each_combination_and_a_table(cli: Cli, tmp_path: Path) -> None:
    run = cli("sweep", *GRID, *SHORT)
    assert run.status == 0, run.stderr
    folder = tmp_path / "lightning_logs/sweep_0"
    content = table(folder)
    tried = [
        (row["options"]["model.lr"], row["options"]["model.momentum"]) for row in content["rows"]
    ]
    assert sorted(tried) == sorted(
        (a, b) for a in ("0.001", "0.002", "0.004") for b in ("0", "0.5")
    )
    for row in content["rows"]:
        expected = loss_after(*(float(value) for value in row["options"].values()), 2000)
        assert row["value"] == pytest.approx(expected, rel=1e-9)
        of_trial = folder / f"trial_{row['trial']:04d}"
        result = json.loads((of_trial / "result.json").read_text("utf-8"))
        assert result["loss"] == row["loss"]
        assert result["lr"] == float(row["options"]["model.lr"])
        assert list(of_trial.glob("events.out.tfevents.*"))
        assert (of_trial / "config.yaml").exists()
    # Trials are begun in the order of the grid, and ranked by what they came to.
    assert [row["trial"] for row in sorted(content["rows"], key=lambda r: r["trial"])] == [
        *range(6)
    ]
    assert content["rows"] == ranked(content["rows"])
    best = content["rows"][0]["options"]
    assert best == {"model.lr": "0.004", "model.momentum": "0.5"}
    assert re.search(
        r"^best +trueline fit .*--model.lr=0.004 --model.momentum=0.5$", run.stdout, re.M
    )
    assert len(re.findall(r"^\d/6  model\.lr", run.stdout, re.M)) == 6


def test_best_lr_is_the_one_that_the_modes_say(cli: Cli, tmp_path: Path) -> None:
    lrs = ("0.0005", "0.001", "0.002", "0.004", "0.0049")
    options = ["--metric=epochs_to_converge", "--trainer.max_epochs=80000", "--model.init=zeros"]
    options += ["--trainer.log_every_n_steps=10", "--crosscheck=off"]
    run = cli("sweep", f"--over=model.lr={','.join(lrs)}", *options)
    assert run.status == 0, run.stderr
    start = Line(article.X[0] * 0.0, article.y[0] * 0.0)
    for row in table(tmp_path / "lightning_logs/sweep_0")["rows"]:
        expected = epochs(ROWS, start, SGD(float(row["options"]["model.lr"])))
        assert expected is not None
        assert 0 <= row["value"] - expected <= 10
    assert table(tmp_path / "lightning_logs/sweep_0")["rows"][0]["options"]["model.lr"] == "0.0049"


def test_ranges_are_drawn_alike_with_the_same_seed(cli: Cli, tmp_path: Path) -> None:
    asked = ["--over", "model.lr=1e-4..4e-3", "--over", "data.batch_size=2..15", "--trials=4"]
    for seed in (0, 0, 1):
        run = cli("sweep", *asked, "--jobs=1", f"--seed={seed}", "--trainer.max_epochs=50")
        assert run.status == 0, run.stderr
    tables = [table(tmp_path / f"lightning_logs/sweep_{k}") for k in range(3)]
    assert by_options(tables[0]) == by_options(tables[1]) != by_options(tables[2])
    assert len(by_options(tables[0])) == 4
    for row in tables[0]["rows"]:
        assert 1e-4 <= row["options"]["model.lr"] <= 4e-3
        assert row["options"]["data.batch_size"] in range(2, 16)


def test_processes_side_by_side_come_to_the_same(cli: Cli, tmp_path: Path) -> None:
    for jobs in (1, 2):
        assert cli("sweep", *GRID, *SHORT, f"--jobs={jobs}").status == 0
    one, two = (table(tmp_path / f"lightning_logs/sweep_{k}") for k in (0, 1))
    assert by_options(one) == by_options(two)


def test_trial_that_diverges_does_not_end_the_sweep(cli: Cli, tmp_path: Path) -> None:
    run = cli("sweep", "--over", "model.lr=0.001,0.006,1", "--trainer.max_epochs=2000")
    assert run.status == 0, run.stderr
    rows = table(tmp_path / "lightning_logs/sweep_0")["rows"]
    assert [row["options"]["model.lr"] for row in rows] == ["0.001", "0.006", "1"]
    assert [row["status"] for row in rows] == ["done", "failed", "failed"]
    assert all("training diverged" in row["error"] for row in rows[1:])
    assert "2 of 3" in run.stdout


def test_sweep_in_which_all_fail_fails(cli: Cli) -> None:
    run = cli("sweep", "--over", "model.lr=1,2", "--trainer.max_epochs=2000")
    assert run.status == 1
    assert "expected a trial that ends well, found none: training diverged" in run.stderr


def test_trial_that_fails_the_crosscheck_ends_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        "from trueline.module import LinearRegression\n"
        "take = LinearRegression.training_step\n"
        "def wrong(self, batch, index):\n"
        "    found = take(self, batch, index)\n"
        "    return {**found, 'loss': found['loss'] * (0.5 if self.hparams.lr == 0.002 else 1)}\n"
        "LinearRegression.training_step = wrong\n"
        "from trueline.cli.entry import main\n"
        "if __name__ == '__main__':\n"
        "    raise SystemExit(main())\n"
    )
    # The other one would go on for ever.
    options = ["--over", "model.lr=0.001,0.002,0.003", "--jobs=2", "--trainer.max_epochs=-1"]
    options += ["--model.steps_per_execution=1"]
    command = [sys.executable, "wrong.py", "sweep", *options]
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 1
    assert "trueline: error: trial 1: cross-check failed: loss at step 1" in run.stderr
    assert len(table(tmp_path / "lightning_logs/sweep_0")["rows"]) == 1


def test_held_out_rows_decide_where_there_are_some(cli: Cli, tmp_path: Path) -> None:
    lines = [f"{x},{3 * x + 1 + (x * 7) % 5}" for x in range(40)]
    (tmp_path / "t.csv").write_text("x,y\n" + "\n".join(lines) + "\n")
    data = ["--data=TableData", "--data.path=t.csv", "--data.target=y", "--data.val_fraction=0.3"]
    run = cli("sweep", "--over", "model.l2=0,0.1,1", *data)
    assert run.status == 0, run.stderr
    content = table(tmp_path / "lightning_logs/sweep_0")
    assert content["metric"] == "val_loss"
    losses = [row["val_loss"] for row in content["rows"]]
    assert losses == sorted(losses)
    assert all(row["val_loss"] != row["loss"] for row in content["rows"])
    # Of the line that is left, whatever epochs are validated: 9, 18, ..., 198, and the last.
    run = cli("sweep", "--over", "model.lr=0.01,0.02", *data, "--trainer.max_epochs=199")
    assert run.status == 0, run.stderr
    for row in table(tmp_path / "lightning_logs/sweep_1")["rows"]:
        folder = f"lightning_logs/sweep_1/trial_{row['trial']:04d}"
        said = cli("validate", *data, f"--ckpt_path={folder}/checkpoints/last.ckpt").stdout
        found = re.search(r"val/loss\W+([\d.e+-]+)", said)
        assert found
        assert row["val_loss"] == pytest.approx(float(found[1]), rel=1e-12)
        events = EventAccumulator(str(tmp_path / folder)).Reload()
        assert events.Scalars("val/loss")[-1].step == 199
        assert events.Scalars("final/val_loss")[-1].value == np.float32(row["val_loss"])


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGKILL])
def test_sweep_that_is_stopped_goes_on(cli: Cli, tmp_path: Path, signal_: signal.Signals) -> None:
    asked = ["--over", "model.lr=1e-4..4e-3", "--trials=4", "--jobs=1", "--trainer.max_epochs=1000"]
    asked += ["--model.steps_per_execution=1", "--crosscheck=off"]
    command = [sys.executable, "-m", "trueline", "sweep", *asked]
    sweep = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = tmp_path / "lightning_logs/sweep_0"
    end = time.monotonic() + 120
    while not (folder / "trial_0001").exists():
        assert time.monotonic() < end, sweep.communicate()
        time.sleep(0.05)
    sweep.send_signal(signal_)
    _, said = sweep.communicate(timeout=60)
    done = len(table(folder)["rows"])
    assert 1 <= done < 4
    if signal_ == signal.SIGTERM:
        assert sweep.returncode == 1
        assert (
            f"interrupted after {done} of 4 trials; to go on: trueline sweep --resume"
            in said.decode()
        )
    before = written(folder)
    run = cli("sweep", "--resume", "last")
    assert run.status == 0, run.stderr
    content = table(folder)
    assert len(content["rows"]) == 4
    # What had ended is not done again, and what was at work has left nothing behind.
    assert written(folder).items() >= before.items()
    assert len(list(folder.glob("trial_*"))) == 4
    assert cli("sweep", *asked).status == 0
    assert by_options(content) == by_options(table(tmp_path / "lightning_logs/sweep_1"))
    more = cli("sweep", "--resume", "lightning_logs/sweep_0", "--trials", "5")
    assert more.status == 0, more.stderr
    assert len(table(folder)["rows"]) == 5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "--over: expected an option and its values"),
        ("--over model.lr", "--over model.lr: expected NAME=A,B,C or NAME=LOW..HIGH"),
        ("--over model.lr=", "--over model.lr: expected values, each once; found none"),
        ("--over model.lr=1,,2", "expected values, each once; found 1,,2"),
        ("--over model.lr=1,1", "expected values, each once; found 1,1"),
        ("--over model.lr=2..1", "expected a range from low to high, found 2..1"),
        ("--over model.lr=1..1", "expected a range from low to high"),
        ("--over model.lr=..1", "expected a range of numbers, found none"),
        ("--over model.lr=a..b", "expected a range of numbers, found a"),
        ("--over model.lr=0..inf", "expected a range of numbers, found inf"),
        ("--over model.lr=0..1:log", "expected numbers above 0 for :log"),
        ("--over model.lr=1..2:cubic", "expected :linear or :log after a range, found :cubic"),
        ("--over model.lr=[1,", "expected a JSON list"),
        (
            "--over model.lr=1,2 --over model.lr=3,4",
            "--over model.lr: expected once, found 2 times",
        ),
        ("--over model.rate=1,2", "model.rate"),
        ("--over model.lr=0.1,-1", "lr: expected a finite number above 0"),
        ("--over model.lr=-1..1", "lr: expected a finite number above 0"),
        ("--over data.batch_size=5,16", "batch_size: expected 1 to 15"),
        ("--over model.init=zeros,ones", "init"),
        (
            "--over trainer.logger=a,b",
            "trainer.logger: expected an option of the training itself",
        ),
        ("--over ckpt_path=a,b", "--over ckpt_path: expected an option of the training itself"),
        ("--over model.lr=1,2 --trainer.logger=false", "--trainer.logger: the sweep decides it"),
        ("--over trainer.devices=1,2", "--trainer.devices: expected 1, since trials train side by"),
        (
            "--over model.lr=1,2 --trials 0",
            "--trials: expected a whole number of 1 or more, found 0",
        ),
        ("--over model.lr=1,2 --jobs many", "--jobs: expected a whole number"),
        ("--over model.lr=1,2 --seed -1", "--seed: expected a whole number of 0 or more"),
        ("--over model.lr=1,2 --metric accuracy", "--metric"),
        ("--over model.lr=0.1,0.2 --metric val_loss", "expected held-out rows, found none"),
        ("--over model.lr=0.1,0.2 --model.speed 3", "model.speed"),
        ("--resume last", "--resume last: expected a sweep in lightning_logs, found none"),
        ("--resume elsewhere", "--resume elsewhere: expected the folder of a sweep"),
        ("--resume last --over model.lr=1,2", "found none"),
    ],
)
def test_wrong_request_is_one_line_and_writes_nothing(
    arguments: str, expected: str, cli: Cli, tmp_path: Path
) -> None:
    run = cli("sweep", *arguments.split())
    assert run.status == 2, run.stdout
    assert expected in run.stderr
    assert run.stderr.startswith("trueline: error: ")
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "lightning_logs").exists()


def test_resume_takes_no_other_options_and_no_broken_plan(cli: Cli, tmp_path: Path) -> None:
    assert cli("sweep", "--over", "model.lr=0.001,0.002", "--trainer.max_epochs=5").status == 0
    run = cli("sweep", "--resume", "last", "--model.lr", "0.1")
    assert run.status == 2
    assert "expected no options but --trials and --jobs" in run.stderr
    (tmp_path / "lightning_logs/sweep_0/sweep.json").write_text("{")
    run = cli("sweep", "--resume", "last")
    assert run.status == 2
    assert "expected the sweep.json of a sweep" in run.stderr


def test_resume_goes_on_to_as_many_trials_as_are_asked_for(cli: Cli, tmp_path: Path) -> None:
    lrs = ("--over", "model.lr=0.001,0.002,0.003", "--trainer.max_epochs=5")
    run = cli("sweep", *lrs, "--trials=1")
    assert "the first 1 of 3 trials, 1 at a time, for the least loss\n" in run.stdout
    run = cli("sweep", "--resume=last", "--trials=2")
    assert "the first 2 of 3 trials, 1 at a time, for the least loss; 1 already" in run.stdout
    assert len(table(tmp_path / "lightning_logs/sweep_0")["rows"]) == 2
    run = cli("sweep", "--resume=last", "--trials=1")
    assert run.status == 2
    assert "expected how many there are to be in all, at least the 2 that have ended" in run.stderr


def test_values_that_hold_commas_reach_the_training(cli: Cli, tmp_path: Path) -> None:
    schedules = 'model.schedule=[{"name": "StepLR", "step_size": 2}, null]'
    run = cli("sweep", "--over", schedules, "--trainer.max_epochs=5")
    assert run.status == 0, run.stderr
    rows = table(tmp_path / "lightning_logs/sweep_0")["rows"]
    assert [row["status"] for row in rows] == ["done", "done"]
    assert rows[0]["value"] != rows[1]["value"]


def test_whole_numbers_are_tried_once_each(cli: Cli, tmp_path: Path) -> None:
    asked = ("--over=data.batch_size=2..5", "--trials=4", "--trainer.max_epochs=2")
    for jobs in ("--jobs=1", "--jobs=2"):
        run = cli("sweep", *asked, jobs)
        assert run.status == 0, run.stderr
    for k in range(2):
        rows = table(tmp_path / f"lightning_logs/sweep_{k}")["rows"]
        assert sorted(row["options"]["data.batch_size"] for row in rows) == [2, 3, 4, 5]


def test_more_trials_than_a_grid_has_are_all_of_it(cli: Cli, tmp_path: Path) -> None:
    lrs = ("--over", "model.lr=0.001,0.002", "--trainer.max_epochs=5")
    assert "2 trials" in cli("sweep", *lrs, "--trials=9").stdout
    run = cli("sweep", "--resume=last", "--trials=20")
    assert run.status == 0, run.stderr
    assert len(table(tmp_path / "lightning_logs/sweep_0")["rows"]) == 2


def test_what_is_swept_is_what_tensorboard_compares_first(cli: Cli, tmp_path: Path) -> None:
    swept = ("--over", "trainer.accumulate_grad_batches=1,3", "--over", "data.shuffle=true,false")
    run = cli("sweep", *swept, "--data.batch_size=5", "--trainer.max_epochs=4")
    assert run.status == 0, run.stderr
    logged = set()
    for k in range(4):
        folder = tmp_path / f"lightning_logs/sweep_0/trial_{k:04d}"
        data = EventAccumulator(str(folder)).Reload().summary_metadata
        plugin = {
            name: HParamsPluginData.FromString(data[f"_hparams_/{name}"].plugin_data.content)
            for name in ("experiment", "session_start_info")
        }
        start = plugin["session_start_info"].session_start_info.hparams
        logged.add((start["accumulate_grad_batches"].string_value, start["shuffle"].string_value))
        infos = plugin["experiment"].experiment.hparam_infos
        assert {"accumulate_grad_batches", "shuffle"} <= {i.name for i in infos if i.differs}
    assert logged == {(n, s) for n in ("1", "3") for s in ("True", "False")}


def test_of_two_alike_the_faster_is_the_best() -> None:
    rows = [
        {"trial": k, "value": 1.0, "epochs_to_converge": epochs}
        for k, epochs in enumerate((None, 848, 300))
    ]
    assert [row["trial"] for row in ranked(rows)] == [2, 1, 0]


def test_without_optuna_it_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("trueline.sweep.study")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    run = cli("sweep", "--over", "model.lr=0.001,0.002")
    assert run.status == 2
    assert "pip install optuna filelock" in run.stderr


@pytest.mark.parametrize(
    ("text", "low", "high", "whole", "log"),
    [
        ("a=1..5", 1, 5, True, False),
        ("a=1..10", 1, 10, True, True),
        ("a=1..10:linear", 1, 10, True, False),
        ("a=0..1", 0, 1, True, False),
        ("a=0.0..1", 0, 1, False, False),
        ("a=1e-5..1e-2", 1e-5, 1e-2, False, True),
        ("a=0.5..0.9", 0.5, 0.9, False, False),
        ("a=0.5..0.9:log", 0.5, 0.9, False, True),
        ("a=-3..-1", -3, -1, True, False),
    ],
)
def test_ranges(text: str, low: float, high: float, whole: bool, log: bool) -> None:
    assert reading.read([text]) == [reading.Range("a", low, high, whole, log)]


def test_values_with_commas_are_a_json_list() -> None:
    [found] = reading.read(['data.features=["a,b", "c", 1, true]'])
    assert found == reading.Values("data.features", ("a,b", "c", "1", "true"))


def test_grid_is_no_larger_than_anybody_waits_for() -> None:
    many = [f"o{k}={','.join(map(str, range(50)))}" for k in range(4)]
    with pytest.raises(
        RequestError, match="expected 100,000 combinations at most, found 6,250,000"
    ):
        reading.grid(reading.read(many))


def test_help_says_what_it_does(cli: Cli) -> None:
    run = cli("sweep", "--help")
    assert run.status == 0
    assert "--over NAME=LOW..HIGH" in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 100


def test_sweep_is_alone_in_its_folder_and_its_workers_end_with_it(tmp_path: Path) -> None:
    options = ["--over", "model.lr=0.001,0.002", "--trainer.max_epochs=-1", "--jobs=2"]
    command = [sys.executable, "-m", "trueline", "sweep", *options]
    sweep = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    folder, end = tmp_path / "lightning_logs/sweep_0", time.monotonic() + 120
    while len(list(folder.glob("trial_*/config.yaml"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    second = subprocess.run(
        [sys.executable, "-m", "trueline", "sweep", "--resume=last"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.returncode == 2
    assert "sweep_0: expected no sweep at work there, found one" in second.stderr
    children = _below(str(sweep.pid))
    assert len(children) >= 3  # the two that train, and the one that began them
    sweep.kill()
    sweep.wait()
    while any(_runs(pid) for pid in children):
        assert time.monotonic() < end
        time.sleep(0.1)


def _below(pid: str) -> list[str]:
    """Return the processes that one has begun, and those that they have."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return children + [each for child in children for each in _below(child)]


def _runs(pid: str) -> bool:
    """Return whether a process is there, and no corpse that nobody has asked after."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 64


def test_last_sweep_is_found_in_another_folder_however_it_is_written(
    cli: Cli, tmp_path: Path
) -> None:
    asked = ("--over=model.lr=0.001,0.002", "--trials=1", "--jobs=1", "--trainer.max_epochs=3")
    for k, root in enumerate((["--trainer.default_root_dir=runs"],
                              ["--trainer.default_root_dir", "runs"])):  # fmt: skip
        run = cli("sweep", *asked, *root)
        assert run.status == 0, run.stderr
        again = cli("sweep", "--resume", "last", "--trials=2", *root)
        assert again.status == 0, again.stderr
        folder = tmp_path / f"runs/lightning_logs/sweep_{k}"
        assert len(table(folder)["rows"]) == 2
    assert not (tmp_path / "lightning_logs").exists()
    assert "expected one argument" in cli("sweep", "--resume=last", root[0]).stderr


def test_rows_are_read_once_for_all_checks_and_for_all_trials_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(50, 2))
    np.savetxt("t.csv", np.column_stack([x, x @ [1, 2] + 3]), delimiter=",", header="a,b,y",
               comments="")  # fmt: skip
    reads = []
    read_rows = TableData._read_rows
    monkeypatch.setattr(TableData, "_read_rows", lambda *a: (reads.append(1), read_rows(*a))[1])
    options = ["--data=TableData", "--data.path=t.csv", "--data.target=y", "--data.batch_size=7",
               "--data.shuffle=true", "--trainer.max_epochs=3"]  # fmt: skip
    asked = argparse.Namespace(over=[], trials=None, metric=None, jobs=1, seed=0)
    make_plan(asked, reading.read(["model.lr=0.001,0.01,0.1"]), options)
    assert len(reads) == 1
    found = [
        train({"model.lr": lr}, options, tmp_path / f"s/trial_{k}")
        for k, lr in enumerate(("0.1", "0.01"))
    ]
    assert len(reads) == 2
    READ.clear()
    alone = train({"model.lr": "0.01"}, options, tmp_path / "s/trial_2")
    assert len(reads) == 3
    assert found[1]["status"] == alone["status"] == "done"
    assert found[1]["weight"] == alone["weight"]
    assert found[0]["weight"] != alone["weight"]
    other = [*options, "--data.missing=drop"]
    assert train({"model.lr": "0.01"}, other, tmp_path / "s/trial_3")["status"] == "done"
    assert len(reads) == 4
    READ.clear()
