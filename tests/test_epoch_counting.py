"""What counts epochs or validations counts them as under Lightning's own defaults."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from conftest import Run
from trueline.data import DummyData
from trueline.module import LinearRegression
from trueline.reference.article import X, y

Cli = Callable[..., Run]
STOPPING = "--trainer.callbacks=EarlyStopping"
START = torch.manual_seed(0) and torch.randn(1).item(), torch.randn(()).item()


class Stock(LightningModule):
    """The same line from the same start, as a Lightning tutorial would write it."""

    def __init__(self) -> None:
        super().__init__()
        weight, bias = START
        self.line = torch.nn.Linear(1, 1, dtype=torch.float64)
        torch.nn.init.constant_(self.line.weight, weight)
        torch.nn.init.constant_(self.line.bias, bias)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = torch.nn.functional.mse_loss(self.line(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", torch.nn.functional.mse_loss(self.line(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.001)


def stock_epochs(make_trainer: Callable[..., Trainer], stop: dict[str, Any]) -> int:
    """Return how many epochs stock Lightning trains until EarlyStopping ends it."""
    points = torch.tensor(X, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)[:, None]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*points), 15)
    trainer = make_trainer(
        max_epochs=1000, limit_val_batches=1.0, callbacks=[EarlyStopping(**stop)]
    )
    trainer.fit(Stock(), loader, loader)
    return trainer.current_epoch


@pytest.mark.parametrize(
    ("stop", "max_epochs"),
    [
        ({"monitor": "train/loss", "patience": 30, "min_delta": 20.0}, 20_000),
        ({"monitor": "train/loss", "check_on_train_epoch_end": False}, 20_000),
        ({"monitor": "train/loss", "mode": "max", "patience": 7}, -1),
        ({"monitor": "val/loss", "patience": 9, "min_delta": 5.0}, 1_000_000),
        ({"monitor": "val/loss", "patience": 10**6, "divergence_threshold": 321.0}, 50_000),
        ({"monitor": "val/loss", "stopping_threshold": 314.0}, 50_000),
    ],
)
def test_early_stopping_stops_where_stock_lightning_does(
    cli: Cli, make_trainer: Callable[..., Trainer], stop: dict[str, Any], max_epochs: int
) -> None:
    stop = {"patience": 20, "min_delta": 20.0} | stop
    options = [f"--trainer.callbacks.{name}={value}" for name, value in stop.items()]
    run = cli("fit", f"--trainer.max_epochs={max_epochs}", STOPPING, *options)
    assert run.status == 0, run.stderr
    assert run.result()["epochs"] == stock_epochs(make_trainer, stop) < 200


@pytest.mark.parametrize("steps", ["auto", 4, 1000])
def test_early_stopping_counts_epochs_with_many_steps_a_turn(
    make_trainer: Callable[..., Trainer], steps: Any
) -> None:
    stop = EarlyStopping("train/loss", patience=3, min_delta=1e9)
    trainer = make_trainer(max_epochs=5000, callbacks=[stop])
    trainer.fit(LinearRegression(steps_per_execution=steps), DummyData(batch_size=5))
    assert trainer.current_epoch == 4


def test_plateau_on_the_validation_loss_lowers_the_learning_rate(cli: Cli) -> None:
    schedule = {"name": "ReduceLROnPlateau", "monitor": "val/loss", "patience": 1, "threshold": 0.5}
    options = f"--model.schedule={json.dumps(schedule)}", "--trainer.log_every_n_steps=1"
    run = cli("fit", "--trainer.max_epochs=5000", "--trainer.max_steps=40", *options)
    assert run.status == 0, run.stderr
    # A loop by hand: torch's rule on the loss after each epoch.
    parameter = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], 0.001)
    del schedule["name"], schedule["monitor"]
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **schedule)
    rows = torch.tensor(X, dtype=torch.float64)[:, 0], torch.tensor(y, dtype=torch.float64)
    for _ in range(40):
        optimizer.zero_grad()
        (parameter[0] * rows[0] + parameter[1] - rows[1]).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            plateau.step((parameter[0] * rows[0] + parameter[1] - rows[1]).square().mean())
    assert optimizer.param_groups[0]["lr"] < 1e-6
    found = run.result()
    np.testing.assert_allclose([found["weight"], found["bias"]], parameter.tolist(), rtol=1e-12)
    # Two halves come to the same.
    halves = "--trainer.max_epochs=20", "--trainer.max_steps=-1"
    assert cli("fit", *halves, *options).status == 0
    assert cli("fit", "--ckpt_path=last", "--trainer.max_epochs=40").status == 0
    again = cli("fit", "--trainer.max_epochs=40", *options).result("version_3")
    assert [again["weight"], again["bias"]] == [found["weight"], found["bias"]]
    second = json.loads((run.directory / "lightning_logs/version_2/result.json").read_text())
    assert [second["weight"], second["bias"]] == [found["weight"], found["bias"]]


class Validations(Callback):
    """Counts validations."""

    def __init__(self) -> None:
        self.count = 0

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self.count += not trainer.sanity_checking
        if trainer.current_epoch == 59:
            print(f"{self.count} validations")


def test_callback_of_the_user_sees_each_epoch_validated(cli: Cli) -> None:
    run = cli(
        "fit", "--trainer.max_epochs=60", "--trainer.callbacks=test_epoch_counting.Validations"
    )
    assert "60 validations" in run.stdout, run.stderr


def test_best_checkpoints_are_of_all_epochs(cli: Cli) -> None:
    options = "ModelCheckpoint", ".monitor=val/loss", ".save_top_k=2", ".filename={epoch}"
    saver = [f"--trainer.callbacks{'' if o[0] == '.' else '='}{o}" for o in options]
    run = cli("fit", "--trainer.max_epochs=60", *saver)
    assert run.status == 0, run.stderr
    saved = {path.name for path in run.directory.rglob("epoch*.ckpt")}
    assert saved == {"epoch=58.ckpt", "epoch=59.ckpt"}


def test_nothing_that_listens_leaves_validation_sparse(cli: Cli) -> None:
    run = cli("fit", "--trainer.max_epochs=200", "--trainer.callbacks=LearningRateMonitor")
    assert run.status == 0, run.stderr
    config = (run.directory / "lightning_logs/version_0/config.yaml").read_text()
    assert "check_val_every_n_epoch: 10" in config
