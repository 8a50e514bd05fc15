"""How many bytes of rows are held in memory, by the memory that there is."""

import os
from collections.abc import Iterator
from pathlib import Path

SHARE = 4
"""Part of the available memory that rows may take: while they are gathered they are there twice,
and a training needs memory of its own."""

UNKNOWN = 2**30
"""Bytes that are taken to be available where the system does not say."""

JOBS = "TRUELINE_JOBS"
"""Environment variable that says how many trials of a sweep train side by side."""

PROCESSES = (JOBS, "LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "WORLD_SIZE")
"""Environment variables that say how many processes of a training share a machine."""


def bytes_for_rows() -> int:
    """Return how many bytes of rows this process may hold in memory."""
    told = (os.environ.get(name, "") for name in PROCESSES)
    processes = next((int(count) for count in told if count.isdigit() and int(count)), 1)
    return available() // (SHARE * processes)


def available(root: Path = Path("/")) -> int:
    """Return the bytes of memory that are available, within the limits of control groups.

    Args:
        root: Folder that holds `proc` and `sys`.

    References:
        Linux, "The /proc filesystem" (MemAvailable), "Control Group v2" (memory.max) and "Memory
        Resource Controller" (memory.limit_in_bytes).
    """
    of_machine = _numbers(root / "proc/meminfo").get("MemAvailable:")
    found = [UNKNOWN if of_machine is None else of_machine * 1024, *_left_in_groups(root)]
    return max(0, min(found))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Return what is left of the limit of each control group that this process is in."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount, limit, usage, cached = "", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, usage = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        top = root / "sys/fs/cgroup" / mount
        group = top / path.strip("/")
        # A limit above holds too. In a container the path may not be that of its own mount.
        for folder in [group, *group.parents]:
            if not folder.is_relative_to(top):
                break
            texts = _text(folder / limit).strip(), _text(folder / usage).strip()
            if all(text.isdigit() for text in texts):
                # Pages of files that were read once are given up when memory is asked for.
                used = int(texts[1]) - _numbers(folder / "memory.stat").get(cached, 0)
                yield int(texts[0]) - used


def _numbers(file: Path) -> dict[str, int]:
    """Return the numbers of a file of lines `name number ...`."""
    lines = (line.split() for line in _text(file).splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
