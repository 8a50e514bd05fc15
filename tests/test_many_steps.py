"""Many steps in one turn of Lightning's loop: the training that a user gets step by step.

Steps one by one are torch's: autograd, `torch.optim.SGD`, its schedules and its clipping. Steps
that the compiled loop takes come to the same within rounding, and to the same bits however many it
takes.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer

from trueline.crosscheck import CrossCheck
from trueline.data import DummyData, RegressionData
from trueline.data.gathered import Gathered, GatheredData
from trueline.module import LinearRegression
from trueline.tensorboard import Scalars

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
}
MANY = (2, 7, 1000, "auto")


def rows(n: int = 103, targets: int = 2, **options: Any) -> RegressionData:
    rng = np.random.default_rng(1)
    return RegressionData(rng.standard_normal((n, 3)), rng.standard_normal((n, targets)), **options)


def wide(n: int = 103, targets: int = 1, **options: Any) -> RegressionData:
    """More features than rows, whose moments would be more numbers than the rows are."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((n, 190)) / 190**0.5
    return RegressionData(X, rng.standard_normal((n, targets)), **options)


def in_file(weighted: bool = False, **options: Any) -> RegressionData:
    rng = np.random.default_rng(3)
    found = Gathered(3, 2, weighted, np.dtype("float64"), in_memory=1)
    weight = rng.uniform(1, 2, 103) if weighted else None
    found.append(rng.standard_normal((103, 3)), rng.standard_normal((103, 2)), weight)
    data = GatheredData(found, **options)
    assert data.spooled is not None
    return data


Make = Callable[[], RegressionData]
EVERYTHING = {"lr": 0.1, "momentum": 0.5, "nesterov": True, "l2": 0.1, "weight_decay": 0.01}
WEIGHTS = np.arange(1, 104)
TRAININGS: dict[str, tuple[Make, dict[str, Any], dict[str, Any]]] = {
    "full batch": (DummyData, {}, {}),
    "full batch, momentum": (DummyData, {"momentum": 0.5, "dampening": 0.2, "lr": 5e-4}, {}),
    "unequal last batch": (
        lambda: DummyData(4, shuffle=True),
        {"lr": 1e-4, "momentum": 0.9},
        {},
    ),
    "everything": (
        lambda: rows(batch_size=10, shuffle=True, sample_weight=WEIGHTS),
        EVERYTHING | {"l1": 0.05},
        {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5},
    ),
    "single rows": (lambda: rows(batch_size=1, shuffle=True), {"lr": 0.01, "l1": 0.1}, {}),
    "full batch, everything": (
        lambda: rows(sample_weight=WEIGHTS),
        EVERYTHING | {"l1": 0.05},
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
    ),
    "in a file": (
        lambda: in_file(weighted=True, batch_size=10, shuffle=True),
        EVERYTHING,
        {"limit_train_batches": 7},
    ),
    "in a file, full batch": (in_file, {"lr": 0.1, "l1": 0.2, "momentum": 0.9}, {}),
    "schedule by epoch": (
        lambda: rows(batch_size=10),
        {"lr": 0.1, "schedule": {"name": "StepLR", "step_size": 2}},
        {"accumulate_grad_batches": 2},
    ),
    "schedule by step": (
        lambda: rows(batch_size=10),
        {"schedule": {"name": "OneCycleLR", "max_lr": 0.2, "total_steps": 99, "interval": "step"}},
        {},
    ),
    "plateau by step": (
        lambda: rows(batch_size=10, shuffle=True),
        {"lr": 0.1, "schedule": {"name": "ReduceLROnPlateau", "patience": 2, "interval": "step"}},
        {},
    ),
    "plateau by epoch": (
        lambda: rows(batch_size=10),
        {"lr": 0.1, "schedule": {"name": "ReduceLROnPlateau", "patience": 0, "threshold": 0.1}},
        {},
    ),
    "wide": (lambda: wide(batch_size=10, shuffle=True), {"lr": 0.1}, {}),
    "wide, everything": (
        lambda: wide(targets=2, batch_size=10, sample_weight=WEIGHTS),
        EVERYTHING,
        {},
    ),
    "wide, full batch": (wide, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}, {}),
}


def line(model: LinearRegression) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(
    make_trainer: Any, name: str, steps: int | str, precision: str = "64-true", **options: Any
) -> tuple[LinearRegression, Trainer, CrossCheck]:
    data, hyperparameters, settings_of_trainer = TRAININGS[name]
    torch.manual_seed(0)
    made, check = data(), CrossCheck()
    model = LinearRegression(
        made.n_features, made.n_targets, steps_per_execution=steps, **hyperparameters
    )
    callbacks = [check, Scalars(), *options.pop("callbacks", [])]
    fixed = {"max_epochs": 9, "precision": precision, "callbacks": callbacks}
    path = options.pop("ckpt_path", None)
    trainer = make_trainer(**{**fixed, **settings_of_trainer, **options})
    trainer.fit(model, made, ckpt_path=path)
    return model, trainer, check


def stands(trainer: Trainer) -> tuple[Any, ...]:
    """Return where a training stands, but for its parameters."""
    loop, [group] = trainer.fit_loop, trainer.optimizers[0].param_groups
    batches = loop.epoch_loop.batch_progress.total
    counts = trainer.global_step, trainer.current_epoch, batches.completed, batches.ready
    return *counts, group["lr"], group["momentum"]


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize("name", TRAININGS)
def test_same_training_whatever_the_steps_per_execution(
    make_trainer: Any, name: str, precision: str
) -> None:
    single, trainer, check = train(make_trainer, name, 1, precision)
    assert single.execution is None
    within = 1e-12 if precision == "64-true" else 2e-5
    bits = None
    for steps in MANY:
        model, other, theirs = train(make_trainer, name, steps, precision)
        assert model.execution is not None
        assert model.single_steps is None
        assert stands(other) == pytest.approx(stands(trainer), rel=1e-6)
        found, expected = line(model), line(single)
        assert torch.allclose(found, expected, rtol=within, atol=within)
        report = theirs.report()
        assert report["passed"]
        assert report["steps_checked"] == check.report()["steps_checked"] == trainer.global_step
        assert report["epochs_counted"] == check.report()["epochs_counted"]
        bits = found if bits is None else bits
        assert torch.equal(found, bits)
    torch.manual_seed(0)
    start = LinearRegression(model.hparams.n_features, model.hparams.n_targets)
    assert not torch.allclose(line(start).to(found.dtype), found, rtol=1e-3)


@st.composite
def trainings(draw: Any) -> Callable[[int | str], tuple[LinearRegression, Trainer]]:
    """Draw a training; return what takes it with so many steps per execution."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, f, T = draw(st.integers(4, 80)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    X = rng.standard_normal((n, f))
    y = X @ rng.standard_normal((f, T)) + rng.standard_normal((n, T))
    dtype = draw(st.sampled_from([np.float64, np.float32, np.int64]))
    if dtype is np.int64:
        X, y = (np.rint(3 * a) for a in (X, y))
    weight = rng.uniform(0.1, 2, n) if draw(st.booleans()) else None
    batch_size = draw(st.none() | st.integers(1, n))
    momentum = draw(st.sampled_from([0.0, 0.9]))
    nesterov = momentum > 0 and draw(st.booleans())
    strengths = st.sampled_from([0.0, 0.05])
    model: dict[str, Any] = {
        "lr": 0.01,
        "momentum": momentum,
        "nesterov": nesterov,
        "dampening": draw(st.sampled_from([0.0, 0.3])) if momentum and not nesterov else 0.0,
        **{name: draw(strengths) for name in ("weight_decay", "l1", "l2")},
    }
    interval = draw(st.sampled_from(["step", "epoch"]))
    schedule = draw(
        st.sampled_from(
            [
                None,
                {"name": "StepLR", "step_size": 3, "gamma": 0.5},
                {"name": "ReduceLROnPlateau", "patience": 1},
                {"name": "CyclicLR", "base_lr": 0.001, "max_lr": 0.02, "step_size_up": 5},
            ]
        )
    )
    if schedule:
        cycles = {"cycle_momentum": draw(st.booleans())} if schedule["name"] == "CyclicLR" else {}
        model["schedule"] = {**schedule, "interval": interval, **cycles}
    trainer: dict[str, Any] = {
        "max_epochs": draw(st.integers(1, 12)),
        "precision": "64-true",
        "accumulate_grad_batches": draw(st.integers(1, 3)),
        "max_steps": draw(st.just(-1) | st.integers(1, 30)),
        "limit_train_batches": draw(st.just(1.0) | st.integers(1, 9)),
    }
    if limit := draw(st.sampled_from([None, 0.5, 2.0])):
        algorithm = draw(st.sampled_from(["norm", "value"]))
        trainer |= {"gradient_clip_val": limit, "gradient_clip_algorithm": algorithm}
    if draw(st.booleans()):
        every = draw(st.sampled_from([{"val_check_interval": 1}, {"check_val_every_n_epoch": 2}]))
        trainer |= {"limit_val_batches": 1.0, "num_sanity_val_steps": 0, **every}
    note(f"{n} rows of {f} and {T}, {batch_size} in a batch, {model}, {trainer}")
    shuffle, frozen = draw(st.booleans()), draw(st.sampled_from(["", "", "weight", "bias"]))

    def take(steps: int | str) -> tuple[LinearRegression, Trainer]:
        torch.manual_seed(0)
        made = LinearRegression(f, T, steps_per_execution=steps, **model)
        if frozen:
            getattr(made, frozen).requires_grad_(False)
        data = RegressionData(
            X.astype(dtype), y.astype(dtype), batch_size, shuffle, 1, sample_weight=weight
        )
        by = Trainer(**(QUIET | trainer))
        by.fit(made, data)
        return made, by

    return take


@settings(max_examples=60, deadline=None, derandomize=True)
@given(take=trainings())
def test_trainings_drawn_over_all_options_are_those_of_torch(take: Any) -> None:
    single, trainer = take(1)
    found = [take(steps) for steps in (2, 7, "auto")]
    for model, by in found:
        assert model.single_steps is None
        assert torch.allclose(line(model), line(single), rtol=1e-11, atol=1e-11)
        assert torch.equal(line(model), line(found[0][0]))
        assert stands(by) == pytest.approx(stands(trainer), rel=1e-12)


@cache
def never_stopped(name: str, precision: str, epochs: int) -> tuple[torch.Tensor, tuple[Any, ...]]:
    model, trainer, _ = train(
        lambda **options: Trainer(**(QUIET | options)), name, "auto", precision, max_epochs=epochs
    )
    return line(model), stands(trainer)


class SaveAndStop(Callback):
    """Saves a checkpoint after so many steps, and stops."""

    knows_executions = True

    def __init__(self, step: int, path: Any) -> None:
        self.every_n_steps, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.every_n_steps:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


RESUMED = {
    "everything": range(1, 12),
    "plateau by step": [1, 5, 10, 11, 12, 21, 22, 30],
    "schedule by step": [1, 11, 17, 22],
    "schedule by epoch": [1, 5, 6, 7, 12],
    "in a file": [1, 3, 7, 8, 14],
    "full batch, everything": [1, 2],
    "single rows": [1, 50, 102, 103, 104],
}


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize("name", RESUMED)
def test_resumed_anywhere_it_is_the_same_training_to_the_bit(
    make_trainer: Any, tmp_path: Any, name: str, precision: str
) -> None:
    epochs = 3
    expected = never_stopped(name, precision, epochs)
    for step in RESUMED[name]:
        path = tmp_path / f"{step}.ckpt"
        stop = SaveAndStop(step, path)
        train(make_trainer, name, "auto", precision, max_epochs=epochs, callbacks=[stop])
        options = {"max_epochs": epochs, "ckpt_path": path}
        model, trainer, check = train(make_trainer, name, 7, precision, **options)
        assert torch.equal(line(model), expected[0]), step
        assert stands(trainer) == expected[1]
        assert check.report()["passed"]


class InsideAStep(Callback):
    def on_after_backward(self, *_: Any) -> None:
        pass


class Subclass(LinearRegression):
    pass


class OwnLoader(RegressionData):
    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.dataset, 10)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"steps": 1}, "--model.steps_per_execution 1"),
        ({"trainer": {"precision": "bf16-mixed"}}, "precision bf16-mixed rounds each step"),
        ({"trainer": {"callbacks": [InsideAStep()]}}, "InsideAStep looks into each"),
        ({"steps": 7, "trainer": {"callbacks": [InsideAStep()]}}, "InsideAStep looks into each"),
        ({"cls": Subclass}, "Subclass may do other steps than LinearRegression"),
        ({"data": OwnLoader}, "the data does not come from a RegressionData"),
        ({"trainer": {"reload_dataloaders_every_n_epochs": 1}}, "the data is loaded anew"),
        ({"model": lambda m: setattr(m, "mse", torch.nn.L1Loss())}, "L1Loss instead of MSELoss"),
        ({"model": lambda m: m.weight.register_hook(lambda g: g)}, "weight has a hook"),
    ],
)
def test_steps_that_are_taken_one_by_one_say_why(
    make_trainer: Any, change: dict[str, Any], reason: str
) -> None:
    model = change.get("cls", LinearRegression)(3, steps_per_execution=change.get("steps", "auto"))
    change.get("model", lambda _: None)(model)
    known = rows(targets=1)
    data = change.get("data", RegressionData)(known.X, known.y, batch_size=10)
    start = line(model)
    make_trainer(**change.get("trainer", {})).fit(model, data)
    assert model.execution is None
    assert reason in (model.single_steps or "")
    assert not torch.equal(line(model), start)


def test_options_that_took_single_steps_go_through_the_loop(make_trainer: Any) -> None:
    for options in ({"l1": 0.1}, {"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}):
        model = LinearRegression(3, l1=options.pop("l1", 0.0))
        make_trainer(**options).fit(model, rows(targets=1, batch_size=10))
        assert model.execution is not None
        assert model.single_steps is None
