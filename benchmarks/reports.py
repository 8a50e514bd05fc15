"""Numbers, machines and reports as the benchmarks write them."""

import contextlib
import os
import platform
import statistics
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path


def verdict(met: bool) -> str:
    """Return the word for it."""
    return "yes" if met else "**no**"


def times(ratios: list[float], what: str) -> str:
    """Return the median of some ratios, with their range."""
    low, high = min(ratios), max(ratios)
    return f"{number(statistics.median(ratios))} x {what} ({number(low)} to {number(high)})"


def rounded(x: float) -> str:
    """Return a number with two digits that count."""
    return f"{float(f'{x:.2g}'):,g}"


def number(x: float) -> str:
    """Return a number with three digits, or all before the point."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def time_of(seconds: list[float]) -> str:
    """Return the median time in a readable unit."""
    s = statistics.median(seconds)
    return f"{number(1e3 * s)} ms" if s < 1 else f"{number(s)} s"


def machine(*packages: str) -> str:
    """Describe where this runs, and the versions of some packages."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).split(":")[1].strip()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{package} {version(package)}" for package in packages]
    return ", ".join(
        [
            f"{cpu}, {os.cpu_count()} cores, {total:.0f} GiB, {platform.system()}; "
            f"Python {platform.python_version()}",
            *versions,
        ]
    )


def publish(title: str, about: str, lines: Iterable[str], out: Path | None) -> None:
    """Print a report, and write it.

    Args:
        title: Its heading.
        about: What follows the date: the machine, and how it was measured.
        lines: The rest.
        out: The file, if any.
    """
    text = "\n".join([f"# {title}", "", f"{time.strftime('%Y-%m-%d')}; {about}", "", *lines]) + "\n"
    print(text)
    if out:
        out.write_text(text, "utf-8")
