"""Several processes: what Lightning's own sampler serves twice, and a process that goes astray."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SCRIPT = """
import json
import pathlib
import sys

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from trueline.crosscheck import CrossCheck
from trueline.data import DummyData
from trueline.module import LinearRegression
from trueline.reference.article import X, y


class Astray(LinearRegression):
    def on_train_end(self) -> None:
        if self.global_rank == 1:  # after the last step
            self.bias.data += 1


if __name__ == "__main__":
    path = pathlib.Path(sys.argv[1])
    torch.set_num_threads(1)
    check = CrossCheck(on_failure="warn")
    trainer = Trainer(
        devices=2,
        strategy="ddp",
        accelerator="cpu",
        precision="64-true",
        max_epochs=2,
        logger=False,
        callbacks=[check],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=path.parent,
    )
    dataset = TensorDataset(torch.tensor(X), torch.tensor(y))
    if sys.argv[2] == "padded":
        trainer.fit(LinearRegression(init="zeros"), DataLoader(dataset, 4))
    else:
        trainer.fit(Astray(), DummyData(4))
    if trainer.is_global_zero:
        path.write_text(json.dumps(check.report()))
    # Otherwise gloo's threads may abort Python at its end.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def report_of(python: Callable[..., Any], tmp_path: Path, training: str) -> dict[str, Any]:
    """Train two epochs on two processes; return the report of the first."""
    script, path = tmp_path / "script.py", tmp_path / "report.json"
    script.write_text(SCRIPT)
    done = python(str(script), str(path), training)
    assert done.status == 0, done.stderr
    return json.loads(path.read_text())


def test_row_that_a_padding_sampler_serves_twice_is_told(
    python: Callable[..., Any], tmp_path: Path
) -> None:
    report = report_of(python, tmp_path, "padded")
    assert report["steps_checked"] == 4
    assert not report["passed"]
    failure = report["first_failure"]
    assert (failure["step"], failure["quantity"]) == (2, "rows of epoch 0")
    # torch's sampler makes 15 rows 16 by the first of them, shuffled with this seed.
    [first, *_] = torch.randperm(15, generator=torch.Generator().manual_seed(0)).tolist()
    assert failure["cause"] == f"row {first} served more than once"
    # Of the rows that were served, each step was right.
    assert report["worst_ratio"] <= 1


def test_process_that_goes_astray_at_the_end_is_told_by_all(
    python: Callable[..., Any], tmp_path: Path
) -> None:
    report = report_of(python, tmp_path, "astray")
    assert not report["passed"]
    assert report["epochs_counted"] == 2
    assert report["first_failure"]["quantity"] == "process 1"
    assert "not those of process 0" in report["first_failure"]["cause"]
