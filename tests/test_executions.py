"""Executions: many steps in one turn of Lightning's loop, and the same training as one by one."""

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from killed_runs import differences
from trueline import recurrence
from trueline.cli.lightning_cli import TruelineCLI
from trueline.crosscheck import CrossCheck
from trueline.crosscheck.served import FEW_NUMBERS
from trueline.data import DummyData, RegressionData
from trueline.data.order import RowOrder
from trueline.errors import CheckFailed
from trueline.executions import executor, spans
from trueline.module import LinearRegression
from trueline.recurrence import in_turn
from trueline.tensorboard import Scalars

Cli = Callable[..., Any]


def rows(n: int = 103, targets: int = 2, **options: Any) -> RegressionData:
    rng = np.random.default_rng(1)
    return RegressionData(rng.standard_normal((n, 3)), rng.standard_normal((n, targets)), **options)


def wide(n: int = 103, targets: int = 1, **options: Any) -> RegressionData:
    """So many features that steps are not composed."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((n, 190)) / 190**0.5
    return RegressionData(X, rng.standard_normal((n, targets)), **options)


TRAININGS: dict[str, tuple[Callable[[], RegressionData], dict[str, Any]]] = {
    "full batch": (DummyData, {}),
    "full batch, momentum": (DummyData, {"momentum": 0.5, "dampening": 0.2, "lr": 5e-4}),
    "unequal last batch": (lambda: DummyData(4, shuffle=True), {"lr": 1e-4, "momentum": 0.9}),
    "everything": (
        lambda: rows(batch_size=10, shuffle=True, sample_weight=np.arange(1, 104)),
        {"lr": 0.1, "momentum": 0.5, "nesterov": True, "l2": 0.1, "weight_decay": 0.01},
    ),
    "weights, full batch": (lambda: rows(sample_weight=np.arange(1, 104)), {"lr": 0.1, "l2": 0.1}),
    "schedule by epoch": (
        lambda: rows(batch_size=10),
        {"lr": 0.1, "schedule": {"name": "StepLR", "step_size": 2}},
    ),
    "schedule by step": (
        lambda: rows(batch_size=10),
        {"schedule": {"name": "OneCycleLR", "max_lr": 0.2, "total_steps": 99, "interval": "step"}},
    ),
    "wide": (lambda: wide(batch_size=10, shuffle=True), {"lr": 0.1}),
    "wide, everything": (
        lambda: wide(targets=2, batch_size=10, sample_weight=np.arange(1, 104)),
        {"lr": 0.1, "momentum": 0.5, "nesterov": True, "l2": 0.1, "weight_decay": 0.01},
    ),
    "wide, full batch": (wide, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}),
    "wide, full batch, schedule": (
        wide,
        {"lr": 0.1, "l2": 0.1, "schedule": {"name": "StepLR", "step_size": 2}},
    ),
    "plateau": (
        lambda: rows(batch_size=10),
        {"lr": 0.1, "schedule": {"name": "ReduceLROnPlateau", "patience": 0, "threshold": 0.1}},
    ),
}


def train(
    make_trainer: Any, name: str, steps: int | str, precision: str = "64-true", **options: Any
) -> tuple[LinearRegression, Trainer, CrossCheck]:
    data, hyperparameters = TRAININGS[name]
    torch.manual_seed(0)
    data, check = data(), CrossCheck()
    model = LinearRegression(
        data.n_features, data.n_targets, steps_per_execution=steps, **hyperparameters
    )
    callbacks = [check, Scalars(), *options.pop("callbacks", [])]
    trainer = make_trainer(
        **{"max_epochs": 9, "precision": precision, "callbacks": callbacks, **options}
    )
    trainer.fit(model, data)
    return model, trainer, check


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize("name", TRAININGS)
def test_same_training_whatever_the_steps_per_execution(
    make_trainer: Any, name: str, precision: str
) -> None:
    single, trainer, check = train(make_trainer, name, 1, precision)
    assert single.execution is None
    within = 1e-12 if precision == "64-true" else 1e-5
    bits = None
    for steps in (2, 7, 1000, "auto"):
        model, other, theirs = train(make_trainer, name, steps, precision)
        assert model.execution is not None
        assert (other.global_step, other.current_epoch) == (
            trainer.global_step,
            trainer.current_epoch,
        )
        found, expected = (
            torch.cat([p.flatten() for p in m.parameters()]) for m in (model, single)
        )
        assert torch.allclose(found, expected, rtol=within, atol=within)
        assert model.optimizers().param_groups[0]["lr"] == pytest.approx(
            single.optimizers().param_groups[0]["lr"]
        )
        report = theirs.report()
        assert report["passed"]
        assert report["steps_checked"] == check.report()["steps_checked"] == trainer.global_step
        assert report["epochs_counted"] == check.report()["epochs_counted"]
        # Among themselves they are the same to the bit: a span does not depend on who looks.
        bits = found if bits is None else bits
        assert torch.equal(found, bits)


@pytest.mark.parametrize("name", ["everything", "unequal last batch", "wide", "schedule by step"])
def test_same_training_in_several_spans_an_epoch(
    make_trainer: Any, monkeypatch: Any, name: str
) -> None:
    single, _, _ = train(make_trainer, name, 1)
    for length in ("SPAN", "FEW_EPOCHS_SPAN"):
        monkeypatch.setattr(executor, length, 3)  # an epoch ends in a shorter one
    for steps in (2, "auto"):
        model, _, check = train(make_trainer, name, steps)
        for found, expected in zip(model.parameters(), single.parameters(), strict=True):
            assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert check.report()["passed"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"steps_per_execution": 1}, "steps_per_execution 1"),
        ({"l1": 0.1}, "L1"),
        ({"gradient_clip_val": 1.0}, "clipping"),
        ({"accumulate_grad_batches": 2}, "accumulated"),
        ({"precision": "bf16-mixed"}, "bf16-mixed"),
    ],
)
def test_what_is_not_affine_goes_step_by_step_and_says_so(
    make_trainer: Any, options: dict[str, Any], reason: str
) -> None:
    known = {"steps_per_execution", "l1"}
    model = LinearRegression(**{k: v for k, v in options.items() if k in known})
    trainer = make_trainer(**{k: v for k, v in options.items() if k not in known})
    trainer.fit(model, DummyData())
    assert model.execution is None
    assert reason in (model.single_steps or "")


def test_wide_data_is_not_composed(make_trainer: Any) -> None:
    for name in TRAININGS:
        model, _, _ = train(make_trainer, name, "auto")
        assert model.single_steps is None
        composed = model.execution.pieces[0].span._maps is not None
        assert composed == ("wide" not in name)


class EveryStep(Callback):
    """Looks at each step."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append(trainer.global_step)


def test_callback_that_looks_at_each_step_sees_each_step(make_trainer: Any) -> None:
    seen = EveryStep()
    train(make_trainer, "unequal last batch", "auto", callbacks=[seen], max_epochs=3)
    assert seen.steps == list(range(1, 13))
    # Who asks for so many steps at once is shown the end of each execution.
    seen = EveryStep()
    train(make_trainer, "unequal last batch", 3, callbacks=[seen], max_epochs=3)
    assert seen.steps == [3, 4, 7, 8, 11, 12]


def test_counts_are_true(make_trainer: Any, tmp_path: Any) -> None:
    name = "{epoch}-{step}"
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5, filename=name)
    stop = EarlyStopping("train/loss", patience=2, min_delta=1e9)
    _, trainer, _ = train(
        make_trainer, "everything", "auto", callbacks=[saved], max_epochs=-1, max_steps=23,
        enable_checkpointing=True,
    )  # fmt: skip
    assert trainer.global_step == 23
    names = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert names == sorted(f"epoch={(s - 1) // 11}-step={s}.ckpt" for s in (5, 10, 15, 20))
    _, trainer, _ = train(make_trainer, "full batch", "auto", callbacks=[stop], max_epochs=50)
    assert trainer.global_step == trainer.current_epoch == 3


class Tell(Callback):
    """Tells this process to stop, at the first look at so many steps or more."""

    knows_executions = True

    def __init__(self, step: int) -> None:
        self.step: int | None = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.step and trainer.global_step >= self.step:
            self.step = None
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("options", "step"),
    [
        (["--data.batch_size=4", "--data.shuffle=true", "--trainer.max_epochs=300"], 100),
        (["--data.batch_size=4", "--model.momentum=0.9", "--model.lr=1e-5",
          "--trainer.precision=32-true", "--trainer.max_epochs=300"], 100),
        (["--trainer.max_epochs=20000", "--model.momentum=0.5"], 3000),
        (["--trainer.max_epochs=500", "--model.schedule.name=StepLR",
          "--model.schedule.step_size=100", "--trainer.check_val_every_n_epoch=7"], 100),
        (["--data.batch_size=4", "--trainer.max_epochs=60", "--model.steps_per_execution=3"], 9),
    ],
)  # fmt: skip
def test_resumed_inside_a_span_is_as_if_never_stopped(
    cli: Cli, tmp_path: Any, monkeypatch: Any, options: list[str], step: int
) -> None:
    whole = cli("fit", *options)
    assert whole.status == 0, whole.stderr
    with monkeypatch.context() as patch:
        callbacks = TruelineCLI.callbacks
        patch.setattr(TruelineCLI, "callbacks", lambda s, given: [Tell(step), *callbacks(s, given)])
        told = cli("fit", *options)
    assert told.status == 1, told.stdout
    runs = tmp_path / "lightning_logs"
    again = cli("fit", f"--ckpt_path={runs / 'version_1/checkpoints/last.ckpt'}")
    assert again.status == 0, again.stderr
    assert differences(runs / "version_0", runs / "version_2") == []


def plant_order(patch: Any) -> None:
    bmm = torch.bmm

    def wrong(a: Any, b: Any, **out: Any) -> Any:
        same = a.shape == b.shape and a.shape[1] == a.shape[2] and len(a) > 1
        return bmm(b, a, **out) if same else bmm(a, b, **out)

    patch.setattr(torch, "bmm", wrong)


def plant_maps(change: Callable[..., Any]) -> Callable[[Any], None]:
    def plant(patch: Any) -> None:
        right = recurrence.step_maps
        patch.setattr(spans, "step_maps", lambda *a, **k: right(*change(*a), **k))

    return plant


def _lr(gradient: Any, scale: Any, origin: Any, lrs: Any, *rest: Any) -> Any:
    return gradient, scale, origin, lrs * (1 + 1e-6), *rest


def _scale(gradient: Any, scale: Any, *rest: Any) -> Any:
    return gradient, scale / 2, *rest


def _not_first(*arguments: Any) -> Any:
    return *arguments[:-1], False


def _no_decay(gradient: Any, scale: Any, origin: Any, lrs: Any, rule: Any, first: bool) -> Any:
    return gradient, scale, origin, lrs, rule._replace(weight_decay=0.0), first


def _penalty_on_bias(*arguments: Any) -> Any:
    gradient, scale, origin, lrs, rule, first = arguments
    rule = rule._replace(weight_decay=rule.weight_decay + 2 * rule.l2, l2=0.0)
    return gradient, scale, origin, lrs, rule, first


def _one_lr(gradient: Any, scale: Any, origin: Any, lrs: Any, *rest: Any) -> Any:
    return gradient, scale, origin, lrs[:1].expand_as(lrs).clone(), *rest


def plant_rows(patch: Any) -> None:
    right = spans.Rows.moments
    patch.setattr(spans.Rows, "moments", lambda self, epoch, k: right(self, epoch, k[::-1].copy()))


def plant_end(patch: Any) -> None:
    right = executor.Executor.run

    def run(self: Any, *arguments: Any) -> Any:
        execution = right(self, *arguments)
        execution.end.parameters.mul_(1 + 1e-9)
        return execution

    patch.setattr(executor.Executor, "run", run)


def plant_repeated_row(patch: Any) -> None:
    for name in ("rows", "at"):
        right = getattr(RowOrder, name)

        def again(self: Any, *arguments: Any, right: Any = right) -> Any:
            found = right(self, *arguments).clone()
            if found.numel() > 1:
                found.view(-1)[1] = found.view(-1)[0]
            return found

        patch.setattr(RowOrder, name, again)


def plant_lr_one_by_one(patch: Any) -> None:
    right = recurrence.one_by_one
    patch.setattr(in_turn, "one_by_one", lambda *a: right(*a[:3], a[3] * 1.001, a[4]))


BUGS = {
    "composed in the wrong order": ("everything", plant_order),
    "lr a millionth off": ("everything", plant_maps(_lr)),
    "gradient halved": ("full batch", plant_maps(_scale)),
    "first gradient dampened": ("full batch, momentum", plant_maps(_not_first)),
    "weight decay forgotten": ("everything", plant_maps(_no_decay)),
    "penalty on the bias": ("everything", plant_maps(_penalty_on_bias)),
    "schedule stands still": ("schedule by step", plant_maps(_one_lr)),
    "batches in reverse": ("everything", plant_rows),
    "the end moved": ("everything", plant_end),
    "a row served twice": ("everything", plant_repeated_row),
    "one by one, lr off": ("wide, everything", plant_lr_one_by_one),
    "one by one, a row served twice": ("wide", plant_repeated_row),
}


@pytest.mark.parametrize("bug", BUGS)
def test_crosscheck_catches_what_is_planted_in_executions(
    make_trainer: Any, monkeypatch: Any, bug: str
) -> None:
    name, plant = BUGS[bug]
    assert train(make_trainer, name, "auto")[2].report()["passed"]
    plant(monkeypatch)
    with pytest.raises(CheckFailed, match="cross-check failed"):
        train(make_trainer, name, "auto")


def plant_earlier_batches(patch: Any) -> None:
    right = spans.Rows.moments
    patch.setattr(spans.Rows, "moments", lambda self, epoch, k: right(self, epoch, k % 4096))


@pytest.mark.parametrize("plant", [plant_order, plant_earlier_batches])
def test_large_data_is_sampled(make_trainer: Any, monkeypatch: Any, plant: Any) -> None:
    n = 40_000
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 3), dtype=np.float32)
    data = RegressionData(X, X.sum(axis=1), batch_size=8, shuffle=True)
    assert data.joined.numel() > FEW_NUMBERS
    check, model = CrossCheck(), LinearRegression(3, lr=0.01)
    trainer = make_trainer(precision="32-true", max_epochs=2, callbacks=[check])
    trainer.fit(model, data)
    report = check.report()
    assert report["passed"]
    assert 20 <= report["steps_checked"] <= 50
    plant(monkeypatch)
    with pytest.raises(CheckFailed):
        make_trainer(precision="32-true", callbacks=[CrossCheck()]).fit(LinearRegression(3), data)


def drop_a_row(patch: Any) -> None:
    right = spans.Rows.chunks

    def all_but_one(self: Any) -> Any:
        for Z, weight in right(self):
            yield Z[1:], None if weight is None else weight[1:]

    patch.setattr(spans.Rows, "chunks", all_but_one)


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [True, False])
def test_full_batches_of_large_data_are_checked_at_every_step(
    make_trainer: Any, monkeypatch: Any, precision: str, dtype: Any, weighted: bool
) -> None:
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((40_000, 3)) * [1, 100, 0.01] + [0, 500, 0]).astype(dtype)
    y = np.column_stack([X.sum(axis=1), rng.standard_normal(40_000)]).astype(dtype)
    weights = rng.uniform(0.1, 10, 40_000).astype(dtype) if weighted else None
    data = RegressionData(X, y, sample_weight=weights)
    assert data.joined.numel() > FEW_NUMBERS

    def train() -> CrossCheck:
        check, model = CrossCheck(), LinearRegression(3, 2, lr=1e-6, momentum=0.5, l2=0.1)
        make_trainer(precision=precision, max_epochs=40, callbacks=[check]).fit(model, data)
        return check

    report = train().report()
    assert report["passed"]
    assert report["steps_checked"] == 40
    for plant in (drop_a_row, plant_maps(_lr), plant_maps(_scale)):
        with monkeypatch.context() as patch:
            plant(patch)
            with pytest.raises(CheckFailed, match="cross-check failed"):
                train()


def test_a_composed_loss_out_of_its_bound_is_told(make_trainer: Any, monkeypatch: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 3))
    data = RegressionData(X, X.sum(axis=1) + rng.standard_normal(20_000))
    drop_a_row(monkeypatch)
    with pytest.raises(CheckFailed, match="loss at step 1"):
        make_trainer(precision="64-true", max_epochs=1, callbacks=[CrossCheck()]).fit(
            LinearRegression(3, lr=0.1, init="zeros"), data
        )


def test_a_resume_with_the_check_anew_compares_a_step(make_trainer: Any, tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40_000, 3))
    data = RegressionData(X, X.sum(axis=1), batch_size=1000, shuffle=True)
    path = tmp_path / "unchecked.ckpt"
    trainer = make_trainer(max_epochs=2)
    trainer.fit(LinearRegression(3, lr=0.01), data)
    trainer.save_checkpoint(path)
    check = CrossCheck()
    trainer = make_trainer(max_epochs=3, callbacks=[check])
    trainer.fit(LinearRegression(3, lr=0.01), data, ckpt_path=path)
    assert check.report()["passed"]
    assert check.report()["steps_checked"] == 9  # the first eight, and the last
