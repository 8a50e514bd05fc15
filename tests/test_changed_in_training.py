"""What callbacks and users change around a training: the loop takes the steps of Lightning's."""

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, GradientAccumulationScheduler

from trueline.data import DummyData, RegressionData
from trueline.module import LinearRegression

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 2))
Y = X @ [1.0, 2.0] + 0.1 * RNG.standard_normal(20)


class StopAtValidation(Callback):
    """Asks the training to stop, before it may."""

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.should_stop = not trainer.sanity_checking


def trained(steps: Any, data: RegressionData, **options: Any) -> tuple[Any, int]:
    torch.manual_seed(0)
    module = LinearRegression(2, lr=0.05, steps_per_execution=steps)
    trainer = Trainer(
        accelerator="cpu", devices=1, precision="64-true", max_epochs=10, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        check_val_every_n_epoch=2, **options,
    )  # fmt: skip
    trainer.fit(module, data)
    assert (module.single_steps is None) == (steps != 1)
    return module.weight.detach().numpy(), trainer.global_step


def check_same(make: Any, **options: Any) -> None:
    expected, count = trained(1, make(), **options)
    for steps in (3, "auto"):
        found, taken = trained(steps, make(), **options)
        assert taken == count
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:When using .Trainer.accumulate_grad_batches")
@pytest.mark.parametrize("windows", [{0: 1, 2: 2, 4: 4}, {0: 4, 3: 1}])
def test_another_number_of_accumulated_batches_is_heard(windows: dict[int, int]) -> None:
    make = lambda: RegressionData(X, Y, 5, shuffle=True)  # noqa: E731
    check_same(make, callbacks=[GradientAccumulationScheduler(windows)])


@pytest.mark.parametrize("least", [{"min_epochs": 5}, {"min_steps": 14}])
def test_a_training_that_is_to_stop_ends_at_its_least_length(least: dict[str, int]) -> None:
    check_same(lambda: RegressionData(X, Y, 5), callbacks=[StopAtValidation()], **least)


def test_rows_changed_in_place_are_trained_on() -> None:
    def make() -> RegressionData:
        data = RegressionData(X.astype(np.float32), Y, 5)
        data.y.mul_(2)
        return data

    check_same(make)


@pytest.mark.filterwarnings("ignore:You.re using the WeightAveraging callback with a model")
def test_averaged_weights_do_not_depend_on_how_steps_are_grouped() -> None:
    averages = []
    for steps in (1, 3, "auto"):
        model = LinearRegression(init="zeros", steps_per_execution=steps)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=12,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[EMAWeightAveraging(decay=0.5)],
        )
        trainer.fit(model, DummyData())
        averages.append(model.weight.item())
        assert steps == 1 or "EMAWeightAveraging looks into each" in str(model.single_steps)
    assert averages == averages[:1] * 3
