"""Many processes train as one: the same steps, losses and files, whatever their number.

Each of them calls `main` here; the tests compare what it leaves with a training in one process.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

import forked
from trueline.crosscheck import CrossCheck
from trueline.data import RegressionData
from trueline.module import LinearRegression
from trueline.reference import article

EPOCHS = 50
CHECKED_EPOCHS = 2
"""Of each case with the cross-check, whose steps take longer still."""
LOSSES = ("train/loss", "val/loss")
WITHIN = 1e-12
"""Relative distance that adding up the same rows in another order may make in float64."""
PLAIN = [{"batch_size": b, "shuffle": s} for b in (1, 4, 7, 15, None) for s in (False, True)]
MOMENTUM = {"momentum": 0.9, "lr": 1e-4}
FURTHER = [
    {"batch_size": 4, "shuffle": True, "model": MOMENTUM},
    {"batch_size": 1, "shuffle": True, "model": MOMENTUM | {"nesterov": True}},
    {"batch_size": 4, "shuffle": True, "weighted": True},
    {"batch_size": 4, "shuffle": False, "accumulate": 2},
    {"batch_size": 7, "shuffle": True, "accumulate": 2, "weighted": True, "model": MOMENTUM},
]
CASES = PLAIN + FURTHER
CASES_OF = {2: range(15), 3: range(10), 4: range(10), 7: [1, 5, 14]}
"""By number of processes; of 7, some get no row of a small batch."""


def data_of(case: dict[str, Any]) -> RegressionData:
    weights = np.arange(1.0, 16.0) if case.get("weighted") else None
    options = {name: case[name] for name in ("batch_size", "shuffle")}
    return RegressionData(article.X, article.y, sample_weight=weights, **options)


def trainer_of(processes: int, **options: Any) -> Trainer:
    many = {"devices": processes, "strategy": "ddp"} if "LOCAL_RANK" in os.environ else {}
    quiet = {
        "accelerator": "cpu",
        "precision": "64-true",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    return Trainer(**(quiet | many | options))


def parameters(model: LinearRegression) -> list[float]:
    return [model.weight.item(), model.bias.item()]


def train(case: dict[str, Any], processes: int = 1, checked: bool = False) -> dict[str, Any]:
    """Train by one case, and validate the line."""
    epochs = CHECKED_EPOCHS if checked else EPOCHS
    torch.manual_seed(0)
    check = CrossCheck()
    trainer = trainer_of(
        processes,
        max_epochs=epochs,
        accumulate_grad_batches=case.get("accumulate", 1),
        callbacks=[check] if checked else [],
        limit_val_batches=1.0,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=epochs,
    )
    model, data = LinearRegression(**case.get("model", {})), data_of(case)
    trainer.fit(model, data)
    found = {"parameters": parameters(model), "steps": trainer.global_step}
    for name in LOSSES:
        found[name] = trainer.callback_metrics[name].item()
    return found | ({"crosscheck": check.report()} if checked else {})


RESUMED = {"batch_size": 4, "shuffle": True, "model": MOMENTUM}
SAVED_AT = 22
"""In the sixth epoch, after two of its four steps."""


def resume(path: Path | None, processes: int = 1) -> list[float]:
    """Train to the end, from a checkpoint where one is given."""
    torch.manual_seed(0)
    trainer, model = trainer_of(processes, max_epochs=10), LinearRegression(**RESUMED["model"])
    trainer.fit(model, data_of(RESUMED), ckpt_path=path)
    assert trainer.global_step == 40
    return parameters(model)


def save_within_an_epoch(folder: Path, processes: int = 1) -> Path:
    """Train the same, and save once in the middle of an epoch; return the checkpoint's path."""
    torch.manual_seed(0)
    saver = ModelCheckpoint(folder, every_n_train_steps=SAVED_AT, filename="{step}", save_top_k=-1)
    trainer = trainer_of(processes, max_epochs=10, enable_checkpointing=True, callbacks=[saver])
    trainer.fit(LinearRegression(**RESUMED["model"]), data_of(RESUMED))
    return folder / f"step={SAVED_AT}.ckpt"


def main(folder: Path, processes: int, checked: bool) -> None:
    """Train all cases as one of several processes; the first writes what came of them."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for k in CASES_OF[processes]:
        found[str(k)] = train(CASES[k], processes, checked)
    if processes == 2 and not checked:
        found["never stopped"] = resume(None, processes)
        found["saved"] = str(save_within_an_epoch(folder, processes))
        found["resumed"] = resume(Path(found["saved"]), processes)
    if os.environ["RANK"] == "0":
        (folder / "found.json").write_text(json.dumps(found))
    # Otherwise gloo's threads may abort Python at its end.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


# What the test process compares.


def as_torchrun_does(nodes: int, processes: int) -> list[dict[str, str]]:
    """Return what torchrun tells each process, of a number of nodes with so many processes each."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    of_all = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    of_all |= {"WORLD_SIZE": str(nodes * processes), "LOCAL_WORLD_SIZE": str(processes)}
    places = [divmod(rank, processes) for rank in range(nodes * processes)]
    return [
        of_all | {"RANK": str(rank), "GROUP_RANK": str(node), "LOCAL_RANK": str(local)}
        for rank, (node, local) in enumerate(places)
    ]


def test_processes_are_told_what_torchrun_tells_them(python: Callable[..., Any]) -> None:
    expected = as_torchrun_does(nodes=1, processes=2)
    names = sorted(expected[0].keys() - {"MASTER_PORT"})
    code = f"import os; os.write(1, repr([os.environ[n] for n in {names}]).encode() + b'\\n')"
    where = ("--master-addr", "127.0.0.1", "--master-port", expected[0]["MASTER_PORT"])
    launch = ("-m", "torch.distributed.run", "--nproc-per-node", "2", *where, "--no-python")
    run = python(*launch, sys.executable, "-c", code)
    assert run.status == 0, run.stderr
    told = [repr([each[name] for name in names]) for each in expected]
    assert sorted(run.stdout.splitlines()) == sorted(told)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return a launcher of all cases on some number of processes; each number runs once."""

    @cache
    def launch(processes: int, checked: bool = False) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(f"processes-{processes}")
        arguments = [(folder, processes, checked)] * processes
        environments = as_torchrun_does(nodes=1, processes=processes)
        for done in forked.run(main, *arguments, cwd=folder, environments=environments):
            errors = [each for each in done.stderr.splitlines() if "Error: " in each]
            assert done.returncode == 0, "\n".join(errors) or done.stderr
        return json.loads((folder / "found.json").read_text())

    return launch


@cache
def alone(k: int) -> dict[str, Any]:
    """Train a case in this process."""
    return train(CASES[k])


def distance(found: list[float], expected: list[float]) -> float:
    """Return the largest relative distance."""
    return max(abs(f - e) / abs(e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("processes", [2, 3, 4, 7])
def test_steps_do_not_depend_on_the_number_of_processes(
    launched: Callable[..., dict[str, Any]],
    record_property: Callable[[str, object], None],
    processes: int,
) -> None:
    found = launched(processes)
    distances, losses = {}, {}
    for k in CASES_OF[processes]:
        case, expected = found[str(k)], alone(k)
        assert case["steps"] == expected["steps"], CASES[k]
        distances[k] = distance(case["parameters"], expected["parameters"])
        losses[k] = distance([case[n] for n in LOSSES], [expected[n] for n in LOSSES])
    record_property("largest distance of parameters", max(distances.values()))
    record_property("largest distance of losses", max(losses.values()))
    print(f"{processes} processes: {max(distances.values()):.1e}, {max(losses.values()):.1e}")
    assert max(distances.values()) <= WITHIN, distances
    assert max(losses.values()) <= WITHIN, losses


def test_every_step_of_two_processes_is_that_of_numpy(
    launched: Callable[..., dict[str, Any]],
) -> None:
    found = launched(2, checked=True)
    for k, case in enumerate(CASES):
        report = found[str(k)]["crosscheck"]
        assert report["passed"], (case, report)
        assert report["steps_checked"] == found[str(k)]["steps"], case
        assert report["epochs_counted"] == CHECKED_EPOCHS, case


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_two_processes_go_on_to_the_bit_and_one_where_they_stood(
    launched: Callable[..., dict[str, Any]],
) -> None:
    found = launched(2)
    assert torch.load(found["saved"], weights_only=True)["global_step"] == SAVED_AT
    assert found["resumed"] == found["never stopped"]
    assert distance(resume(Path(found["saved"])), found["never stopped"]) <= WITHIN


# The two options of this machine's CPU, which all commands below share.
ON_CPU = ("--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")


def test_two_nodes_in_one_folder(cli: Callable[..., Any], tmp_path: Path) -> None:
    options = (
        *("--trainer.max_epochs", "30", "--data.batch_size", "4", "--data.shuffle", "true"),
        *("--crosscheck", "off"),
    )
    folder = tmp_path / "nodes"
    folder.mkdir()
    arguments = ("fit", *options, *ON_CPU, "--trainer.num_nodes", "2", "--trainer.devices", "2")
    environments = as_torchrun_does(nodes=2, processes=2)
    done = forked.run(forked.trueline, *[arguments] * 4, cwd=folder, environments=environments)
    said = [(each.stdout, each.stderr) for each in done]
    assert [each.returncode for each in done] == [0] * 4, said
    assert sum("closed form" in out for out, _ in said) == 1, said
    assert sum(out.count("log directory") for out, _ in said) == 1, said
    [run] = (folder / "lightning_logs").iterdir()
    assert run.name == "version_0"
    found, expected = json.loads((run / "result.json").read_text()), cli("fit", *options).result()
    assert found["environment"]["devices"] == 4
    assert found["steps"] == expected["steps"] == 120
    for name in ("weight", "bias", "loss"):
        assert found[name] == pytest.approx(expected[name], rel=WITHIN, abs=0)


def test_validate_on_two_processes(cli: Callable[..., Any], process: Callable[..., Any]) -> None:
    assert cli("fit", "--trainer.max_epochs", "3", "--data.batch_size", "4").status == 0
    alone = cli("validate", "--data.batch_size", "4")
    assert alone.status == 0, alone.stderr
    options = ("--data.batch_size", "4", "--trainer.devices", "2", *ON_CPU)
    many = process("trueline", "validate", *options)
    assert many.status == 0, many.stderr
    assert validation_loss(many.stdout) == pytest.approx(validation_loss(alone.stdout), rel=WITHIN)


def validation_loss(table: str) -> float:
    """Read the loss from what `trueline validate` prints."""
    [row] = [each for each in table.splitlines() if "val/loss" in each]
    return float("".join(c for c in row.replace("val/loss", "") if c in "0123456789.e+-"))
