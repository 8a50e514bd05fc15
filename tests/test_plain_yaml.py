"""Configs that are small and stand for more than any memory holds are refused at once."""

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 10)
)
"""Under 1 kB, and ten billion values."""
MERGES = "m0: &m0 {x: 1}\n" + "".join(
    f"m{k}: &m{k} {{{', '.join(f'k{n}: *m{k - 1}' for n in range(10))}}}\n" for k in range(1, 10)
)
ITSELF = "model: &m {schedule: *m}\n"
DEEP = "[" * 20_000 + "]" * 20_000
HOSTILE = {
    "laughs": LAUGHS,
    "laughs under an option": f"{LAUGHS}model: {{schedule: *a9}}\n",
    "mappings": MERGES,
    "itself": ITSELF,
    "nested lists": f"model: {{schedule: {DEEP}}}\n",
    "nested JSON": '{"model": ' * 20_000 + "1" + "}" * 20_000,
    "nested by dashes": "model:\n  " + "- " * 20_000 + "1\n",
    "text of an option": f"model: {{schedule: '{DEEP}'}}\n",
    "wide": "model: {schedule: [" + "1," * 150_000 + "1]}\n",
    "large": "# " + "x" * 2**21,
}


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """Fail a reader that fills the memory, before it takes the machine's."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + 2**29, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_config_that_stands_for_too_much_is_refused_at_once(
    cli: Callable[..., Any], tmp_path: Path, text: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    for command in (["fit"], ["plan"], ["sweep", "--over=model.lr=1e-4,1e-3"]):
        began = time.process_time()
        run = cli(*command, "--config", "c.yaml", *["--crosscheck=off"] * (command == ["fit"]))
        assert time.process_time() - began < 2
        assert (run.status, run.stdout) == (2, "")
        assert run.stderr.startswith("trueline: error: ")
        assert run.stderr.count("\n") == 1
        assert len(run.stderr) < 2_200
        if "schedule: '" not in text:
            assert "--config c.yaml: expected" in run.stderr


@pytest.mark.parametrize(
    "option",
    ["--trainer.callbacks", "--model.schedule", "--data", "--model.lr", "--trainer.devices"],
)
@pytest.mark.parametrize(
    "value", [DEEP, "{a: &a [1,1,1,1], b: " + "[" * 80 + "*a" + "]" * 80 + "}"]
)
def test_option_nested_without_end_is_refused(
    cli: Callable[..., Any], option: str, value: str
) -> None:
    for arguments in ([f"{option}={value}"], [option, value]):
        run = cli("fit", *arguments)
        assert run.status == 2
        assert run.stderr.startswith(f"trueline: error: {option}: expected plain options, found va")
        assert run.stderr.count("\n") == 1


def test_file_of_a_group_of_options_is_refused_too(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(f"{LAUGHS}schedule: *a9\n")
    run = cli("fit", "--model", "m.yaml")
    assert run.status == 2
    assert "--model m.yaml: expected plain options, found aliases that stand for" in run.stderr
    assert run.stderr.count("\n") == 1


def test_sweep_refuses_values_and_plans_that_are_nested_without_end(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    assert cli("sweep", f"--over=model.schedule={DEEP}").status == 2
    (tmp_path / "s").mkdir()
    (tmp_path / "s/sweep.json").write_text('{"a": ' * 20_000 + "1" + "}" * 20_000)
    run = cli("sweep", "--resume", "s")
    assert run.status == 2
    assert run.stderr.count("\n") == 1


def test_anchors_of_an_honest_config_are_followed(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "model: &m\n  lr: &lr 0.0005\n  weight_decay: *lr\ntrainer: {max_epochs: 2}\n"
    )
    run = cli("fit", "--config", "c.yaml")
    assert run.status == 0, run.stderr
    assert run.result()["lr"] == 0.0005


def test_hostile_config_beside_a_checkpoint_is_refused_by_export(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    assert cli("fit", "--trainer.max_epochs=2").status == 0
    config = tmp_path / "lightning_logs/version_0/config.yaml"
    config.write_text(f"{LAUGHS}data: *a9\n")
    run = cli("export")
    assert run.status == 2
    assert "expected lightning_logs/version_0/config.yaml to say what was" in run.stderr
    assert run.stderr.count("\n") == 1
