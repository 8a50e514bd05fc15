"""The cross-check at the edges: what a hostile reader found that passed, or was taken for wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset, default_collate

from trueline.crosscheck import CrossCheck
from trueline.data import DummyData
from trueline.errors import CheckFailed, RequestError
from trueline.module import LinearRegression
from trueline.reference import SGD


@pytest.mark.parametrize("limit", [{"limit_train_batches": 1}, {"fast_dev_run": True}])
def test_one_batch_of_an_epoch_leaves_no_row_out(make_trainer: Any, limit: Any) -> None:
    check = CrossCheck()
    make_trainer(callbacks=[check], **limit).fit(LinearRegression(), DummyData(batch_size=5))
    assert check.report()["passed"]
    assert check.report()["epochs_counted"] == 0


class Replaced(Callback):
    """Puts other parameters in the place of the trained ones."""

    def on_train_end(self, trainer: Any, pl_module: LightningModule) -> None:
        zeros = {k: torch.zeros_like(v) for k, v in pl_module.state_dict().items()}
        pl_module.load_state_dict(zeros, assign=True)


def test_parameters_replaced_at_the_end_are_told(make_trainer: Any) -> None:
    trainer = make_trainer(callbacks=[Replaced(), CrossCheck()])
    with pytest.raises(CheckFailed, match=r"since the last step at step 6: expected"):
        trainer.fit(LinearRegression(), DummyData())


class Transposed(LightningModule):
    """Keeps its weights in an order of memory that is not that of their shape."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(2, 3, dtype=torch.float64).t())

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        X, y = batch
        return ((X @ self.weight).sum(dim=1) - y).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class TransposedReference:
    def loss_and_gradient(self, parameters: Any, batch: Any) -> Any:
        X, y = batch
        r = np.sum(X @ parameters["weight"], axis=1) - y
        return np.mean(r * r), {"weight": X.T @ np.stack([r, r], axis=1) * (2 / len(y))}


def rows(n: int = 12) -> TensorDataset:
    generator = np.random.default_rng(0)
    drawn = generator.standard_normal((n, 3)), generator.standard_normal(n)
    return TensorDataset(*map(torch.from_numpy, drawn))


def test_parameter_in_another_order_of_memory_is_read_anew(make_trainer: Any) -> None:
    check = CrossCheck(TransposedReference(), SGD(lr=0.01))
    make_trainer(callbacks=[check]).fit(Transposed(), DataLoader(rows(), 4))
    assert check.report()["passed"]
    assert check.report()["steps_checked"] == 15


def test_gradient_without_a_bound_is_refused(make_trainer: Any) -> None:
    class Doubtful(TransposedReference):
        def rounding_bound(self, parameters: Any, batch: Any, arithmetic: Any) -> Any:
            return 1.0, {"weight": np.full((3, 2), np.inf)}

    trainer = make_trainer(callbacks=[CrossCheck(Doubtful(), SGD(lr=0.01))])
    with pytest.raises(RequestError, match=r"whose rounding errors can be bounded"):
        trainer.fit(Transposed(), DataLoader(rows(), 4))


def test_resume_inside_an_epoch_without_a_count_misses_no_row(
    make_trainer: Any, tmp_path: Path
) -> None:
    class Saver(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "step=4.ckpt")

    unchecked = make_trainer(max_epochs=2, callbacks=[Saver()])
    unchecked.fit(LinearRegression(lr=1e-4), DummyData(batch_size=5))
    check = CrossCheck()
    trainer = make_trainer(max_epochs=3, callbacks=[check])
    trainer.fit(
        LinearRegression(lr=1e-4), DummyData(batch_size=5), ckpt_path=tmp_path / "step=4.ckpt"
    )
    assert check.report()["passed"]
    assert check.report()["epochs_counted"] == 1  # the last one; the second was seen in part


def test_rows_are_not_counted_in_batches_of_another_kind(make_trainer: Any) -> None:
    class Mapped(Transposed):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step((batch["X"], batch["y"]), batch_idx)

    class MappedReference(TransposedReference):
        def loss_and_gradient(self, parameters: Any, batch: Any) -> Any:
            return super().loss_and_gradient(parameters, (batch["X"], batch["y"]))

    def collate(rows: Any) -> Any:
        X, y = default_collate(rows)
        return {"X": X, "y": y, "n": torch.tensor([len(y)])}

    check = CrossCheck(MappedReference(), SGD(lr=0.01))
    loader = DataLoader(rows(), 4, collate_fn=collate)
    make_trainer(callbacks=[check]).fit(Mapped(), loader)
    assert check.report()["passed"]
    assert check.report()["epochs_counted"] == 0


class OverflowMadeUp(LinearRegression):
    """Reports twice the loss in a step whose gradient overflows, which the loss scaler skips."""

    def loss(self, batch: Any) -> torch.Tensor:
        loss = super().loss(batch)
        if self.global_step == 2:
            loss = 2 * loss
            loss.register_hook(lambda gradient: gradient * torch.inf)
        return loss


def test_loss_of_a_skipped_step_is_judged(make_trainer: Any) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    trainer = make_trainer(precision=None, plugins=plugin, callbacks=[CrossCheck()])
    with pytest.raises(CheckFailed, match=r"loss at step 3: expected"):
        trainer.fit(OverflowMadeUp(lr=1e-4), DummyData())


def test_small_numbers_are_judged_in_float64(make_trainer: Any) -> None:
    class Halved(LinearRegression):
        def loss(self, batch: Any) -> torch.Tensor:
            return super().loss(batch) / 2

    data = DummyData()
    data.y = data.y.double() * 1e-60
    trainer = make_trainer(callbacks=[CrossCheck()])
    with pytest.raises(CheckFailed, match=r"loss at step 1: .* the loss is halved"):
        trainer.fit(Halved(init="zeros"), data)


class SkipsAnEpoch(LinearRegression):
    """Leaves out the second epoch, in Lightning's own way."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if self.current_epoch == 1 else None


def test_batch_that_was_skipped_is_in_no_window(make_trainer: Any) -> None:
    check = CrossCheck(count_rows=False)
    make_trainer(callbacks=[check]).fit(SkipsAnEpoch(lr=1e-4), DummyData(batch_size=5))
    assert check.report()["passed"]
    assert check.report()["steps_checked"] == 4 * 3
