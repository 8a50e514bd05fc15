"""`reference.plateau`: every state is torch's to the bit, and one sequence by hand."""

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from trueline.reference.plateau import PlateauState, ReduceLROnPlateau
from trueline.reference.schedule_options import schedule_from

metrics_of_any_kind = st.lists(
    st.floats(-2, 2) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0]), max_size=60
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    options=st.fixed_dictionaries(
        {
            "mode": st.sampled_from(["min", "max"]),
            "factor": st.just(0.5) | st.floats(0.1, 0.9),
            "patience": st.integers(0, 4),
            "threshold": st.sampled_from([0.0, 1e-4, 0.1, 1.0, 2.0]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "cooldown": st.integers(0, 3),
            "min_lr": st.sampled_from([0.0, 0.01, 0.7]),
            "eps": st.sampled_from([0.0, 1e-8, 0.05, 0.25]),  # 0.25 is what halving 0.5 takes off
        }
    ),
    metrics=metrics_of_any_kind,
)
def test_plateau_equals_torch(options: dict[str, Any], metrics: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.5)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    plateau: Any = schedule_from("ReduceLROnPlateau", options)
    state = plateau.start(0.5)
    for metric in metrics:
        scheduler.step(metric)
        state = plateau.advance(PlateauState(*list(state)), metric)
        assert state == (
            optimizer.param_groups[0]["lr"],
            scheduler.best,
            scheduler.num_bad_epochs,
            scheduler.cooldown_counter,
        )


def test_plateau_by_hand() -> None:
    plateau = ReduceLROnPlateau(patience=1, factor=0.5, cooldown=1, threshold=0.1)
    state, found = plateau.start(8.0), []
    # 9.5 is within a tenth of the best, so bad; nan is bad too. The second bad one halves, the tick
    # after it is let pass, and two more halve again. 8.9 is better than 10 less a tenth.
    for metric in (10.0, 9.5, math.nan, 9.5, 9.5, 9.5, 8.9):
        state = plateau.advance(state, metric)
        found.append(state.lr)
    assert found == [8.0, 8.0, 4.0, 4.0, 4.0, 2.0, 2.0]
    assert state == (2.0, 8.9, 0, 0)
