"""What TensorBoard shows of a run, read back from its event file.

A point at step k holds the parameters after k steps, with the loss and the gradients there. Events
are stored in float32, so numbers agree to its rounding.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from conftest import Run
from trueline.data import RegressionData
from trueline.reference.article import X, y
from trueline.tensorboard import RunLogger

Cli = Callable[..., Run]
Curve = tuple[list[int], NDArray[np.float64]]
x = X[:, 0].astype(float)
AT_EACH_POINT = {"parameters/weight", "parameters/bias", "train/loss"}
AT_EACH_STEP = {"gradients/weight", "gradients/bias", "gradients/norm", "lr"}
AFTER_EACH_STEP = {"val/loss", "crosscheck/worst_ratio"}
CLOSED_FORM = {"closed_form/loss", "closed_form/weight", "closed_form/bias"}
CONSTANT = CLOSED_FORM | {"limits/lr", "limits/worst_ratio"}
FINAL = {"final/loss", "final/distance", "final/worst_ratio"}


class TwoTargets(RegressionData):
    """The article's points with their negatives as a second target, and row k of weight k."""

    def __init__(self, batch_size: int | None = None) -> None:
        weights = np.arange(1, 16)
        super().__init__(X, np.column_stack([y, -y]), batch_size, sample_weight=weights)


def load(folder: Path) -> EventAccumulator:
    """Read the run's one event file, every point of it."""
    assert len(list(folder.rglob("events.out.tfevents*"))) == 1
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    return events.Reload()


def curves(folder: Path) -> dict[str, Curve]:
    """Map each tag to its steps and its values."""
    events = load(folder)
    points = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    return {
        tag: ([point.step for point in curve], np.array([point.value for point in curve]))
        for tag, curve in points.items()
    }


def fit(cli: Cli, options: str) -> tuple[Run, dict[str, Curve]]:
    run = cli("fit", *options.split())
    assert run.status == 0, run.stderr
    return run, curves(run.directory / "lightning_logs/version_0")


def test_full_batch_run_shows_a_curve(cli: Cli) -> None:
    _, found = fit(cli, "--trainer.max_epochs 20")
    assert set(found) == AT_EACH_POINT | AT_EACH_STEP | AFTER_EACH_STEP | CONSTANT | FINAL
    steps = {tag: tuple(curve[0]) for tag, curve in found.items()}
    assert {steps[tag] for tag in AT_EACH_POINT} == {tuple(range(21))}
    assert {steps[tag] for tag in AT_EACH_STEP} == {tuple(range(20))}
    assert {steps[tag] for tag in AFTER_EACH_STEP} == {tuple(range(1, 21))}
    assert {steps[tag] for tag in CONSTANT} == {(0, 10, 20)}
    assert {steps[tag] for tag in FINAL} == {(20,)}


def test_points_belong_together(cli: Cli) -> None:
    run, found = fit(cli, "--trainer.max_epochs 20 --model.lr 0.002")
    w, b = found["parameters/weight"][1], found["parameters/bias"][1]
    r = np.outer(w, x) + b[:, None] - y
    np.testing.assert_allclose(found["train/loss"][1], np.mean(r * r, axis=1), rtol=1e-5)
    # Near the bottom of the valley a gradient is a small sum of large terms.
    by_weight, by_bias = 2 / 15 * r[:20] @ x, 2 / 15 * r[:20].sum(axis=1)
    rounding = 1e-6 * np.abs(y).max() * x.max()
    np.testing.assert_allclose(found["gradients/weight"][1], by_weight, rtol=1e-6, atol=rounding)
    np.testing.assert_allclose(found["gradients/bias"][1], by_bias, rtol=1e-6, atol=rounding)
    norms = np.hypot(found["gradients/weight"][1], found["gradients/bias"][1])
    np.testing.assert_allclose(found["gradients/norm"][1], norms, rtol=1e-6)
    np.testing.assert_allclose(found["lr"][1], 0.002, rtol=1e-6)
    # The step from each point to the next, and the validation there.
    np.testing.assert_allclose(np.diff(w), -0.002 * found["gradients/weight"][1], atol=1e-6)
    np.testing.assert_allclose(np.diff(b), -0.002 * found["gradients/bias"][1], atol=1e-6)
    np.testing.assert_array_equal(found["val/loss"][1], found["train/loss"][1][1:])
    result = run.result()
    for tag in ("parameters/weight", "parameters/bias", "train/loss", "val/loss"):
        assert found[tag][1][-1] == np.float32(result[tag.rpartition("/")[2]])
    ratios = found["crosscheck/worst_ratio"][1]
    assert ratios.max() == np.float32(result["crosscheck"]["worst_ratio"])


def test_several_targets_have_a_curve_for_each_entry(cli: Cli) -> None:
    data = "--data test_tensorboard.TwoTargets --data.batch_size 8 --crosscheck off"
    run, found = fit(cli, f"--trainer.max_epochs 5 --model.lr 0.002 {data}")
    entries = ("weight_0_0", "weight_0_1", "bias_0", "bias_1")
    groups = ("parameters", "gradients")
    per_entry = {f"{group}/{entry}" for group in groups for entry in entries}
    others = {"gradients/norm", "lr", "train/loss", "val/loss", "limits/lr"}
    final = {"final/loss", "final/distance"}
    closed_form = {"closed_form/loss", *(f"closed_form/{entry}" for entry in entries)}
    assert set(found) == per_entry | others | final | closed_form
    for entry in entries:
        steps, values = found[f"parameters/{entry}"]
        assert steps == list(range(11))
        moved = -0.002 * found[f"gradients/{entry}"][1]
        np.testing.assert_allclose(np.diff(values), moved, rtol=1e-4, atol=1e-5)
    result = run.result()
    last = [found[f"parameters/{entry}"][1][-1] for entry in entries]
    assert last == [np.float32(v) for v in (*result["weight"][0], *result["bias"])]
    assert found["val/loss"][1][-1] == np.float32(result["loss"])
    # The weighted mean over all rows and both targets, from the parameters of the last point.
    w, b, count = np.array(last[:2]), np.array(last[2:]), np.arange(1, 16)
    r = np.outer(x, w) + b - np.column_stack([y, -y])
    expected = np.average(np.mean(r * r, axis=1), weights=count)
    assert found["val/loss"][1][-1] == pytest.approx(expected, rel=1e-5)


def of_hyperparameters(folder: Path) -> dict[str, HParamsPluginData]:
    """Return what the tab HPARAMS reads of a run."""
    return {
        name: HParamsPluginData.FromString(metadata.plugin_data.content)
        for name, metadata in load(folder).summary_metadata.items()
        if metadata.plugin_data.plugin_name == "hparams"
    }


def test_run_that_failed_says_so_among_the_others(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", "--model.lr=1", "--trainer.max_epochs=500").status == 1
    plugin = of_hyperparameters(tmp_path / "lightning_logs/version_0")
    status = plugin["_hparams_/session_end_info"].session_end_info.status
    assert status == Status.Value("STATUS_FAILURE")
    assert plugin["_hparams_/session_start_info"].session_start_info.hparams["lr"].number_value == 1


def test_hyperparameters_come_with_the_final_loss(cli: Cli, tmp_path: Path) -> None:
    run, found = fit(cli, "--trainer.max_epochs 20 --model.lr 0.002 --model.momentum 0.5")
    loss = run.result()["loss"]
    assert found["final/loss"][0] == [20]
    assert found["final/loss"][1] == [np.float32(loss)]
    plugin = of_hyperparameters(tmp_path / "lightning_logs/version_0")
    metrics = plugin["_hparams_/experiment"].experiment.metric_infos
    # Also what this run does not know: TensorBoard asks one run for the metrics of all.
    assert {m.name.tag for m in metrics} == FINAL | {"final/epochs_to_converge"}
    assert "final/epochs_to_converge" not in found
    logged = plugin["_hparams_/session_start_info"].session_start_info.hparams
    assert logged["batch_size"].number_value == 15
    assert logged["nesterov"].string_value == "False"
    assert logged["lr"].number_value == 0.002
    assert logged["momentum"].number_value == 0.5
    assert logged["init"].string_value == "normal"
    assert plugin["_hparams_/session_end_info"].session_end_info.status == Status.Value(
        "STATUS_SUCCESS"
    )
    # Stock Lightning leaves hp_metric at -1 in the place of a metric.
    assert "hp_metric" not in found
    raw = next((tmp_path / "lightning_logs").rglob("events*")).read_bytes()
    assert b"hp_metric" not in raw
    assert [tag for tag, (_, values) in found.items() if (values == -1).any()] == []


def test_x_axis_counts_optimizer_steps(cli: Cli) -> None:
    _, found = fit(cli, "--trainer.max_epochs 5 --data.batch_size 4")
    assert found["parameters/weight"][0] == list(range(21))
    assert found["gradients/weight"][0] == list(range(20))
    assert found["val/loss"][0] == [4, 8, 12, 16, 20]
    w, b = found["parameters/weight"][1], found["parameters/bias"][1]
    for step, (loss, by_bias) in enumerate(
        zip(found["train/loss"][1][:20], found["gradients/bias"][1], strict=True)
    ):
        rows = slice(4 * (step % 4), 4 * (step % 4) + 4)  # in order; the fourth has three rows
        r = w[step] * x[rows] + b[step] - y[rows]
        assert loss == pytest.approx(np.mean(r * r), rel=1e-4)
        assert by_bias == pytest.approx(2 * np.mean(r), abs=1e-4)


def test_resumed_run_goes_on_where_the_first_stopped(cli: Cli, tmp_path: Path) -> None:
    fit(cli, "--trainer.max_epochs 3")
    assert cli("fit", "--trainer.max_epochs", "6", "--ckpt_path", "last").status == 0
    found = curves(tmp_path / "lightning_logs/version_1")
    # The curves of the first run are carried on, but for its last point over all rows.
    assert found["train/loss"][0] == [0, 1, 2, 3, 4, 5, 6]
    assert found["val/loss"][0] == [1, 2, 3, 4, 5, 6]


def test_long_run_is_thinned_and_keeps_its_end(cli: Cli) -> None:
    run, found = fit(cli, "--trainer.max_epochs 1001")
    steps, losses = found["train/loss"]
    assert steps == [*range(0, 1001, 2), 1001]  # 1000 points are what TensorBoard keeps of a curve
    assert losses[-1] == np.float32(run.result()["loss"])
    assert 10 <= len(found["val/loss"][0]) <= 100  # each one costs a pass and a checkpoint
    # Each logged ratio is the worst since the one before.
    worst = found["crosscheck/worst_ratio"]
    assert worst[0] == [*range(2, 1001, 2), 1001]
    assert worst[1].max() == np.float32(run.result()["crosscheck"]["worst_ratio"])


def test_diverging_run_logs_no_nan(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", "--model.lr", "1", "--trainer.max_epochs", "500").status == 1
    found = curves(tmp_path / "lightning_logs/version_0")
    assert len(found["train/loss"][0]) > 50
    assert [tag for tag, (_, values) in found.items() if np.isnan(values).any()] == []


@pytest.mark.parametrize("command", ["validate", "test"])
def test_evaluation_logs_its_loss_once(command: str, cli: Cli, tmp_path: Path) -> None:
    run, _ = fit(cli, "--trainer.max_epochs 3")
    assert cli(command).status == 0
    found = curves(tmp_path / "lightning_logs/version_1")
    tag = {"validate": "val/loss", "test": "test/loss"}[command]
    assert found[tag][1] == pytest.approx([run.result()["loss"]], rel=1e-6)


def test_held_points_are_written_by_a_save_and_before_what_comes_later(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path / "lightning_logs")

    def losses() -> list[tuple[int, float]]:
        events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0})
        events.Reload()
        return [(point.step, point.value) for point in events.Scalars("train/loss")]

    for step in range(3):
        logger.log_points(["train/loss"], [[float(step)]], [step])
    logger.save()
    assert losses() == [(0, 0.0), (1, 1.0), (2, 2.0)]
    logger.log_points(["train/loss"], [[3.0]], [3])
    logger.log_metrics({"train/loss": 4.0}, 4)
    logger.log_points(["train/loss"], [[5.0]], [5])
    logger.finalize("failed")
    assert losses() == [(step, float(step)) for step in range(6)]
