"""Draws the four curves of a real `trueline compare`: `python docs/pictures/four_rungs.py`."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

HERE = Path(__file__).parent
# Wide below, thin on top, or only the last would show. Colours: Okabe & Ito (2008), which the
# colour-blind tell apart.
LOOKS = {
    "1-numpy": ("NumPy, by hand", "#56B4E9", 15),
    "2-autograd": ("PyTorch autograd", "#009E73", 9),
    "3-mseloss-sgd": ("MSELoss and SGD", "#F0E442", 4.5),
    "4-lightning": ("Lightning", "#000000", 1.2),
}


class Comparison(NamedTuple):
    """What a run of `trueline compare` left.

    Args:
        steps: At which each rung logged, by its name; shape (n_logged,).
        losses: What it logged there.
        furthest: The largest relative distance of each rung's loss from NumPy's.
        floor: The loss of least squares.
    """

    steps: dict[str, NDArray[np.int64]]
    losses: dict[str, NDArray[np.float64]]
    furthest: dict[str, float]
    floor: float


def compare(epochs: int, folder: Path) -> Path:
    """Run the four rungs in a folder; return their log directory."""
    command = [sys.executable, "-m", "trueline", "compare", f"--trainer.max_epochs={epochs}"]
    subprocess.run([*command, "--trainer.log_every_n_steps=1"], cwd=folder, check=True)
    return folder / "lightning_logs/compare_0"


def read(directory: Path) -> Comparison:
    """Read the curves from TensorBoard's files, and the distances from `compare.json`."""
    rows = {
        row["name"]: row for row in json.loads((directory / "compare.json").read_text())["rows"]
    }
    steps, losses = {}, {}
    for name in LOOKS:
        events = EventAccumulator(str(directory / name), size_guidance={"scalars": 0}).Reload()
        scalars = events.Scalars("train/loss")
        steps[name] = np.array([scalar.step for scalar in scalars])
        losses[name] = np.array([scalar.value for scalar in scalars])
    furthest = {name: rows[name]["distance"]["loss"] for name in LOOKS}
    return Comparison(steps, losses, furthest, rows["least squares by QR"]["loss"])


def draw(found: Comparison, path: Path) -> None:
    """Draw the curves over each other, each with its distance from the first."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for name, (label, colour, width) in LOOKS.items():
        digits, power = f"{found.furthest[name]:.0e}".split("e")
        apart = f", within ${digits}\\cdot10^{{{int(power)}}}$ of NumPy"
        axes.plot(
            found.steps[name] + 1,  # a logarithm has no 0
            found.losses[name],
            color=colour,
            linewidth=width,
            solid_capstyle="butt",
            label=label + (apart if found.furthest[name] else ""),
        )
    axes.axhline(
        found.floor, color="0.5", linestyle="--", label=f"least squares, {found.floor:.4f}"
    )
    axes.set(xscale="log", yscale="log", xlabel="steps taken, plus 1", ylabel="mean squared error")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc=(0.04, 0.13), handlelength=2.5, labelspacing=0.8)
    figure.savefig(path, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=HERE / "four_rungs.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        draw(read(compare(options.epochs, Path(name))), options.out)
