"""The figures: one style, colours that tell apart without hue, names and units on the axes.

References:
    Okabe & Ito, "Color Universal Design" (2008): the colours.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.tensorboard.pictured import Effects, Fitted, Sample, Surface

Array = NDArray[np.float64]

BLUE, RED, BLACK, GREY = "#0072B2", "#D55E00", "#1A1A1A", "#8C8C8C"
SIZE, DPI = (6.4, 4.4), 120
"""Inches, and dots to the inch: letters are read in TensorBoard's thumbnails, half as wide."""
COLOURS = 128
"""Of a picture: a third of the bytes of all, which TensorBoard's writer takes 0.2 µs for, each."""
PANEL = (0.135, 0.15, 0.835, 0.745)
"""Where axes lie: left, bottom, width and height. To have them laid out doubles the time."""
STYLE: Any = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titley": 1.0,  # else it is looked for, in a third of the time of drawing
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 5),
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
}
LEVELS = 14
"""Of the contours, each a fixed factor above the one before."""


def png(draw: Any, *given: Any, size: tuple[float, float] = SIZE) -> bytes:
    """Return a picture.

    Args:
        draw: Draws into axes what it is given after them.
        given: To it.
        size: In inches.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=DPI)
        canvas: Any = FigureCanvasAgg(figure)
        draw(figure.add_axes(PANEL), *given)
        canvas.draw()
    held = io.BytesIO()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    picture.quantize(COLOURS, Image.Quantize.FASTOCTREE).save(held, "png", compress_level=1)
    return held.getvalue()


def draw_line(axes: Any, rows: Sample, found: Fitted, x: str, y: str) -> None:
    """Draw the points, the trained line, and the closed form with its confidence band."""
    _draw_points(axes, rows.X[:, 0], rows.y)
    if found.best is not None:
        low, high = found.best.low, found.best.high
        axes.fill_between(
            found.x, low, high, color=RED, alpha=0.2, linewidth=0, label="95 % confidence", zorder=1
        )
        axes.plot(
            found.x, found.best.mean, "--", color=BLACK, lw=1.4, label="closed form", zorder=4
        )
    axes.plot(found.x, found.trained, color=RED, lw=2.4, label="trained line", zorder=3)
    axes.set(xlabel=x, ylabel=y, title=_of_rows(f"{y} by {x}", rows), xlim=found.x[[0, -1]])
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="best")


def draw_residuals(axes: Any, rows: Sample, predicted: Array, sigma: float | None, y: str) -> None:
    """Draw residuals against predictions, and the range in which most of them should be."""
    axes.axhline(0, color=BLACK, lw=1.2, zorder=1)
    if sigma:
        axes.axhspan(-2 * sigma, 2 * sigma, color=GREY, alpha=0.18, lw=0, zorder=0)
        axes.plot([], [], color=GREY, alpha=0.4, lw=8, label="± 2 standard errors")
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.02))
    _draw_points(axes, predicted, rows.y - predicted)
    reach = 1.25 * max(float(np.abs(rows.y - predicted).max()), 2 * (sigma or 0.0)) or 1.0
    axes.set(
        xlabel=f"predicted {y}",
        ylabel=f"{y} − predicted",
        title=_of_rows("residuals", rows),
        ylim=(-reach, reach),
    )


def _draw_points(axes: Any, x: Array, y: Array) -> None:
    """Draw rows, the more there are the smaller and the paler."""
    size = float(np.clip(6 * (60 / len(x)) ** 0.25, 2.5, 6))
    alpha = float(np.clip(0.8 * (60 / len(x)) ** 0.25, 0.35, 0.8))
    axes.plot(x, y, "o", color=BLUE, markersize=size, markeredgewidth=0, alpha=alpha, zorder=2)


def draw_surface(axes: Any, found: Surface, x: str, y: str, what: str) -> None:
    """Draw the contours of the objective, the way of the training on them, and where it led."""
    from matplotlib.colors import LogNorm

    positive = found.excess[found.excess > 0]
    top = float(positive.max()) if len(positive) else 1.0
    # Down to where the way is still seen to make way; below it contours are but a dot.
    levels = top * np.geomspace(1e-4, 1, LEVELS)
    shown = np.maximum(found.excess, levels[0])
    painted = axes.contourf(
        found.a, found.b, shown, levels=levels, norm=LogNorm(levels[0], top), cmap="Blues"
    )
    axes.contour(found.a, found.b, shown, levels=levels[1:-1], colors="white", linewidths=0.7)
    lw = _line_width(found)
    axes.plot(*found.path.T, "-", color=RED, lw=lw, zorder=3)
    axes.plot(*found.path.T, "o", color=RED, markersize=1.8 * lw, markeredgewidth=0, zorder=3)
    axes.plot(
        *found.path[0], "o", color="white", mec=RED, mew=2, markersize=9, zorder=4, label="start"
    )
    if found.best is not None:
        axes.plot(
            *found.best, "*", color=BLACK, mec="white", markersize=15, zorder=5, label="closed form"
        )
    left, bottom, width, height = PANEL
    axes.set_position((left, bottom, width - 0.115, height))
    bar = axes.figure.colorbar(painted, cax=axes.figure.add_axes((0.875, bottom, 0.022, height)))
    bar.outline.set_visible(False)
    ticks = 10.0 ** np.arange(np.ceil(np.log10(levels[0])), np.floor(np.log10(top)) + 1)
    bar.set_ticks(ticks, labels=[_power(tick) for tick in ticks])
    bar.minorticks_off()
    axes.set(xlabel=x, ylabel=y, title=f"{what} above its minimum, and the path of training")
    legend = axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none")
    legend.set_zorder(6)


def draw_effects(axes: Any, found: Effects, y: str) -> None:
    """Draw coefficients with their confidence intervals, the largest on top."""
    places = np.arange(len(found.names))[::-1]
    axes.axvline(0, color=GREY, lw=1, zorder=0)
    axes.hlines(places, found.low, found.high, color=BLUE, lw=3, label="95 % interval")
    axes.plot(found.value, places, "o", color=BLUE, markersize=8, label="closed form")
    axes.plot(
        found.trained, places, "o", mfc="none", mec=RED, mew=1.8, markersize=13, label="trained"
    )
    axes.set_yticks(places, [_cut(name) for name in found.names])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.7, len(places) - 0.3)
    for place, label in zip(places, found.labels, strict=True):
        axes.text(1.02, place, label, transform=axes.get_yaxis_transform(), va="center", size=10.5)
    more = f", {found.left_out} smaller ones left out" if found.left_out else ""
    axes.set(xlabel=f"{y} per standard deviation of the feature", title=f"coefficients{more}")
    left = 0.03 + 0.0125 * max(len(_cut(name)) for name in found.names)
    right = 0.03 + 0.0125 * max(map(len, found.labels))
    height = axes.figure.get_figheight()
    bottom, top = 1.0 / height, 0.45 / height
    axes.set_position((left, bottom, 1 - left - right, 1 - bottom - top))
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="lower center", ncols=3, bbox_to_anchor=(0.5, 0.0)
    )


def effects_size(found: Effects) -> tuple[float, float]:
    """Return how large a figure so many coefficients take."""
    return SIZE[0], max(2.6, 1.7 + 0.36 * len(found.names))


def _line_width(found: Surface) -> float:
    """Return a width at which a way that swings to and fro does not become a blot."""
    sides = np.array([np.ptp(found.a), np.ptp(found.b)])
    length = float(np.linalg.norm(np.diff(found.path, axis=0) / sides, axis=1).sum())
    return float(np.clip(1.8 * (4 / max(length, 1e-9)) ** 0.5, 0.5, 1.8))


def _power(tick: float) -> str:
    exponent = round(np.log10(tick))
    if -3 <= exponent <= 3:
        return f"{tick:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _of_rows(title: str, rows: Sample) -> str:
    shown = len(rows.y)
    some = f"{shown:,} of {rows.n_samples:,} rows" if shown < rows.n_samples else f"{shown:,} rows"
    return f"{title}, {some}"


def _cut(name: str, longest: int = 18) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
