"""Trainings with one error each: the cross-check names the first wrong step, what, and why."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from planted_bugs import PLANTED, GradientHalved, LearningRateOff, Planted, plain
from trueline.crosscheck import CrossCheck
from trueline.errors import CheckFailed
from trueline.module import LinearRegression
from trueline.tensorboard import Scalars


def train(
    make_trainer: Any,
    model: LinearRegression,
    precision: str,
    *callbacks: Callback,
    data: Any = None,
    loader: Any = None,
    rules: Any = None,
    **settings: Any,
) -> Any:
    check = CrossCheck(optimizer=rules)
    trainer = make_trainer(precision=precision, callbacks=[check, *callbacks], **settings)
    data = data or plain()
    if loader:
        data.train_dataloader = lambda: loader
    try:
        trainer.fit(model, datamodule=data)
    except CheckFailed as failure:
        return check, str(failure)
    return check, None


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_crosscheck_catches_planted_bug(
    make_trainer: Any, planted: Planted, precision: str
) -> None:
    options = {"n_features": 2, **planted.options}

    torch.manual_seed(1)
    check, message = train(
        make_trainer,
        LinearRegression(**options),
        precision,
        Scalars(),
        data=planted.data(),
        rules=planted.rules,
        **planted.trainer,
    )
    assert message is None
    report = check.report()
    assert report["passed"]
    assert report["epochs_counted"] == 5

    torch.manual_seed(1)
    check, message = train(
        make_trainer,
        planted.model(**options),
        precision,
        Scalars(),
        data=planted.data(),
        loader=planted.loader and planted.loader(),
        rules=planted.rules,
        **planted.trainer,
    )
    assert message is not None, f"worst ratio {check.tally.worst_ratio}"
    assert f"{planted.quantity} at step {planted.step}:" in message
    report = check.report()
    assert not report["passed"]
    failure = report["first_failure"]
    assert (failure["step"], failure["quantity"]) == (planted.step, planted.quantity)
    assert planted.cause in (failure["cause"] or "")
    if failure["ratio"] is not None:
        assert failure["ratio"] > 1
        assert report["worst_ratio"] > 1


def test_enough_is_planted() -> None:
    assert len(PLANTED) >= 40
    assert sum(bool(planted.cause) for planted in PLANTED) >= 30
    assert len({str(planted) for planted in PLANTED}) == len(PLANTED)


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
    assert "exactly, found" in message


def test_crosscheck_expects_no_momentum_in_a_new_training(make_trainer: Any) -> None:
    class Prefilled(LinearRegression):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            for parameter in self.parameters():
                optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, 1000.0)
            return optimizer

    _, message = train(make_trainer, Prefilled(n_features=2, momentum=0.9), "64-true")
    assert message is not None
    assert "momentum of bias at step 1:" in message


def _train_bias_never(model: LinearRegression, X: torch.Tensor) -> torch.Tensor:
    return X.to(model.weight.dtype) @ model.weight + model.bias.detach()


@pytest.mark.parametrize(
    ("hook", "planted", "quantity"),
    [
        ("on_after_backward", GradientHalved.on_after_backward, "gradient of weight"),
        ("configure_optimizers", LearningRateOff.off_by_a_thousandth, "lr"),
        ("forward", _train_bias_never, "gradient of bias"),
    ],
    ids=["gradient halved", "lr 0.1 % off", "bias never updated"],
)
def test_fit_with_planted_bug_exits_with_1(
    cli: Any, monkeypatch: pytest.MonkeyPatch, hook: str, planted: Any, quantity: str
) -> None:
    monkeypatch.setattr(LinearRegression, hook, planted)
    run = cli("fit", "--trainer.max_epochs", "20", "--model.steps_per_execution=1")
    assert run.status == 1, run.stdout
    assert run.stderr.count("\n") == 1
    assert f"cross-check failed: {quantity} at step 1:" in run.stderr
    result = run.result()
    assert result["crosscheck"]["passed"] is False
    assert result["crosscheck"]["first_failure"]["step"] == 1
    assert "cross-check failed" in result["error"]
