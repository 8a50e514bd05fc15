"""`trueline crosscheck`: one training under every setting there is."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trueline.cli import matrix
from trueline.cli.matrix import PRECISIONS, Setting, available_settings, run_matrix
from trueline.errors import CheckFailed, RequestError

CPU = PRECISIONS["cpu"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what says how many GPUs there are; none unless told."""

    def has(cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    has()
    return has


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({}, {"cpu": {1, 2}}),
        ({"cuda": 1}, {"cpu": {1, 2}, "cuda": {1}}),
        ({"cuda": 2, "mps": True}, {"cpu": {1, 2}, "cuda": {1, 2}, "mps": {1}}),
        ({"cuda": 8}, {"cpu": {1, 2}, "cuda": {1, 2, 8}}),
    ],
)
def test_settings_are_all_that_the_machine_has(machine: Any, there: Any, expected: Any) -> None:
    machine(**there)
    found = available_settings()
    assert len(found) == len(set(found))
    assert {(s.accelerator, s.precision, s.devices) for s in found} == {
        (accelerator, precision, n)
        for accelerator, counts in expected.items()
        for precision in PRECISIONS[accelerator]
        for n in counts
    }


def test_settings_are_those_that_were_asked_for(machine: Any) -> None:
    machine(cuda=2)
    assert available_settings(["cuda"], ["32-true+tf32"], [2]) == [
        Setting("cuda", "32-true+tf32", 2)
    ]
    assert available_settings(["cpu"], ["bf16-true"], [3]) == [Setting("cpu", "bf16-true", 3)]
    assert {s.precision for s in available_settings(["cpu"], devices=[1])} == set(CPU)
    # A precision that only one of them has, and a number of devices that only one of them has.
    assert {s.accelerator for s in available_settings(precisions=["16-mixed"])} == {"cuda"}
    assert {s.accelerator for s in available_settings(devices=[3])} == {"cpu"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((["cuda"],), "--accelerators: expected some of cpu, .*; found cuda"),
        ((["cpu", "tpu"],), "--accelerators: .*; found tpu"),
        (([], ["64-true", "8-true"]), "--precisions: expected some of 32-true, .*; found 8-true"),
        ((["cpu"], ["16-mixed"]), "--precisions: .*; found 16-mixed"),
    ],
)
@pytest.mark.usefixtures("machine")
def test_settings_that_are_not_there_are_refused(asked: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        available_settings(*asked)


def test_more_devices_than_there_are_leave_nothing_to_check(machine: Any) -> None:
    machine(cuda=1)
    with pytest.raises(RequestError, match="found none: ask for fewer --devices"):
        available_settings(["cuda"], devices=[2])


def test_setting_says_what_it_needs() -> None:
    setting = Setting("cuda", "32-true+tf32", 2)
    assert (str(setting), setting.folder) == ("cuda 32-true+tf32 x2", "cuda-32-true+tf32-x2")
    assert setting.options() == [
        "--trainer.accelerator=gpu",
        "--trainer.precision=32-true",
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
    ]
    assert setting.environment() == {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    assert Setting("cpu", "32-true", 1).environment() == {}
    assert "--trainer.strategy=ddp" not in Setting("cpu", "32-true", 1).options()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precisions=8-true"], "--precisions: expected some of .*; found 8-true"),
        (["--accelerators=abacus"], "--accelerators: .* found abacus"),
        (["--devices=0"], "--devices: expected numbers above 0, found 0"),
        (["--devices=1,x"], "--devices: expected numbers above 0, found 1,x"),
        (["--model.lr=-1"], "lr: expected a finite number above 0; found -1"),
        (["--precision=64-true"], "--precision"),
    ],
)
def test_options_that_are_wrong_end_with_one_line(
    cli: Any, monkeypatch: Any, options: list[str], said: str
) -> None:
    trained: list[Any] = []
    monkeypatch.setattr(matrix, "_train", lambda *arguments: trained.append(arguments))
    run = cli("crosscheck", *options)
    assert run.status == 2
    assert run.stderr.count("\n") == 1
    assert re.search(said, run.stderr)
    assert not trained
    assert not (run.directory / "lightning_logs").exists()


def row(setting: Setting, parameters: Any = None, **changes: Any) -> dict[str, Any]:
    """Return what a setting comes to that has nothing wrong with it."""
    return {
        "setting": str(setting),
        "passed": True,
        "reason": None,
        "steps_checked": 1234,
        "worst_ratios": {"loss": 0.25, "gradient": 0.125, "parameters": 0.5},
        "parameters": parameters or [3.0, 4.0],
        "loss": 1.0,
        "seconds": 1.0,
    } | changes


def test_setting_that_fails_ends_with_1_after_all_have_run(cli: Any, monkeypatch: Any) -> None:
    def train(setting: Setting, *_: Any) -> dict[str, Any]:
        if setting.precision == "32-true":
            ratios = {"loss": 2.0, "gradient": 5.0, "parameters": None}
            found = "gradient of bias at step 3 (halved)"
            return row(setting, passed=False, reason=found, worst_ratios=ratios)
        if setting.precision == "bf16-true":
            return {"setting": str(setting), "passed": False, "reason": "out of memory"}
        return row(setting)

    monkeypatch.setattr(matrix, "_train", train)
    run = cli("crosscheck", "--accelerators=cpu", "--devices=1")
    assert run.status == 1
    assert run.stderr == (
        "trueline: error: cross-check failed, or did not run, under cpu 32-true x1, "
        "cpu bf16-true x1\n"
    )
    verdicts = re.findall(r"^(cpu \S+ x1) .* (passed|FAILED)$", run.stdout, re.MULTILINE)
    expected = {"64-true": "passed", "32-true": "FAILED"}
    expected |= {"bf16-mixed": "passed", "bf16-true": "FAILED"}
    assert dict(verdicts) == {f"cpu {name} x1": verdict for name, verdict in expected.items()}
    assert "cpu 32-true x1: gradient of bias at step 3 (halved)\n" in run.stdout
    assert "cpu bf16-true x1: out of memory\n" in run.stdout
    assert re.search(r"^cpu 32-true x1 .* 2 +5 +inf .* FAILED$", run.stdout, re.MULTILINE)
    table = json.loads((run.directory / "lightning_logs/crosscheck_0/crosscheck.json").read_text())
    assert [each["passed"] for each in table["rows"]] == [True, False, True, False]
    assert table["distances"][0] == [0.0, 0.0, 0.0, None]
    (run.directory / "lightning_logs/crosscheck_7").mkdir()
    assert "lightning_logs/crosscheck_8\n" in cli("crosscheck", "--devices=1").stdout


def test_distances_are_relative(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    found = {"64-true": [3.0, 4.0], "32-true": [3.0, 4.5], "bf16-true": [0.0, 0.0]}
    monkeypatch.setattr(matrix, "_train", lambda s, *_: row(s, found[s.precision]))
    settings = [Setting("cpu", name, 1) for name in found]
    table = run_matrix(settings, [], tmp_path / "runs")
    norm = np.hypot(3, 4.5)
    expected = [[0, 0.5 / norm, 1], [0.5 / norm, 0, 1], [1, 1, 0]]
    np.testing.assert_allclose(table["distances"], expected, rtol=1e-15)
    assert "1,234" in capsys.readouterr().out
    assert Path(table["log_dir"]) == tmp_path / "runs"


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("a warning\ntrueline: error: lr: expected more\n", "lr: expected more"),
        ("", "exit status 2"),
    ],
)
def test_setting_that_ends_without_a_result_says_why(
    tmp_path: Path, monkeypatch: Any, capsys: Any, stderr: str, said: str
) -> None:
    ended = subprocess.CompletedProcess([], 2, "", stderr)
    monkeypatch.setattr(matrix.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(CheckFailed, match="did not run, under cpu 64-true x1"):
        run_matrix([Setting("cpu", "64-true", 1)], [], tmp_path / "runs")
    assert f"\ncpu 64-true x1: {said}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("check", "status", "reason"),
    [
        ({"passed": False, "first_failure": "expected a step"}, 1, "expected a step"),
        (
            {
                "passed": False,
                "first_failure": {
                    "quantity": "lr",
                    "step": 3,
                    "cause": "the schedule was left out",
                },
            },
            0,
            "lr at step 3 (the schedule was left out)",
        ),
        ({"passed": True, "first_failure": None}, 1, "diverged"),
    ],
)
def test_setting_fails_where_its_run_did(
    tmp_path: Path, monkeypatch: Any, capsys: Any, check: Any, status: int, reason: str
) -> None:
    ratios = {"loss": 2.0, "gradient": 0.5, "parameters": 0.5}
    report = {**check, "steps_checked": 3, "worst_ratios": ratios}
    result = {"crosscheck": report, "error": "diverged", "weight": 1.0, "bias": 2.0}

    def ends(*_: Any, **__: Any) -> Any:
        folder = tmp_path / "runs/cpu-64-true-x1"
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(result | {"loss": 1.0, "seconds": 1.0}))
        return subprocess.CompletedProcess([], status, "", "")

    monkeypatch.setattr(matrix.subprocess, "run", ends)
    with pytest.raises(CheckFailed, match="under cpu 64-true x1"):
        run_matrix([Setting("cpu", "64-true", 1)], [], tmp_path / "runs")
    assert f"\ncpu 64-true x1: {reason}\n" in capsys.readouterr().out


def test_setting_that_does_not_end_says_so(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def waits(command: list[str], timeout: int, **_: Any) -> Any:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(matrix.subprocess, "run", waits)
    with pytest.raises(CheckFailed):
        run_matrix([Setting("cpu", "64-true", 1)], [], tmp_path / "runs")
    assert "cpu 64-true x1: did not end within 1800 s" in capsys.readouterr().out


def table_of(run: Any) -> dict[str, Any]:
    assert run.status == 0, run.stderr + run.stdout
    path = run.directory / "lightning_logs/crosscheck_0/crosscheck.json"
    return json.loads(path.read_text())


def test_crosscheck_trains_under_a_setting(process: Any) -> None:
    options = ("--precisions", "64-true", "--devices", "1", "--trainer.max_epochs", "20")
    run = process("trueline", "crosscheck", *options)
    table = table_of(run)
    assert re.search(r"^setting +steps +loss .* from cpu 64-true x1 +verdict$", run.stdout, re.M)
    assert re.search(r"^cpu 64-true x1 +20 .* 0\.0e\+00 +passed$", run.stdout, re.M)
    [only] = table["rows"]
    assert (only["passed"], only["reason"], only["steps_checked"]) == (True, None, 20)
    assert 0 < max(only["worst_ratios"].values()) <= 1
    folder = run.directory / table["log_dir"]
    result = json.loads((folder / "cpu-64-true-x1/result.json").read_text())
    assert only["parameters"] == [*np.ravel(result["weight"]), result["bias"]]
    assert table["distances"] == [[0.0]]


def test_two_processes_come_to_the_line_of_one(process: Any, cli: Any) -> None:
    options = ("--trainer.max_epochs=20", "--data.batch_size=4")
    settings = ("--precisions=64-true", "--devices=2")
    table = table_of(process("trueline", "crosscheck", *settings, *options))
    [row] = table["rows"]
    assert row["passed"]
    assert row["steps_checked"] == 80
    single = cli("fit", "--trainer.accelerator=cpu", *options).result()
    expected = np.array([*np.ravel(single["weight"]), single["bias"]])
    apart = np.linalg.norm(row["parameters"] - expected) / np.linalg.norm(expected)
    assert apart < 1e-12
