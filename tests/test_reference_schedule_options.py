"""`reference.schedule_options`: torch's names and defaults, and what is said of wrong options."""

import math
from typing import Any

import pytest
from torch.optim import lr_scheduler

from trueline.reference.one_cycle import OneCycleLR
from trueline.reference.plateau import ReduceLROnPlateau
from trueline.reference.schedule_options import BY_NAME, RANGES, schedule_from
from trueline.reference.schedules import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    StepLR,
)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Cosine", {}, "expected one of StepLR, .*; found Cosine"),
        ("LambdaLR", {"lr_lambda": abs}, "in Python, pass the object LambdaLR"),
        (
            "StepLR",
            {"step_size": 0, "rate": 1},
            "among step_size, gamma; found rate; .*: step_size",
        ),
        ("StepLR", {"gamma": "x"}, "step_size: .* 1 or more; found none; .* gamma: .* found 'x'"),
        ("StepLR", {"step_size": 2.5}, "step_size: expected a whole number, 1 or more; found 2.5"),
        ("StepLR", {"step_size": True}, "found True"),
        ("StepLR", {"step_size": 1, "gamma": math.nan}, "found nan"),
        ("MultiStepLR", {"milestones": [3, 2.5]}, "milestones: expected a list of whole numbers"),
        ("MultiStepLR", {"milestones": [-1]}, "0 or more; found \\[-1\\]"),
        ("MultiStepLR", {"milestones": 7}, "expected a list .*; found 7"),
        (
            "ExponentialLR",
            {"gamma": -0.5},
            "gamma: expected a finite number, 0 or more; found -0.5",
        ),
        ("CosineAnnealingLR", {"T_max": 0, "eta_min": math.inf}, "T_max: .* found 0; .* found inf"),
        (
            "LinearLR",
            {"start_factor": 0, "end_factor": 2},
            "above 0 and at most 1.* 0 to 1; found 2",
        ),
        ("LinearLR", {"total_iters": 0}, "total_iters: .* 1 or more; found 0"),
        (
            "OneCycleLR",
            {"max_lr": 1, "total_steps": 0, "pct_start": 1.1},
            "steps: .*; .* found 1.1",
        ),
        ("OneCycleLR", {"max_lr": 1, "total_steps": 2, "pct_start": 0.5}, "than 1/total_steps"),
        ("OneCycleLR", {"max_lr": 1, "total_steps": 9, "anneal_strategy": "up"}, "cos or linear"),
        ("OneCycleLR", {"max_lr": 1, "total_steps": 9, "three_phase": 1}, "true or false; found 1"),
        ("ReduceLROnPlateau", {"mode": "low"}, "mode: expected min or max; found 'low'"),
        ("ReduceLROnPlateau", {"factor": 1.0, "patience": -1}, "below 1; found 1.0; .* found -1"),
        ("ReduceLROnPlateau", {"threshold_mode": ["abs"]}, "expected rel or abs"),
    ],
)
def test_schedule_options_are_checked(name: str, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schedule_from(name, options)


def test_schedule_from_builds_each_class_with_the_options_of_torch() -> None:
    assert {o for cls in BY_NAME.values() for o in cls.__dataclass_fields__} == set(RANGES)
    built = [
        ("StepLR", {"step_size": 2}, StepLR(2)),
        ("MultiStepLR", {"milestones": [2], "gamma": 1}, MultiStepLR([2], 1)),
        ("ExponentialLR", {"gamma": 0.5}, ExponentialLR(0.5)),
        ("CosineAnnealingLR", {"T_max": 5, "eta_min": 0.1}, CosineAnnealingLR(5, 0.1)),
        ("LinearLR", {}, LinearLR()),
        ("OneCycleLR", {"max_lr": 1, "total_steps": 9}, OneCycleLR(1, 9)),
        ("ReduceLROnPlateau", {"mode": "max"}, ReduceLROnPlateau("max")),
    ]
    assert [name for name, *_ in built] == list(BY_NAME)
    for name, options, expected in built:
        assert schedule_from(name, options) == expected


@pytest.mark.parametrize("name", [*BY_NAME, "LambdaLR"])
def test_schedule_has_the_defaults_of_torch(name: str) -> None:
    given_by = {"LambdaLR": {"lr_lambda": abs}, "OneCycleLR": {"max_lr": 1.0, "total_steps": 9}}
    for option, field in {**BY_NAME, "LambdaLR": LambdaLR}[name].__dataclass_fields__.items():
        code = getattr(lr_scheduler, name).__init__
        names = code.__code__.co_varnames[1 : code.__code__.co_argcount]
        defaults = dict(zip(reversed(names), reversed(code.__defaults__), strict=False))
        assert option in names
        if option not in given_by.get(name, {}) and option in defaults:
            assert defaults[option] == field.default
