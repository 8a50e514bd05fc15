"""The learning rate and the momentum that suit the curvatures of an objective.

References:
    Polyak, "Some methods of speeding up the convergence of iteration methods" (1964): the best
    learning rate and momentum together.
    Bach & Moulines, "Non-strongly-convex smooth stochastic approximation with convergence rate
    O(1/n)" (2013), and Défossez & Bach, "Averaged least-mean-squares: bias-variance trade-offs and
    optimal sampling distributions" (2015): how large a constant learning rate may be where rows
    are drawn at random.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from trueline.planning.convergence import CONVERGED_WITHIN, Modes, log_rate, modes
from trueline.planning.with_l1 import epochs_with_l1, local_modes
from trueline.reference import SGD
from trueline.reference.solve import stable_lr
from trueline.reference.triangle import Line, Triangle

SETTLED = 25.0
"""Steps of the heavy ball, as a multiple of √κ, after which a swing of a million times the distance
is a 1e-15 of it: `2·25` is the logarithm of 1e21 and some."""
FAR = (0.1, 0.01, 0.001)
"""Roots of the smallest curvature over the largest one, for which a heavy ball is tried: on its way
a training with an L1 penalty may meet smaller curvatures than near the minimum."""
TRIED = (500, 5_000)
"""Steps for which settings are tried, before as many as can be."""
HALVINGS = 100
"""Of the interval that the best learning rate lies in: more than a float64 has digits."""


def best_lr(
    found: Modes, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False
) -> float:
    """Return the learning rate at which the slowest mode is fastest.

    With λ from μ to L it is `2(1 + momentum)/((1 − dampening)(L + μ))`, and `2/(L + μ)` without
    momentum: the rate depends on the trace of a mode's map alone, which is then as far from 0 at
    both ends. With Nesterov's momentum it lies where the slowest mode, which a larger one speeds
    up, is as fast as the stiffest one, which a larger one slows down.

    Args:
        found: The modes of the objective.
        momentum: In [0, 1).
        dampening: Of momentum, in [0, 1).
        nesterov: Whether the momentum is Nesterov's.

    Returns:
        The learning rate, > 0.

    Example:
        >>> import numpy as np
        >>> best_lr(Modes(np.array([3.0, 1.0]), np.eye(2)))
        0.5
    """
    slowest, stiffest = found.smallest, found.largest
    if not nesterov:
        undamped = 1 - dampening if momentum else 1.0
        return 2 * (1 + momentum) / (undamped * (stiffest + slowest))
    low, high = 1 / stiffest, min(1 / slowest, stable_lr(stiffest, momentum, nesterov=True))
    sgd = SGD(low, momentum, nesterov=True)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slow, stiff = log_rate(found.curvature[[-1, 0]], replace(sgd, lr=middle))
        low, high = (middle, high) if slow > stiff else (low, middle)
    return low


def settles(found: Modes, steps: int) -> bool:
    """Return whether the heavy ball at its fastest comes to rest in some steps, `25·√κ` of them.

    Args:
        found: The modes of the objective.
        steps: That there will be, ≥ 1.
    """
    return SETTLED**2 * found.largest <= steps**2 * found.smallest


def heavy_ball(
    found: Modes, dampening: float = 0.0, steps: int | None = None
) -> tuple[float, float]:
    """Return the learning rate and the momentum that together are fastest: Polyak's heavy ball.

    `lr = (2/(√L + √μ))²` and `momentum = ((√L − √μ)/(√L + √μ))²`: the distance shrinks by
    `(√κ − 1)/(√κ + 1)` a step, by `(κ − 1)/(κ + 1)` at best without momentum.

    On its way the distance first swings as far as √κ times what it was: a training that ends there
    is further away than it began. For a number of steps, μ is therefore taken no smaller than what
    comes to rest in them; the modes below are slower, and hardly matter to predictions.

    Args:
        found: The modes of the objective.
        dampening: Of momentum, in [0, 1).
        steps: That there will be; as many as it takes unless given.

    Returns:
        The learning rate, > 0, and the momentum, in [0, 1).

    Example:
        >>> import numpy as np
        >>> heavy_ball(Modes(np.array([9.0, 1.0]), np.eye(2)))
        (0.25, 0.25)
    """
    stiffest, slowest = math.sqrt(found.largest), math.sqrt(found.smallest)
    if steps is not None:
        slowest = max(slowest, stiffest * min(SETTLED / steps, 1.0))
    sum_ = stiffest + slowest
    momentum = ((stiffest - slowest) / sum_) ** 2
    momentum = momentum if momentum > sys.float_info.epsilon else 0.0  # all modes are alike
    return (2 / sum_) ** 2 / (1 - dampening if momentum else 1), momentum


def best_momentum(found: Modes, lr: float, dampening: float = 0.0) -> float:
    """Return the momentum at which the slowest mode is fastest, with a learning rate that is given.

    Both ends of the spectrum then just swing, or one does and the other one swings more:
    `max(|1 − √(lr·μ)|, |1 − √(lr·L)|)²`.

    Args:
        found: The modes of the objective.
        lr: Learning rate, > 0.
        dampening: Of momentum, in [0, 1).

    Returns:
        The momentum, in [0, 1).

    Raises:
        ValueError: When the learning rate is too large for any momentum, `4/L` or more.

    Example:
        >>> import numpy as np
        >>> best_momentum(Modes(np.array([9.0, 1.0]), np.eye(2)), lr=0.25)
        0.25
    """
    effective = lr * (1 - dampening)
    ends = (abs(1 - math.sqrt(effective * c)) for c in (found.smallest, found.largest))
    momentum = max(ends) ** 2
    if momentum >= 1:
        limit = 4 / (found.largest * (1 - dampening))
        raise ValueError(
            f"momentum auto: expected lr below {limit:.4g}, above which no momentum is stable; "
            f"found {lr}; lower lr, or say auto for it too"
        )
    return momentum


def minibatch_lr(
    found: Modes,
    steepest: float,
    batch_size: int,
    n_samples: int,
    momentum: float = 0.0,
    dampening: float = 0.0,
) -> float:
    """Return a learning rate for batches that are drawn at random: half of a limit that is safe.

    A batch's Hessian G is the mean of `h = 2/n_targets·[1 x]ᵀ[1 x]` and the penalties' curvature
    over B of n rows; H is that of all. Drawn without replacement, `E G² = H² + f·(E h² − H²)`
    with `f = (n − B)/(B(n − 1))`, and `E h² ≤ ρH` where no h is steeper than ρ. The mean square of
    the distance from the optimum, `E‖(I − lr·G)θ‖²`, shrinks where `lr·E G² < 2H`, so below
    `2/(fρ + (1 − f)λ)`. Of all rows that is 2/λ, of single ones 2/ρ. At half of it the bound on
    the distance shrinks fastest. Momentum adds up `1/(1 − momentum)` gradients, so that the
    learning rate is as much smaller.

    Args:
        found: The modes of the objective over all rows.
        steepest: ρ, the largest eigenvalue that the Hessian of a single row has.
        batch_size: B.
        n_samples: n.
        momentum: In [0, 1).
        dampening: Of momentum, in [0, 1).

    Returns:
        The learning rate, > 0.

    Example:
        >>> import numpy as np
        >>> found = Modes(np.array([4.0, 1.0]), np.eye(2))
        >>> [minibatch_lr(found, 10.0, batch_size, n_samples=100) for batch_size in (1, 100)]
        [0.1, 0.25]
    """
    share = (n_samples - batch_size) / (batch_size * max(n_samples - 1, 1))
    curvature = share * steepest + (1 - share) * found.largest
    return (1 - momentum) / ((1 - dampening if momentum else 1.0) * curvature)


def tuned(
    rows: Triangle, h: Mapping[str, Any], batch_size: int | None = None, longest: float = 0.0
) -> dict[str, float]:
    """Return lr and momentum as hyperparameters have them, with numbers in the place of auto.

    Args:
        rows: As they are trained on.
        h: The hyperparameters of the training; lr and momentum may be auto.
        batch_size: Rows drawn at random for a step; full batch unless given.
        longest: The largest `‖[1 x]‖²` of a row; only batches need it.

    Returns:
        `lr` and `momentum`, both numbers.

    Raises:
        ValueError: When no number does, with what to change.
    """
    lr, momentum, dampening = h["lr"], h["momentum"], h["dampening"]
    if "auto" not in (lr, momentum):
        return {"lr": lr, "momentum": momentum}
    if not math.isfinite(rows.curvature(h["l2"])):
        raise ValueError(
            "lr auto: expected rows whose squares float64 holds, found larger; scale the data"
        )
    if h["l1"] and batch_size is None:
        return fastest_with_l1(rows, h)
    found = modes(rows, h["l2"], h["weight_decay"])
    if batch_size is not None:
        momentum = 0.0 if momentum == "auto" else momentum
        steepest = 2 / rows.n_targets * longest + 2 * h["l2"] + h["weight_decay"]
        best = minibatch_lr(found, steepest, batch_size, rows.n_samples, momentum, dampening)
        lr = best if lr == "auto" else lr
    elif lr == momentum:
        lr, momentum = heavy_ball(found, dampening)
    elif lr == "auto":
        lr = best_lr(found, momentum, dampening, h["nesterov"])
    else:
        momentum = best_momentum(found, lr, dampening)
    return {"lr": lr, "momentum": momentum}


def fastest_with_l1(rows: Triangle, h: Mapping[str, Any]) -> dict[str, float]:
    """Return lr and momentum as `tuned` does, for full batches with an L1 penalty.

    The settings that are best near the minimum may circle far from it. They and some that are more
    careful are tried on the Hessian, from zero; the fastest is taken.

    Args:
        rows: Rows, as they are trained on.
        h: Hyperparameters of the training; lr and momentum may be auto.

    Returns:
        `lr` and `momentum`, both numbers.

    Raises:
        ValueError: When lr is too large for any momentum.
    """
    lr, momentum, dampening, nesterov = (
        h[name] for name in ("lr", "momentum", "dampening", "nesterov")
    )
    found = local_modes(rows, h["l1"], h["l2"], h["weight_decay"])
    choices: list[tuple[float, float]]
    if lr == momentum:
        root = math.sqrt(found.smallest / found.largest)
        careful = (1 - root) ** 2
        slow = 1 / found.largest / (1 - dampening if careful else 1.0)
        choices = [heavy_ball(found, dampening), (slow, careful)]
        for r in FAR:
            step = (2 / (1 + r)) ** 2 / found.largest / (1 - dampening)
            choices.append((step, ((1 - r) / (1 + r)) ** 2))
        choices.append((best_lr(found), 0.0))
    elif lr == "auto":
        undamped = 1 - dampening if momentum else 1.0
        slow = (1 - momentum) / (undamped * found.largest)
        choices = [(best_lr(found, momentum, dampening, nesterov), momentum), (slow, momentum)]
    else:
        choices = [(lr, best_momentum(found, lr, dampening)), (lr, 0.9), (lr, 0.99), (lr, 0.0)]
    zero = Line(np.zeros((rows.columns - 1, rows.n_targets)), np.zeros(rows.n_targets))
    for most in (*TRIED, math.inf):
        steps = {}
        for choice in choices:
            sgd = SGD(*choice, dampening, nesterov, h["weight_decay"])
            taken = epochs_with_l1(rows, zero, sgd, h["l1"], h["l2"], CONVERGED_WITHIN, most)
            if taken is not None:
                steps[taken] = choice
        if steps:
            break
    lr, momentum = steps[min(steps)] if steps else choices[-1]
    return {"lr": float(lr), "momentum": float(momentum)}
