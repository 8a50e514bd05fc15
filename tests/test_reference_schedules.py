"""The schedules against torch's own, tick by tick, and by hand."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from trueline.reference.one_cycle import OneCycleLR
from trueline.reference.schedule_options import schedule_from
from trueline.reference.schedules import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    StepLR,
)

TICKS = 200
factors = st.floats(0.01, 1.0) | st.floats(1.0, 1.5)
lrs = st.floats(-5, 1).map(lambda exponent: 10**exponent)
cycles = st.fixed_dictionaries(
    {
        "max_lr": lrs,
        "total_steps": st.integers(1, TICKS),
        "pct_start": st.floats(0.0, 1.0),
        "anneal_strategy": st.sampled_from(["cos", "linear"]),
        "div_factor": st.floats(-2, 3).map(lambda exponent: 10**exponent),
        "final_div_factor": st.floats(-2, 5).map(lambda exponent: 10**exponent),
        "three_phase": st.booleans(),
    }
)
DRAWN = {
    "StepLR": st.fixed_dictionaries({"step_size": st.integers(1, 40), "gamma": factors}),
    "MultiStepLR": st.fixed_dictionaries(
        {"milestones": st.lists(st.integers(0, TICKS + 9), max_size=20), "gamma": factors}
    ),
    "ExponentialLR": st.fixed_dictionaries({"gamma": factors}),
    "CosineAnnealingLR": st.fixed_dictionaries(
        # Small periods turn often, long ones lose the most at a turn.
        {"T_max": st.integers(1, 12) | st.integers(13, TICKS + 9), "eta_min": st.just(0.0) | lrs}
    ),
    "LinearLR": st.fixed_dictionaries(
        {
            "start_factor": st.floats(-9, 0).map(lambda exponent: 10**exponent),
            "end_factor": st.floats(0.0, 1.0),
            "total_iters": st.integers(1, TICKS + 9),
        }
    ),
    # At 1/total_steps torch divides by zero.
    "OneCycleLR": cycles.filter(lambda o: o["pct_start"] * o["total_steps"] != 1),
}


def torch_lrs(name: str, base: float, options: dict[str, Any], ticks: int = TICKS) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=base)
    if name == "OneCycleLR":
        options = {**options, "cycle_momentum": False}
        ticks = min(ticks, options["total_steps"] - 1)
    scheduler = getattr(lr_scheduler, name)(optimizer, **options)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(ticks):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def assert_within_bound(schedule: Any, base: float, found: list[float]) -> None:
    for tick, lr in enumerate(found):
        expected, error = schedule.lr(base, tick), schedule.error(base, tick)
        assert abs(lr - expected) <= error, (tick, lr, expected, error)


@pytest.mark.parametrize("name", DRAWN)
def test_schedule_agrees_with_torch(name: str) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(options=DRAWN[name], base=lrs)
    def agrees(options: dict[str, Any], base: float) -> None:
        schedule: Any = schedule_from(name, options)
        found = torch_lrs(name, base, options)
        assert_within_bound(schedule, base, found)
        # The bound is worth something: a slip of a billionth would be seen.
        for tick in range(len(found)):
            largest = max(schedule.lr(base, past) for past in {0, tick, options.get("T_max", 0)})
            peak = max(largest, options.get("max_lr", 0.0))
            assert schedule.error(base, tick) <= 1e-9 * peak + 1e-300

    agrees()


def test_lambda_agrees_with_torch() -> None:
    schedule = LambdaLR(lambda tick: 0.9**tick + 0.1 * (tick % 3))
    assert_within_bound(
        schedule, 0.3, torch_lrs("LambdaLR", 0.3, {"lr_lambda": schedule.lr_lambda})
    )


@pytest.mark.parametrize("eta_min", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("T_max", [1, 2, 3, 13, 1000])
def test_cosine_agrees_with_torch_over_many_periods(T_max: int, eta_min: float) -> None:
    schedule = CosineAnnealingLR(T_max, eta_min)
    found = torch_lrs("CosineAnnealingLR", 0.1, {"T_max": T_max, "eta_min": eta_min}, ticks=6000)
    assert_within_bound(schedule, 0.1, found)
    # torch forgets at each minimum what it has gathered of error.
    minima = found[T_max :: 2 * T_max]
    assert minima == [eta_min] * len(minima)
    assert [schedule.lr(0.1, t) for t in range(T_max, 6001, 2 * T_max)] == minima


def test_cosine_bound_is_tight_where_torch_loses_digits() -> None:
    schedule = CosineAnnealingLR(T_max=1000, eta_min=0.3)
    found = torch_lrs("CosineAnnealingLR", 1.0, {"T_max": 1000, "eta_min": 0.3}, ticks=2000)
    deviation, error = abs(found[2000] - schedule.lr(1.0, 2000)), schedule.error(1.0, 2000)
    # Without what is lost at the turn the bound would be broken; with it, it is not far off.
    assert schedule.error(1.0, 1000) < deviation <= error < 100 * deviation
    assert schedule.error(1.0, 1001) < 2 * schedule.error(1.0, 1000)


@pytest.mark.parametrize(
    ("name", "options", "ticks"),
    [
        ("ExponentialLR", {"gamma": 0.7}, 2200),
        ("StepLR", {"step_size": 1, "gamma": 0.1}, 400),
        ("MultiStepLR", {"milestones": [*range(0, 800, 2), 3, 3], "gamma": 0.1}, 800),
    ],
)
def test_schedule_agrees_with_torch_where_it_underflows(
    name: str, options: Any, ticks: int
) -> None:
    for base in (0.1, 1e9):
        found = torch_lrs(name, base, options, ticks)
        assert 0 <= found[-1] < 2.0**-1050
        assert_within_bound(schedule_from(name, options), base, found)


def test_schedule_that_grows_for_ever_overflows_as_torch_does() -> None:
    found, schedule = torch_lrs("ExponentialLR", 0.5, {"gamma": 2.0}, 1030), ExponentialLR(2.0)
    assert found[:1024] == [schedule.lr(0.5, tick) for tick in range(1024)]
    assert found[1025:] == [schedule.lr(0.5, tick) for tick in range(1025, 1031)] == [math.inf] * 6


def test_schedule_bound_sees_one_tick_too_many() -> None:
    planted: list[tuple[Any, float]] = [
        (StepLR(7), 6),
        (MultiStepLR([5]), 4),
        (ExponentialLR(1 - 1e-9), 100),
        (CosineAnnealingLR(100), 50),
        (CosineAnnealingLR(100), 101),
        (LinearLR(total_iters=10**5), 500),
        (OneCycleLR(0.1, total_steps=10**5), 500),
        (LambdaLR(lambda tick: 1 - 1e-9 * tick), 3),
    ]
    for schedule, tick in planted:
        ahead = schedule.lr(0.1, tick + 1) - schedule.lr(0.1, tick)
        assert abs(ahead) > 10 * schedule.error(0.1, tick), schedule


@pytest.mark.parametrize(
    ("name", "options", "tick", "lr"),
    [
        ("StepLR", {"step_size": 3, "gamma": 0.5}, 5, 0.5),
        ("StepLR", {"step_size": 3, "gamma": 0.5}, 6, 0.25),
        ("MultiStepLR", {"milestones": [5, 2], "gamma": 0.5}, 4, 0.5),
        ("MultiStepLR", {"milestones": [5, 2, 2], "gamma": 0.5}, 5, 0.125),
        ("ExponentialLR", {"gamma": 0.5}, 2, 0.25),
        ("CosineAnnealingLR", {"T_max": 3}, 1, 0.75),
        ("CosineAnnealingLR", {"T_max": 3, "eta_min": 0.2}, 3, 0.2),
        ("CosineAnnealingLR", {"T_max": 3, "eta_min": 0.2}, 4, 0.4),
        ("CosineAnnealingLR", {"T_max": 3}, 6, 1.0),
        ("LinearLR", {}, 0, 1 / 3),
        ("LinearLR", {"start_factor": 0.5, "total_iters": 2}, 1, 0.75),
        ("LinearLR", {"start_factor": 0.5, "end_factor": 0.1, "total_iters": 2}, 9, 0.1),
        ("OneCycleLR", {"max_lr": 2.0, "total_steps": 12, "pct_start": 0.25}, 0, 0.08),
        ("OneCycleLR", {"max_lr": 2.0, "total_steps": 12, "pct_start": 0.25}, 1, 1.04),
        ("OneCycleLR", {"max_lr": 2.0, "total_steps": 12, "pct_start": 0.25}, 2, 2.0),
        ("OneCycleLR", {"max_lr": 2.0, "total_steps": 12, "pct_start": 0.25}, 11, 8e-6),
        (
            "OneCycleLR",  # three phases: up in 3 ticks, down in 3, and 9 to the end
            {
                "max_lr": 3.0,
                "total_steps": 16,
                "pct_start": 0.25,
                "anneal_strategy": "linear",
                "div_factor": 3.0,
                "final_div_factor": 10.0,
                "three_phase": True,
            },
            4,
            7 / 3,
        ),
    ],
)
def test_schedule_by_hand(name: str, options: Any, tick: int, lr: float) -> None:
    schedule: Any = schedule_from(name, options)
    assert schedule.lr(1.0, tick) == pytest.approx(lr, rel=1e-14)
    assert torch_lrs(name, 1.0, options, tick)[-1] == pytest.approx(lr, rel=1e-14)


def test_schedule_keeps_to_torch_where_options_would_not_be_taken() -> None:
    """A class built in Python is not asked for its ranges."""
    assert torch_lrs("LinearLR", 1.0, {"start_factor": 0.5, "total_iters": 0}, 3) == [
        LinearLR(0.5, total_iters=0).lr(1.0, tick) for tick in range(4)
    ]
    assert torch_lrs("MultiStepLR", 1.0, {"milestones": [-1, 2]}, 3) == [
        MultiStepLR([-1, 2]).lr(1.0, tick) for tick in range(4)
    ]
