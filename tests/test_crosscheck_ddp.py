"""Several processes: rows that Lightning's own sampler serves twice are told."""

import json
import os
import subprocess
import sys
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
from trueline.module import LinearRegression
from trueline.reference.article import X, y

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
    trainer.fit(LinearRegression(init="zeros"), DataLoader(dataset, 4))
    if trainer.is_global_zero:
        path.write_text(json.dumps(check.report()))
"""


def report_of(tmp_path: Path) -> dict[str, Any]:
    """Train two epochs on two processes with stock loader and sampler; return the report."""
    script, path = tmp_path / "padded.py", tmp_path / "report.json"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def test_row_that_a_padding_sampler_serves_twice_is_told(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    assert report["steps_checked"] == 4
    assert not report["passed"]
    failure = report["first_failure"]
    assert (failure["step"], failure["quantity"]) == (2, "rows of epoch 0")
    # torch's sampler makes 15 rows 16 by the first of them, shuffled with this seed.
    [first, *_] = torch.randperm(15, generator=torch.Generator().manual_seed(0)).tolist()
    assert failure["cause"] == f"row {first} served more than once"
    # Of the rows that were served, each step was right.
    assert report["worst_ratio"] <= 1
