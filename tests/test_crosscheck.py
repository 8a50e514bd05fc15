"""The cross-check on healthy trainings, on empty ones, and on what it cannot follow."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import StochasticWeightAveraging

from healthy_trainings import EXAMPLES, PRECISIONS, Training, healthy_trainings
from trueline.crosscheck import CrossCheck
from trueline.crosscheck.verdict import Comparison, WorstRatios
from trueline.data import DummyData, RegressionData
from trueline.errors import CheckFailed, RequestError
from trueline.module import LinearRegression
from trueline.reference import SGD


@pytest.mark.parametrize("precision", PRECISIONS)
def test_crosscheck_raises_no_false_alarm(make_trainer: Any, precision: str) -> None:
    @settings(
        max_examples=EXAMPLES[precision],
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # to shrink a training takes minutes
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(training=healthy_trainings(precision))
    def passes(training: Training) -> None:
        report = training.run(make_trainer)
        assert report["passed"], report
        assert report["worst_ratio"] <= 1
        assert report["steps_checked"] + report["steps_skipped"] == training.steps
        assert report["epochs_counted"] == training.epochs

    passes()


def test_enough_healthy_trainings_are_drawn() -> None:
    assert sum(EXAMPLES.values()) >= 300
    assert set(EXAMPLES) == set(PRECISIONS)


def test_crosscheck_fails_when_no_step_was_taken(make_trainer: Any) -> None:
    check = CrossCheck()
    trainer = make_trainer(limit_train_batches=0, callbacks=[check])
    with pytest.raises(CheckFailed, match="expected an optimizer step to compare, found none"):
        trainer.fit(LinearRegression(), DummyData())
    assert not check.report()["passed"]


def test_crosscheck_fails_when_no_parameter_moved(make_trainer: Any) -> None:
    model = LinearRegression(init="zeros")
    check = CrossCheck()
    with pytest.raises(CheckFailed, match="expected some parameter to move in 5 steps"):
        make_trainer(callbacks=[check]).fit(model, RegressionData([[1.0], [2.0]], [0.0, 0.0]))
    assert not check.report()["passed"]


def test_crosscheck_refuses_by_name_before_training(make_trainer: Any) -> None:
    trainer = make_trainer(
        precision="16-true",
        callbacks=[CrossCheck(), StochasticWeightAveraging(swa_lrs=0.1)],
    )
    model = LinearRegression(init="zeros")
    with pytest.raises(RequestError) as refusal:
        trainer.fit(model, DummyData())
    for name in ("precision 16-true", "StochasticWeightAveraging"):
        assert name in str(refusal.value)
    assert trainer.global_step == 0


class Scheduled(LinearRegression):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class Adam(LinearRegression):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())

    def on_train_start(self) -> None:
        pass


class Groups(LinearRegression):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([{"params": [self.weight]}, {"params": [self.bias]}], lr=0.001)


class Manual(LinearRegression):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class TwoSchedulers(LinearRegression):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, n) for n in (1, 2)]
        return [optimizer], [{"scheduler": s, "frequency": 3} for s in schedulers]


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Scheduled, r"StepLR \(give CrossCheck\(schedule=...\)"),
        (Adam, "Adam"),
        (Groups, "2 parameter groups"),
        (Manual, "manual optimization"),
        (TwoSchedulers, "2 learning rate schedulers at once; .* frequency 3"),
    ],
)
def test_crosscheck_refuses_optimizer(make_trainer: Any, model: Any, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        make_trainer(callbacks=[CrossCheck()]).fit(model(), DummyData())


class Halved(LinearRegression):
    def on_after_backward(self) -> None:
        self.bias.grad *= 0.5


def test_crosscheck_warns_and_goes_on(make_trainer: Any) -> None:
    check = CrossCheck(on_failure="warn")
    trainer = make_trainer(callbacks=[check])
    with pytest.warns(UserWarning, match="cross-check failed: gradient of bias at step 1"):
        trainer.fit(Halved(), DummyData())
    assert trainer.global_step == 5
    report = check.report()
    assert not report["passed"]
    assert report["first_failure"]["step"] == 1
    assert report["steps_checked"] == 5


def test_crosscheck_counts_one_training_at_a_time(make_trainer: Any) -> None:
    check = CrossCheck(on_failure="warn")
    with pytest.warns(UserWarning, match="cross-check failed"):
        make_trainer(callbacks=[check]).fit(Halved(), DummyData())
    make_trainer(callbacks=[check]).fit(LinearRegression(), DummyData())
    assert check.report()["passed"]
    assert check.steps_checked == 5


class Logistic(LightningModule):
    """Another model than the project's, to be judged by a reference of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor([0.5, -0.25]))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        X, y = batch
        return torch.nn.functional.binary_cross_entropy_with_logits(X @ self.slope, y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class LogisticReference:
    """Loss `mean(log(1 + exp(z)) − y·z)` with z = X·slope, and its gradient `Xᵀ(σ(z) − y)/n`."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def loss_and_gradient(self, parameters: Any, batch: Any) -> Any:
        X, y = batch
        z = X @ parameters["slope"]
        loss = np.mean(np.logaddexp(0, z) - y * z)
        gradient = X.T @ (1 / (1 + np.exp(-z)) - y) / len(y)
        return float(loss), {"slope": self.factor * gradient}

    def rounding_bound(self, parameters: Any, batch: Any, arithmetic: Any) -> Any:
        # Every term is at most 2 in size here and passes through fewer than 50 roundings.
        return 100 * arithmetic.stored, {"slope": np.full(2, 100 * arithmetic.stored)}


def _fit_logistic(make_trainer: Any, check: CrossCheck) -> None:
    X = np.array([[0.5, 1.0], [1.0, -1.0], [-0.5, 0.25], [0.75, 0.5]])
    data = RegressionData(X, np.array([1.0, 0.0, 0.0, 1.0]))
    make_trainer(callbacks=[check]).fit(Logistic(), data.train_dataloader())


def test_crosscheck_judges_another_module_by_its_own_reference(make_trainer: Any) -> None:
    check = CrossCheck(reference=LogisticReference(), optimizer=SGD(lr=0.1))
    _fit_logistic(make_trainer, check)
    assert check.report()["passed"]
    assert check.steps_checked == 5
    with pytest.raises(CheckFailed, match="gradient of slope at step 1"):
        _fit_logistic(
            make_trainer, CrossCheck(reference=LogisticReference(1.0001), optimizer=SGD(lr=0.1))
        )


def test_crosscheck_asks_for_the_reference_of_another_module(make_trainer: Any) -> None:
    with pytest.raises(RequestError, match=r"Logistic with parameters slope .*reference=") as error:
        _fit_logistic(make_trainer, CrossCheck())
    assert "hyperparameter lr" in str(error.value)


def test_crosscheck_refuses_a_reference_of_other_shapes(make_trainer: Any) -> None:
    class Flat(LogisticReference):
        def loss_and_gradient(self, parameters: Any, batch: Any) -> Any:
            return 0.7, {"slope": np.zeros(3)}

    with pytest.raises(
        RequestError, match=r"gradient of slope .* shape \(2,\), found shapes \(3,\)"
    ):
        _fit_logistic(make_trainer, CrossCheck(reference=Flat(), optimizer=SGD(lr=0.1)))


def test_verdict_counts_not_a_number_as_failure() -> None:
    worst = WorstRatios()
    nan, one = np.array([[1.0], [np.nan]]), np.ones((2, 1))
    weight, loss = Comparison("parameter", one, one, one), Comparison("loss", nan, one, one)
    out = worst.add([weight, loss], np.array([7, 8]))
    assert out is not None
    assert (out[0], out[1].kind) == (1, "loss")
    assert worst.worst == {"loss": np.inf, "gradient": 0.0, "parameters": 0.0}
    assert worst.worst_up_to([7, 8]) == [0.0, np.inf]
