"""The command line, and what a run leaves: help, precedence, files, result.json, predictions."""

import csv
import errno
import importlib.metadata
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.linear_model import LinearRegression as Peer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import Run
from trueline import __version__
from trueline.cli.entry import COMMANDS
from trueline.data import DummyData, RegressionData
from trueline.module import LinearRegression
from trueline.reference.article import X, y
from trueline.results.report import Report

Cli = Callable[..., Run]
x = X[:, 0].astype(float)
LINE = ("weight", "bias", "loss")
FIT = ("fit", "--trainer.accelerator", "cpu", "--trainer.max_epochs")


def descend(batch_size: int, steps: int, lr: float) -> tuple[float, float]:
    """Train from zero in order, in plain NumPy: the oracle of which steps were taken."""
    w = b = 0.0
    parts = [slice(i, i + batch_size) for i in range(0, 15, batch_size)]
    for step in range(steps):
        rows = parts[step % len(parts)]
        r = w * x[rows] + b - y[rows]
        w, b = w - lr * 2 * np.mean(r * x[rows]), b - lr * 2 * np.mean(r)
    return w, b


def mse(result: dict[str, Any]) -> float:
    return float(np.mean((result["weight"] * x + result["bias"] - y) ** 2))


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


class Wide(RegressionData):
    """Twenty rows of as many features and targets as a test wants."""

    def __init__(
        self,
        batch_size: int | None = None,
        n_features: int = 1,
        n_targets: int = 1,
        weighted: bool = False,
    ) -> None:
        rng = np.random.default_rng(0)
        X = rng.normal(size=(20, n_features))
        # Targets of very different sizes: each must converge by its own.
        y = (X @ np.ones((n_features, n_targets)) + rng.normal(size=(20, n_targets))) * 10 ** (
            2.0 * np.arange(n_targets)
        )
        weights = rng.uniform(0.1, 5, 20) if weighted else None
        super().__init__(X, y, batch_size, sample_weight=weights)


def wide(n_features: int, n_targets: int, weighted: bool = False) -> tuple[str, ...]:
    """Return the options for such data, without the cross-check."""
    sizes = {"n_features": n_features, "n_targets": n_targets, "weighted": weighted}
    own = [f"--data.{name}={str(value).lower()}" for name, value in sizes.items()]
    return ("--data=test_cli.Wide", *own, "--crosscheck=off")


class Fives(DummyData):
    """The article's points, five at a time unless another number is given."""

    def __init__(self, batch_size: int = 5, shuffle: bool = True) -> None:
        super().__init__(batch_size, shuffle)


def test_data_class_of_ones_own_has_its_own_defaults(cli: Cli) -> None:
    shown = yaml.safe_load(cli("fit", "--data=test_cli.Fives", "--print_config").stdout)
    assert shown["data"]["init_args"] == {"batch_size": 5, "shuffle": True}
    typed = cli("fit", "--data=test_cli.Fives", "--data.batch_size=3", "--print_config").stdout
    assert yaml.safe_load(typed)["data"]["init_args"] == {"batch_size": 3, "shuffle": True}
    run = cli("fit", "--data=test_cli.Fives", "--trainer.max_epochs=2")
    assert run.result()["steps"] == 6


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command(option: str, cli: Cli) -> None:
    run = cli(option)
    assert (run.status, run.stderr) == (0, "")
    assert [c for c in COMMANDS if not re.search(rf"^  {c} ", run.stdout, re.MULTILINE)] == []


def test_version_and_no_arguments_answer_in_a_line(cli: Cli) -> None:
    version, nothing = cli("--version"), cli()
    assert (version.status, version.stdout) == (0, f"trueline {__version__}\n")
    assert (nothing.status, nothing.stdout) == (2, "")
    assert ", ".join(COMMANDS) in nothing.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("export", "sweep")])
def test_help_shows_own_options_before_the_trainers(
    command: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run = cli(command, "--help")
    assert (run.status, run.stderr) == (0, "")
    own = {f"--model.{name}" for name in inspect.signature(LinearRegression).parameters}
    own |= {f"--data.{name}" for name in inspect.signature(DummyData).parameters}
    before, trainer, _ = run.stdout.partition("--trainer")
    assert trainer
    own -= {"--model.n_features", "--model.n_targets"}  # the data's own
    assert {"--crosscheck", *own} <= set(re.findall(r"--[\w.]+", before))


def test_command_line_wins_over_config_and_config_over_checkpoint(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text("model:\n  lr: 0.003\n")
    resume = (*FIT, "2", "--ckpt_path", "lightning_logs/version_0/checkpoints/last.ckpt")
    config = ("--config", "given.yaml")
    runs = (
        ((*FIT, "1", "--model.lr", "0.002"), 0.002),
        (resume, 0.002),  # not the default, 0.001
        ((*resume, *config), 0.003),
        ((*resume, *config, "--model.lr", "0.004"), 0.004),
        ((*resume, *config, "--model.lr", "0.001"), 0.001),  # typed, though it is the default
    )
    for version, (arguments, lr) in enumerate(runs):
        run = cli(*arguments)
        assert run.status == 0, run.stderr
        result = run.result(f"version_{version}")
        left = tmp_path / f"lightning_logs/version_{version}/config.yaml"
        assert result["lr"] == yaml.safe_load(left.read_text())["model"]["lr"] == lr
        if version == 0:
            start = result
            r = start["weight"] * x + start["bias"] - y
            continue
        # And it is the lr of the step that was taken.
        np.testing.assert_allclose(
            [result["weight"], result["bias"]],
            [start["weight"] - 2 * lr * np.mean(r * x), start["bias"] - 2 * lr * np.mean(r)],
            rtol=1e-12,
        )


def test_config_files_merge_left_to_right(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model:\n  lr: 0.002\n  momentum: 0.5\n")
    (tmp_path / "b.yaml").write_text("model:\n  lr: 0.003\ntrainer:\n  max_epochs: 3\n")
    for order, lr in (("ab", 0.003), ("ba", 0.002)):
        run = cli("fit", *(f"--config={name}.yaml" for name in order), "--print_config")
        assert run.status == 0
        config = yaml.safe_load(run.stdout)
        assert (config["model"]["lr"], config["model"]["momentum"]) == (lr, 0.5)
        assert config["trainer"]["max_epochs"] == 3


def test_print_config_is_a_config_that_trains_the_same(cli: Cli, tmp_path: Path) -> None:
    options = (*FIT, "4", "--model.momentum=0.9", "--data.batch_size=5", "--data.shuffle=true")
    printed = cli(*options, "--print_config")
    assert (printed.status, printed.stderr) == (0, "")
    assert files(tmp_path) == set()
    (tmp_path / "printed.yaml").write_text(printed.stdout)
    assert cli("fit", "--config", "printed.yaml").status == 0
    run = cli(*options)
    from_file, typed = run.result("version_0"), run.result("version_1")
    assert [from_file[name] for name in LINE] == [typed[name] for name in LINE]


def test_fit_leaves_config_result_checkpoints_and_one_event_file(cli: Cli, tmp_path: Path) -> None:
    assert cli(*FIT, "20").status == 0
    left = files(tmp_path)
    events = {name for name in left if "events.out.tfevents" in name}
    assert len(events) == 1
    checkpoints = {"checkpoints/last.ckpt", "checkpoints/step=20.ckpt"}
    names = {"config.yaml", "hparams.yaml", "result.json", *checkpoints}
    assert left - events == {f"lightning_logs/version_0/{name}" for name in names}


@pytest.mark.parametrize(
    ("options", "batch_size", "steps", "epochs"),
    [
        ("--trainer.max_epochs 20", 15, 20, 20),
        ("--trainer.max_epochs 3 --data.batch_size 4", 4, 12, 3),
        ("--trainer.max_steps 6 --data.batch_size 4", 4, 6, 1),
        ("--trainer.max_steps 8 --data.batch_size 4", 4, 8, 2),
        ("--trainer.max_epochs 2 --trainer.max_steps 3 --data.batch_size 15", 15, 2, 2),
    ],
)
def test_result_holds_the_contract_with_right_values(
    options: str, batch_size: int, steps: int, epochs: int, cli: Cli
) -> None:
    run = cli("fit", "--trainer.accelerator", "cpu", "--model.init", "zeros", *options.split())
    assert run.status == 0, run.stderr
    result = run.result()
    w, b = descend(batch_size, steps, lr=0.001)
    np.testing.assert_allclose([result["weight"], result["bias"]], [w, b], rtol=1e-12)
    assert (result["steps"], result["epochs"]) == (steps, epochs)
    assert result["loss"] == pytest.approx(mse(result), rel=1e-14)
    assert (result["lr"], result["n_samples"]) == (0.001, 15)
    assert (result["n_features"], result["n_targets"]) == (1, 1)
    assert result["converged"] is False
    assert result["error"] is None
    slope, intercept = np.polyfit(x, y, 1)
    assert result["closed_form"] == {
        "weight": pytest.approx(slope, rel=1e-12),
        "bias": pytest.approx(intercept, rel=1e-12),
        "loss": pytest.approx(np.mean((slope * x + intercept - y) ** 2), rel=1e-12),
    }
    assert result["correlation"] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-12)
    assert result["seconds"] > 0
    assert result["log_dir"] == "lightning_logs/version_0"
    check = result["crosscheck"]
    assert 0 < check.pop("worst_ratio") < 1
    assert {"passed": True, "steps_checked": steps, "first_failure": None}.items() <= check.items()
    found = result["environment"]
    for package in ("torch", "lightning", "numpy", "trueline"):
        assert found[package].split("+")[0] == importlib.metadata.version(package).split("+")[0]
    assert {"accelerator": "cpu", "precision": "64-true", "devices": 1}.items() <= found.items()


def test_table_says_the_numbers_of_the_result(cli: Cli) -> None:
    run = cli(*FIT, "900", "--model.momentum", "0.95", "--model.lr", "0.005")
    result = run.result()
    assert result["converged"] is True
    rows = {line.split()[0]: line.split()[1:] for line in run.stdout.splitlines() if line}
    for name in LINE:
        assert rows[name] == [f"{result[name]:.6f}", f"{result['closed_form'][name]:.6f}"]
    assert " ".join(rows["rows"]) == "15, each once in every epoch"
    assert rows["correlation"] == [f"{result['correlation']:.6f}"]
    assert " ".join(rows["training"]).startswith("900 epochs, 900 steps, lr 0.005, ")
    assert rows["converged"] == ["yes"]
    assert rows["cross-check"][:3] == ["passed:", "900", "steps"]
    for name, ratio in result["crosscheck"]["worst_ratios"].items():
        assert f"{ratio:.2g} in {name}" in " ".join(rows["deviations"])
    assert rows["log"] == ["directory", result["log_dir"]]
    assert list(rows)[-1] == "log"


@pytest.mark.parametrize(("n_features", "n_targets"), [(2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("weighted", [False, True])
def test_fit_of_targets_and_weights_ends_at_the_closed_form(
    n_features: int, n_targets: int, weighted: bool, cli: Cli
) -> None:
    data = Wide(None, n_features, n_targets, weighted)
    weights = None if data.sample_weight is None else data.sample_weight.numpy()
    options = (*wide(n_features, n_targets, weighted), "--model.lr=0.1", "--model.momentum=0.9")
    run = cli(*FIT, "800", *options)
    assert run.status == 0, run.stderr
    result = run.result()
    assert (result["n_features"], result["n_targets"]) == (n_features, n_targets)
    assert (result["converged"], result["correlation"]) == (True, None)
    X, y = data.X.numpy(), data.y.numpy()
    peer = Peer().fit(X, y, sample_weight=weights)
    r = peer.predict(X) - y
    loss = np.average(r * r if n_targets == 1 else np.mean(r * r, axis=1), weights=weights)
    for found, rtol in ((result, 1e-4), (result["closed_form"], 1e-9)):
        assert found["loss"] == pytest.approx(loss, rel=rtol)
        np.testing.assert_allclose(found["weight"], peer.coef_.T, rtol=rtol)
        np.testing.assert_allclose(found["bias"], peer.intercept_, rtol=rtol)
    rows = {line.split()[0]: line.split()[1:] for line in run.stdout.splitlines() if line}
    names = [f"weight[{j},{t}]" for j in range(n_features) for t in range(n_targets)]
    names = names if n_targets > 1 else [f"weight[{j}]" for j in range(n_features)]
    biases = [f"bias[{t}]" for t in range(n_targets)] if n_targets > 1 else ["bias"]
    assert list(rows)[1 : len(names) + len(biases) + 2] == [*names, *biases, "loss"]
    for name, value in zip(names, np.ravel(result["weight"]), strict=True):
        assert float(rows[name][0]) == pytest.approx(value, rel=1e-4)
    assert "correlation" not in rows


def test_target_that_has_not_converged_is_not_hidden_by_another(make_trainer: Any) -> None:
    X = np.arange(-2.0, 3.0)
    # The second target is at right angles to X and to 1: from zero, it is there at the start.
    y = np.column_stack([3 * X + [0, 1, 0, 1, 0], 1e9 * np.array([-1.0, 2.0, 0.0, -2.0, 1.0])])
    for epochs, converged in ((1, False), (500, True)):
        report, model = Report(), LinearRegression(n_targets=2, lr=0.1, init="zeros")
        make_trainer(max_epochs=epochs, callbacks=[report]).fit(model, RegressionData(X, y))
        assert report.result is not None
        assert report.result["converged"] is converged


@pytest.mark.parametrize(
    ("n_features", "n_targets", "shown", "more"), [(11, 1, 12, 0), (12, 1, 12, 1), (9, 3, 12, 18)]
)
def test_table_of_many_entries_is_cut(
    n_features: int, n_targets: int, shown: int, more: int, cli: Cli
) -> None:
    for logger, where in (("true", " in result.json"), ("false", "")):
        run = cli(*FIT, "2", *wide(n_features, n_targets), f"--trainer.logger={logger}")
        assert run.status == 0, run.stderr
        assert len(re.findall(r"^(?:weight|bias)", run.stdout, re.MULTILINE)) == shown
        said = re.findall("^….*$", run.stdout, re.MULTILINE)
        assert said == ([f"… and {more} more{where}"] if more else [])
        assert len(re.findall("^loss", run.stdout, re.MULTILINE)) == 1


def test_predictions_of_several_targets_have_a_column_each(cli: Cli, tmp_path: Path) -> None:
    options = wide(2, 3, weighted=True)
    run = cli(*FIT, "2", *options)
    assert cli("predict", *options, "--data.batch_size=7").status == 0
    with (tmp_path / "lightning_logs/version_1/predictions.csv").open() as lines:
        header, *rows = csv.reader(lines)
    assert header == ["X_0", "X_1", "prediction_0", "prediction_1", "prediction_2"]
    result, X = run.result(), Wide(None, 2, 3).X.numpy()
    expected = X @ np.array(result["weight"]) + result["bias"]
    np.testing.assert_allclose(np.array(rows, float), np.hstack([X, expected]), rtol=1e-12)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (wide(2, 1), "n_features 2, n_targets 1 and no sample weights"),
        (wide(1, 3), "n_features 1, n_targets 3 and no sample weights"),
        (wide(1, 1, weighted=True), "n_features 1, n_targets 1 and sample weights"),
    ],
    ids=["features", "targets", "weights"],
)
def test_compare_refuses_features_targets_and_weights(
    data: tuple[str, ...], words: str, cli: Cli, tmp_path: Path
) -> None:
    run = cli("compare", "--trainer.max_epochs=2", *data)
    assert run.status == 2
    assert "expected n_features 1, n_targets 1 and no sample weights, as DummyData" in run.stderr
    assert f"found {words}" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_validate_test_and_predict_use_the_newest_run(cli: Cli, tmp_path: Path) -> None:
    assert cli(*FIT, "3").status == 0
    run = cli(*FIT, "5", "--seed_everything", "7")
    result = run.result("version_1")
    assert result["weight"] != run.result("version_0")["weight"]
    for command, name in (("validate", "val/loss"), ("test", "test/loss")):
        found = re.search(rf"{name}\W+([\d.e+-]+)", cli(command).stdout)
        assert found
        assert float(found[1]) == pytest.approx(mse(result), rel=1e-12)
    assert cli("predict").status == 0
    with (tmp_path / "lightning_logs/version_4/predictions.csv").open() as lines:
        header, *rows = csv.reader(lines)
    assert header == ["X", "prediction"]
    written = np.array(rows, float)
    expected = np.column_stack([x, result["weight"] * x + result["bias"]])
    assert written.shape == (15, 2)
    np.testing.assert_allclose(written, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("arguments", ["fit --trainer.max_epochs 50", "plan"])
def test_reader_that_goes_away_ends_nothing(arguments: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trueline", *arguments.split()]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None and run.stderr is not None  # noqa: PT018
    run.stdout.close()
    assert run.stderr.read() == b""
    run.stderr.close()
    assert run.wait() == 0
    if arguments != "plan":
        assert (tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt").exists()


def test_curve_of_the_validation_ends_where_the_training_does(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", "--trainer.max_epochs=43").status == 0
    events = EventAccumulator(str(tmp_path / "lightning_logs/version_0")).Reload()
    assert [p.step for p in events.Scalars("val/loss")] == [*range(2, 43, 2), 43]
    # Who says when to validate has it so.
    options = ("--trainer.max_epochs=43", "--trainer.check_val_every_n_epoch=10")
    assert cli("fit", *options).status == 0
    events = EventAccumulator(str(tmp_path / "lightning_logs/version_1")).Reload()
    assert [p.step for p in events.Scalars("val/loss")] == [10, 20, 30, 40]


@pytest.mark.parametrize("steps_per_execution", ["1", "auto"])
def test_held_out_loss_is_that_of_the_last_step(
    cli: Cli, tmp_path: Path, steps_per_execution: str
) -> None:
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{x},{x * x % 7}\n" for x in range(30)))
    data = ("--data=TableData", "--data.path=t.csv", "--data.target=y", "--data.val_fraction=0.3")
    fit = (
        "fit",
        *data,
        "--data.batch_size=4",
        f"--model.steps_per_execution={steps_per_execution}",
    )
    run = cli(*fit, "--trainer.max_epochs=-1", "--trainer.max_steps=8")  # inside the second epoch
    assert run.status == 0, run.stderr
    found = run.result()["val_loss"]
    again = cli("validate", *data)
    assert found == pytest.approx(float(re.findall(r"[\d.]+", again.stdout)[-1]), rel=1e-12)
    run = cli(*fit, "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2")
    assert run.result("version_2")["val_loss"] is None  # the last one is of an earlier line


def test_line_of_other_data_is_not_held_against_the_default(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{x},{x * x}\n" for x in range(9)))
    table = ("--data=TableData", "--data.path=t.csv", "--data.target=y", "--data.test_fraction=0.3")
    config = "lightning_logs/version_0/config.yaml"
    last = "lightning_logs/version_0/checkpoints/last.ckpt"
    assert cli("fit", *table).status == 0
    for command in ("fit", "validate", "test", "predict"):
        refused = cli(command, "--ckpt_path=last")
        assert refused.status == 2
        expected = (
            "--data: expected TableData, which lightning_logs/version_0/checkpoints/last.ckpt"
        )
        assert f"{expected} was trained on, found DummyData" in refused.stderr
        assert f"give --config {config}, or --data DummyData if that is meant" in refused.stderr
    # What the message says is enough.
    asked = cli("test", "--config", config)
    assert asked.status == 0, asked.stderr
    assert asked.stdout == cli("test", *table).stdout
    assert cli("predict", "--config", config).status == 0
    assert cli("validate", "--data", "DummyData").status == 0
    (tmp_path / "dummy.yaml").write_text("data:\n  class_path: DummyData\n")
    assert cli("validate", "--config", "dummy.yaml", "--ckpt_path", last).status == 0


@pytest.mark.parametrize(
    "options", ["", "--model.momentum 0.9", "--data.batch_size 4 --data.shuffle true"]
)
def test_resumed_run_ends_where_one_in_one_go_does(options: str, cli: Cli) -> None:
    assert cli(*FIT, "10", *options.split()).status == 0
    assert cli(*FIT, "20", *options.split(), "--ckpt_path", "last").status == 0
    run = cli(*FIT, "20", *options.split())
    halfway, resumed, whole = (run.result(f"version_{i}") for i in range(3))
    assert resumed["steps"] == whole["steps"]
    assert abs(halfway["weight"] - whole["weight"]) > 1e-3
    for name in LINE:
        assert resumed[name] == pytest.approx(whole[name], rel=1e-12)


@pytest.mark.parametrize("option", ["--trainer.logger=false", "--trainer.fast_dev_run=true"])
def test_run_without_a_log_directory_leaves_no_file(option: str, cli: Cli, tmp_path: Path) -> None:
    run = cli(*FIT, "3", option)
    assert run.status == 0, run.stderr
    assert "cross-check     passed" in run.stdout
    assert "log directory" not in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_seed_decides_every_bit(cli: Cli) -> None:
    for seed in ("1", "1", "2"):
        run = cli(*FIT, "3", "--seed_everything", seed)
    first, same, other = (run.result(f"version_{i}") for i in range(3))
    for name in LINE:
        assert first[name] == same[name] != other[name]


@pytest.mark.parametrize(("precision", "bits"), [("64-true", 64), ("32-true", 32)])
def test_integers_train_in_the_precision_asked_for(
    precision: str, bits: int, cli: Cli, tmp_path: Path
) -> None:
    assert not DummyData().X.is_floating_point()
    run = cli(*FIT, "9", "--trainer.precision", precision, "--model.init", "zeros")
    assert run.status == 0, run.stderr
    saved = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt")
    assert {p.dtype for p in saved["state_dict"].values()} == {getattr(torch, f"float{bits}")}
    found = [run.result()["weight"], run.result()["bias"]]
    expected = descend(15, 9, lr=0.001)
    apart = np.abs(np.subtract(found, expected) / expected).max()
    assert apart < 1e-13 if bits == 64 else 1e-10 < apart < 1e-5


def test_runs_land_under_default_root_dir(cli: Cli, tmp_path: Path) -> None:
    for command in ((*FIT, "2"), ("validate",), ("predict",)):
        run = cli(*command, "--trainer.default_root_dir", "there/deep")
        assert run.status == 0, run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    runs = tmp_path / "there/deep/lightning_logs"
    assert sorted(p.name for p in runs.iterdir()) == ["version_0", "version_1", "version_2"]
    assert (runs / "version_2/predictions.csv").exists()


def test_process_prints_its_table_alone(process: Cli) -> None:
    run = process("trueline", "fit", "--trainer.max_epochs", "5")
    assert (run.status, run.stderr) == (0, "")
    assert run.result()["epochs"] == 5
    assert not [tip for tip in ("litlogger", "💡", "Tip") if tip in run.stdout]
    lines = run.stdout.strip().splitlines()
    assert lines[0].split() == ["trained", "closed", "form"]
    assert lines[-1].split() == ["log", "directory", "lightning_logs/version_0"]


def test_lr_above_the_limit_is_told_before_the_numbers_overflow(cli: Cli) -> None:
    run = cli(*FIT, "60", "--model.lr", "0.0055")
    assert run.status == 0
    # 2/λmax of the article's points, worked out here from [X 1] itself.
    A = np.column_stack([x, np.ones(15)])
    limit = 2 / np.linalg.svd(A, compute_uv=False)[0] ** 2 / (2 / 15)
    assert run.result()["largest_stable_lr"] == pytest.approx(limit, rel=1e-12)
    assert "no: lr is above the largest stable one, 0.004938" in run.stdout


def test_one_process_speaks_for_all(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    run = cli("train")
    assert (run.status, run.stderr) == (2, "")


def test_config_appears_whole_or_not_at_all(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("trueline.results.whole_files.os.fsync", full)
        assert cli(*FIT, "2").status == 2
    assert not [*tmp_path.rglob("config.yaml*"), *tmp_path.rglob("result.json*")]
    assert cli(*FIT, "2").status == 0
