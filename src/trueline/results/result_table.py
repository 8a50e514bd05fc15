"""What a run prints: at its start what a step takes in, and its result as a short table, last."""

import math
from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from trueline.data import RegressionData
from trueline.statistics import summary_text
from trueline.terminal.printing import cut, padded, visible, width_of

WIDEST_LABEL = 60
"""Columns of a terminal for the name of a parameter."""
LINES_OF_PARAMETERS = 12
"""The table shows so many parameters; with the other facts it stays on a screen."""


def print_start(trainer: Trainer, data: Any) -> None:
    """Say what a step takes in, where that is more than one batch on one process."""
    batches, processes = trainer.accumulate_grad_batches, trainer.world_size
    if not isinstance(data, RegressionData) or (batches == 1 and processes == 1):
        return
    rows = data.batch_size or data.n_samples
    least, most = rows // processes, math.ceil(rows / processes)
    shares = f"{least:,}" if least == most else f"{least:,} or {most:,}"
    print(
        f"{min(rows * batches, data.n_samples):,} rows a step"
        + (f", in batches of {rows:,}" if batches > 1 else "")
        + (f"; each of {processes} processes has {shares} of a batch" if processes > 1 else "")
    )


def print_table(result: dict[str, Any]) -> None:
    """Print a result: a summary, the line beside its closed form, and how it came about."""
    for of_target in result["summary"] or []:
        print("", *summary_text.table(of_target), sep="\n")
    _print_line(result)
    check, n_samples = result["crosscheck"], result["n_samples"]
    facts = {
        "rows": _rows(n_samples, check) if n_samples else None,
        "held-out loss": number(result["val_loss"]) or None,
        "correlation": number(result["correlation"]) or None,
        "steps at once": result["steps_at_once"],
        "training": f"{result['epochs']:,} epochs, {result['steps']:,} steps, lr {result['lr']:g}, "
        f"{result['seconds']:.1f} s",
        "converged": _converged(result),
        "undetermined": _undetermined(result),
        "base levels": _base_levels(result),
        "cross-check": verdict(check) if check else "off",
        "deviations": _deviations(check) if check and check["steps_checked"] else None,
        "log directory": result["log_dir"],
    }
    print()
    for name, fact in facts.items():
        if fact is not None:
            print(f"{name:<16}{visible(fact)}")


def _print_line(result: dict[str, Any]) -> None:
    """Print the parameters and the loss, beside the closed form."""
    best = result["closed_form"] or {}
    rows = parameters(result)
    shown = dict(list(rows.items())[:LINES_OF_PARAMETERS])
    labels = [cut(label, WIDEST_LABEL) for label in shown]
    wide = max(12, *(width_of(label) + 2 for label in labels))
    print(f"\n{'':<{wide}}{'trained':>14}" + (f"{'closed form':>16}" if best else ""))
    for label, (value, expected) in zip(labels, shown.values(), strict=True):
        print(f"{padded(label, wide)}{trained(value):>14}{number(expected):>16}".rstrip())
    if more := len(rows) - len(shown):
        print(f"… and {more:,} more" + (" in result.json" if result["log_dir"] else ""))
    print(f"{'loss':<{wide}}{number(result['loss']):>14}{number(best.get('loss')):>16}".rstrip())


def _undetermined(result: dict[str, Any]) -> str | None:
    """Say which coefficients the training rows do not determine, and why, unless a summary does."""
    if not result["undetermined"] or result["summary"]:
        return None
    names, reasons = (result["undetermined"][key] for key in ("coefficients", "reasons"))
    more = f" and {len(reasons) - 1:,} more" if len(reasons) > 1 else ""
    return f"{len(names):,} coefficients, since several lines fit alike: {reasons[0]}{more}"


def _base_levels(result: dict[str, Any]) -> str | None:
    """Name the level that the others of its category add to, unless a summary does."""
    if not result["base_levels"] or result["summary"]:
        return None
    return ", ".join(f"{name} {level}" for name, level in result["base_levels"].items())


def _converged(result: dict[str, Any]) -> str | None:
    """Say whether the training has converged, and if not, what would help."""
    if result["converged"] is not False:
        return "yes" if result["converged"] else None
    if (limit := result["largest_stable_lr"]) and result["lr"] > limit:
        return f"no: lr is above the largest stable one, {limit:.4g}"
    said = f"not yet, {result['distance']:.2g} of the spread of y to go"
    return f"{said}: {result['remedy']}" if result["remedy"] else said


def _rows(n_samples: int, check: dict[str, Any] | None) -> str:
    counted = check and check["passed"] and check["epochs_counted"]
    return f"{n_samples:,}" + (", each once in every epoch" if counted else "")


def _deviations(check: dict[str, Any]) -> str:
    listed = [f"{ratio:.2g} in {name}" for name, ratio in check["worst_ratios"].items()]
    said = f"as fractions of their bounds at most {', '.join(listed)}"
    if check["steps_skipped"]:
        said += f"; {check['steps_skipped']:,} steps skipped by the loss scale"
    return said


def verdict(check: dict[str, Any]) -> str:
    """Say in a line what the cross-check found."""
    failure = check["first_failure"]
    if isinstance(failure, dict):
        cause = f"; likely cause: {failure['cause']}" if failure["cause"] else ""
        return f"FAILED at step {failure['step']}: {failure['quantity']}{cause}"
    if not check["passed"]:
        return f"FAILED: {failure}"
    return f"passed: {check['steps_checked']:,} steps compared with NumPy"


def parameters(result: dict[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    """Return each parameter by its name: as trained, and in closed form.

    None is a number that is not known, or that the training rows do not determine.
    """
    best, found = result["closed_form"] or {}, {}
    columns = result["features"], result["targets"]
    for name in ("weight", "bias"):
        expected = entries(name, best.get(name), *columns)
        for label, value in entries(name, result[name], *columns).items():
            found[label] = value, expected.get(label)
    return found


def entries(
    name: str, value: Any, features: list[str] | None, targets: list[str] | None
) -> dict[str, Any]:
    """Name the entries of a parameter: `weight`, `weight[j]`, `weight[j,t]`; or by columns.

    Args:
        name: `weight` or `bias`.
        value: A number, or a list as in `result.json`; None where it is not known.
        features: Names of the columns of X; None where they have none.
        targets: Names of the columns of y; None where they have none.
    """
    array = np.asarray(value)
    if not features or not targets or value is None:
        places = {at: f"[{','.join(map(str, at))}]" if at else "" for at in np.ndindex(array.shape)}
        return {f"{name}{place}": array[at] for at, place in places.items()}
    rows = features if name == "weight" else [name]
    of_target = [f" → {target}" for target in targets] if len(targets) > 1 else [""]
    labels = [f"{row}{end}" for row in rows for end in of_target]
    return dict(zip(labels, array.ravel().tolist(), strict=True))


def trained(value: float | None) -> str:
    """Write a trained parameter, or that the training rows do not determine it."""
    return summary_text.UNDETERMINED if value is None else number(value)


def number(value: float | None) -> str:
    """Write a number with six digits after the point, or six in all; nothing for None."""
    if value is None:
        return ""
    return f"{value:.6f}" if 1e-3 <= abs(value) < 1e6 else f"{value:z.6g}"
