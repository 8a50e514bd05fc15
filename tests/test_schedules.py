"""Every schedule that torch has: the numbers of a plain torch loop, however steps are taken."""

import contextlib
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import lr_scheduler

from trueline.crosscheck import CrossCheck
from trueline.data import RegressionData
from trueline.errors import RequestError
from trueline.module import LinearRegression

N, BATCH, EPOCHS = 23, 5, 10
TICKS = N // BATCH + 1
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ConstantLR": [{"factor": 0.5, "total_iters": 7}],
    "CosineAnnealingLR": [{"T_max": 20, "eta_min": 0.01}],
    "CosineAnnealingWarmRestarts": [{"T_0": 3, "T_mult": 2, "eta_min": 1e-3}],
    "CyclicLR": [
        {"base_lr": 0.01, "max_lr": 0.05, "step_size_up": 3},
        {
            **{"base_lr": 0.01, "max_lr": 0.05, "step_size_up": 4, "step_size_down": 2},
            **{"mode": "exp_range", "gamma": 0.9, "cycle_momentum": False},
        },
    ],
    "ExponentialLR": [{"gamma": 0.9}],
    "LinearLR": [{"start_factor": 0.1, "end_factor": 0.8, "total_iters": 9}],
    "MultiStepLR": [{"milestones": [2, 5, 5]}],
    "OneCycleLR": [
        {"max_lr": 0.1, "total_steps": EPOCHS * TICKS, "cycle_momentum": True},
        {"max_lr": 0.1, "total_steps": EPOCHS * TICKS, "cycle_momentum": False, "pct_start": 1},
    ],
    "PolynomialLR": [{"total_iters": 10, "power": 2.0}],
    "ReduceLROnPlateau": [{"patience": 1, "factor": 0.3, "min_lr": 0.001}],
    "StepLR": [{"step_size": 4, "gamma": 0.5}],
}
REFUSED = {
    "ChainedScheduler": {"schedulers": []},
    "LambdaLR": {"lr_lambda": abs},
    "LRScheduler": {},
    "_LRScheduler": {},
    "MultiplicativeLR": {"lr_lambda": abs},
    "SequentialLR": {"schedulers": [], "milestones": []},
}
CASES = [(name, options) for name in OPTIONS for options in OPTIONS[name]]


def rows() -> RegressionData:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, 3))
    return RegressionData(X, X @ [1.0, 2, 3] + rng.standard_normal(N) / 10, batch_size=BATCH)


def model(steps: Any, momentum: float, schedule: dict[str, Any]) -> LinearRegression:
    torch.manual_seed(0)
    return LinearRegression(
        3, lr=0.05, momentum=momentum, steps_per_execution=steps, schedule=schedule
    )


def tick(scheduler: Any, loss: float) -> None:
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(loss)
        return
    with contextlib.suppress(ZeroDivisionError):  # at the end of a OneCycleLR with pct_start 1
        scheduler.step()


def by_torch(name: str, options: dict[str, Any], interval: str, momentum: float) -> np.ndarray:
    own = model(1, momentum, {"name": "StepLR", "step_size": 1}).double()
    weight, bias = own.weight, own.bias
    optimizer = torch.optim.SGD([weight, bias], lr=0.05, momentum=momentum)
    if "pct_start" in options:
        options = {**options, "pct_start": float(options["pct_start"])}
    scheduler = getattr(lr_scheduler, name)(optimizer, **options)
    data = rows()
    for _ in range(EPOCHS):
        for i in range(0, N, BATCH):
            optimizer.zero_grad()
            residuals = data.X[i : i + BATCH] @ weight + bias - data.y[i : i + BATCH]
            loss = residuals.square().mean()
            loss.backward()
            optimizer.step()
            if interval == "step":
                tick(scheduler, loss.item())
        if interval == "epoch":
            tick(scheduler, loss.item())
    return state(own, optimizer)


def state(module: LinearRegression, optimizer: Any) -> np.ndarray:
    [group] = optimizer.param_groups
    parameters = [p.detach().flatten().numpy() for p in module.parameters()]
    return np.concatenate([*parameters, [group["momentum"]]])


class SaveAndStop(Callback):
    """Saves a checkpoint after so many steps, and stops."""

    knows_executions = True

    def __init__(self, step: int, path: Any) -> None:
        self.every_n_steps, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.every_n_steps:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler")
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
def test_schedule_is_that_of_torch_in_single_steps_and_many_and_resumed(
    make_trainer: Any, tmp_path: Any, name: str, options: dict[str, Any], interval: str
) -> None:
    for momentum in (0.0, 0.9):
        expected = by_torch(name, options, interval, momentum)
        for steps in (1, "auto"):
            given = steps, momentum, {"name": name, "interval": interval, **options}
            whole = make_trainer(max_epochs=EPOCHS)
            found = model(*given)
            whole.fit(found, rows())
            assert state(found, whole.optimizers[0]) == pytest.approx(expected, rel=1e-9)
            path = tmp_path / "inside.ckpt"
            stop = SaveAndStop(18, path)
            make_trainer(max_epochs=EPOCHS, callbacks=[stop]).fit(model(*given), rows())
            resumed, found = make_trainer(max_epochs=EPOCHS), model(*given)
            resumed.fit(found, rows(), ckpt_path=path, weights_only=False)
            assert state(found, resumed.optimizers[0]) == pytest.approx(expected, rel=1e-9)


def test_every_schedule_of_torch_is_followed_or_refused() -> None:
    there = {
        name
        for name, cls in inspect.getmembers(lr_scheduler, inspect.isclass)
        if issubclass(cls, lr_scheduler.LRScheduler)
    }
    assert there == OPTIONS.keys() | REFUSED.keys()
    for name, options in REFUSED.items():
        with pytest.raises(ValueError, match=r"^schedule: expected"):
            LinearRegression(schedule={"name": name, **options})
    with pytest.raises(ValueError, match="found scale_fn"):
        LinearRegression(schedule={"name": "CyclicLR", **OPTIONS["CyclicLR"][0], "scale_fn": abs})


def test_momentum_that_a_schedule_cycles_is_not_passed_by_the_check(make_trainer: Any) -> None:
    options = {"name": "OneCycleLR", "max_lr": 0.1, "total_steps": 99, "interval": "step"}
    for schedule, momentum in (
        ({**options, "cycle_momentum": True}, "cycle_momentum: expected false"),
        ({"name": "CyclicLR", **OPTIONS["CyclicLR"][0]}, "CyclicLR"),
    ):
        with pytest.raises(RequestError, match=momentum):
            make_trainer(callbacks=[CrossCheck()]).fit(model("auto", 0.9, schedule), rows())
    check = CrossCheck()
    stays = {**options, "cycle_momentum": False, "pct_start": 1}
    make_trainer(callbacks=[check]).fit(model("auto", 0.9, stays), rows())
    assert check.report()["passed"]
