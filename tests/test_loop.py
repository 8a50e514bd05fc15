"""The compiled loop: each step is that of the NumPy reference, however steps are grouped."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loop_cases import STEPS, Case, as_plateau, cases
from loop_expected import expected, lrs_by_torch
from trueline.data.order import RowOrder
from trueline.loop.kernels import advance_plateau
from trueline.loop.rows import Rows
from trueline.loop.state import Rule, Shape, State
from trueline.many_steps.loops import SumsOnDevice


@settings(max_examples=400, deadline=None, derandomize=True)
@given(case=cases())
def test_steps_of_the_loop_are_those_of_the_reference(case: Case) -> None:
    result = case.run()
    assert result.steps == STEPS
    assert (result.anchor is None) == (case.way == "rows")
    shape = case.theta.shape
    assert np.array_equal(result.before[0].reshape(shape), case.theta)
    assert np.array_equal(result.after[:-1], result.before[1:])
    assert np.array_equal(result.before, result.before.astype(case.dtype))
    if case.plateau is None:
        assert np.array_equal(result.lrs, case.lrs)
    else:
        assert np.array_equal(result.lrs, lrs_by_torch(result.losses, **case.plateau))
    for k in range(STEPS):
        right = expected(case, result, k)
        assert abs(result.losses[k] - right.loss[0]) <= right.loss[1]
        found = {"gradient": result.gradient[k], "after": result.after[k]}
        if result.buffer_after is not None:
            found["buffer"] = result.buffer_after[k]
        for name, value in found.items():
            should, bound = getattr(right, name)
            off = np.abs(value.reshape(shape) - should)
            known = np.isfinite(should)
            assert (off[known] <= np.broadcast_to(bound, shape)[known]).all(), (name, k)
            assert np.array_equal(np.isfinite(value.reshape(shape)), known)
    if result.lrs.any():
        moved = (result.before != result.after).reshape(-1, *shape).any(axis=0)
        assert moved[case.free].any()
        assert not moved[~case.free].any()


def state_of(result: Any) -> list[Any]:
    return [result.end.theta, result.end.buffer, result.plateau]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    case=cases() | cases(way="device"),
    cuts=st.sets(st.integers(1, STEPS - 1), min_size=1),
    chunks=st.integers(1, 9),
)
def test_steps_in_calls_of_any_size_are_the_same_to_the_bit(
    case: Case, cuts: set[int], chunks: int
) -> None:
    whole = case.run()
    state, plateau, losses, lrs = case.start(), case.steps([]).plateau, [], []
    case.at_once = chunks
    with case.small_pieces():
        for first, stop in itertools.pairwise([0, *sorted(cuts), STEPS]):
            loop = case.loop()  # as a training that is resumed there
            epochs, step = divmod(case.step + first, case.steps_per_epoch)
            steps = case.steps(np.empty(0, np.int64), slice(first, stop), plateau)
            part = loop.run(state, case.rule, steps, case.epoch + epochs, step)
            state = State.of(part.end.theta, part.end.buffer, part.end.free)
            losses.append(part.losses)
            lrs.append(part.lrs)
    for found, right in zip(state_of(part), state_of(whole), strict=True):
        assert np.array_equal(found, right, equal_nan=True)
    assert np.array_equal(np.concatenate(losses), whole.losses)
    assert np.array_equal(np.concatenate(lrs), whole.lrs)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases())
def test_gradient_is_that_of_finite_differences(case: Case) -> None:
    if case.dtype != np.float64:
        case.theta = case.theta.astype(np.float64)
    result = case.run()
    X, y, *weights = case.batch(0)
    share = weights[0] / weights[0].sum() if weights else np.full(len(y), 1 / len(y))

    def objective(theta: Any) -> Any:
        by_row = np.mean((X @ theta[:-1] + theta[-1] - y) ** 2, axis=1)
        return share @ by_row + case.rule.l2 * np.sum(theta[:-1] ** 2)

    gradient = result.gradient[0].reshape(case.theta.shape)
    for entry in np.ndindex(case.theta.shape):
        aside = np.zeros_like(case.theta)
        aside[entry] = 0.5  # of a quadratic, central differences are exact
        slope = objective(case.theta + aside) - objective(case.theta - aside)
        assert gradient[entry] == pytest.approx(slope * case.free[entry], rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=cases(), asked=st.sets(st.integers(0, STEPS - 1)))
def test_states_are_those_that_were_asked_for(case: Case, asked: set[int]) -> None:
    whole, at = case.run(), np.array(sorted(asked), np.int64)
    with case.small_pieces():
        where = case.epoch, case.step
        some = case.loop().run(case.start(), case.rule, case.steps(at), *where)
    assert np.array_equal(some.at, at)
    assert np.array_equal(some.select(at[1:]), np.arange(len(at))[1:])
    for name in ("before", "after", "gradient", "buffer", "buffer_after"):
        found, right = getattr(some, name), getattr(whole, name)
        assert (found is None) == (right is None)
        assert found is None or np.array_equal(found, right[at], equal_nan=True)
    assert np.array_equal(some.losses, whole.losses)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=cases(), k=st.integers(0, STEPS - 1))
def test_steps_end_before_a_loss_that_is_not_finite(case: Case, k: int) -> None:
    """Step k begins from parameters that overflow, which step k − 1 has left."""
    case.rule = Rule(nesterov=case.rule.nesterov)
    case.plateau = None
    case.lrs = np.full(STEPS, 1e-3)
    if k:
        case.lrs[k - 1] = 1e200 if case.dtype == np.float64 else 1e30
    else:
        case.theta[:] = 1e200 if case.dtype == np.float64 else 1e30
    result = case.run()
    assert result.steps == k
    assert len(result.losses) == len(result.lrs) == len(result.at) == len(result.after) == k
    assert np.isfinite(result.losses).all()
    assert not np.isfinite(result.next_loss)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    losses=st.lists(st.integers(0, 40), min_size=1, max_size=40),
    mode=st.sampled_from(["min", "max"]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    threshold=st.sampled_from([0.0, 0.1, 1.5]),
    patience=st.integers(0, 3),
    cooldown=st.integers(0, 3),
    min_lr=st.sampled_from([0.0, 0.4]),
    eps=st.sampled_from([0.0, 0.2]),
)
def test_learning_rate_falls_at_a_plateau_as_torch_has_it(losses: list[int], **given: Any) -> None:
    options = {"lr": 1.0, "factor": 0.7, **given}
    plateau, found = as_plateau(**options), []
    for loss in losses:
        found.append(plateau[0])
        advance_plateau(plateau, float(loss))
    assert found == lrs_by_torch(losses, **options).tolist()


@pytest.mark.parametrize("n_features", range(1, 17))
@pytest.mark.parametrize("batch_rows", [5, 16, 24, 37])
def test_sums_on_a_device_do_not_depend_on_the_steps_beside(
    n_features: int, batch_rows: int
) -> None:
    matrix = np.random.default_rng(0).standard_normal((400, n_features + 1))
    rows = Rows(matrix, RowOrder(400, True, 0), Shape(n_features, 1), batch_rows)
    sums = SumsOnDevice(rows, np.ones(n_features + 1), torch.empty(0, dtype=torch.float64))
    steps = rows.steps_per_epoch
    alone = [sums(0, k, 1)[0] for k in range(steps)]
    assert np.array_equal(sums(0, 0, steps), alone)
