"""What TensorBoard is given besides curves: layout, closed forms, metrics, texts; and when."""

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
from lightning.pytorch import Callback, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from conftest import Run
from trueline.reference import SGD, article, train
from trueline.reference.solve import least_squares
from trueline.reference.triangle import Line, triangle

Cli = Callable[..., Run]
ENGEL = Path(__file__).parent / "data/engel.csv"
TABLE = f"--data TableData --data.path {ENGEL} --data.target foodexp"


def load(folder: Path) -> EventAccumulator:
    sizes = {"scalars": 0, "tensors": 0, "images": 0}
    return EventAccumulator(str(folder), size_guidance=sizes).Reload()


def fit(cli: Cli, options: str, version: int = 0) -> tuple[Run, EventAccumulator]:
    run = cli("fit", *options.split())
    assert run.status == 0, run.stderr
    return run, load(run.directory / f"lightning_logs/version_{version}")


def charts(events: EventAccumulator) -> dict[str, list[str]]:
    """Map the title of each chart to the patterns of its curves."""
    (event,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    return {c.title: list(c.multiline.tag) for each in layout.category for c in each.chart}


def text(events: EventAccumulator, tag: str) -> str:
    (event,) = events.Tensors(f"{tag}/text_summary")
    return str(event.tensor_proto.string_val[0].decode())


KINDS = {
    "15 points": "--trainer.max_epochs 60",
    "step by step": "--trainer.max_epochs 60 --model.steps_per_execution 1",
    "batches": "--trainer.max_epochs 20 --data.batch_size 4 --data.shuffle true",
    "unchecked": "--trainer.max_epochs 60 --crosscheck off",
    "l1": "--trainer.max_epochs 60 --model.l1 0.1",
    "table": TABLE,
    "ten features": "--data SyntheticData --trainer.max_epochs 30 --data.n_samples 100",
    "many rows": "--data SyntheticData --trainer.max_epochs 30 --data.n_samples 20000",
    "two targets": "--data SyntheticData --data.n_targets 2 --trainer.max_epochs 30",
}


@pytest.mark.parametrize("kind", KINDS)
def test_steps_ascend_values_are_numbers_and_the_layout_holds_tags_that_exist(
    kind: str, cli: Cli
) -> None:
    run, events = fit(cli, KINDS[kind])
    tags = events.Tags()["scalars"]
    for tag in tags:
        points = events.Scalars(tag)
        assert np.all(np.diff([point.step for point in points]) > 0), tag
        assert np.isfinite([point.value for point in points]).all(), tag
    last = events.Scalars("train/loss")[-1]
    assert (last.step, last.value) == (run.result()["steps"], np.float32(run.result()["loss"]))
    found = charts(events)
    # A pattern fits where it fits a prefix; each is to stand for one curve alone.
    fitting = {p: [t for t in tags if re.match(p, t)] for each in found.values() for p in each}
    assert {pattern: len(of) for pattern, of in fitting.items()} == dict.fromkeys(fitting, 1)
    shown = {tag for of in fitting.values() for tag in of}
    beside = {"train/loss", "val/loss", "gradients/norm", "lr", "limits/lr"}
    if kind != "unchecked":
        beside |= {"crosscheck/worst_ratio", "limits/worst_ratio"}
    parameters = [tag for tag in tags if tag.startswith("parameters/")][:12]
    beside |= set(parameters)
    of_parameters = {tag.replace("parameters", "closed_form") for tag in parameters}
    beside |= {"closed_form/loss"} | of_parameters
    assert shown == beside


def test_curves_are_seen_beside_the_closed_form_in_the_units_of_the_training(cli: Cli) -> None:
    _, events = fit(cli, KINDS["table"])
    x, y = np.loadtxt(ENGEL, delimiter=",", skiprows=1).T
    expected = least_squares(((x - x.mean()) / x.std())[:, None], y)
    r = expected.weight[0] * (x - x.mean()) / x.std() + expected.bias - y
    best = {"weight/income": expected.weight[0], "bias": float(expected.bias)}
    values = best | {"loss": np.mean(r * r)}
    for name, value in values.items():
        points = events.Scalars(f"closed_form/{name}")
        assert [point.step for point in points] == [0, 3]
        assert [point.value for point in points] == pytest.approx([value] * 2, rel=1e-6)
    # λmax of standardised rows is 2, so the largest stable learning rate is 1.
    assert events.Scalars("limits/lr")[0].value == pytest.approx(1)
    assert "weight/income per standard deviation beside the closed form" in charts(events)


def test_lines_that_do_not_change_are_no_outliers_to_tensorboard(cli: Cli) -> None:
    _, events = fit(cli, "--trainer.max_epochs 5000")
    for curve, line in (("lr", "limits/lr"), ("crosscheck/worst_ratio", "limits/worst_ratio")):
        few, many = len(events.Scalars(line)), len(events.Scalars(curve))
        assert few / (few + many) > 0.05
        assert few < many / 5  # and cost little


def test_resumed_run_has_the_lines_of_one_that_never_stopped(cli: Cli) -> None:
    _, whole = fit(cli, "--trainer.max_epochs 60 --trainer.log_every_n_steps 1")
    fit(cli, "--trainer.max_epochs 35 --trainer.log_every_n_steps 1", 1)
    _, events = fit(cli, "--trainer.max_epochs 60 --ckpt_path last", 2)
    for tag in ("closed_form/loss", "closed_form/weight", "limits/lr", "limits/worst_ratio"):
        found, expected = (
            [(p.step, p.value) for p in each.Scalars(tag)] for each in (events, whole)
        )
        assert found == expected
        assert [step for step, _ in found] == [0, 10, 20, 30, 40, 50, 60]


def test_epochs_to_converge_are_those_of_the_reference(cli: Cli) -> None:
    options = "--trainer.max_epochs 4000 --model.lr 0.0045 --model.momentum 0.9"
    run, events = fit(cli, f"{options} --trainer.log_every_n_steps 1")
    assert run.result()["converged"]
    (found,) = events.Scalars("final/epochs_to_converge")
    start = [events.Scalars(f"parameters/{name}")[0].value for name in ("weight", "bias")]
    trace = train(article.X, article.y, start[:1], start[1], SGD(0.0045, 0.9), 4000)
    rows = triangle(article.X, article.y)
    best, spread = rows.least_squares(), float(article.y.std())
    apart = [
        rows.apart(Line(w, np.asarray(b)), best)[0] / spread
        for w, b in zip(trace.weight, trace.bias, strict=True)
    ]
    late = np.flatnonzero(np.array(apart) > 1e-6)
    assert 100 < late[-1] + 1 < 4000
    assert found.value == late[-1] + 1
    # A run that goes on from a checkpoint behind that point knows it too.
    assert cli("fit", "--trainer.max_epochs=4100", "--ckpt_path=last").status == 0
    (again,) = load(run.directory / "lightning_logs/version_1").Scalars("final/epochs_to_converge")
    assert again.value == found.value


def test_texts_are_tables_with_what_the_run_came_to(cli: Cli) -> None:
    run, events = fit(cli, TABLE)
    check = run.result()["crosscheck"]
    line, report = text(events, "report/line"), text(events, "report/crosscheck")
    assert "| income | 0.485178 | 0.485178 |" in line
    assert "- converged: " in line
    assert report.startswith("**passed: 3 steps compared with NumPy**\n\n| quantity |")
    assert f"| parameters | {check['worst_ratios']['parameters']:.3g} | 1 |" in report
    assert "| income | 0.485178 | 0.0143664 | 33.7718 |" in text(events, "summary/foodexp")


class Nudge(Callback):
    """Moves the weight behind the back of the optimizer."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            pl_module.weight.data += 1


def test_failed_check_is_told_in_its_text(cli: Cli) -> None:
    options = "--trainer.max_epochs=5 --crosscheck=warn --model.steps_per_execution=1"
    run = cli("fit", *options.split(), "--trainer.callbacks=test_tensorboard_board.Nudge")
    report = text(load(run.directory / "lightning_logs/version_0"), "report/crosscheck")
    assert re.match(r"\*\*FAILED at step [23]: ", report), report


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_killed_run_leaves_all_its_points(number: signal.Signals, tmp_path: Path) -> None:
    # Lightning's step by step, for long enough.
    options = "--trainer.max_epochs 1000000 --model.steps_per_execution 1"
    command = [sys.executable, "-m", "trueline", "fit", *options.split()]
    log_every = "--trainer.log_every_n_steps=1"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, log_every],
            cwd=tmp_path,
            env=env,
            stdout=said,
            stderr=said,
            # A shell has its jobs in the background ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            for _ in range(600):
                if list(tmp_path.rglob("step=*.ckpt")):
                    break
                assert process.poll() is None, (tmp_path / "said").read_text()
                time.sleep(0.1)
            process.send_signal(number)
            assert process.wait(60) == 1
        finally:
            process.kill()
    message = (tmp_path / "said").read_text()
    found = re.search(r"after step ([\d,]+), and saved", message)
    assert found, message
    steps = int(found[1].replace(",", ""))
    events = load(tmp_path / "lightning_logs/version_0")
    at: dict[str, Any] = {t: [p.step for p in events.Scalars(t)] for t in events.Tags()["scalars"]}
    assert at["train/loss"] == at["parameters/weight"] == list(range(steps + 1))
    assert at["gradients/norm"] == at["lr"] == list(range(steps))
    assert at["crosscheck/worst_ratio"] == list(range(1, steps + 1))
    assert at["closed_form/loss"] == [*range(0, steps, 10), steps]
    assert at["final/loss"] == [steps]
