"""The numbers of the figures, worked out apart from their drawing."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.data import RegressionData
from trueline.reference.triangle import Line, Triangle
from trueline.statistics.intervals import Intervals, intervals

Array = NDArray[np.float64]

MOST_POINTS = 2_000
"""Rows in a figure; more would be one blot."""
PLACES = 80
"""Along a line or an axis of a surface, at which a figure knows a value."""
MOST_COEFFICIENTS = 25
"""In a figure; it takes so many lines to the page."""
MARGIN = 0.08
"""Around what is shown, as a fraction of it."""


class Sample(NamedTuple):
    """Some rows in the units that they came in.

    Args:
        X: Shape (n, n_features).
        y: Shape (n,), or (n, n_targets).
        n_samples: Of how many rows they are.
    """

    X: Array
    y: Array
    n_samples: int


def sample(data: RegressionData, most: int = MOST_POINTS) -> Sample:
    """Return rows evenly spaced over all; all of them where there are no more than that."""
    n = data.n_samples
    numbers = np.arange(min(n, most)) * n // min(n, most)
    if data.spooled is not None:
        X, y = data.spooled.split(data.spooled.spool.rows(numbers))[:2]
    else:
        X, y = data.X[numbers], data.y[numbers]
    features, targets = X.double().numpy(), y.double().numpy()
    if data.scaling is not None:
        scale = np.where(np.isfinite(data.scaling.scale), data.scaling.scale, 0.0)
        features = features * scale + data.scaling.mean
    return Sample(features, targets, n)


class Fitted(NamedTuple):
    """A line of one feature over the range of its rows.

    Args:
        x: Ascending, shape (n,).
        trained: The predictions of the trained line there.
        best: The intervals of the closed form there; None where rows are too few or alike.
    """

    x: Array
    trained: Array
    best: Intervals | None


def fitted(rows: Triangle, trained: Line, x: Array) -> Fitted:
    """Return the trained line, and the closed form with its confidence band, over a range of x.

    Args:
        rows: With one feature and one target, in the units of x.
        trained: In these units too.
        x: Of the rows that are shown.
    """
    low, high = float(x.min()), float(x.max())
    room = MARGIN / 2 * (high - low or 1.0)
    places = np.linspace(low - room, high + room, PLACES)
    try:
        best = intervals(rows, places[:, None])
    except ValueError:
        best = None
    return Fitted(places, places * float(np.squeeze(trained.weight)) + float(trained.bias), best)


class Surface(NamedTuple):
    """The objective over a plane of the parameters, and the way that the training took in it.

    Args:
        axes: Two directions in the parameters `[weight, bias]`, orthonormal, shape (2, p).
        curvature: Of the objective along each.
        origin: Where the plane meets the parameters, shape (p,); 0 on both axes where the plane is
            that of weight and bias themselves.
        a: Places along the first axis.
        b: Places along the second.
        excess: The objective above its floor, shape (len(b), len(a)).
        path: Of the training, projected, shape (n, 2).
        best: The closed form in the plane; None where there is none.
    """

    axes: Array
    curvature: Array
    origin: Array
    a: Array
    b: Array
    excess: Array
    path: Array
    best: Array | None


def surface(
    rows: Triangle, walked: Array, best: Line | None, l1: float, l2: float, weight_decay: float
) -> Surface:
    """Return the objective around the way that a training took.

    With one feature the plane is that of weight and bias. With more it goes through the closed form
    along the two stiffest directions, the eigenvectors of the Hessian with the largest eigenvalues.

    Args:
        rows: As they are trained on, with one target.
        walked: Parameters `[weight, bias]` on the way, shape (n, p).
        best: The closed form.
        l1: Strength of the L1 penalty.
        l2: Strength of the L2 penalty.
        weight_decay: Of the optimizer.
    """
    p = rows.columns
    hessian_root = np.roll(rows.plain, -1, axis=1) * math.sqrt(2 / rows.rows)
    penalties = np.full(p, math.sqrt(2 * l2 + weight_decay))
    penalties[-1] = math.sqrt(weight_decay)
    # Two rows at least, as many as there are axes.
    below = np.diag(penalties) if penalties.any() else np.zeros((1, p))
    root = np.concatenate([hessian_root, below])
    middle = None if best is None else np.append(np.ravel(best.weight), best.bias)
    if p == 2:
        axes, origin = np.eye(2), np.zeros(2)
    else:
        axes = np.linalg.svd(root, full_matrices=False)[2][:2]
        axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])[:, None]
        origin = walked[-1] if middle is None else middle
    path = (walked - origin) @ axes.T
    shown = path if middle is None else np.vstack([path, (middle - origin) @ axes.T])
    a, b = (_span(shown[:, k]) for k in range(2))
    grid = np.stack(np.meshgrid(a, b), axis=-1).reshape(-1, 2)
    # Some places at a time: of many columns each line takes much memory.
    found = np.concatenate(
        [
            _objective(rows, origin + some @ axes, l1, l2, weight_decay)
            for some in np.split(grid, len(b))
        ]
    )
    floor = found.min() if middle is None else _objective(rows, middle[None], l1, l2, weight_decay)
    return Surface(
        axes=axes,
        curvature=np.sum((root @ axes.T) ** 2, axis=0),
        origin=origin,
        a=a,
        b=b,
        excess=np.maximum(found - floor, 0.0).reshape(len(b), len(a)),
        path=path,
        best=None if middle is None else (middle - origin) @ axes.T,
    )


def _span(values: Array) -> Array:
    low, high = float(values.min()), float(values.max())
    room = MARGIN * (high - low or max(abs(low), 1.0))
    return np.linspace(low - room, high + room, PLACES)


def _objective(rows: Triangle, theta: Array, l1: float, l2: float, weight_decay: float) -> Array:
    """Return `mean(r²) + l1·Σ|weight| + l2·Σweight² + weight_decay/2·Σθ²` of each line."""
    weight, bias = theta[:, :-1], theta[:, -1:]
    center = rows.center
    bias = bias + weight @ center[: rows.columns - 1, None] - center[rows.columns - 1 :]
    s = np.concatenate([bias, weight, -np.ones_like(bias)], axis=1)
    loss = np.sum((s @ rows.R.T) ** 2, axis=1) / rows.rows
    penalty = l1 * np.abs(weight).sum(axis=1) + l2 * np.sum(weight**2, axis=1)
    return np.asarray(loss + penalty + weight_decay / 2 * np.sum(theta**2, axis=1))


class Effects(NamedTuple):
    """Coefficients, each times the standard deviation of its feature, so that they compare.

    Args:
        names: Of the features, the one with the largest effect first.
        value: Of the closed form, shape (n,).
        low: Lower ends of the confidence intervals; nan where not defined.
        high: Upper ends.
        trained: Of the trained line.
        labels: The coefficients with their intervals, in the table's units, as text.
        left_out: How many more there are.
    """

    names: list[str]
    value: Array
    low: Array
    high: Array
    trained: Array
    labels: list[str]
    left_out: int


def effects(rows: Triangle, summary: dict[str, Any], trained: Array) -> Effects:
    """Return the coefficients of one target.

    Args:
        rows: In the table's units.
        summary: The entries of a `Summary`.
        trained: Weights of the trained line, shape (n_features,).
    """
    spread = np.linalg.norm(rows.without_mean(1)[:, : rows.columns - 1], axis=0)
    spread = spread / math.sqrt(rows.rows)
    found = [
        (c, s, w)
        for c, s, w in zip(summary["coefficients"][1:], spread.tolist(), trained, strict=True)
        if c["value"] is not None
    ]
    found.sort(key=lambda each: -abs(each[0]["value"] * each[1]))
    shown = found[:MOST_COEFFICIENTS]
    ends = np.array(
        [
            [np.nan if c[end] is None else c[end] * s for end in ("value", "low", "high")]
            for c, s, _ in shown
        ]
    ).reshape(-1, 3)
    return Effects(
        names=[c["name"] for c, _, _ in shown],
        value=ends[:, 0],
        low=ends[:, 1],
        high=ends[:, 2],
        trained=np.array([float(w) * s for _, s, w in shown]),
        labels=[_label(c) for c, _, _ in shown],
        left_out=len(found) - len(shown),
    )


def _label(c: dict[str, Any]) -> str:
    value, low, high = (
        "" if c[end] is None else f"{c[end]:z.3g}".replace("-", "−")
        for end in ("value", "low", "high")
    )
    return f"{value}  [{low}, {high}]" if low else value
