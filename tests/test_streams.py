"""Closed or full standard streams, full disks and lost folders are named in one line."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trueline.errors import explain

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
TRUELINE = f"{sys.executable} -m trueline"


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell as a user would type it."""
    return subprocess.run(
        ["sh", "-c", command.replace("trueline", TRUELINE, 1)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "", **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done
    assert done.stderr.startswith("trueline: error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("command", ["--help", "fit --trainer.max_epochs 2"])
def test_closed_standard_output_is_named(tmp_path: Path, command: str) -> None:
    done = shell(f"trueline {command} >&-", tmp_path)
    assert_refused(done, "standard output: expected it open, found it closed; send it to a file")
    assert not list(tmp_path.iterdir())


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_standard_output_is_named(tmp_path: Path, unbuffered: str) -> None:
    for command in ("--help", "--version"):
        done = shell(f"trueline {command} >/dev/full", tmp_path, PYTHONUNBUFFERED=unbuffered)
        assert_refused(done, "standard output: expected to write to it, found: No space left")


@needs_full
@pytest.mark.parametrize("command", ["fit --trainer.max_epochs 2", "plan", "fit --help"])
def test_full_standard_output_of_a_training_is_named(tmp_path: Path, command: str) -> None:
    done = shell(f"trueline {command} >/dev/full", tmp_path)
    assert_refused(done, "standard output: expected to write to it, found: No space left")


def test_other_closed_streams_hinder_nothing(tmp_path: Path) -> None:
    done = shell("trueline fit --trainer.max_epochs 2 <&- 2>&-", tmp_path)
    assert done.returncode == 0
    assert "cross-check     passed" in done.stdout
    assert (tmp_path / "lightning_logs/version_0/result.json").exists()
    # Nothing was written into a file that has taken the number of a closed stream.
    assert shell("trueline nothing 2>&-", tmp_path).stdout == ""


@needs_full
def test_status_says_it_where_standard_error_is_full(tmp_path: Path) -> None:
    assert shell("trueline nothing 2>/dev/full", tmp_path).returncode == 2


def test_deleted_working_directory_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell(f"rmdir {gone}; trueline fit", gone)
    assert_refused(done, "working directory: expected one that is there")


def test_log_directory_that_cannot_be_made_is_named(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for command in (["fit"], ["compare"], ["sweep", "--over=model.lr=1e-4,1e-3"]):
        run = cli(*command, "--trainer.max_epochs=2", "--trainer.default_root_dir=file")
        assert run.status == 2
        assert run.stderr.count("\n") == 1
        assert "file/lightning_logs" in run.stderr
        assert "Not a directory" in run.stderr
        assert "another --trainer.default_root_dir" in run.stderr.replace("with ", "")


@needs_full
def test_predictions_and_exports_that_find_no_room_name_their_file_and_option(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    assert cli("fit", "--trainer.max_epochs=2").status == 0
    for suffix in ("csv", "parquet"):  # what is written beside the file's name finds a full device
        (tmp_path / f"p.{suffix}.partial").symlink_to(FULL)
        run = cli("predict", f"--predictions.path=p.{suffix}")
        assert run.status == 2
        assert run.stderr == (
            f"trueline: error: expected to write p.{suffix}, found: No space left on device; make "
            "room, or give another --predictions.path\n"
        )
    (tmp_path / "m.json.partial").symlink_to(FULL)
    run = cli("export", "--path=m.json")
    assert "write m.json, found: No space left on device; make room, or give an" in run.stderr
    assert run.status == 2
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a"), "write a, found: Disk quota .*; make"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "use a, found: .*; allow it, or"),
        (OSError(errno.EMFILE, "Too many open files"), "allow more of them with ulimit -n"),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), "give another address"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), "use a, found: No such file; give"),
        (OSError("3 rows of 5"), "found: 3 rows of 5; give another"),
    ],
)
def test_what_the_system_refuses_is_said_as_what_it_is(error: OSError, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        raise ValueError(explain(error, "--place"))
