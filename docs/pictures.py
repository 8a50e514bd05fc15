"""The pictures of the README, made from real runs.

`make pictures` draws docs/pictures/tensorboard.png, the custom scalars of a run in a browser, and
docs/pictures/line.png, the line with its band beside the loss surface with the path of training.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from board import browser, open_tab, tensorboard  # noqa: E402

PICTURES = Path(__file__).parent / "pictures"
WIDTH, HEIGHT = 1180, 1130
COLOURS = 128
"""Of a screenshot: it has few, and is a third as large so."""


def fit(folder: Path, *options: str) -> Path:
    """Train as a user does; returns the folder of the runs."""
    command = [sys.executable, "-m", "trueline", "fit", *options]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "lightning_logs"


def picture(run: Path, tag: str) -> Image.Image:
    """Read a figure of a run out of its event file."""
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    return Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string)).convert("RGB")


def line_beside_surface(run: Path) -> Image.Image:
    """Return the two figures of a run side by side."""
    left, right = (picture(run, f"figures/{name}") for name in ("line", "surface"))
    both = Image.new("RGB", (left.width + right.width, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both


def screenshot(runs: Path) -> Image.Image:
    """Return the custom scalars of some runs, without smoothing and with every point in sight."""
    with tensorboard(runs) as address, browser(WIDTH, HEIGHT) as page:
        open_tab(page, address, "custom_scalars&_smoothingWeight=0")
        page.get_by_text("bias beside the closed form").wait_for()
        page.wait_for_timeout(3000)  # for curves to be drawn
        return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def save(image: Image.Image, name: str) -> None:
    """Write a picture with as few colours as it needs."""
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / name
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(
        f"{path.relative_to(ROOT)}  {image.width} x {image.height}, {path.stat().st_size:,} bytes"
    )


def main() -> None:
    """Make both."""
    with tempfile.TemporaryDirectory() as folder:
        runs = fit(Path(folder))
        save(line_beside_surface(runs / "version_0"), "line.png")
        save(screenshot(runs), "tensorboard.png")


if __name__ == "__main__":
    main()
