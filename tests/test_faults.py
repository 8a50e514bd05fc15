"""Real faults: a full disk, a disk gone read-only, killed processes, nan and files that shrink.

Whatever happens, the run ends soon, with one line on stderr and status 1 or 2; the checkpoints
that it leaves are whole and finite; and with the fault mended, going on from `last.ckpt` comes to
the parameters of a run that never met it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer

import forked
from killed_runs import differences
from trueline.data import DummyData, RegressionData
from trueline.data.blocks import BatchLoader
from trueline.reference import article

TESTS = Path(__file__).parent
SECONDS = 40
"""What a run may take to end, its start included."""
EPOCHS = 60
FAULT_AT = 40
"""Epochs done when the fault comes; an epoch is a step here unless there are mini-batches."""
FIT = ("fit", "--trainer.max_epochs", str(EPOCHS), "--model.steps_per_execution=1")
SAVER = "--trainer.callbacks+=trueline.checkpoints.saving.Checkpoints"
SAVE_OFTEN = (
    *("--trainer.check_val_every_n_epoch", "1"),
    *(SAVER, "--trainer.callbacks.every_seconds", "0"),
)
NAMESPACE = "RUN_IN_A_NAMESPACE"


# What every run must leave.


def line(root: Path) -> tuple[int, float, float]:
    """Return steps, weight and bias of the newest run under a folder."""
    paths = root.glob("lightning_logs/version_*/result.json")
    result = json.loads(max(paths, key=lambda path: path.parent.name).read_text())
    return result["steps"], result["weight"], result["bias"]


def assert_said_in_one_line(stderr: str, *words: str) -> None:
    """Look for a single message, which names the fault."""
    assert stderr.startswith("trueline: error: "), stderr
    assert stderr.count("\n") == 1, stderr
    for word in words:
        assert word in stderr


def assert_checkpoints_are_whole(root: Path, last: int) -> None:
    """Load every checkpoint under a folder; the newest `last.ckpt` holds at least so many steps."""
    steps = []
    for path in root.glob("lightning_logs/version_*/checkpoints/*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        for name, value in checkpoint["state_dict"].items():
            assert torch.isfinite(value).all(), f"{path}: {name} is {value}"
        if path.name == "last.ckpt":
            steps.append(checkpoint["global_step"])
    assert steps, f"no last.ckpt under {root}"
    assert max(steps) >= last


def assert_goes_on(cli: Callable[..., Any], root: Path, *fit: str) -> None:
    """Go on from `last.ckpt`; compare with a run that never met the fault, to the bit."""
    again = cli(*fit, "--trainer.default_root_dir", str(root), "--ckpt_path", "last")
    assert again.status == 0, again.stderr
    whole = cli(*fit, "--trainer.default_root_dir", str(root.parent / "whole"))
    assert whole.status == 0, whole.stderr
    assert line(root) == line(root.parent / "whole")


# A disk that fills, or turns read-only.


class Disk:
    """A file system of half a megabyte, in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, blocks_left: int) -> None:
        """Take all space but some blocks, of a page each."""
        stat = os.statvfs(self.path)
        with (self.path / "ballast").open("ab") as ballast:
            ballast.write(bytes(max(stat.f_bavail - blocks_left, 0) * stat.f_frsize))
        assert os.statvfs(self.path).f_bavail <= blocks_left

    def free(self) -> None:
        """Give the space back."""
        (self.path / "ballast").unlink()

    def remount(self, mode: str) -> None:
        """Turn read-only, `ro`, or writable again, `rw`."""
        subprocess.run(["mount", "-o", f"remount,{mode}", self.path], check=True)


def mount(path: Path) -> str:
    """Mount a small file system; return what went wrong."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "trueline", path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr or "mount failed" if done.returncode else ""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    if problem := mount(path):
        assert NAMESPACE not in os.environ, problem
        pytest.skip(f"{problem.strip()}: test_disks_in_a_namespace runs this where it can")
    yield Disk(path)
    # Lazily: a logger may still hold a file open.
    subprocess.run(["umount", "--lazy", path], check=True)


def test_disks_in_a_namespace(tmp_path: Path) -> None:
    """Run the tests below as an ordinary user, who may mount in a namespace of his own."""
    if not mount(tmp_path / "disk"):
        subprocess.run(["umount", tmp_path / "disk"], check=True)
        pytest.skip("file systems may be mounted here, so the tests below run by themselves")
    inside = ["unshare", "--map-root-user", "--user", "--mount"]
    try:
        subprocess.run([*inside, "true"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system may be mounted, not even in a namespace: {error}")
    pytest_here = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*inside, *pytest_here, __file__, "-k", "disk and not namespace"],
        env={**os.environ, NAMESPACE: "1"},
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class At(Callback):
    """Does something to the machine after a step, and after each that follows."""

    act: Callable[[], None] | None = None  # set by a test; with none, nothing happens

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if At.act and trainer.global_step >= FAULT_AT:
            At.act()


@pytest.fixture(autouse=True)
def _no_act() -> Iterator[None]:
    yield
    At.act = None


@pytest.mark.parametrize("blocks_left", [0, 1, 2, 3, 4])
def test_disk_that_fills_while_saving(
    cli: Callable[..., Any], disk: Disk, blocks_left: int
) -> None:
    # A checkpoint takes two blocks, and an epoch writes two of them: each fails in some case.
    fit = (*FIT, *SAVE_OFTEN, "--trainer.log_every_n_steps", "1000")
    fit = (*fit, "--trainer.callbacks+=test_faults.At")
    At.act = lambda: disk.fill(blocks_left)
    run = cli(*fit, "--trainer.default_root_dir", str(disk.path))
    At.act = None
    if blocks_left >= 2 and run.status == 0:  # the room that old ones leave was enough
        assert_checkpoints_are_whole(disk.path, last=EPOCHS)
        return
    assert run.status in (1, 2), run.stdout
    assert_said_in_one_line(run.stderr, "expected", "No space left", "--trainer.default_root_dir")
    assert_checkpoints_are_whole(disk.path, last=FAULT_AT - 1)
    disk.free()
    assert_goes_on(cli, disk.path, *fit)


def test_disk_that_fills_while_logging(disk: Disk, cli: Callable[..., Any]) -> None:
    # In a process of its own: TensorBoard writes in a thread, and once more as Python ends.
    fit = (
        *("fit", "--trainer.max_epochs", "600", "--trainer.log_every_n_steps", "1"),
        *("--trainer.check_val_every_n_epoch", "30", "--crosscheck", "off"),
        *("--model.steps_per_execution=1", SAVER, "--trainer.callbacks.every_n_steps", "30"),
    )
    disk.fill(blocks_left=20)  # some 80 kB: a few hundred points
    done = trueline(*fit, "--trainer.default_root_dir", str(disk.path))
    assert done.returncode in (1, 2), done.stdout
    assert_said_in_one_line(done.stderr, "expected", "No space left", "--trainer.default_root_dir")
    assert_checkpoints_are_whole(disk.path, last=30)
    disk.free()
    assert_goes_on(cli, disk.path, *fit)


def test_disk_that_turns_read_only(cli: Callable[..., Any], disk: Disk) -> None:
    fit = (*FIT, *SAVE_OFTEN, "--trainer.callbacks+=test_faults.At")
    At.act = lambda: disk.remount("ro")
    run = cli(*fit, "--trainer.default_root_dir", str(disk.path))
    At.act = None
    assert run.status in (1, 2), run.stdout
    assert_said_in_one_line(run.stderr, "expected", "Read-only", "--trainer.default_root_dir")
    assert_checkpoints_are_whole(disk.path, last=FAULT_AT - 1)
    disk.remount("rw")
    assert_goes_on(cli, disk.path, *fit)


# Processes that die or fail.


def environment() -> dict[str, str]:
    """Return an environment in which a process finds the classes of this file."""
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def trueline(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command; all its processes must end in time, whatever happens to one of them."""
    options = {"environments": [environment()], "seconds": SECONDS}
    return forked.run(forked.trueline, arguments, cwd=Path.cwd(), **options)[0]


class Killed(Callback):
    """Kills one of the processes as the kernel does where memory runs out."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == FAULT_AT and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)


class LoaderOfABrokenProcess(BatchLoader):
    def __iter__(self) -> Iterator[Any]:
        if self.rank == 1 and self.sampler.epoch == FAULT_AT:
            raise RuntimeError("expected 15 rows on this shelf, found mice")
        return super().__iter__()


class DataOfABrokenProcess(DummyData):
    """The article's points, until the second process can no longer read them."""

    def train_dataloader(self) -> BatchLoader:
        return remade(super().train_dataloader(), LoaderOfABrokenProcess)


def remade(loader: BatchLoader, kind: type[BatchLoader]) -> Any:
    """Return the same loader, of a class that breaks."""
    parts = loader.dataset, loader.batch_size, loader.sampler, loader.rank, loader.world_size
    return kind(*parts)


TWO = (
    *(*FIT, *SAVE_OFTEN, "--trainer.accelerator", "cpu"),
    *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
)


@pytest.mark.parametrize("rank", [1, 0])
def test_process_that_is_killed(cli: Callable[..., Any], tmp_path: Path, rank: int) -> None:
    root = tmp_path / "killed"
    killed = ("--trainer.callbacks+=test_faults.Killed", "--trainer.callbacks.rank", str(rank))
    done = trueline(*TWO, *killed, "--trainer.default_root_dir", str(root))
    if rank:
        assert done.returncode == 1, done.stderr
        assert_said_in_one_line(done.stderr, "expected all processes", "another one has ended")
    else:  # the command itself, of which the shell tells that it was killed
        assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    assert_checkpoints_are_whole(root, last=FAULT_AT - 1)
    again = trueline(*TWO, "--trainer.default_root_dir", str(root), "--ckpt_path", "last")
    assert again.returncode == 0, again.stderr
    # The one process below adds up the same rows in another order than two.
    assert cli(*FIT, "--trainer.default_root_dir", str(tmp_path / "whole")).status == 0
    assert line(root) == pytest.approx(line(tmp_path / "whole"), rel=1e-12)


class Told(Killed):
    """Tells one of the processes to stop, as a batch system does before it takes the machine."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == FAULT_AT + 1 and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


def test_processes_stop_together_when_one_is_told_and_go_on_to_the_bit(tmp_path: Path) -> None:
    root, whole = tmp_path / "told", tmp_path / "whole"
    fit = (*TWO, "--data.batch_size", "8", "--data.shuffle", "true", "--model.momentum", "0.5")
    fit = (*fit, "--model.steps_per_execution=1")
    told = ("--trainer.callbacks+=test_faults.Told", "--trainer.callbacks.rank", "1")
    done = trueline(*fit, *told, "--trainer.default_root_dir", str(root))
    assert done.returncode == 1, done.stderr
    assert_said_in_one_line(done.stderr, f"interrupted after step {FAULT_AT + 1}, and saved")
    assert_checkpoints_are_whole(root, last=FAULT_AT + 1)
    again = trueline(*TWO, "--trainer.default_root_dir", str(root), "--ckpt_path", "last")
    assert again.returncode == 0, again.stderr
    assert trueline(*fit, "--trainer.default_root_dir", str(whole)).returncode == 0
    runs = root / "lightning_logs/version_1", whole / "lightning_logs/version_0"
    assert differences(*runs) == []


def test_process_that_fails_alone_is_heard(tmp_path: Path) -> None:
    data = "--data=test_faults.DataOfABrokenProcess"
    done = trueline(*TWO, data, "--trainer.default_root_dir", str(tmp_path))
    assert done.returncode in (1, 2), done.stderr
    said = done.stderr.splitlines()
    assert all(each.startswith("trueline: error: ") for each in said), done.stderr
    assert "trueline: error: process 1: " in done.stderr
    assert sum("found mice" in each for each in said) == 1, done.stderr
    assert len(said) <= 2, done.stderr  # the other process may say that this one has ended
    assert_checkpoints_are_whole(tmp_path, last=FAULT_AT - 1)


# Numbers that are no longer finite.


class Nan(BatchLoader):
    def __iter__(self) -> Iterator[Any]:
        for X, y in super().__iter__():
            yield X, y * float("nan") if self.sampler.epoch >= FAULT_AT else y


class DataWithNan(DummyData):
    """The article's points, with nan for targets after some epochs."""

    def __init__(self, batch_size: int | None = None, fault: bool = True) -> None:
        super().__init__(batch_size)
        self.fault = fault

    def train_dataloader(self) -> BatchLoader:
        loader = super().train_dataloader()
        return remade(loader, Nan) if self.fault else loader


@pytest.mark.parametrize("crosscheck", ["raise", "off"])
@pytest.mark.parametrize("batch_size", [15, 4])
def test_nan_in_a_late_epoch(
    cli: Callable[..., Any], tmp_path: Path, batch_size: int, crosscheck: str
) -> None:
    root, steps = tmp_path / "nan", -(-15 // batch_size) * FAULT_AT
    fit = (*FIT, *SAVE_OFTEN, "--crosscheck", crosscheck, "--data=test_faults.DataWithNan")
    fit = (*fit, "--data.batch_size", str(batch_size))
    run = cli(*fit, "--trainer.default_root_dir", str(root))
    assert run.status == 1, run.stdout
    assert_said_in_one_line(run.stderr, "expected", "found nan", f"at step {steps + 1};")
    assert_checkpoints_are_whole(root, last=steps)
    assert_goes_on(cli, root, *fit, "--data.fault", "false")


class DataWhoseGradientOverflows(RegressionData):
    """Two rows whose loss is finite and whose gradient is not: a step to nan or inf."""

    def __init__(self) -> None:
        super().__init__([[1e25], [2e25]], [1e18, 3e18])


@pytest.mark.parametrize("crosscheck", ["raise", "off"])
@pytest.mark.parametrize(
    "options",
    [
        ("--model.lr", "1.0"),
        ("--model.lr", "0.01", "--model.momentum", "0.9", "--data.batch_size", "4"),
        (
            *("--data=test_faults.DataWhoseGradientOverflows", "--model.init", "zeros"),
            *("--trainer.precision", "32-true"),
        ),
        ("--model.lr", "1.0", "--trainer.precision", "32-true"),
    ],
    ids=["loss overflows", "momentum", "gradient overflows", "float32"],
)
def test_divergence_saves_nothing_that_is_not_finite(
    cli: Callable[..., Any], tmp_path: Path, options: tuple[str, ...], crosscheck: str
) -> None:
    fit = ("fit", "--trainer.max_epochs", "400", "--crosscheck", crosscheck)
    saver = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
    every = ("every_n_train_steps", "1"), ("save_top_k", "3")
    every += (("monitor", "step"), ("mode", "max"))
    often = [word for name, value in every for word in (f"--trainer.callbacks.{name}", value)]
    run = cli(*fit, *options, saver, *often)
    assert run.status == 1, run.stderr
    assert_said_in_one_line(run.stderr, "expected", "found", "lr")
    saved = list(tmp_path.rglob("*.ckpt"))
    for path in saved:
        for value in torch.load(path, weights_only=True)["state_dict"].values():
            assert torch.isfinite(value).all(), path
    assert saved or "Overflows" in options[0]  # whose first step is its last


# A file that changes under its reader.


class FromFile(BatchLoader):
    """Reads each batch when it is due, by its place in a file of (x, y) rows."""

    path = Path()

    def __iter__(self) -> Iterator[Any]:
        for k in range(len(self)):
            rows = self.share(k)
            place = {"offset": rows.start * 16, "count": 2 * (rows.stop - rows.start)}
            table = np.fromfile(self.path, np.float64, **place).reshape(-1, 2)
            self.position = k + 1
            yield torch.from_numpy(table[:, :1].copy()), torch.from_numpy(table[:, 1].copy())


class DataFromFile(RegressionData):
    """The rows of a file, read in batches of 5 in every epoch anew."""

    def __init__(self, path: str) -> None:
        table = np.fromfile(path, np.float64).reshape(-1, 2)
        super().__init__(table[:, 0], table[:, 1], batch_size=5)
        self.path = Path(path)

    def train_dataloader(self) -> BatchLoader:
        loader = remade(super().train_dataloader(), FromFile)
        loader.path = self.path
        return loader


def cut_between_rows(path: Path) -> None:
    os.truncate(path, 12 * 16)


def cut_within_a_row(path: Path) -> None:
    os.truncate(path, 12 * 16 + 8)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (cut_between_rows, ["rows 12, 13, 14 never served"]),
        (cut_within_a_row, ["reshape"]),
        (empty, ["rows 5, 6, 7", "never served"]),
        (remove, ["expected", "No such file", "rows.bin"]),
    ],
)
def test_file_that_changes_under_its_reader(
    cli: Callable[..., Any], tmp_path: Path, fault: Callable[[Path], None], words: list[str]
) -> None:
    path, root = tmp_path / "rows.bin", tmp_path / "file"
    table = np.column_stack([article.X[:, 0], article.y]).astype(np.float64)
    table.tofile(path)
    fit = (*FIT, *SAVE_OFTEN, "--data=test_faults.DataFromFile", "--data.path", str(path))
    fit = (*fit, "--trainer.callbacks+=test_faults.At")
    At.act = lambda: fault(path)  # after the first batch of an epoch
    run = cli(*fit, "--trainer.default_root_dir", str(root))
    At.act = None
    assert run.status in (1, 2), run.stdout
    assert_said_in_one_line(run.stderr, *words)
    assert_checkpoints_are_whole(root, last=FAULT_AT - 1)
    table.tofile(path)
    assert_goes_on(cli, root, *fit)
