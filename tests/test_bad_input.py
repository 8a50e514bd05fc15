"""Bad requests end with exit status 2, one line on stderr, and not a byte written.

The words that each message must hold are the name of the thing, what was found and what would do.
"""

import contextlib
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Run
from trueline.cli.entry import main
from trueline.module import LinearRegression
from trueline.reference.article import X, y

Cli = Callable[..., Run]
ROWS = "expected 1 to 15, the number of rows"
UNREADABLE = "what cannot be read as one"
LOGGER = "--trainer.logger TensorBoardLogger --trainer.logger.save_dir runs"
HAS_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")

CASES = (
    # Commands.
    ("", "expected a command, one of fit, validate, test, predict, export, plan|found nothing"),
    ("fitt", "expected a command, one of fit,|found fitt"),
    ("fit extra", "extra|trueline fit --help"),
    ("predict extra", "extra|trueline predict --help"),
    ("fit --trainer.max_epochs", "--trainer.max_epochs|expected one argument"),
    # Names.
    ("fit --modle.lr 1", "--modle.lr|did you mean --model.lr?"),
    ("fit --trainer.max_epoch 3", "--trainer.max_epoch 3|did you mean --trainer.max_epochs?"),
    ("fit --data.batchsize 3", "batchsize|did you mean --data.batch_size?"),
    ("fit --data DummyData --data.sed 3", "'sed'|did you mean --data.seed?"),
    ("fit --data Dumy", "--data|found Dumy|DummyData"),
    ("fit --data no.such.Data", "--data|No module named 'no'|found no.such.Data|DummyData"),
    ("fit --data os.path.join", "--data|LightningDataModule|found os.path.join|DummyData"),
    ("compare --ckpt_path last", "--ckpt_path|trueline compare --help"),
    # The model's numbers.
    ("fit --model.lr 0", "lr: expected a finite number above 0|found 0.0"),
    ("fit --model.lr -1", "lr: expected a finite number above 0|found -1.0"),
    ("fit --model.lr nan", "lr: expected|found nan"),
    ("fit --model.lr .nan", "lr: expected a finite number above 0|found nan"),
    ("fit --model.lr inf", "lr: expected|found inf"),
    ("fit --model.lr .inf", "lr: expected a finite number above 0|found inf"),
    ("fit --model.lr fast", "--model.lr: expected float|found fast"),
    ("fit --model.momentum 1", "momentum: expected at least 0 and below 1|found 1.0"),
    ("fit --model.momentum -0.1", "momentum: expected at least 0 and below 1|found -0.1"),
    ("fit --model.dampening 2", "dampening: expected 0 to 1|found 2.0"),
    ("fit --model.nesterov true", "nesterov: expected momentum above 0|found momentum 0.0"),
    ("fit --model.l1 -1", "l1: expected|0 or more|found -1.0"),
    ("fit --model.l2 -1", "l2: expected|0 or more|found -1.0"),
    ("fit --model.weight_decay -1", "weight_decay: expected|0 or more|found -1.0"),
    ("fit --model.init foo", "--model.init: expected 'normal', 'zeros'|found foo"),
    ("fit --model.lr 0 --model.l1 -1", "lr: expected|found 0.0|l1: expected|found -1.0"),
    # The data's.
    ("fit --data.batch_size 0", f"batch_size: {ROWS}|found 0|leave it out"),
    ("fit --data.batch_size -1", f"batch_size: {ROWS}|found -1|leave it out"),
    ("fit --data.batch_size 16", f"batch_size: {ROWS}|found 16|leave it out"),
    ("fit --data.batch_size all", "--data.batch_size: expected int|found all"),
    ("fit --data.seed -1", "seed: expected 0 or more|found -1"),
    # The Trainer's.
    ("fit --trainer.max_epochs 0", "--trainer.max_epochs: expected 1 or more|found 0"),
    ("fit --trainer.max_epochs -5", "--trainer.max_epochs: expected 1 or more|found -5"),
    ("fit --trainer.max_epochs 1.5", "--trainer.max_epochs: expected int|found 1.5"),
    ("fit --trainer.max_steps 0", "--trainer.max_steps: expected 1 or more|found 0"),
    ("fit --trainer.log_every_n_steps 0", "log_every_n_steps|found 0"),
    ("fit --trainer.check_val_every_n_epoch 0", "check_val_every_n_epoch|found 0"),
    ("fit --trainer.accumulate_grad_batches 0", "accumulate_grad_batches|found 0"),
    ("fit --trainer.accelerator foo", "accelerator|'foo'|cpu"),
    ("fit --trainer.accelerator tpu", "--trainer.accelerator tpu|found none|cpu or auto"),
    ("fit --trainer.precision 12", "--trainer.precision: expected|'64-true'|found 12"),
    ("fit --seed_everything x", "--seed_everything: expected|int|found x"),
    ("fit --seed_everything -1", "seed_everything: expected|found -1"),
    ("fit --trainer.default_root_dir plain", "log directory|plain|--trainer.default_root_dir"),
    ("compare --trainer.default_root_dir plain", "plain|--trainer.default_root_dir"),
    ("fit --trainer.gradient_clip_val -1", "--trainer.gradient_clip_val: expected|found -1"),
    ("fit --trainer.limit_train_batches 0", "--trainer.limit_train_batches: expected|found 0"),
    ("fit --trainer.val_check_interval 0", "--trainer.val_check_interval: expected|found 0"),
    ("fit --config null.yaml", "trainer: expected options, found null"),
    (
        "compare --trainer.max_time 00:00:00:02",
        "--trainer.max_time: expected nothing that may stop|rung 4",
    ),
    (
        "compare --trainer.logger CSVLogger --trainer.logger.save_dir x",
        "--trainer.logger: compare logs for itself",
    ),
    ("fit --ckpt_path=", "ckpt_path: expected a checkpoint file"),
    # What the cross-check cannot follow.
    ("fit --trainer.precision 16-true", "precision 16-true|--crosscheck off"),
    (
        "fit --trainer.callbacks StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.1",
        "StochasticWeightAveraging|--crosscheck off",
    ),
    # Schedules.
    ("fit --model.schedule.name StepLR", "schedule: expected options of StepLR|step_size"),
    ("fit --model.schedule.name Steps", "schedule: expected under name a class|found Steps"),
    # What crosscheck cannot do.
    ("crosscheck --precisions 8-true", "--precisions: expected some of|found 8-true"),
    ("crosscheck --accelerators cuda", "--accelerators: expected some of cpu|found cuda"),
    ("crosscheck --devices two", "--devices: expected numbers above 0, found two"),
    ("crosscheck --bogus 1", "--bogus|see trueline crosscheck --help"),
    ("fit --model.schedule.name LRScheduler", "a class in torch.optim.lr_scheduler"),
    ("crosscheck --model.lr 0", "lr: expected a finite number above 0"),
    # What compare cannot do.
    ("compare --data.batch_size 5", "--data.batch_size: expected full batch|found 5|leave it out"),
    ("compare --model.l1 0.1", "--model.l1: expected 0|found 0.1|set it to 0"),
    ("compare --trainer.max_epochs 0", "--trainer.max_epochs: expected 1 or more|found 0"),
    ("compare --trainer.gradient_clip_val 1", "--trainer.gradient_clip_val|found 1|leave it out"),
    # Config files.
    ("fit --config none.yaml", "--config|does not exist|none.yaml"),
    ("fit --config folder", "--config|not a file|folder"),
    ("fit --config empty.yaml", "--config|empty.yaml|expected"),
    ("fit --config list.yaml", "--config|list.yaml|expected"),
    ("fit --config text.yaml", "--config|text.yaml|expected"),
    ("fit --config broken.yaml", "--config|broken.yaml|line 2"),
    ("fit --config binary.yaml", "--config|binary.yaml|expected"),
    ("fit --config type.yaml", "--model.lr: expected float|found fast"),
    ("fit --config option.yaml", "'model.lrr'|did you mean --model.lr?"),
    ("fit --config key.yaml", "'modle.lr'|did you mean --model.lr?"),
    # Checkpoints.
    ("fit --ckpt_path none.ckpt", "ckpt_path: expected a checkpoint file|none.ckpt"),
    ("fit --ckpt_path folder", "ckpt_path: expected a checkpoint file|directory|folder"),
    ("fit --ckpt_path empty.ckpt", f"ckpt_path|empty.ckpt|{UNREADABLE}|use another"),
    ("fit --ckpt_path half.ckpt", f"ckpt_path|half.ckpt|{UNREADABLE}|cut short"),
    ("predict --ckpt_path plain", f"ckpt_path|plain|{UNREADABLE}|of another kind"),
    ("fit --ckpt_path object.ckpt", f"ckpt_path|object.ckpt|{UNREADABLE}|more than tensors"),
    ("fit --ckpt_path partial.ckpt", f"ckpt_path|partial.ckpt|{UNREADABLE}|more than tensors"),
    ("fit --ckpt_path shape.ckpt", "ckpt_path|'weight': (1,)|'weight': (2,)|shape.ckpt|use"),
    ("fit --ckpt_path stateless.ckpt", "ckpt_path|stateless.ckpt has no state_dict|trueline fit"),
    ("fit --ckpt_path numbers.ckpt", "ckpt_path|numbers.ckpt|state_dict"),
    ("fit --ckpt_path bare.ckpt", "ckpt_path|bare.ckpt|trueline fit"),
    ("fit --ckpt_path lr.ckpt", "ckpt_path|lr.ckpt|lr"),
    ("fit --ckpt_path instantiator.ckpt", "instantiator.ckpt|plain values|imported|use another"),
    ("predict --ckpt_path instantiator.ckpt", "instantiator.ckpt|plain values|imported"),
    ("fit --ckpt_path class_path.ckpt", "class_path.ckpt|plain values|imported"),
    ("fit --ckpt_path schedule.ckpt", "schedule.ckpt|a class in torch.optim.lr_scheduler|system"),
    ("fit --ckpt_path listed.ckpt", "listed.ckpt|plain values"),
    ("fit --ckpt_path later.ckpt", "later.ckpt|expected a checkpoint of format 1|found format 2"),
    ("fit --ckpt_path unversioned.ckpt", "unversioned.ckpt has no trueline_format|trueline fit"),
    ("fit --ckpt_path lightning3.ckpt", "lightning3.ckpt|of Lightning 2.6|found 3.0|install"),
    ("fit --ckpt_path lightningx.ckpt", "lightningx.ckpt|of Lightning 2.6|found new"),
    ("fit --ckpt_path integers.ckpt", "integers.ckpt|finite real parameters|torch.int64"),
    ("validate --ckpt_path nan.ckpt", "nan.ckpt|finite real parameters|nan|use another"),
    ("fit --ckpt_path single.ckpt", "single.ckpt|of torch.float64|found torch.float32|precision"),
    (
        "fit --trainer.precision 32-true --ckpt_path last",
        "expected weight of torch.float32|--trainer.precision 32-true|found torch.float64",
    ),
    ("fit --ckpt_path buffer.ckpt", "buffer.ckpt|state of one SGD|momentum buffers|(7,)"),
    ("fit --ckpt_path optimizers.ckpt", "optimizers.ckpt|state of one SGD optimizer"),
    ("fit --ckpt_path optimizer.ckpt", "optimizer.ckpt|state of one SGD optimizer"),
    ("fit --ckpt_path loops.ckpt", "loops.ckpt|Lightning's loops stood|use another"),
    ("fit --ckpt_path window.ckpt", "window.ckpt|between the batches that are accumulated"),
    ("fit --ckpt_path unended.ckpt", "unended.ckpt|last step of an epoch|would be left out"),
    ("fit --ckpt_path http://127.0.0.1:9/x.ckpt", "expected to read http://127.0.0.1:9/x.ckpt"),
    ("fit --ckpt_path nothing://x.ckpt", "expected to read nothing://x.ckpt|found|give another"),
    (
        "fit --trainer.callbacks ModelCheckpoint --trainer.callbacks.save_last true",
        "save_last: expected none|leave it out|every_n_steps",
    ),
    (
        "fit --trainer.callbacks trueline.checkpoints.saving.Checkpoints "
        "--trainer.callbacks.every_n_steps 0",
        "every_n_steps: expected 1 or more; found 0",
    ),
    # Configs with Python in them, and paths that lead out.
    ("fit --config python.yaml", "--config python.yaml|expected YAML|python/object/apply"),
    ("fit --config name.yaml", "--config name.yaml|expected YAML|python/name"),
    (
        "fit --model.schedule '!!python/object/apply:os.mkdir [executed]'",
        "--model.schedule: expected dict|python/object/apply|see trueline fit --help",
    ),
    (f"fit {LOGGER} --trainer.logger.name ../..", "expected one inside runs|leave .. out"),
    (f"fit {LOGGER} --trainer.logger.version ../../x", "expected one inside runs|leave .. out"),
    (f"predict {LOGGER} --trainer.logger.name /tmp/x", "expected one inside runs|/tmp/x"),
)


class Intruder:
    """Pickled into a checkpoint, it makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one run in it, and with the files that the cases ask for."""
    folder = tmp_path_factory.mktemp("prepared")
    with contextlib.chdir(folder):
        assert main(["fit", "--trainer.max_epochs", "2"]) == 0
    (folder / "folder").mkdir()
    files = {
        "plain": b"hello",
        "empty.yaml": b"",
        "list.yaml": b"- 1\n- 2\n",
        "text.yaml": b"hello\n",
        "broken.yaml": b"model: [1\ntrainer: }\n",
        "binary.yaml": bytes(range(256)),
        "type.yaml": b"model:\n  lr: fast\n",
        "option.yaml": b"model:\n  lrr: 0.1\n",
        "null.yaml": b"trainer: null\n",
        "key.yaml": b"modle:\n  lr: 0.1\n",
        "empty.ckpt": b"",
        "python.yaml": b"model: !!python/object/apply:os.mkdir [executed]\n",
        "name.yaml": b"model:\n  lr: !!python/name:os.mkdir\n",
    }
    saved = folder / "lightning_logs/version_0/checkpoints/last.ckpt"
    whole = saved.read_bytes()
    for name, content in (files | {"half.ckpt": whole[: len(whole) // 2]}).items():
        (folder / name).write_bytes(content)
    good = torch.load(saved, weights_only=True)
    checkpoints = {
        "object": good | {"extra": Intruder()},
        "partial": good | {"extra": functools.partial(print, "executed")},
        "shape": good | {"state_dict": LinearRegression(n_features=2).state_dict()},
        "stateless": {name: value for name, value in good.items() if name != "state_dict"},
        "numbers": good | {"state_dict": {"weight": 1.0, "bias": 2.0}},
        "bare": {"state_dict": good["state_dict"]},
        "lr": good | {"hyper_parameters": {"lr": "fast"}},
    }
    parameters = good["hyper_parameters"]
    [optimizer] = good["optimizer_states"]
    state = good["state_dict"]
    for name, value in {
        "instantiator": parameters | {"_instantiator": "lightning.pytorch.cli.instantiate_module"},
        "class_path": parameters | {"class_path": "os.system", "init_args": {"command": "ls"}},
        "schedule": parameters | {"schedule": {"name": "os.system", "command": "mkdir executed"}},
        "listed": list(parameters),
    }.items():
        checkpoints[name] = good | {"hyper_parameters": value}
    buffers = {k: {"momentum_buffer": torch.zeros(7)} for k in (0, 1)}
    fit = good["loops"]["fit_loop"]
    batches = fit["epoch_loop.batch_progress"]
    total, current = fit["epoch_progress"]["total"], fit["epoch_progress"]["current"]
    unended = fit | {
        "epoch_progress": {"total": total, "current": current | {"processed": 1, "completed": 1}},
        "epoch_loop.batch_progress": batches | {"total": batches["total"] | {"completed": 1}},
    }
    checkpoints |= {
        "later": good | {"trueline_format": 2},
        "unversioned": {n: value for n, value in good.items() if n != "trueline_format"},
        "lightning3": good | {"pytorch-lightning_version": "3.0.1"},
        "lightningx": good | {"pytorch-lightning_version": "new"},
        "integers": good | {"state_dict": {n: value.long() for n, value in state.items()}},
        "nan": good | {"state_dict": {n: value * torch.nan for n, value in state.items()}},
        "single": good | {"state_dict": {n: value.float() for n, value in state.items()}},
        "buffer": good | {"optimizer_states": [optimizer | {"state": buffers}]},
        "optimizers": good | {"optimizer_states": [optimizer, optimizer]},
        "optimizer": good | {"optimizer_states": [{"momentum": 1.0}]},
        "loops": good | {"loops": {"fit_loop": 1}},
        "window": good | {"inside_step": True},
        "unended": good | {"loops": good["loops"] | {"fit_loop": unended}},
    }
    for name, content in checkpoints.items():
        torch.save(content, folder / f"{name}.ckpt")
    return folder


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    """Map every path under a folder to its content, None for a folder."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def check_refusal(run: Run, words: str) -> None:
    assert run.status == 2, run.stdout
    assert run.stderr.startswith("trueline: error: ")
    assert run.stderr.count("\n") == 1
    assert "Traceback" not in run.stdout + run.stderr
    assert [word for word in words.split("|") if word not in run.stderr] == [], run.stderr


@pytest.mark.parametrize(("arguments", "words"), CASES, ids=[case[0] or "none" for case in CASES])
def test_bad_request_is_one_line_and_writes_nothing(
    arguments: str, words: str, cli: Cli, prepared: Path, tmp_path: Path
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    before = snapshot(tmp_path)
    command = arguments.split()
    if command[:1] in (["fit"], ["compare"]):
        command.insert(1, "--trainer.max_epochs=2")  # a request let through by mistake ends soon
    check_refusal(cli(*command), words)
    assert snapshot(tmp_path) == before


@HAS_GPU
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_gpu_that_is_not_there_is_refused(accelerator: str, cli: Cli, tmp_path: Path) -> None:
    run = cli("fit", "--trainer.accelerator", accelerator)
    check_refusal(run, f"--trainer.accelerator {accelerator}|found none|cpu or auto")
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("command", ["validate", "test", "predict", "fit --ckpt_path last"])
def test_command_that_needs_a_run_is_refused_without_one(
    command: str, cli: Cli, tmp_path: Path
) -> None:
    run = cli(*command.split())
    check_refusal(run, "checkpoints/last.ckpt under lightning_logs|found none|trueline fit")
    assert snapshot(tmp_path) == {}


def test_diverging_run_ends_with_status_1_and_names_limit_and_step(cli: Cli) -> None:
    # Plain Python from zero: the loss that is no longer finite belongs to this step.
    w, b, step, loss = 0.0, 0.0, 0, 0.0
    points = list(zip(X[:, 0].tolist(), y.tolist(), strict=True))
    while loss < float("inf"):
        step += 1
        r = [w * x + b - target for x, target in points]
        loss = sum(error * error for error in r) / 15
        w -= 2 / 15 * sum(error * x for error, (x, _) in zip(r, points, strict=True))
        b -= 2 / 15 * sum(r)
    run = cli("fit", "--model.lr", "1", "--model.init", "zeros")
    assert run.status == 1
    assert run.stderr.startswith("trueline: error: training diverged")
    assert run.stderr.count("\n") == 1
    assert f"found inf at step {step};" in run.stderr
    assert "set --model.lr below 0.004938" in run.stderr
    result = run.result()
    assert result["error"] in run.stderr
    assert result["steps"] == step - 1
    assert result["loss"] is None
    assert not result["converged"]


def test_runs_never_change_an_earlier_one(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", "--trainer.max_epochs", "2").status == 0
    first = tmp_path / "lightning_logs/version_0"
    before = snapshot(first)
    again = "fit --trainer.max_epochs"
    for command in (f"{again} 2", f"{again} 4 --ckpt_path last", "validate", "predict"):
        assert cli(*command.split()).status == 0
    assert snapshot(first) == before
    assert sorted(p.name for p in first.parent.iterdir()) == [f"version_{i}" for i in range(5)]
