"""`recurrence`: K composed steps are K single steps, by torch.optim.SGD itself."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.recurrence import Composed, Repeated, Rule, gram, polished, step_maps


@st.composite
def rules(draw: Any) -> Rule:
    momentum = draw(st.sampled_from([0.0, 0.5, 0.9]))
    nesterov = bool(momentum) and draw(st.booleans())
    return Rule(
        momentum=momentum,
        dampening=draw(st.sampled_from([0.0, 0.3])) if momentum and not nesterov else 0.0,
        nesterov=nesterov,
        weight_decay=draw(st.sampled_from([0.0, 0.01])),
        l2=draw(st.sampled_from([0.0, 0.02])),
    )


def one_by_one(Z: Any, w: Any, theta: Any, lrs: Any, rule: Rule) -> Any:
    """Take the steps by torch; return the parameters before each and after the last."""
    p = len(theta)
    parameter = torch.nn.Parameter(theta.clone())
    options = rule._asdict()
    l2 = options.pop("l2")
    optimizer = torch.optim.SGD([parameter], lr=1.0, **options)
    seen = [theta]
    for rows, weights, lr in zip(Z, w, lrs.tolist(), strict=True):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        by_row = (rows[:, :p] @ parameter - rows[:, p:]).square().mean(dim=1)
        loss = (weights * by_row).sum() / weights.sum() + l2 * parameter[:-1].square().sum()
        loss.backward()
        optimizer.step()
        seen.append(parameter.detach().clone())
    return torch.stack(seen)


def bound(Z: Any, seen: Any, lrs: Any, unit_roundoff: float, rule: Rule) -> Any:
    """Bound the distance of two trainings: what each step rounds, through maps that may grow."""
    K, rows, width = Z.shape
    size = seen.abs().amax() + 1
    reach = Z.abs().amax() ** 2 * width
    each = (rows + 2 * width) * unit_roundoff * size * (1 + lrs.max() * reach)
    return 4 * K * each / (1 - rule.momentum) ** 2


@settings(max_examples=150, deadline=None)
@given(
    rule=rules(),
    K=st.integers(1, 70),
    rows=st.integers(1, 9),
    n_features=st.integers(1, 5),
    n_targets=st.integers(1, 3),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_composed_steps_are_single_steps(
    rule: Rule, K: int, rows: int, n_features: int, n_targets: int,
    dtype: Any, weighted: bool, seed: int,
) -> None:  # fmt: skip
    rng, p = np.random.default_rng(seed), n_features + 1
    Z = rng.uniform(-1, 1, (K, rows, p + n_targets))
    Z[:, :, n_features] = 1
    Z = torch.from_numpy(Z).to(dtype)
    w = torch.from_numpy(rng.uniform(0.1, 2, (K, rows)) if weighted else np.ones((K, rows)))
    theta = torch.from_numpy(rng.standard_normal((p, n_targets))).to(dtype).double()
    lrs = torch.from_numpy(rng.uniform(0.0, 0.2, K))

    G = gram(Z, w.to(dtype) if weighted else None)
    sizes = w.to(dtype).double().sum(dim=1) * n_targets
    maps = step_maps(G, 2 / sizes, theta, lrs, rule, first=True, moments=True)
    start = torch.zeros((2 if rule.momentum else 1) * p, n_targets, dtype=torch.float64)
    composed = Composed(maps)
    found = polished(composed, start)[:, :p] + theta

    expected = one_by_one(Z.double(), w.to(dtype).double(), theta, lrs, rule)
    u = 2.0**-53 if dtype == torch.float64 else 2.0**-24
    assert (found - expected).abs().max() <= bound(Z.double(), expected, lrs, u, rule)
    # The end, and the states before some steps, by other ways through the same tree.
    plain = composed.states(start)
    some = torch.arange(0, K, 3)
    assert torch.allclose(composed.states_before(start, some), plain[some], rtol=1e-12, atol=1e-12)
    assert torch.allclose(composed.end(start), plain[-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("K", [1, 2, 3, 100, 1000])
def test_powers_are_the_tree_of_equal_maps(K: int) -> None:
    torch.manual_seed(0)
    maps = torch.eye(4).double() - 0.1 * torch.rand(4, 4).double()
    maps[3] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    start = torch.rand(3, 1).double()
    powers, tree = Repeated(maps, K), Composed(maps.repeat(K, 1, 1))
    assert torch.allclose(polished(powers, start), polished(tree, start), rtol=1e-12, atol=1e-13)


def test_refinement_makes_each_step_right_by_itself() -> None:
    torch.manual_seed(0)
    p, K = 11, 4096
    Z = torch.randn(K, 32, p + 1).double()
    Z[:, :, p - 1] = 1
    theta, lrs = torch.randn(p, 1).double(), torch.full((K,), 0.01, dtype=torch.float64)
    rule = Rule(momentum=0.9)
    sizes = torch.full((K,), 32.0, dtype=torch.float64)
    maps = step_maps(gram(Z), 2 / sizes, theta, lrs, rule, first=True, moments=True)
    composed, start = Composed(maps), torch.zeros(2 * p, 1).double()
    missed = [composed.residuals(states).abs().max() for states in
              (composed.states(start), polished(composed, start))]  # fmt: skip
    assert missed[1] < missed[0] / 2
    assert missed[1] < 2e-14


def test_refinement_goes_on_where_columns_nearly_depend_on_each_other() -> None:
    # Curvatures from 2 to 2e-12, and Polyak's momentum for them.
    root, K = 1e-6, 8192
    momentum, lr = ((1 - root) / (1 + root)) ** 2, 2 / (1 + root) ** 2
    gradient = torch.tensor([[2.0, 0.0, 0.3], [0.0, 2 * root**2, 1e-7]]).double()
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double()
    gradient = torch.cat([turn @ gradient[:, :2] @ turn.T, turn @ gradient[:, 2:]], dim=1)
    maps = step_maps(
        gradient[None], torch.ones(1).double(), torch.zeros(2, 1).double(),
        torch.tensor([lr]).double(), Rule(momentum=momentum),
    )  # fmt: skip
    powers = Repeated(maps[0], K)
    states = polished(powers, torch.tensor([[0.0], [0.0], [3e4], [2e4]]).double())
    sizes = states.abs().amax(0)
    assert (powers.residuals(states).abs().amax(0) <= 8 * 2.0**-52 * sizes).all()
