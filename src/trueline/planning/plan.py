"""What is known of a training before it begins: its limits, the best settings, its length."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trueline.planning import plan_text
from trueline.planning.convergence import CONVERGED_WITHIN, condition, epochs, modes
from trueline.planning.rates import best_lr, heavy_ball
from trueline.planning.with_l1 import NOT_IN_TIME, epochs_with_l1
from trueline.reference import SGD
from trueline.reference.solve import stable_lr
from trueline.reference.triangle import Line, Triangle
from trueline.results.json_files import jsonable
from trueline.scaling import standardising

DEPENDENT = 1e-6
"""How much of a direction in which rows do not differ is a column's, so that it counts as part of
it; the rounding of the others' shares is below that."""


@dataclass(frozen=True)
class Training:
    """One choice of settings, and how long it takes.

    Args:
        lr: Learning rate.
        momentum: Momentum.
        epochs: Until it has converged; None where it never does, or is not known.
        note: Why `epochs` is None; else empty.
    """

    lr: float
    momentum: float
    epochs: int | None
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What is known before a training.

    Args:
        n_samples: Rows.
        n_features: Columns of X.
        n_targets: Columns of y.
        batch_size: Rows a step.
        bytes: Of the rows in memory.
        seconds: For reading all rows once; None where they were read before the plan.
        accuracy: That counts as converged, as a fraction of the spread of y.
        condition: The largest curvature of the objective over the smallest.
        condition_standardised: The same for standardised columns.
        largest_stable_lr: Above which the full batch diverges.
        constant: Columns that are the same in all rows.
        collinear: Columns that depend on each other.
        trainings: By what they are: `asked`; `best lr`, with the momentum that was asked for; `best
            lr and momentum`; `standardised`, the best lr and momentum for standardised columns. But
            for `asked`, all of full batches.
        training_seconds: About how long the training takes that was asked for, where it converges.
    """

    n_samples: int
    n_features: int
    n_targets: int
    batch_size: int
    bytes: int
    seconds: float | None
    accuracy: float
    condition: float
    condition_standardised: float
    largest_stable_lr: float
    constant: list[str]
    collinear: list[str]
    trainings: dict[str, Training]
    training_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON has words for it: infinities are None, advice is added."""
        found: dict[str, Any] = jsonable(dataclasses.asdict(self) | {"advice": self.advice})
        return found

    @property
    def advice(self) -> str:
        """What to change first, in one line."""
        return plan_text.advice(self)

    def table(self) -> str:
        """Return the plan as text, 100 columns wide at most."""
        return plan_text.table(self)


def make_plan(
    rows: Triangle,
    start: Line,
    h: Mapping[str, Any],
    batch_size: int | None = None,
    accuracy: float = CONVERGED_WITHIN,
    names: Sequence[str] = (),
    bytes_: int = 0,
    seconds: float | None = None,
    raw: Triangle | None = None,
) -> Plan:
    """Plan a training.

    Args:
        rows: As they are trained on.
        start: The initial parameters.
        h: The hyperparameters, all of them numbers.
        batch_size: Rows a step; all unless given.
        accuracy: That counts as converged, as a fraction of the spread of y.
        names: Of the columns of X; `x0` and so on unless given.
        bytes_: Of the rows in memory.
        seconds: For reading all rows once, where that has been measured.
        raw: Before they were standardised, if they were.

    Returns:
        The plan, with the settings that were asked for and those that would be faster.

    Example:
        >>> from trueline.reference import article
        >>> from trueline.reference.triangle import triangle
        >>> from trueline.module import LinearRegression
        >>> rows, zero = triangle(article.X, article.y), Line(np.zeros(1), np.zeros(()))
        >>> plan = make_plan(rows, zero, LinearRegression(lr=0.001).hparams)
        >>> round(plan.largest_stable_lr, 6), plan.trainings["asked"].epochs
        (0.004938, 29852)
    """
    l2, decay, momentum = h["l2"], h["weight_decay"], h["momentum"]
    damped = {name: h[name] for name in ("dampening", "nesterov")}
    found = modes(rows, l2, decay)
    standard = standardising(rows).rows(rows) if raw in (None, rows) else rows
    standard_modes = modes(standard, l2, decay)
    constant, collinear = dependent(rows)
    names = names or [f"x{j}" for j in range(rows.columns - 1)]
    trainings = {"asked": as_asked(rows, start, h, batch_size, accuracy)}
    if not (momentum and h["dampening"] == 1):
        lr = best_lr(found, momentum, **damped)
        trainings["best lr"] = _training(rows, start, _sgd({**h, "lr": lr}), h, accuracy)
    for name, on, its in (
        ("best lr and momentum", rows, found),
        ("standardised", standard, standard_modes),
    ):
        sgd = SGD(*heavy_ball(its), weight_decay=decay)
        trainings[name] = _training(on, start, sgd, h, accuracy)
    return Plan(
        n_samples=rows.n_samples,
        n_features=rows.columns - 1,
        n_targets=rows.n_targets,
        batch_size=batch_size or rows.n_samples,
        bytes=bytes_,
        seconds=seconds,
        accuracy=accuracy,
        condition=condition(raw, l2, decay) if raw else found.condition,
        condition_standardised=standard_modes.condition,
        largest_stable_lr=stable_lr(found.largest, momentum, **damped),
        constant=[names[j] for j in constant],
        collinear=[names[j] for j in collinear],
        trainings=trainings,
    )


def as_asked(
    rows: Triangle,
    start: Line,
    h: Mapping[str, Any],
    batch_size: int | None = None,
    accuracy: float = CONVERGED_WITHIN,
) -> Training:
    """Return how long a training takes as it is asked for.

    Args:
        rows: As they are trained on.
        start: The initial parameters.
        h: The hyperparameters, all of them numbers.
        batch_size: Rows a step; all unless given.
        accuracy: That counts as converged, as a fraction of the spread of y.
    """
    unknown = "with a schedule" if h["schedule"] else ""
    if batch_size not in (None, rows.n_samples):
        unknown = "with mini-batches"
    return _training(rows, start, _sgd(h), h, accuracy, unknown)


def _training(
    rows: Triangle, start: Line, sgd: SGD, h: Mapping[str, Any], accuracy: float, unknown: str = ""
) -> Training:
    """Return how long a training takes; `unknown` says why that cannot be known, if it cannot."""
    if unknown:
        steps, note = None, unknown
    elif h["l1"]:
        steps, note = epochs_with_l1(rows, start, sgd, h["l1"], h["l2"], accuracy), NOT_IN_TIME
    else:
        steps, note = epochs(rows, start, sgd, h["l2"], accuracy), plan_text.NEVER
    note = note if steps is None else ""
    return Training(sgd.lr, sgd.momentum, steps, note)


def _sgd(h: Mapping[str, Any]) -> SGD:
    return SGD(h["lr"], h["momentum"], h["dampening"], h["nesterov"], h["weight_decay"])


def dependent(rows: Triangle) -> tuple[list[int], list[int]]:
    """Return which columns of X are the same in all rows, and which depend on each other.

    Columns depend on each other where some multiples of them, and of 1, add up to 0 to rounding.

    Returns:
        Places of columns in X, from 0: the constant ones, and those that depend on each other.

    Example:
        >>> from trueline.reference.triangle import triangle
        >>> a, b = np.array([1.0, 2.0, 4.0, 0.0, 3.0]), np.array([1.0, 0.0, 0.0, 2.0, 5.0])
        >>> dependent(triangle(np.column_stack([a, b, 7 + 0 * a, 2 * a + 3])))
        ([2], [0, 3])
    """
    scaling = standardising(rows)
    varies = np.flatnonzero(np.isfinite(scaling.scale))
    constant = sorted(set(range(rows.columns - 1)) - set(varies.tolist()))
    A = scaling.rows(rows).R[1:, 1 + varies]
    free = len(varies) - (rows.rank() - 1)
    if free <= 0:
        return constant, []
    # What rows do not differ in is what is left of each column's direction beside those they do.
    differ = np.linalg.svd(A, full_matrices=False)[2][: len(varies) - free]
    flat = np.sqrt(np.maximum(1 - np.sum(differ**2, axis=0), 0))
    return constant, varies[flat > DEPENDENT].tolist()
