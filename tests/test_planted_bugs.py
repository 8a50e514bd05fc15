"""Trainings with one error each: the cross-check names the first wrong step, what, and why."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from trueline.crosscheck import CrossCheck
from trueline.data import RegressionData
from trueline.errors import CheckFailed
from trueline.module import LinearRegression

X = torch.arange(1, 13).reshape(6, 2)
y = torch.tensor([3, 5, 6, 10, 9, 14])


class GradientHalved(LinearRegression):
    def on_after_backward(self) -> None:
        self.weight.grad *= 0.5


class LossHalved(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        return 0.5 * super().loss(batch)


class SumForMean(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(batch) * len(batch[1])


class LearningRateOff(LinearRegression):
    def off_by_a_thousandth(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"] * 1.001)

    configure_optimizers = off_by_a_thousandth


class BiasFrozen(LinearRegression):
    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__(**hyperparameters)
        self.bias.requires_grad_(False)


class BiasLeftOut(LinearRegression):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        defaults = super().configure_optimizers().defaults
        return torch.optim.SGD([self.weight], **defaults)


class GradientNotZeroed(LinearRegression):
    def optimizer_zero_grad(self, *_: Any) -> None:
        pass


class TargetsBroadcast(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        X, y = batch
        return ((self(X) - y[:, None]) ** 2).mean()


class TargetAltered(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        X, y = batch
        y = y.double()
        y[0] *= 1.01
        return super().loss((X, y))


class LastRowDropped(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss((batch[0][:-1], batch[1][:-1]))


class StaleBatch(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        self.stale, batch = batch, getattr(self, "stale", batch)
        return super().loss(batch)


class PenaltyOnBias(LinearRegression):
    def penalty(self) -> torch.Tensor:
        return super().penalty() + self.hparams["l2"] * self.bias**2


class PenaltyForgotten(LinearRegression):
    def penalty(self) -> torch.Tensor:
        return super().penalty() * 0


class LowerPrecision(LinearRegression):
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        low = self.weight.bfloat16() if self.weight.dtype == torch.float32 else self.weight.float()
        return X.to(low.dtype) @ low + self.bias


class MomentumReset(LinearRegression):
    def on_train_batch_end(self, *_: Any) -> None:
        for state in self.trainer.optimizers[0].state.values():
            state["momentum_buffer"].zero_()


class OptimizerOption(LinearRegression):
    """Trains with another value of one option than its hyperparameters say."""

    option: tuple[str, Any]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = super().configure_optimizers()
        name, value = self.option
        optimizer.defaults[name] = optimizer.param_groups[0][name] = (
            value  # as if given at the start
        )
        return optimizer


class MomentumForgotten(OptimizerOption):
    option = ("momentum", 0.0)


class DampeningForgotten(OptimizerOption):
    option = ("dampening", 0.0)


class NesterovForgotten(OptimizerOption):
    option = ("nesterov", False)


class DecayTwice(OptimizerOption):
    option = ("weight_decay", 0.2)


class ClippedByValueForNorm(LinearRegression):
    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.clip_gradients(optimizer, 1.0, "value")


class NotClipped(LinearRegression):
    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        pass


class RowCountedTwice(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(tuple(torch.cat([part, part[:1]]) for part in batch))


class GradientNegated(LinearRegression):
    def on_after_backward(self) -> None:
        self.bias.grad.neg_()


class DampenedFirstStep(LinearRegression):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.global_step == 0:
            for parameter in self.parameters():
                state = optimizer.state[parameter]
                state["momentum_buffer"] = torch.zeros_like(parameter)


class BatchChangedInPlace(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        batch[0][0] += 1
        return super().loss(batch)


class NesterovUnasked(OptimizerOption):
    option = ("nesterov", True)


class DecayForgotten(OptimizerOption):
    option = ("weight_decay", 0.0)


class StepSkipped(LinearRegression):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        if self.trainer.current_epoch == 2:
            closure()
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)


class SteppedTwice(LinearRegression):
    def on_train_batch_end(self, *_: Any) -> None:
        self.trainer.optimizers[0].step()


MOMENTUM = {"momentum": 0.9}
CLIPPED = {"gradient_clip_val": 1.0}
PLANTED = [
    (GradientHalved, {}, 1, "gradient of weight", "the gradient is halved"),
    (LossHalved, {}, 1, "loss", "the loss is halved"),
    (SumForMean, {}, 1, "loss", "a sum, not a mean"),
    (LearningRateOff, {}, 1, "weight", "lr was 0.001001 where 0.001 was meant"),
    (BiasFrozen, {}, 1, "gradient of bias", "bias is frozen or detached"),
    (BiasLeftOut, {}, 1, "bias", "bias was not updated"),
    (GradientNotZeroed, {}, 2, "gradient of weight", "was not zeroed"),
    (TargetsBroadcast, {}, 1, "loss", "broadcast"),
    (TargetAltered, {}, 1, "loss", "an input was altered"),
    (LastRowDropped, {}, 1, "loss", "row 2 of the batch was left out"),
    (StaleBatch, {}, 2, "loss", "the batch of the step before was used again"),
    (PenaltyOnBias, {"l2": 0.1}, 1, "loss", "the penalty took in the bias"),
    (PenaltyForgotten, {"l1": 0.1}, 1, "loss", "the penalty was left out"),
    (LowerPrecision, {}, 1, "loss", "the loss was computed in"),
    (MomentumReset, MOMENTUM, 2, "weight", "or its buffer emptied"),
    (MomentumForgotten, MOMENTUM, 1, "momentum of weight", "momentum was left out"),
    (
        DampeningForgotten,
        {"momentum": 0.9, "dampening": 0.5},
        2,
        "weight",
        "dampening was left out",
    ),
    (
        NesterovForgotten,
        {"momentum": 0.9, "nesterov": True},
        1,
        "weight",
        "Nesterov's momentum was left out",
    ),
    (DecayTwice, {"weight_decay": 0.1}, 1, "weight", "weight decay was applied twice"),
    (ClippedByValueForNorm, CLIPPED, 1, "weight", "clipped by value"),
    (NotClipped, CLIPPED, 1, "weight", "not clipped"),
    (RowCountedTwice, {}, 1, "loss", "row 0 of the batch was counted twice"),
    (GradientNegated, {}, 1, "gradient of bias", "the gradient is negated"),
    (
        DampenedFirstStep,
        {"momentum": 0.9, "dampening": 0.5},
        1,
        "weight",
        "dampening was applied to the first step",
    ),
    (BatchChangedInPlace, {}, 1, "loss", ""),
    (NesterovUnasked, MOMENTUM, 1, "weight", "Nesterov's momentum was used"),
    (DecayForgotten, {"weight_decay": 0.1}, 1, "weight", "weight decay was left out"),
    (StepSkipped, {}, 5, "gradient of weight", "without an optimizer step"),
    (SteppedTwice, {}, 2, "weight since the last step", "not the optimizer but something else"),
]


def train(
    make_trainer: Any,
    model: LinearRegression,
    precision: str,
    *callbacks: Callback,
    **settings: Any,
) -> Any:
    check = CrossCheck()
    trainer = make_trainer(precision=precision, callbacks=[check, *callbacks], **settings)
    try:
        trainer.fit(model, datamodule=RegressionData(X, y, batch_size=3))
    except CheckFailed as failure:
        return check, str(failure)
    return check, None


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize(
    ("model", "options", "step", "quantity", "cause"),
    PLANTED,
    ids=[row[0].__name__ for row in PLANTED],
)
def test_crosscheck_catches_planted_bug(
    make_trainer: Any,
    model: Any,
    options: Any,
    step: int,
    quantity: str,
    cause: str,
    precision: str,
) -> None:
    options = dict(options)
    settings = {n: options.pop(n) for n in ("gradient_clip_val",) if n in options}
    torch.manual_seed(1)
    healthy = LinearRegression(n_features=2, **options)
    check, message = train(make_trainer, healthy, precision, **settings)
    assert message is None
    assert check.report()["passed"]
    assert check.steps_checked == 10

    torch.manual_seed(1)
    check, message = train(make_trainer, model(n_features=2, **options), precision, **settings)
    assert message is not None, f"worst ratio {check.worst_ratio}"
    assert f"{quantity} at step {step}:" in message
    report = check.report()
    assert not report["passed"]
    assert report["worst_ratio"] > 1
    failure = report["first_failure"]
    assert (failure["step"], failure["quantity"]) == (step, quantity)
    assert cause in (failure["cause"] or "")


class Nudge(Callback):
    """Moves a parameter by one rounding between two steps."""

    def on_train_epoch_end(self, trainer: Any, pl_module: LinearRegression) -> None:
        with torch.no_grad():
            pl_module.bias.copy_(torch.nextafter(pl_module.bias, pl_module.bias + 1))


def test_crosscheck_catches_parameter_moved_between_steps(make_trainer: Any) -> None:
    _, message = train(make_trainer, LinearRegression(n_features=2), "64-true", Nudge())
    assert message is not None
    assert "bias since the last step at step 3:" in message


class MovedAtTheEnd(LinearRegression):
    """Moves a parameter where no further step would see it."""

    hook: str

    def __init_subclass__(cls) -> None:
        setattr(cls, cls.hook, cls.move)

    def move(self, *_: Any) -> None:
        if self.trainer.current_epoch >= 4:
            with torch.no_grad():
                self.bias.add_(1e-9)


class MovedAfterLastEpoch(MovedAtTheEnd):
    hook = "on_train_epoch_end"


class MovedAfterTraining(MovedAtTheEnd):
    hook = "on_train_end"


@pytest.mark.parametrize("model", [MovedAfterLastEpoch, MovedAfterTraining])
def test_crosscheck_catches_parameter_moved_after_the_last_step(
    make_trainer: Any, model: Any
) -> None:
    _, message = train(make_trainer, model(n_features=2), "64-true")
    assert message is not None
    assert "bias since the last step at step 11: expected" in message
    assert "unchanged, found" in message


def test_crosscheck_expects_no_momentum_in_a_new_training(make_trainer: Any) -> None:
    class Prefilled(LinearRegression):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            for parameter in self.parameters():
                optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, 1000.0)
            return optimizer

    _, message = train(make_trainer, Prefilled(n_features=2, momentum=0.9), "64-true")
    assert message is not None
    assert "weight at step 1:" in message


def _train_bias_never(model: LinearRegression, X: torch.Tensor) -> torch.Tensor:
    return X.to(model.weight.dtype) @ model.weight + model.bias.detach()


@pytest.mark.parametrize(
    ("hook", "planted", "quantity"),
    [
        ("on_after_backward", GradientHalved.on_after_backward, "gradient of weight"),
        ("configure_optimizers", LearningRateOff.off_by_a_thousandth, "weight"),
        ("forward", _train_bias_never, "gradient of bias"),
    ],
    ids=["gradient halved", "lr 0.1 % off", "bias never updated"],
)
def test_fit_with_planted_bug_exits_with_1(
    cli: Any, monkeypatch: pytest.MonkeyPatch, hook: str, planted: Any, quantity: str
) -> None:
    monkeypatch.setattr(LinearRegression, hook, planted)
    run = cli("fit", "--trainer.max_epochs", "20")
    assert run.status == 1, run.stdout
    assert run.stderr.count("\n") == 1
    assert f"cross-check failed: {quantity} at step 1:" in run.stderr
    result = run.result()
    assert result["crosscheck"]["passed"] is False
    assert result["crosscheck"]["first_failure"]["step"] == 1
    assert "cross-check failed" in result["error"]
