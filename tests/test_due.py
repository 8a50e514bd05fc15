"""What is due comes at the same step, however many steps are taken at once."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer

from test_many_steps import MANY, line, rows, train
from trueline.many_steps import due
from trueline.module import LinearRegression


class Events(Callback):
    """Notes at which step, epoch and line something happens."""

    knows_executions = True

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def note(self, what: str, trainer: Trainer, model: Any) -> None:
        counts = trainer.global_step, trainer.current_epoch
        self.seen.append((what, *counts, *line(model).tolist()))

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.note("validation", trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: Any) -> None:
        self.note("checkpoint", trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.note("end", trainer, pl_module)


DUE: dict[str, dict[str, Any]] = {
    "validation": {"val_check_interval": 7},
    "validation by a share": {"val_check_interval": 0.5},
    "validation in a later epoch": {"val_check_interval": 25, "check_val_every_n_epoch": None},
    "validation by epochs": {"check_val_every_n_epoch": 2},
    "checkpoint": {"every_n_train_steps": 5},
    "checkpoint by epochs": {"every_n_epochs": 2},
    "max_steps": {"max_steps": 16},
    "limit": {"limit_train_batches": 7},
    "everything": {
        **{"val_check_interval": 3, "every_n_train_steps": 4, "max_steps": 13},
        "limit_train_batches": 8,
    },
}


@pytest.mark.parametrize("window", [1, 2, 3, 4])
@pytest.mark.parametrize("name", DUE)
def test_what_is_due_comes_at_the_same_step(
    make_trainer: Any, tmp_path: Any, name: str, window: int
) -> None:
    """The batches of an epoch, 11, are no whole number of windows: all fall inside one too."""

    def events(steps: int | str) -> list[tuple[Any, ...]]:
        options, seen, saving = dict(DUE[name]), Events(), []
        intervals = ("every_n_train_steps", "every_n_epochs")
        every = {n: options.pop(n) for n in intervals if n in options}
        if every:
            saving = [ModelCheckpoint(tmp_path / str(steps), save_top_k=-1, **every)]
        if any("val" in option for option in options):
            options |= {"limit_val_batches": 1.0, "num_sanity_val_steps": 0}
        torch.manual_seed(0)
        model = LinearRegression(3, 2, lr=0.05, momentum=0.5, steps_per_execution=steps)
        trainer = make_trainer(
            max_epochs=5,
            accumulate_grad_batches=window,
            callbacks=[seen, *saving],
            enable_checkpointing=bool(saving),
            **options,
        )
        trainer.fit(model, rows(batch_size=10, shuffle=True))
        assert (model.single_steps is None) == (steps != 1)
        return seen.seen

    expected = events(1)
    assert len(expected) > 1 or name in ("max_steps", "limit")
    found = [events(steps) for steps in MANY]
    assert {len(list((tmp_path / str(s)).glob("*"))) for s in MANY} == {
        sum(event[0] == "checkpoint" for event in expected)
    }
    for each in found:
        assert [event[:3] for event in each] == [event[:3] for event in expected]
        for event, right in zip(each, expected, strict=True):
            assert event[3:] == pytest.approx(right[3:], rel=1e-12)
        assert each == found[0]


def test_a_timer_ends_a_training(make_trainer: Any) -> None:
    timer = Timer(duration={"milliseconds": 400})
    model = LinearRegression(3, 2, lr=1e-3)
    trainer = make_trainer(max_epochs=-1, callbacks=[timer])
    trainer.fit(model, rows(batch_size=10))
    assert model.execution is not None
    assert 0.4 <= timer.time_elapsed("train") < 5
    assert trainer.global_step > 100


class EveryStep(Callback):
    """Looks at each step."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append(trainer.global_step)


def test_callback_that_looks_at_each_step_sees_each_step(make_trainer: Any) -> None:
    seen = EveryStep()
    model, *_ = train(make_trainer, "unequal last batch", "auto", callbacks=[seen], max_epochs=3)
    assert seen.steps == list(range(1, 13))
    assert model.single_steps == "EveryStep looks into each (on_train_batch_end)"
    # Who asks for so many steps at once is shown the end of each execution.
    seen = EveryStep()
    train(make_trainer, "unequal last batch", 3, callbacks=[seen], max_epochs=3)
    assert seen.steps == [3, 4, 7, 8, 11, 12]


def test_counts_are_true(make_trainer: Any, tmp_path: Any) -> None:
    name = "{epoch}-{step}"
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5, filename=name)
    stop = EarlyStopping("train/loss", patience=2, min_delta=1e9)
    _, trainer, _ = train(
        make_trainer, "schedule by step", "auto", callbacks=[saved], max_epochs=-1, max_steps=23,
        enable_checkpointing=True,
    )  # fmt: skip
    assert trainer.global_step == 23
    names = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert names == sorted(f"epoch={(s - 1) // 11}-step={s}.ckpt" for s in (5, 10, 15, 20))
    _, trainer, _ = train(make_trainer, "full batch", "auto", callbacks=[stop], max_epochs=50)
    assert trainer.global_step == trainer.current_epoch == 3


def test_an_execution_is_no_longer_than_a_tenth_of_a_second(
    make_trainer: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(due, "MOST_NUMBERS", 3 * 10 * 5)
    seen = EveryStep()
    seen.knows_executions = True  # type: ignore[attr-defined]
    train(make_trainer, "plateau by step", "auto", callbacks=[seen], max_epochs=2)
    assert seen.steps == [3, 6, 9, 11, 14, 17, 20, 22]
