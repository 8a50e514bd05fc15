"""`crosscheck.step_queue`: steps judged in groups, and still the first wrong one named."""

from typing import Any

import numpy as np
import pytest
import torch

from trueline.crosscheck import CrossCheck
from trueline.crosscheck.record import Steps, stacked
from trueline.crosscheck.step_queue import AT_ONCE, MOST_STEPS, StepQueue
from trueline.data import DummyData, RegressionData
from trueline.errors import CheckFailed
from trueline.module import LinearRegression

FIRST_FULL = AT_ONCE + MOST_STEPS
"""The step at which the first full group is judged."""
MOMENTUM = {"momentum": 0.9}
OPTIONS = {
    "plain": {},
    "momentum": MOMENTUM,
    "dampening and decay": {**MOMENTUM, "dampening": 0.5, "weight_decay": 0.1},
    "nesterov and penalties": {**MOMENTUM, "nesterov": True, "l1": 0.2, "l2": 0.3},
    "several targets": {"n_targets": 3, "l2": 0.3},
    "several targets, momentum, l1": {"n_targets": 2, **MOMENTUM, "l1": 0.2},
    "schedule by step": {"schedule": {"name": "CosineAnnealingLR", "T_max": 7, "interval": "step"}},
    "schedule by epoch": {**MOMENTUM, "schedule": {"name": "ExponentialLR", "gamma": 0.8}},
}

SETTINGS: list[dict[str, Any]] = [
    {},
    {"gradient_clip_val": 0.5},
    {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
]


def record(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Steps], list[StepQueue]]:
    """Return lists that fill with the steps and queues of the trainings that follow."""
    steps: list[Steps] = []
    queues: list[StepQueue] = []
    enter = StepQueue.enter

    def entering(queue: StepQueue, entry: Any) -> None:
        steps.extend([entry] if isinstance(entry, Steps) else [])
        queues.append(queue)
        enter(queue, entry)

    monkeypatch.setattr(StepQueue, "enter", entering)
    return steps, queues


def data(n_targets: int, weighted: bool) -> RegressionData:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 2)), rng.standard_normal((12, n_targets))
    sample_weight = rng.uniform(0.5, 3, 12) if weighted else None
    return RegressionData(X, y, 4, shuffle=True, sample_weight=sample_weight)


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_judged_together_is_judged_one_by_one(
    make_trainer: Any, monkeypatch: Any, options: Any, settings: Any, weighted: bool, precision: str
) -> None:
    (steps, queues), check = record(monkeypatch), CrossCheck()
    model = LinearRegression(steps_per_execution=1, n_features=2, lr=0.02, **options)
    trainer = make_trainer(precision=precision, callbacks=[check], **settings)
    trainer.fit(model, data(options.get("n_targets", 1), weighted))
    assert len(steps) == (10 if settings.get("accumulate_grad_batches") else 15)
    judge = queues[0].judge
    kinds = {str(step.kind): None for step in steps}
    for kind in kinds:
        group = [step for step in steps if str(step.kind) == kind]
        together = {each.kind: each for each in judge.judge(stacked(group))}
        singly = [{each.kind: each for each in judge.judge(step)} for step in group]
        assert together.keys() == singly[0].keys()
        assert ("momentum" in together) == bool(options.get("momentum"))
        for name, comparison in together.items():
            for part in ("found", "expected", "bound"):
                one_by_one = np.concatenate([getattr(each[name], part) for each in singly])
                size = np.abs(one_by_one).max()
                found = getattr(comparison, part)
                np.testing.assert_allclose(found, one_by_one, rtol=1e-12, atol=1e-13 * size)
    after, before = (np.concatenate([getattr(s, n) for s in steps]) for n in ("after", "before"))
    assert (after != before).any(axis=0).all()


class HalvedOnce(LinearRegression):
    """Halves one gradient of one step."""

    def __init__(self, step: int, **options: Any) -> None:
        super().__init__(**options)
        self.at = step

    def on_after_backward(self) -> None:
        if self.trainer.global_step == self.at - 1:
            self.bias.grad *= 0.5


def failure_of(make_trainer: Any, model: Any, epochs: int = 100, **options: Any) -> Any:
    """Return the report of a training that fails, and how many steps it had taken by then."""
    check = CrossCheck(**options)
    trainer = make_trainer(max_epochs=epochs, callbacks=[check])
    with pytest.raises(CheckFailed) as failed:
        trainer.fit(model, DummyData())
    report = check.report()
    assert not report["passed"]
    assert f"at step {report['first_failure']['step']}:" in str(failed.value)
    return report, trainer.global_step


@pytest.mark.parametrize("step", [1, AT_ONCE, AT_ONCE + 1, 40, FIRST_FULL, FIRST_FULL + 1, 150])
def test_error_in_a_group_is_named_by_its_step_and_cause(make_trainer: Any, step: int) -> None:
    report, steps = failure_of(make_trainer, HalvedOnce(step), epochs=150)
    failure = report["first_failure"]
    assert (failure["step"], failure["quantity"]) == (step, "gradient of bias")
    assert "halved" in failure["cause"]
    assert report["worst_ratio"] == report["worst_ratios"]["gradient"] == failure["ratio"] > 1e6
    told = next(k for k in (*range(AT_ONCE + 1), FIRST_FULL, 150) if step <= k)
    assert steps == told


class MomentumLostOnce(LinearRegression):
    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        if self.trainer.global_step == 39:
            for state in self.trainer.optimizers[0].state.values():
                state["momentum_buffer"].zero_()
        super().optimizer_step(*arguments, **options)


class StaleOnce(LinearRegression):
    """Takes the loss over the batch of the step before, at one step."""

    def loss(self, batch: Any) -> torch.Tensor:
        used = self.last if self.trainer.global_step == 39 else batch
        self.last = batch
        return super().loss(used)


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (MomentumLostOnce, "momentum was left out, or its buffer emptied"),
        (StaleOnce, "the batch of the step before was used again"),
    ],
)
def test_cause_that_lies_in_the_step_before_is_found_in_a_group(
    make_trainer: Any, model: Any, cause: str
) -> None:
    check = CrossCheck()
    trainer = make_trainer(max_epochs=40, callbacks=[check])
    with pytest.raises(CheckFailed, match=cause):
        trainer.fit(model(momentum=0.9, lr=1e-4), DummyData(5))
    assert check.report()["first_failure"]["step"] == 40


def test_first_of_several_errors_is_named_and_all_steps_counted(make_trainer: Any) -> None:
    class HalvedTwice(HalvedOnce):
        def on_after_backward(self) -> None:
            if self.trainer.global_step in (39, 44):
                self.bias.grad *= 0.5

    check = CrossCheck(on_failure="warn")
    with pytest.warns(UserWarning, match="gradient of bias at step 40:") as told:
        make_trainer(max_epochs=100, callbacks=[check]).fit(HalvedTwice(0), DummyData())
    assert sum("cross-check failed" in str(each.message) for each in told) == 1
    report = check.report()
    assert report["first_failure"]["step"] == 40
    assert report["steps_checked"] == report["epochs_counted"] == 100


class Interrupted(HalvedOnce):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 49:
            raise RuntimeError("out of paper")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("wrong", [45, 49, None])
def test_failure_is_reported_though_training_breaks_off(make_trainer: Any, wrong: Any) -> None:
    check = CrossCheck()
    with pytest.raises(RuntimeError, match="out of paper"):
        make_trainer(max_epochs=100, callbacks=[check]).fit(Interrupted(wrong or 0), DummyData())
    report = check.report()
    assert report["steps_checked"] == 49
    assert report["passed"] == (wrong is None)
    if wrong:
        failure = report["first_failure"]
        assert (failure["step"], failure["quantity"]) == (wrong, "gradient of bias")


def test_failure_seen_outside_comes_after_those_of_the_steps_before(make_trainer: Any) -> None:
    class MovedLater(HalvedOnce):
        def on_train_epoch_end(self) -> None:
            if self.trainer.global_step == 44:
                with torch.no_grad():
                    self.weight.add_(1e-9)

    report, steps = failure_of(make_trainer, MovedLater(40))
    assert steps == 44
    assert (report["first_failure"]["step"], report["first_failure"]["quantity"]) == (
        40,
        "gradient of bias",
    )
    report, steps = failure_of(make_trainer, MovedLater(50))
    assert steps == 44
    assert (report["first_failure"]["step"], report["first_failure"]["quantity"]) == (
        45,
        "weight since the last step",
    )
