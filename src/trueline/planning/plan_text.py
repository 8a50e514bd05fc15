"""A plan as text: what to change first, and a table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trueline.terminal.printing import visible

if TYPE_CHECKING:
    from trueline.planning.plan import Plan, Training

TOO_MANY = 10_000_000
"""Epochs that nobody waits for: minutes of the smallest table."""
NEVER = "never"
"""The note of a training that does not converge."""
WORTH_IT = 2.0
"""How many times as fast a training must become before the plan advises to change it."""


def advice(plan: Plan) -> str:
    """Say what to change first, in one line."""
    asked, best = plan.trainings["asked"], plan.trainings["best lr and momentum"]
    standard = plan.trainings["standardised"]
    flat = math.isinf(plan.condition)
    if flat and plan.constant:
        return f"leave out what is the same in all rows: {_listed(plan.constant)}"
    if flat and plan.collinear:
        return (
            f"leave out one of the columns that depend on each other, {_listed(plan.collinear)}"
            ", or add --model.l2"
        )
    if asked.lr > plan.largest_stable_lr:
        return f"lr {asked.lr:g} diverges: set --model.lr below {plan.largest_stable_lr:.4g}"
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


def table(plan: Plan) -> str:
    """Lay out a plan in lines of at most 100 characters."""
    read = "" if plan.seconds is None else f", read once in {plan.seconds:.2g} s"
    facts = {
        "rows": f"{plan.n_samples:,}; features {plan.n_features:,}, targets "
        f"{plan.n_targets:,}; {plan.bytes:,} bytes{read}",
        "rows a step": f"{plan.batch_size:,}",
        "condition": f"{plan.condition:.4g}; with standardised columns "
        f"{plan.condition_standardised:.4g}",
        "largest lr": f"{plan.largest_stable_lr:.4g}; the full batch diverges above it",
        "time": _about(plan.training_seconds),
        "constant": _listed(plan.constant),
        "collinear": _listed(plan.collinear),
    }
    lines = [f"{name:<16}{fact}" for name, fact in facts.items() if fact]
    lines += ["", f"{'':<22}{'lr':>12}{'momentum':>14}{'epochs':>22}"]
    for name, t in plan.trainings.items():
        length = t.note if t.epochs is None else f"{t.epochs:,}"
        lines.append(f"{name:<22}{t.lr:>12.6g}{_momentum(t.momentum):>14}{length:>22}")
    lines += ["", f"epochs until within {plan.accuracy:g} of the spread of y for good"]
    return "\n".join([*lines, f"{'advice':<16}{advice(plan)}"])


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
    return ", ".join(map(visible, names[:most])) + more
