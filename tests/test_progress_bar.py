"""What the bar shows: in a terminal of some width, in a pipe, and in a notebook."""

import io
import os
import pty
import re
import struct
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger

from trueline.data import DummyData, RegressionData, datamodule
from trueline.module import LinearRegression
from trueline.planning.closed_form import closed_form
from trueline.reference import article
from trueline.reference.triangle import Line
from trueline.terminal import display, progress_bar
from trueline.terminal.display import Display
from trueline.terminal.progress_bar import TrainingBar

STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
TRAIN = "fit --model.steps_per_execution 1 --trainer.max_epochs 1500 --crosscheck off"


def drawn(folder: Path, columns: int, **environment: str) -> list[str]:
    """Train in a terminal; return what it showed, a line each time that something was drawn."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ.update({"TERM": "xterm-256color", "COLUMNS": str(columns), **environment})
        os.execv(sys.executable, [sys.executable, "-m", "trueline", *TRAIN.split()])
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    read = b""
    while True:
        try:
            some = os.read(terminal, 2**16)
        except OSError:  # Linux's word for the end
            break
        if not some:
            break
        read += some
    assert os.waitpid(pid, 0)[1] == 0
    return [line for line in STYLE.sub("\n", read.decode()).replace("\r", "\n").split("\n") if line]


@pytest.mark.parametrize("columns", [110, 60])
def test_terminal_shows_epochs_loss_distance_and_time_left(tmp_path: Path, columns: int) -> None:
    text = "\n".join(drawn(tmp_path, columns, NO_COLOR="1"))
    bars = re.findall(r"epoch [\d,]+/1,500.*?\d:\d\d", text)
    assert len(bars) > 3
    rate = r" +[\d,]+ steps/s" if columns == 110 else ""
    assert re.search(
        rf"epoch [\d,]+/1,500 \S+ *loss [\d.]+ +[\d.]+ to go{rate} +\d+:\d\d", bars[-1]
    )
    assert bars[-1].startswith("epoch 1,500/1,500")
    assert all(len(bar) <= columns for bar in bars)
    # What the table says a line later.
    shown = re.search(r"([\d.]+) to go", bars[-1])
    assert shown
    assert f"not yet, {shown[1]} of the spread of y to go" in text


def test_dumb_terminal_has_no_bar(tmp_path: Path) -> None:
    assert not any("━" in line for line in drawn(tmp_path, 80, TERM="dumb"))


def test_pipe_has_a_line_now_and_then(
    make_trainer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(display, "LINE_SECONDS", 0.05)
    options = {"enable_progress_bar": True, "max_epochs": 2000}
    trainer = make_trainer(callbacks=[TrainingBar()], **options)
    trainer.fit(LinearRegression(init="zeros", steps_per_execution=1), DummyData())
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 200
    pattern = r"epoch [\d,]+/2,000, loss [\d.]+, [\d.]+ to go, [\d,]+ steps/s, 0:00:\d\d left"
    for line in lines:
        assert re.fullmatch(pattern, line), line


def test_short_training_is_quiet_in_a_pipe(
    make_trainer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(callbacks=[TrainingBar()], enable_progress_bar=True, max_epochs=100)
    trainer.fit(LinearRegression(), DummyData())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_evaluation_shows_batches(
    command: str,
    tmp_path: Path,
    make_trainer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(datamodule, "EVALUATED_AT_ONCE", 1)
    data = DummyData(batch_size=1)
    options = {"callbacks": [TrainingBar()], "logger": CSVLogger(tmp_path)}
    trainer = make_trainer(enable_progress_bar=True, limit_val_batches=None, **options)
    getattr(trainer, command)(LinearRegression(init="zeros"), data)
    assert "batch" not in capsys.readouterr().out  # it is over before anyone would look
    monkeypatch.setattr(progress_bar, "SHORT_SECONDS", 0.0)
    monkeypatch.setattr(display, "LINE_SECONDS", 0.0)
    getattr(trainer, command)(LinearRegression(init="zeros"), data)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("batch")]
    assert [int(line.split("/")[0].removeprefix("batch ")) for line in lines] == [*range(1, 16)]
    left = "(, 0:00:0[01] left)?"
    for line in lines:
        assert re.fullmatch(rf"batch \d+/15, [\d,.]+ batches/s{left}", line), line


def test_validation_within_a_training_is_seen(
    tmp_path: Path,
    make_trainer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(datamodule, "EVALUATED_AT_ONCE", 5 * 3)
    monkeypatch.setattr(display, "LINE_SECONDS", 0.0)
    options: dict[str, Any] = {"limit_val_batches": None, "check_val_every_n_epoch": 2}
    options |= {"callbacks": [TrainingBar()], "logger": CSVLogger(tmp_path), "max_epochs": 4}
    trainer = make_trainer(enable_progress_bar=True, **options)
    trainer.fit(LinearRegression(init="zeros", steps_per_execution=1), DummyData(batch_size=5))
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if "validating" in line]
    assert shown[0].startswith("epoch 2/4, validating, batch 1/3")
    assert shown[-1].startswith("epoch 4/4, validating, batch 3/3")
    rates = [float(found[1]) for line in lines if (found := re.search(r"([\d.]+) steps/s", line))]
    assert len(shown) == 6
    assert len(rates) == 12


def test_bar_follows_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(file, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    bar = Display("epoch", 10, 0)
    for columns, shows_rate in ((120, True), (60, False), (120, True)):
        monkeypatch.setattr(bar._progress.console, "_environ", {"COLUMNS": str(columns)})
        file.truncate(0)
        bar.show(5, ["loss 1"], "2 steps/s")
        assert "loss 1" in file.getvalue()
        assert ("2 steps/s" in file.getvalue()) is shows_rate
    bar.close()


def test_time_left_counts_what_was_done_before(capsys: pytest.CaptureFixture[str]) -> None:
    resumed = Display("epoch", 1000, 800)
    resumed._started = time.monotonic() - 60
    resumed.show(900, ["loss 1"], "2 steps/s")
    assert capsys.readouterr().out == "epoch 900/1,000, loss 1, 2 steps/s, 0:01:00 left\n"
    unending = Display("epoch", None, 0)
    unending.show(7, [], "2 steps/s")
    assert capsys.readouterr().out == "epoch 7, 2 steps/s\n"


def test_distance_is_that_of_predictions() -> None:
    data, h = DummyData(), LinearRegression().hparams
    found = closed_form(data, h)
    assert found is not None
    other = Line(found.line.weight + 0.1, found.line.bias - 1)
    off = article.X[:, 0] * 0.1 - 1
    expected = np.sqrt(np.mean(off**2)) / article.y.std()
    assert found.distance(other) == pytest.approx(expected, rel=1e-12)


def test_there_is_no_distance_where_there_is_no_closed_form() -> None:
    x = np.arange(5.0)
    twice = RegressionData(np.column_stack([x, 2 * x]), x)
    found = closed_form(twice, LinearRegression(n_features=2).hparams)
    assert found is not None
    assert not found.unique
    assert found.distance(Line(np.array([0.2, 0.4]), np.zeros(()))) == pytest.approx(0, abs=1e-15)


def test_notebook_shows_the_bar(tmp_path: Path) -> None:
    for package in ("ipykernel", "ipywidgets", "nbclient"):
        pytest.importorskip(package, reason=f"pip install {package} for the test in a notebook")
    import nbclient
    import nbformat

    code = """
from lightning.pytorch import Trainer
from trueline.data import DummyData
from trueline.module import LinearRegression
from trueline.terminal.progress_bar import TrainingBar
trainer = Trainer(max_epochs=1500, accelerator="cpu", logger=False, enable_checkpointing=False,
                  enable_model_summary=False, callbacks=[TrainingBar()], limit_val_batches=0)
trainer.fit(LinearRegression(steps_per_execution=1), DummyData())
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    resources = {"metadata": {"path": str(tmp_path)}}
    ran = nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    state = ran.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert "epoch 1,500/1,500" in str(state)
    assert "to go" in str(state)
