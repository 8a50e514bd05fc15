"""A training that is told to stop saves at that step, and goes on from there to the bit.

Wherever the signal comes: in a step, between the batches of one, at the end of an epoch, in a
validation.
`test_kill.py` does the same with signals that no process can hear.
"""

import functools
import http.server
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, TensorDataset

from killed_runs import differences
from trueline.cli.lightning_cli import TruelineCLI
from trueline.crosscheck import CrossCheck
from trueline.data import DummyData
from trueline.module import LinearRegression
from trueline.results.run_folder import claim_folder

Cli = Callable[..., Any]


class Signal(Callback):
    """Tells this process to stop, once, at some hook after some number of steps."""

    def __init__(self, hook: str, step: int) -> None:
        self.step: int | None = step
        setattr(self, hook, self._tell)

    def _tell(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not trainer.sanity_checking:
            self.step = None
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def _default_handler() -> Iterator[None]:
    """Have SIGTERM end this process, whatever it inherited, but where a training listens."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def fit_until_told(cli: Cli, monkeypatch: Any) -> Cli:
    """Return a caller of `trueline fit` that a callback tells to stop."""

    def fit(callback: Callback, *options: str) -> Any:
        callbacks = TruelineCLI.callbacks
        with monkeypatch.context() as patch:
            patch.setattr(
                TruelineCLI, "callbacks", lambda self, given: [callback, *callbacks(self, given)]
            )
            return cli("fit", *options)

    return fit


ONE_BY_ONE = "--model.steps_per_execution=1"
BATCHES = ("--data.batch_size=4", "--data.shuffle=true", "--trainer.max_epochs=5", ONE_BY_ONE)
PLATEAU = ("--model.schedule.name=ReduceLROnPlateau", "--model.schedule.patience=0")
PLATEAU = (*PLATEAU, "--model.schedule.threshold=0.5")
STEP_LR = ("--model.schedule.name=StepLR", "--model.schedule.step_size=2")
MOMENTUM = ("--model.momentum=0.9", "--model.lr=0.0001")
PLACES = [
    # In the middle of an epoch, before its last step, after it, and at its end.
    ((*BATCHES, *MOMENTUM), "on_train_batch_end", 6),
    ((*BATCHES, *MOMENTUM), "on_train_batch_start", 7),
    ((*BATCHES, *MOMENTUM), "on_train_batch_end", 8),
    (BATCHES, "on_train_epoch_end", 8),
    # In a validation, at an epoch's end and inside an epoch.
    (BATCHES, "on_validation_start", 8),
    ((*BATCHES, "--trainer.val_check_interval=0.5"), "on_validation_end", 6),
    # Between two batches of one step, and in a last window that is short.
    ((*BATCHES, "--trainer.accumulate_grad_batches=3"), "on_after_backward", 2),
    ((*BATCHES, "--trainer.accumulate_grad_batches=3"), "on_after_backward", 3),
    # With everything that has a state of its own.
    ((*BATCHES, *STEP_LR), "", 9),
    ((*BATCHES, *PLATEAU), "", 8),
    ((*BATCHES, *PLATEAU), "", 10),
    ((*BATCHES, *PLATEAU, "--model.schedule.monitor=val/loss"), "on_validation_start", 12),
    ((*BATCHES, *PLATEAU, "--model.schedule.interval=step"), "", 7),
    ((*BATCHES, "--trainer.precision=32-true", "--trainer.log_every_n_steps=3"), "", 7),
    ((*BATCHES, "--trainer.precision=bf16-mixed"), "", 7),
    ((ONE_BY_ONE, "--trainer.max_epochs=30", "--trainer.limit_val_batches=0"), "", 20),
    # Limited by steps: at the end of an epoch, inside one, and where every step is an epoch.
    ((*BATCHES[:2], ONE_BY_ONE, "--trainer.max_epochs=-1", "--trainer.max_steps=20"), "", 8),
    ((*BATCHES[:2], ONE_BY_ONE, "--trainer.max_epochs=-1", "--trainer.max_steps=20"), "", 9),
    ((*STEP_LR, ONE_BY_ONE, "--trainer.max_steps=30"), "", 12),
]


@pytest.mark.parametrize(("options", "hook", "step"), PLACES)
def test_interrupted_and_resumed_is_as_if_never_stopped(
    cli: Cli, fit_until_told: Cli, tmp_path: Path, options: tuple[str, ...], hook: str, step: int
) -> None:
    whole = cli("fit", *options)
    assert whole.status == 0, whole.stderr
    run = fit_until_told(Signal(hook or "on_train_batch_end", step), *options)
    assert run.status == 1
    assert run.stderr.count("\n") == 1
    assert "interrupted by SIGTERM after step" in run.stderr
    assert run.result("version_1")["error"] in run.stderr
    saved = tmp_path / "lightning_logs/version_1/checkpoints/last.ckpt"
    # The step at hand was finished, and no other begun.
    done = torch.load(saved, weights_only=True)["global_step"]
    assert done == step + hook.endswith(("batch_start", "backward"))
    # The options are those of the checkpoint.
    again = cli("fit", f"--ckpt_path={saved}")
    assert again.status == 0, again.stderr
    runs = tmp_path / "lightning_logs"
    assert differences(runs / "version_0", runs / "version_2") == []
    assert again.result("version_2")["seconds"] > run.result("version_1")["seconds"]


def test_told_during_the_last_step_it_ends_as_it_would(fit_until_told: Cli) -> None:
    run = fit_until_told(Signal("on_train_batch_start", 19), *BATCHES)
    assert run.status == 0, run.stderr
    assert run.result()["steps"] == 20


class SignalBeforeTraining(Callback):
    def on_sanity_check_end(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_told_before_the_first_step_it_saves_after_it(cli: Cli, fit_until_told: Cli) -> None:
    assert "after step 1, and saved" in fit_until_told(SignalBeforeTraining(), *BATCHES).stderr
    assert cli("fit", "--ckpt_path=last").status == 0


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("--trainer.max_epochs=3",), ("--trainer.max_epochs=5",)),
        (
            ("--trainer.max_epochs=-1", "--trainer.max_steps=12"),
            ("--trainer.max_epochs=-1", "--trainer.max_steps=20"),
        ),
        (
            ("--trainer.max_epochs=3",),
            ("--trainer.max_epochs=-1", "--trainer.max_steps=20"),
        ),
    ],
)
def test_finished_training_goes_on_for_longer(
    cli: Cli, first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    assert cli("fit", *BATCHES, *first).status == 0
    longer = cli("fit", "--ckpt_path=last", *then)
    assert longer.status == 0, longer.stderr
    whole = cli("fit", *BATCHES, *then)
    found, expected = longer.result("version_1"), whole.result("version_2")
    for name in ("weight", "bias", "steps", "epochs", "crosscheck"):
        assert found[name] == expected[name], name


class Others(DummyData):
    """The article's points, in other batches."""

    def __init__(self) -> None:
        super().__init__(batch_size=5)
        self.y = self.y + 1


def test_training_goes_on_with_the_rows_that_it_began_with(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", *BATCHES, "--data.batch_size=5").status == 0
    run = cli("fit", "--ckpt_path=last", "--trainer.max_epochs=8", "--data=test_resume.Others")
    assert run.status == 2
    assert "expected the rows that" in run.stderr
    assert not (tmp_path / "lightning_logs/version_1").exists()


def test_told_to_stop_where_it_may_not_stop_early_it_stops(fit_until_told: Cli) -> None:
    stopping = ("EarlyStopping", ".monitor=val/loss", ".patience=1", ".min_delta=1e9")
    options = [f"--trainer.callbacks{'' if o[0] == '.' else '='}{o}" for o in stopping]
    often = ("--trainer.max_epochs=60", "--trainer.min_epochs=50")
    often = (*often, "--trainer.check_val_every_n_epoch=1")
    run = fit_until_told(Signal("on_train_batch_end", 6), *often, *options)
    assert (run.status, "after step 6, and saved" in run.stderr) == (1, True)


# What a checkpoint keeps, and what wins over it.

KEPT = {
    "data.batch_size": (4, 5),
    "data.shuffle": (True, False),
    "data.seed": (3, 4),
    "trainer.max_epochs": (6, 7),
    "trainer.accumulate_grad_batches": (2, 3),
    "trainer.gradient_clip_val": (100.0, 200.0),
    "trainer.check_val_every_n_epoch": (2, 1),
    "trainer.log_every_n_steps": (3, 2),
    "model.lr": (0.0005, 0.0004),
    "model.momentum": (0.5, 0.4),
    "crosscheck": ("warn", "raise"),
    "seed_everything": (5, 6),
}


@pytest.mark.parametrize("name", KEPT)
def test_typed_wins_over_config_and_config_over_checkpoint(
    cli: Cli, fit_until_told: Cli, tmp_path: Path, name: str
) -> None:
    kept, other = KEPT[name]
    assert (
        fit_until_told(
            Signal("on_train_epoch_end", 4), "--trainer.max_epochs=6", f"--{name}={kept}"
        ).status
        == 1
    )
    group, _, option = name.rpartition(".")
    values: Any = {option: other}
    if group == "data":
        values = {"class_path": "DummyData", "init_args": values}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({group: values} if group else values))

    def value(text: str) -> Any:
        found = yaml.safe_load(text)
        found = found[group] if group else found
        return found["init_args"][option] if group == "data" else found[option]

    def shown(*options: str) -> Any:
        return value(cli("fit", "--ckpt_path=last", *options, "--print_config").stdout)

    assert shown() == kept
    assert shown(f"--config={config}") == other
    assert shown(f"--config={config}", f"--{name}={kept}") == kept
    assert cli("fit", "--ckpt_path=last", f"--{name}={other}").status == 0
    assert value((tmp_path / "lightning_logs/version_1/config.yaml").read_text()) == other


@pytest.mark.parametrize("changed", ["batch_size=5", "shuffle=false", "seed=1"])
def test_epoch_goes_on_in_the_batches_that_it_began_with(
    cli: Cli, fit_until_told: Cli, tmp_path: Path, changed: str
) -> None:
    assert fit_until_told(Signal("on_train_batch_end", 6), *BATCHES).status == 1
    run = cli("fit", "--ckpt_path=last", f"--data.{changed}")
    assert run.status == 2
    assert run.stderr.count("\n") == 1
    assert f"expected what the epoch began with, {changed.split('=')[0]} " in run.stderr
    assert not (tmp_path / "lightning_logs/version_1").exists()


def test_options_in_a_checkpoint_name_no_class(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", "--trainer.max_epochs=2").status == 0
    path = tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    for name in ("trainer.logger", "trainer.callbacks", "trainer.strategy", "data.batch_size"):
        saved["options"][name] = "os.system"
    saved["options"]["data.class_path"] = "os.system"
    torch.save(saved, path)
    run = cli("fit", f"--ckpt_path={path}", "--trainer.max_epochs=3", "--print_config")
    assert run.status == 0, run.stderr
    assert "os.system" not in run.stdout


def test_training_goes_on_without_an_option_that_is_no_more(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", "--trainer.max_epochs=2").status == 0
    path = tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["options"]["option_of_an_earlier_version"] = True
    saved["crosscheck"]["verdict"]["entry_of_an_earlier_version"] = {"shape": torch.eye(2)}
    torch.save(saved, path)
    run = cli("fit", f"--ckpt_path={path}", "--trainer.max_epochs=3")
    assert run.status == 0, run.stderr
    assert run.result("version_1")["crosscheck"]["steps_checked"] == 3


# Over http.


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Serve the test's folder on this machine."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Intruder:
    """Pickled, it makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("command", ["fit", "predict", "validate"])
def test_checkpoint_from_http_is_data_too(
    cli: Cli, tmp_path: Path, address: str, command: str, monkeypatch: Any
) -> None:
    # What some set to get around another program's refusal must not open this one.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert cli("fit", "--trainer.max_epochs=3").status == 0
    last = tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt"
    more = ["--trainer.max_epochs=5"] if command == "fit" else []
    url = f"{address}/{last.relative_to(tmp_path)}"
    run = cli(command, f"--ckpt_path={url}", *more)
    assert run.status == 0, run.stderr
    saved = torch.load(last, weights_only=True)
    torch.save(saved | {"extra": Intruder()}, last)
    run = cli(command, f"--ckpt_path={url}", *more)
    assert run.status == 2
    assert "more than tensors and plain values" in run.stderr
    assert not (tmp_path / "executed").exists()


# The same bits.


def test_same_seed_gives_the_same_bits(cli: Cli, tmp_path: Path) -> None:
    for _ in range(2):
        assert cli("fit", *BATCHES, *MOMENTUM).status == 0
    runs = tmp_path / "lightning_logs"
    assert differences(runs / "version_0", runs / "version_1") == []


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_data_workers_do_not_change_a_bit(make_trainer: Any) -> None:
    found = []
    for workers in (0, 1, 2):
        data = DummyData()
        dataset = TensorDataset(data.X, data.y)
        order = torch.Generator().manual_seed(0)
        loader = DataLoader(dataset, 4, shuffle=True, num_workers=workers, generator=order)
        torch.manual_seed(0)
        model, check = LinearRegression(momentum=0.9, lr=1e-4), CrossCheck()
        make_trainer(max_epochs=3, callbacks=[check]).fit(model, loader)
        assert check.report()["epochs_counted"] == 3
        found.append((model.weight.item(), model.bias.item()))
    assert len(set(found)) == 1


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    claimed: list[Path] = []
    begin = threading.Barrier(8)

    def claim() -> None:
        begin.wait()
        for _ in range(20):
            claimed.append(claim_folder(tmp_path / "runs", "version"))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 160
    assert {path.name for path in claimed} == {f"version_{k}" for k in range(160)}
