"""The folder of a run: `lightning_logs/NAME_N`, with a number that no other run has."""

from pathlib import Path

from trueline.errors import RequestError

RUNS = "lightning_logs"
"""In `default_root_dir`, what holds the folders of all runs."""


def next_folder(runs: Path, name: str) -> Path:
    """Return the folder for the next run, without making it.

    Args:
        runs: That holds the folders of all runs.
        name: What comes before the number.

    Returns:
        `NAME_N`, with the number after the largest that is taken.
    """
    numbers = [path.name.removeprefix(f"{name}_") for path in runs.glob(f"{name}_*")]
    taken = [int(number) for number in numbers if number.isdigit()]
    return runs / f"{name}_{max(taken, default=-1) + 1}"


def claim_folder(runs: Path, name: str) -> Path:
    """Make the folder for the next run; of runs that start at once, each gets its own.

    Args:
        runs: That holds the folders of all runs.
        name: What comes before the number.

    Returns:
        The folder, which is new and empty.

    Raises:
        OSError: When it cannot be made.
    """
    while True:
        folder = next_folder(runs, name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder


def open_folder(folder: Path, root: Path) -> None:
    """Make the folder of a run, if it is not there yet.

    Args:
        folder: Of the run.
        root: That it must lie in.

    Raises:
        RequestError: When it lies elsewhere or holds another run.
        OSError: When it cannot be made.
    """
    if not folder.resolve().is_relative_to(root.resolve()):
        raise RequestError(
            f"log directory: expected one inside {root}, found {folder}; leave .. out of the "
            "logger's name and version"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "config.yaml").exists():
        raise RequestError(
            f"log directory: expected a new one, found the run {folder}; choose another version or "
            "leave the version out"
        )
