"""What is held in memory follows from the memory there is, and nothing else follows from that."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trueline.data import RegressionData, SyntheticData, gathered, memory

GIB = 2**30
V1, V2 = "4:memory:/jobs/one\n", "0::/jobs/one\n"
SYSTEMS: dict[str, tuple[dict[str, str], int]] = {
    "machine alone": ({"proc/meminfo": f"MemFree: 1 kB\nMemAvailable: {8 * 2**20} kB\n"}, 8 * GIB),
    "nothing told": ({}, memory.UNKNOWN),
    "version 2": (
        {"proc/self/cgroup": V2, "sys/fs/cgroup/jobs/one/memory.max": f"{3 * GIB}\n",
         "sys/fs/cgroup/jobs/one/memory.current": f"{2 * GIB}\n",
         "sys/fs/cgroup/jobs/one/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n"},
        3 * GIB // 2,
    ),
    "version 2, limit above": (
        {"proc/self/cgroup": V2, "sys/fs/cgroup/jobs/one/memory.max": "max\n",
         "sys/fs/cgroup/jobs/memory.max": f"{2 * GIB}", "sys/fs/cgroup/jobs/memory.current": "0"},
        2 * GIB,
    ),
    "version 2, in a container": (
        {"proc/self/cgroup": V2, "sys/fs/cgroup/memory.max": f"{GIB}",
         "sys/fs/cgroup/memory.current": "0"},
        GIB,
    ),
    "version 1": (
        {"proc/self/cgroup": V1, "sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes": f"{GIB}",
         "sys/fs/cgroup/memory/jobs/one/memory.usage_in_bytes": f"{GIB // 4}"},
        3 * GIB // 4,
    ),
    "version 1 without limit": (
        {"proc/self/cgroup": V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}",
         "sys/fs/cgroup/memory/memory.usage_in_bytes": "0"},
        8 * GIB,
    ),
    "over its limit": (
        {"proc/self/cgroup": V2, "sys/fs/cgroup/memory.max": "5",
         "sys/fs/cgroup/memory.current": "9"},
        0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
def test_available_memory_is_the_least_that_machine_and_control_groups_leave(
    tmp_path: Path, system: str
) -> None:
    files, expected = SYSTEMS[system]
    if system not in ("nothing told", "machine alone"):
        files = {"proc/meminfo": f"MemAvailable: {8 * 2**20} kB\n"} | files
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory.available(tmp_path) == expected


def test_rows_take_a_share_of_it_that_processes_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in memory.PROCESSES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory, "available", lambda: 8 * GIB)
    assert memory.bytes_for_rows() == 2 * GIB
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert memory.bytes_for_rows() == GIB // 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory.bytes_for_rows() == GIB


def test_rows_lie_in_a_file_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    for left, in_file in ((2**20, True), (2**30, False)):
        monkeypatch.setattr(gathered, "bytes_for_rows", lambda left=left: left)
        assert (SyntheticData(20_000).spooled is not None) == in_file
    assert SyntheticData(20_000, in_memory=2**20).spooled is not None


def test_evaluation_does_not_go_by_the_batch_size() -> None:
    arrays = np.ones((1000, 3)), np.arange(1000.0)
    for data in (
        SyntheticData(1000, batch_size=2),
        SyntheticData(1000, batch_size=2, in_memory=0),
        RegressionData(*arrays, batch_size=2),
        RegressionData(*arrays),
    ):
        for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
            (batch,) = loader
            assert len(batch[0]) == 1000


@pytest.mark.parametrize("options", [{}, {"n_targets": 2, "dtype": "float32"}])
@pytest.mark.parametrize("large", [0, 2**28])
def test_neither_rows_nor_order_depend_on_where_they_lie(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], large: int
) -> None:
    monkeypatch.setattr(gathered, "LARGE", large)
    monkeypatch.setattr(gathered, "SEGMENT_BYTES", 1_000)
    monkeypatch.setattr(gathered, "POOL_BYTES", 20_000)
    options = {"n_samples": 3000, "n_features": 3, "batch_size": 7, "shuffle": True} | options
    here, there = (SyntheticData(in_memory=held, **options) for held in (2**30, 0))
    assert here.spooled is None
    assert there.spooled is not None
    assert here.digest == there.digest
    assert here.digest != SyntheticData(**{**options, "seed": 1}).digest
    first, then = here.train_dataloader(), there.train_dataloader()
    begun = itertools.islice(zip(first, then, strict=True), 100)
    assert all(torch.equal(a, b) for pair in begun for a, b in zip(*pair, strict=True))
    # A training that goes on from there finds its place in the other one.
    again = here.train_dataloader()
    again.load_state_dict(then.state_dict())
    rest = itertools.islice(there.train_dataloader(), 100, None)
    for one, other in zip(again, rest, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
