"""A checkpoint is data, whoever wrote it: what does not fit is refused in one line, and not run.

Each case is a good checkpoint with one part replaced.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Run

Cli = Callable[..., Run]
ESCAPE = "2\ntrueline: fine\x1b[2J"
CASES: list[tuple[str, Any]] = [
    # Versions and hyperparameters.
    ("trueline_format", torch.ones(2)),
    ("trueline_format", ESCAPE),
    ("pytorch-lightning_version", "2.0;;x"),
    ("pytorch-lightning_version", None),
    ("hyper_parameters.schedule", "StepLR"),
    ("hyper_parameters.schedule", [1]),
    ("hyper_parameters.init", "A" * 2_000_000),
    ("hyper_parameters.init", "a\nb\x1b[31m"),
    ("hyper_parameters.lr", torch.ones(3, 3)),
    ("hyper_parameters.momentum", float("nan")),
    # Parameters and what the optimizer knows of them.
    ("state_dict.weight", torch.ones(1, dtype=torch.float64).to_sparse()),
    ("state_dict.weight", torch.ones(1, dtype=torch.float64, device="meta")),
    ("state_dict.weight", torch.ones(1, dtype=torch.complex128)),
    ("state_dict", [1]),
    ("state_dict", {"weight": torch.ones(2, 2), "bias": torch.ones(())}),
    ("optimizer_states.0.state", {0: {"momentum_buffer": torch.full((1,), torch.nan)}}),
    ("optimizer_states.0.state", "x"),
    ("optimizer_states.0.param_groups", []),
    ("optimizer_states", "x"),
    # Where it stood.
    ("epoch", float("inf")),
    ("epoch", "three"),
    ("global_step", {}),
    ("loops.fit_loop.state_dict", None),
    ("loops.fit_loop.state_dict.combined_loader", 5),
    ("loops.fit_loop.state_dict.combined_loader", [{}]),
    ("loops.fit_loop.state_dict.combined_loader.0.batch_size", 0),
    ("loops.fit_loop.state_dict.combined_loader.0.position", "x"),
    ("loops.fit_loop.epoch_progress", {}),
    ("loops.fit_loop.epoch_progress.current.processed", "x"),
    ("loops", []),
    # The data, and what the cross-check knows.
    ("rows", "another"),
    ("data", "TableData"),
    ("data", "\x1b[2J"),
    ("data", {"class_path": "os.system"}),
    ("crosscheck", {"precision": "64-true"}),
    ("crosscheck.parameters", torch.ones(7, dtype=torch.float64)),
    ("crosscheck.verdict", {}),
    ("crosscheck.verdict.tally", "x"),
    ("crosscheck.verdict.steps_checked", None),
    ("crosscheck.dataset", {"epochs": 1}),
    ("crosscheck.dataset.next", "x"),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a checkpoint of the 15 points, made inside an epoch."""
    from trueline.cli.entry import main

    folder = tmp_path_factory.mktemp("good")
    options = ("--data.batch_size=5", "--model.momentum=0.9", "--trainer.max_epochs=2")
    root = f"--trainer.default_root_dir={folder}"
    assert main(["fit", *options, root]) == 0
    path = folder / "lightning_logs/version_0/checkpoints/last.ckpt"
    return dict(torch.load(path, weights_only=True))


def changed(checkpoint: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Return a copy with one part replaced; its place is given by names and numbers."""
    checkpoint = copy.deepcopy(checkpoint)
    *way, last = (int(part) if part.isdigit() else part for part in place.split("."))
    at: Any = checkpoint
    for part in way:
        at = at[part]
    at[last] = value
    return checkpoint


@pytest.mark.parametrize(
    ("place", "value"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)]
)
def test_part_that_does_not_fit_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, good: dict[str, Any], place: str, value: Any
) -> None:
    torch.save(changed(good, place, value), tmp_path / "hostile.ckpt")
    run = cli("fit", "--ckpt_path=hostile.ckpt", "--trainer.max_epochs=4")
    assert run.status == 2, run.stderr or run.stdout
    assert run.stderr.startswith("trueline: error: ")
    assert run.stderr.count("\n") == 1
    assert run.stderr.rstrip("\n").isprintable()
    assert len(run.stderr) < 2_100
    assert "Traceback" not in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("metrics", "ab"),
        ("metrics", {"train/loss": {}}),
        ("callbacks", {}),
        ("seconds", "x"),
        ("options", {"trainer.max_epochs": "many", "data.batch_size": "os.system"}),
        ("optimizer_states.0.param_groups.0.maximize", True),
        ("optimizer_states.0.param_groups.0.lr", 1e9),
    ],
)
def test_part_that_is_not_needed_changes_nothing(
    cli: Cli, tmp_path: Path, good: dict[str, Any], place: str, value: Any
) -> None:
    torch.save(good, tmp_path / "good.ckpt")
    torch.save(changed(good, place, value), tmp_path / "hostile.ckpt")
    options = ("--trainer.max_epochs=4", "--data.batch_size=5")
    for name in ("good", "hostile"):
        run = cli("fit", f"--ckpt_path={name}.ckpt", *options)
        assert run.status == 0, run.stderr
    assert run.result("version_0")["weight"] == run.result("version_1")["weight"]


def test_nothing_is_removed_where_a_checkpoint_says(cli: Cli, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept.ckpt").write_text("kept")
    saver = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.max_epochs=3")
    assert cli("fit", *saver).status == 0
    path = tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt"
    for at in (f"local://{victim}", str(victim), str(victim / "kept.ckpt")):
        saved = torch.load(path, weights_only=True)
        for state in saved["callbacks"].values():
            state["best_model_path"] = at
        torch.save(saved, tmp_path / "hostile.ckpt")
        run = cli("fit", "--ckpt_path=hostile.ckpt", saver[0], "--trainer.max_epochs=5")
        assert run.status == 0, run.stderr
        assert (victim / "kept.ckpt").read_text() == "kept"


def test_what_was_looked_at_is_what_is_used(
    cli: Cli, tmp_path: Path, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trueline.checkpoints import loading

    path = tmp_path / "good.ckpt"
    torch.save(good, path)
    check = loading.check_fits

    def check_and_replace(*arguments: Any) -> None:
        check(*arguments)
        torch.save(changed(good, "state_dict.bias", torch.tensor(torch.nan)), path)

    monkeypatch.setattr(loading, "check_fits", check_and_replace)
    assert cli("predict", f"--ckpt_path={path}").status == 0
    table = (tmp_path / "lightning_logs/version_0/predictions.csv").read_text()
    assert "nan" not in table
