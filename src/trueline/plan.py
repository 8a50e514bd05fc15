"""What is known of a training before it begins: its limits, the best settings, its length."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trueline.convergence import CONVERGED_WITHIN, epochs, modes
from trueline.json_files import jsonable
from trueline.rates import best_lr, heavy_ball
from trueline.reference import SGD
from trueline.reference.solve import stable_lr
from trueline.reference.triangle import Line, Triangle
from trueline.scaling import standardising

DEPENDENT = 1e-6
"""How much of a direction in which rows do not differ is a column's, so that it counts as part of
it; the rounding of the others' shares is below that."""
TOO_MANY = 10_000_000
"""Epochs that nobody waits for: minutes of the smallest table."""
NEVER = "never"
"""The note of a training that does not converge."""
WORTH_IT = 2.0
"""How many times as fast a training must become before the plan advises to change it."""


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
        asked, best = self.trainings["asked"], self.trainings["best lr and momentum"]
        standard = self.trainings["standardised"]
        flat = math.isinf(self.condition)
        if flat and self.constant:
            return f"leave out what is the same in all rows: {_listed(self.constant)}"
        if flat and self.collinear:
            return (
                f"leave out one of the columns that depend on each other, {_listed(self.collinear)}"
                ", or add --model.l2"
            )
        if asked.lr > self.largest_stable_lr:
            return f"lr {asked.lr:g} diverges: set --model.lr below {self.largest_stable_lr:.4g}"
        if asked.epochs is None and asked.note != NEVER:
            return "none: how long it takes is not known beforehand"
        if best.epochs is None or best.epochs > TOO_MANY:
            return (
                "take the closed form, which fit prints beside the line: the columns nearly depend "
                "on each other, and SGD takes too long whatever lr and momentum"
            )
        now = math.inf if asked.epochs is None else asked.epochs
        if _is_worth(standard, best) and _is_worth(standard, asked):
            return f"standardise the columns: {_gain(standard, now)}"
        if _is_worth(best, asked):
            return f"--model.lr auto --model.momentum auto: {_gain(best, now)}"
        return f"train as asked: --trainer.max_epochs {now:.0f}"

    def table(self) -> str:
        """Return the plan as text, 100 columns wide at most."""
        read = "" if self.seconds is None else f", read once in {self.seconds:.2g} s"
        facts = {
            "rows": f"{self.n_samples:,}; features {self.n_features:,}, targets "
            f"{self.n_targets:,}; {self.bytes:,} bytes{read}",
            "rows a step": f"{self.batch_size:,}",
            "condition": f"{self.condition:.4g}; with standardised columns "
            f"{self.condition_standardised:.4g}",
            "largest lr": f"{self.largest_stable_lr:.4g}; the full batch diverges above it",
            "time": _about(self.training_seconds),
            "constant": _listed(self.constant),
            "collinear": _listed(self.collinear),
        }
        lines = [f"{name:<16}{fact}" for name, fact in facts.items() if fact]
        lines += ["", f"{'':<22}{'lr':>12}{'momentum':>14}{'epochs':>22}"]
        for name, t in self.trainings.items():
            length = t.note if t.epochs is None else f"{t.epochs:,}"
            lines.append(f"{name:<22}{t.lr:>12.6g}{_momentum(t.momentum):>14}{length:>22}")
        lines += ["", f"epochs until within {self.accuracy:g} of the spread of y for good"]
        return "\n".join([*lines, f"{'advice':<16}{self.advice}"])


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
        condition=modes(raw or rows, l2, decay).condition,
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
    unknown = unknown or ("with an L1 penalty" if h["l1"] else "")
    steps = None if unknown else epochs(rows, start, sgd, h["l2"], accuracy)
    note = "" if steps is not None else unknown or NEVER
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
    flat = np.linalg.svd(A)[2][-free:]
    return constant, varies[np.linalg.norm(flat, axis=0) > DEPENDENT].tolist()


def _is_worth(new: Training, old: Training) -> bool:
    """Return whether a training is so much shorter than another one that one should change."""
    if new.epochs is None:
        return False
    return old.epochs is None or old.epochs > WORTH_IT * max(new.epochs, 1)


def _gain(new: Training, old: float) -> str:
    """Say how much shorter a training becomes."""
    place = "no end" if math.isinf(old) else f"{old:,}"
    return f"{new.epochs:,} epoch{'s' * (new.epochs != 1)} in the place of {place}"


def _about(seconds: float | None) -> str:
    """Say how long a training takes, to one digit."""
    if seconds is None:
        return ""
    return "under 0.1 s of training" if seconds < 0.1 else f"some {seconds:.1g} s of training"


def _momentum(momentum: float) -> str:
    """Write a momentum; one near 1 by what it lacks."""
    return f"{momentum:.6g}" if momentum < 0.9999 else f"1 − {1 - momentum:.3g}"


def _listed(names: Sequence[str], most: int = 5) -> str:
    """List names; of many, the first ones."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
