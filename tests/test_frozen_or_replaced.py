"""What a user freezes or replaces on a model is followed, or refused, in every way of stepping."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer

from trueline.crosscheck import CrossCheck
from trueline.data import RegressionData
from trueline.errors import CheckFailed, RequestError
from trueline.module import LinearRegression
from trueline.results.report import Report
from trueline.tensorboard import Scalars

Change = Callable[[LinearRegression], object]
N, EPOCHS, BATCH = 23, 6, 5


def rows(weights: bool = False) -> RegressionData:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, 2))
    y = X @ [1.0, -2.0] + 3 + rng.standard_normal(N)
    sample_weight = rng.uniform(0.5, 2, N) if weights else None
    return RegressionData(X, y, batch_size=BATCH, sample_weight=sample_weight)


def model(steps: int | str, **options: Any) -> LinearRegression:
    torch.manual_seed(0)
    return LinearRegression(2, lr=0.05, steps_per_execution=steps, **options)


def flat(m: LinearRegression) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in m.parameters()])


def freeze(name: str) -> Change:
    return lambda m: getattr(m, name).requires_grad_(False)


def by_torch(
    change: Change, options: dict[str, Any], clip: float | None = None, by_epoch: Any = None
) -> list[torch.Tensor]:
    """Train by a loop of torch."""
    own = model(1, **{k: v for k, v in options.items() if k != "steps"}).double()
    change(own)
    keys = ("momentum", "dampening", "weight_decay", "nesterov")
    optimizer = torch.optim.SGD(
        own.parameters(), lr=0.05, **{k: v for k, v in options.items() if k in keys}
    )
    data = rows()
    for epoch in range(EPOCHS):
        if by_epoch:
            by_epoch(own, epoch)
        for i in range(0, N, BATCH):
            X, y = data.X[i : i + BATCH], data.y[i : i + BATCH]
            optimizer.zero_grad()
            loss = own.mse(X @ own.weight + own.bias, y)
            (loss + options.get("l2", 0.0) * own.weight.square().sum()).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(own.parameters(), clip)
            optimizer.step()
    return [p.detach() for p in own.parameters()]


class ByEpoch(Callback):
    """Changes the model at the start of an epoch."""

    def __init__(self, change: Callable[[Any, int], object]) -> None:
        self.change = change

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.change(pl_module, trainer.current_epoch)


OPTIONS = [
    {},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.5, "nesterov": True, "l2": 0.1},
    {"momentum": 0.5, "dampening": 0.3},
]


@pytest.mark.parametrize("steps", [1, 7, "auto"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_frozen_parameter_stays_and_the_rest_is_trained(
    make_trainer: Any, name: str, options: dict[str, Any], steps: Any
) -> None:
    for settings in ({}, {"gradient_clip_val": 0.7}):
        m, check = model(steps, **options), CrossCheck()
        freeze(name)(m)
        before = getattr(m, name).detach().double().clone()
        trainer = make_trainer(max_epochs=EPOCHS, callbacks=[check], **settings)
        trainer.fit(m, rows())
        assert torch.equal(getattr(m, name), before)
        expected = by_torch(freeze(name), options, settings.get("gradient_clip_val"))
        for found, right in zip(m.parameters(), expected, strict=True):
            assert torch.allclose(found, right, rtol=1e-12, atol=1e-12)
        assert check.report()["passed"]
        assert check.report()["steps_checked"] == trainer.global_step == 30


@pytest.mark.parametrize("steps", [1, 7, "auto"])
@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_frozen_for_some_epochs(
    make_trainer: Any, options: dict[str, Any], first: int, steps: Any
) -> None:
    def change(module: Any, epoch: int) -> None:
        module.bias.requires_grad_(not first <= epoch < 4)

    m, check = model(steps, **options), CrossCheck()
    make_trainer(max_epochs=EPOCHS, callbacks=[ByEpoch(change), check]).fit(m, rows())
    expected = by_torch(lambda _: None, options, by_epoch=change)
    for found, right in zip(m.parameters(), expected, strict=True):
        assert torch.allclose(found, right, rtol=1e-12, atol=1e-12)
    assert check.report()["passed"]
    assert check.report()["epochs_counted"] == EPOCHS


def test_frozen_with_accumulated_batches(make_trainer: Any) -> None:
    m, check = model("auto"), CrossCheck()
    freeze("bias")(m)
    before = m.bias.detach().double()
    make_trainer(accumulate_grad_batches=2, callbacks=[check]).fit(m, rows())
    assert torch.equal(m.bias, before)
    assert check.report()["passed"]


def test_a_frozen_parameter_that_moves_is_told(make_trainer: Any) -> None:
    class Move(Callback):
        def on_before_zero_grad(self, trainer: Trainer, m: Any, optimizer: Any) -> None:
            if trainer.global_step == 2:
                m.bias.data += 1e-12

    m = model(1)
    freeze("bias")(m)
    with pytest.raises(CheckFailed, match="bias"):
        make_trainer(callbacks=[Move(), CrossCheck()]).fit(m, rows())


def test_all_frozen_is_refused(make_trainer: Any) -> None:
    m = model("auto").requires_grad_(False)
    with pytest.raises(ValueError, match="found weight and bias frozen"):
        make_trainer().fit(m, rows())
    later = ByEpoch(lambda m, epoch: m.requires_grad_(epoch < 2))
    with pytest.raises(ValueError, match="found weight and bias frozen"):
        make_trainer(callbacks=[later]).fit(model("auto"), rows())


def test_what_needs_all_parameters_is_not_said_of_frozen_ones(
    make_trainer: Any,
) -> None:
    m = model("auto")
    freeze("bias")(m)
    report = Report()
    make_trainer(callbacks=[Scalars(), report]).fit(m, rows())
    for name in ("converged", "distance", "remedy", "closed_form", "largest_stable_lr"):
        assert report.result[name] is None
    m = model("auto")
    m.hparams["lr"] = "auto"
    freeze("bias")(m)
    with pytest.raises(ValueError, match="lr auto: expected every parameter to be trained"):
        make_trainer().fit(m, rows())


def half_gradient(m: Any) -> None:
    m.weight.register_hook(lambda gradient: gradient / 2)


def accumulated_hook(m: Any) -> None:
    def double(p: Any) -> None:
        p.grad.mul_(2)

    m.bias.register_post_accumulate_grad_hook(double)


def forward_hook(m: Any) -> None:
    m.register_forward_hook(lambda *given: given[-1] + 1)


def own_step(m: Any) -> None:
    right = m.training_step

    def step(batch: Any, batch_idx: int) -> Any:
        found = right(batch, batch_idx)
        return {**found, "loss": 2 * found["loss"]}

    m.training_step = step


def other_backward(m: Any) -> None:
    m.backward = lambda loss: (3 * loss).backward()


def other_optimizer(m: Any) -> None:
    m.configure_optimizers = lambda: torch.optim.SGD(m.parameters(), lr=0.02)


def adam(m: Any) -> None:
    m.configure_optimizers = lambda: torch.optim.Adam(m.parameters(), lr=0.02)


def scaled_penalty(m: Any) -> None:
    m.hparams["l2"] = 0.1
    m.penalty = lambda: 5 * m.weight.square().sum()


def after_backward(m: Any) -> None:
    m.on_before_optimizer_step = lambda *_: m.bias.grad.zero_()


def sum_of_squares(m: Any) -> None:
    m.mse.reduction = "sum"


def huber(m: Any) -> None:
    m.mse = torch.nn.HuberLoss()


def hooked_loss(m: Any) -> None:
    m.mse.register_forward_hook(lambda *given: 3 * given[-1])


REPLACED = [
    *(half_gradient, accumulated_hook, forward_hook, own_step, other_backward, other_optimizer),
    *(adam, scaled_penalty, after_backward, sum_of_squares, huber, hooked_loss),
]


@pytest.mark.parametrize("change", REPLACED, ids=lambda f: f.__name__)
def test_what_is_replaced_is_followed_and_not_passed_by_the_check(
    make_trainer: Any, change: Change
) -> None:
    ends = []
    for steps in (1, 7, "auto"):
        m = model(steps)
        change(m)
        make_trainer().fit(m, rows())
        ends.append(flat(m))
        m = model(steps)
        change(m)
        with pytest.raises((CheckFailed, RequestError)):
            make_trainer(callbacks=[CrossCheck()]).fit(m, rows())
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    plain = model("auto")
    make_trainer().fit(plain, rows())
    assert not torch.allclose(flat(plain), ends[0])


class AtStart(Callback):
    """Changes the optimizer when training starts."""

    def __init__(self, change: Callable[[Any], object]) -> None:
        self.change = change

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.change(trainer.optimizers[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o.param_groups[0].update(momentum=0.9),
        lambda o: o.param_groups[0].update(lr=0.01),
        lambda o: o.param_groups[0].update(maximize=True, lr=1e-3),
        lambda o: o.register_step_post_hook(lambda *_: o.param_groups[0]["params"][1].data.mul_(2)),
        lambda o: o.add_param_group({"params": [o.param_groups[0]["params"].pop()], "lr": 0.1}),
    ],
    ids=["momentum", "lr", "maximize", "hook", "groups"],
)
def test_an_optimizer_that_is_changed_is_followed(make_trainer: Any, change: Any) -> None:
    ends = []
    for steps in (1, 7, "auto"):
        m = model(steps)
        make_trainer(callbacks=[AtStart(change)]).fit(m, rows())
        ends.append(flat(m))
        with pytest.raises((CheckFailed, RequestError)):
            make_trainer(callbacks=[AtStart(change), CrossCheck()]).fit(model(steps), rows())
    assert torch.allclose(ends[0], ends[1], rtol=1e-12)
    assert torch.allclose(ends[0], ends[2], rtol=1e-12)


def test_methods_replaced_on_the_class_are_followed(make_trainer: Any, monkeypatch: Any) -> None:
    right = LinearRegression.loss
    monkeypatch.setattr(LinearRegression, "loss", lambda self, batch: 2 * right(self, batch))
    m = model("auto")
    make_trainer().fit(m, rows())
    assert m.execution is None
    with pytest.raises(CheckFailed, match="loss at step 1"):
        make_trainer(callbacks=[CrossCheck()]).fit(model("auto"), rows())


def test_hooks_set_on_a_callback_and_in_a_subclass_of_lightnings_are_called(
    make_trainer: Any,
) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    calls: list[str] = []

    class Saving(ModelCheckpoint):
        def on_before_optimizer_step(self, *_: Any) -> None:
            calls.append("class")

    plain = Callback()
    plain.on_before_optimizer_step = lambda *_: calls.append("instance")  # type: ignore[method-assign]
    make_trainer(callbacks=[plain]).fit(model("auto"), rows())
    make_trainer(callbacks=[Saving()], enable_checkpointing=True).fit(model("auto"), rows())
    assert (calls.count("instance"), calls.count("class")) == (25, 25)


def test_weights_with_another_loss_are_refused(make_trainer: Any) -> None:
    m = model("auto")
    huber(m)
    with pytest.raises(ValueError, match="mse is HuberLoss instead of MSELoss"):
        make_trainer().fit(m, rows(weights=True))


def test_an_attribute_without_effect_is_refused(make_trainer: Any) -> None:
    m = model("auto")
    m.loss = torch.nn.HuberLoss()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="loss: expected the method of that name"):
        make_trainer().fit(m, rows())


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_frozen_under_an_l1_penalty(make_trainer: Any, name: str) -> None:
    m, check = model("auto", momentum=0.5, l1=0.3), CrossCheck()
    freeze(name)(m)
    before = getattr(m, name).detach().double()
    make_trainer(callbacks=[check]).fit(m, rows())
    assert torch.equal(getattr(m, name), before)
    assert check.report()["passed"]
