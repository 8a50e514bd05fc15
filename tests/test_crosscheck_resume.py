"""Going on from a checkpoint: what was saved is what the cross-check holds training against."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from trueline.crosscheck import CrossCheck
from trueline.data import DummyData
from trueline.errors import CheckFailed
from trueline.module import LinearRegression
from trueline.reference.article import X, y

# The saver is left out when going on, so that it saves nothing over what the test compares.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
MOMENTUM = {"momentum": 0.9, "lr": 1e-4}
SCHEDULED = {**MOMENTUM, "schedule": {"name": "StepLR", "step_size": 2, "gamma": 0.5}}


def save(make_trainer: Callable[..., Any], folder: Path, data: Any, **options: Any) -> None:
    """Train two epochs; save every step, and the end."""
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    check = CrossCheck()
    trainer = make_trainer(max_epochs=2, enable_checkpointing=True, callbacks=[check, saver])
    torch.manual_seed(0)
    trainer.fit(LinearRegression(**options), data)
    trainer.save_checkpoint(folder / "end.ckpt")
    assert check.report()["passed"]


def resume(make_trainer: Callable[..., Any], path: Path, data: Any, **options: Any) -> CrossCheck:
    """Go on to four epochs; return the cross-check."""
    check = CrossCheck()
    trainer = make_trainer(max_epochs=4, callbacks=[check])
    torch.manual_seed(0)
    trainer.fit(LinearRegression(**options), data, ckpt_path=path)
    return check


@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("options", [{}, SCHEDULED], ids=["", "scheduled"])
@pytest.mark.parametrize("step", [1, 4, 5, 8])
def test_resumed_training_passes(
    make_trainer: Any, tmp_path: Path, step: int, options: Any, shuffle: bool
) -> None:
    def data() -> DummyData:
        return DummyData(batch_size=4, shuffle=shuffle)

    save(make_trainer, tmp_path, data(), **options)
    report = resume(make_trainer, tmp_path / f"step={step}.ckpt", data(), **options).report()
    assert report["passed"]
    assert report["steps_checked"] == 16  # those before the checkpoint too
    assert report["epochs_counted"] == 4


def tampered(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)
    return path


def empty_buffers(checkpoint: dict[str, Any]) -> None:
    for state in checkpoint["optimizer_states"][0]["state"].values():
        state["momentum_buffer"].zero_()


def drop_buffers(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer_states"][0]["state"].clear()


def nudge(checkpoint: dict[str, Any]) -> None:
    weight = checkpoint["state_dict"]["weight"]
    weight.copy_(torch.nextafter(weight, weight + 1))


def advance_schedule(checkpoint: dict[str, Any]) -> None:
    for group in checkpoint["optimizer_states"][0]["param_groups"]:
        group["lr"] *= 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (empty_buffers, "momentum of .* at step 6: .* momentum was left out, or its buffer empt"),
        (drop_buffers, "momentum of .* at step 6: .* momentum was left out, or its buffer empt"),
        (nudge, "weight since the last step at step 6: expected .* exactly"),
        (advance_schedule, "lr at step 6: "),
    ],
)
def test_checkpoint_that_was_tampered_with_is_told(
    make_trainer: Any, tmp_path: Path, change: Any, said: str
) -> None:
    save(make_trainer, tmp_path, DummyData(4, shuffle=True), **SCHEDULED)
    path = tampered(tmp_path / "step=5.ckpt", change)
    with pytest.raises(CheckFailed, match=said):
        resume(make_trainer, path, DummyData(4, shuffle=True), **SCHEDULED)


@pytest.mark.parametrize(
    ("position", "said"),
    [
        (0, "rows 0, 1, 2, 3 served more than once; rows 12, 13, 14 never served"),
        (2, "rows 4, 5, 6, 7 never served"),
    ],
)
def test_batches_that_a_resume_repeats_or_leaves_out_are_told(
    make_trainer: Any, tmp_path: Path, position: int, said: str
) -> None:
    def move(checkpoint: dict[str, Any]) -> None:
        [loader] = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        assert loader["position"] == 1
        loader["position"] = position

    # The loop takes an epoch from the place of the loader on, and leaves no row out.
    save(make_trainer, tmp_path, DummyData(4), lr=1e-4)
    path = tampered(tmp_path / "step=5.ckpt", move)
    with pytest.raises(CheckFailed, match=f"rows of epoch 1 .*{said}"):
        resume(make_trainer, path, DummyData(4), lr=1e-4, steps_per_execution=1)


def stock_loader(shuffle: bool = True) -> DummyData:
    data, dataset = DummyData(), TensorDataset(torch.tensor(X), torch.tensor(y))
    data.train_dataloader = lambda: DataLoader(dataset, 5, shuffle=shuffle)
    return data


@pytest.mark.parametrize("shuffle", [True, False])
def test_shuffle_that_a_resume_replays_is_told(
    make_trainer: Any, tmp_path: Path, shuffle: bool
) -> None:
    # The order of a stock DataLoader hangs on torch's seed, which a new process sets anew.
    save(make_trainer, tmp_path, stock_loader(shuffle), lr=1e-4)
    path = tmp_path / "end.ckpt"
    if not shuffle:  # the same order in all epochs is none that is replayed
        assert resume(make_trainer, path, stock_loader(shuffle), lr=1e-4).report()["passed"]
        return
    with pytest.raises(CheckFailed, match=r"rows of epoch 2 at step 9: .* epoch 0 again"):
        resume(make_trainer, path, stock_loader(), lr=1e-4)


class StockWindow(LinearRegression):
    """Adds up gradients as Lightning does."""

    backward = LightningModule.backward


def one_epoch(make_trainer: Any, model: LinearRegression, on_failure: Any = "raise") -> CrossCheck:
    check = CrossCheck(on_failure=on_failure)
    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[check])
    trainer.fit(model, DummyData(batch_size=5))
    return check


def by_hand(shares: tuple[float, float]) -> tuple[float, float]:
    """Take the epoch's steps over rows 0-9 and 10-14, each with a share of its mean's gradient."""
    w = b = 0.0
    for rows, share in zip((slice(10), slice(10, 15)), shares, strict=True):
        x, r = X[rows, 0], w * X[rows, 0] + b - y[rows]
        w, b = w - 0.001 * share * 2 * np.mean(x * r), b - 0.001 * share * 2 * np.mean(r)
    return w, b


def test_short_window_takes_the_mean_over_its_rows(make_trainer: Any) -> None:
    model = LinearRegression(init="zeros")
    assert one_epoch(make_trainer, model).report()["passed"]
    found = model.weight.item(), model.bias.item()
    assert found == pytest.approx(by_hand((1, 1)), rel=1e-13)
    assert round(found[0], 4) == 3.1274


def test_short_window_that_is_halved_is_told(make_trainer: Any) -> None:
    model = StockWindow(init="zeros")
    with pytest.warns(UserWarning, match="cross-check failed: gradient of .* at step 2"):
        report = one_epoch(make_trainer, model, "warn").report()
    assert (model.weight.item(), model.bias.item()) == pytest.approx(by_hand((1, 0.5)), rel=1e-13)
    failure = report["first_failure"]
    assert failure["step"] == 2
    assert "the window of 1 batches was divided by 2" in failure["cause"]
