"""The compiled loop is kept on disk where that can be done, and no fault of the disk stops it.

A function of one line stands for the kernels: `compiled` treats all alike.
"""

import importlib.util
import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from trueline.loop import compiler

SOURCE = """
from trueline.loop.compiler import compiled

@compiled
def total(x):
    s = x[0] - x[0]
    for value in x:
        s += value
    return s
"""
CALL = "import tiny, numpy; print(tiny.total(numpy.arange(4, dtype='{}')))"
FLOATS = np.arange(4.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a module, whose cache is beside it unless it cannot be written."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(compiler.Cache, "warned", False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of_the_user"))
    (tmp_path / "package").mkdir()
    (tmp_path / "package/tiny.py").write_text(SOURCE)
    return tmp_path / "package"


@pytest.fixture
def load(folder: Path) -> Callable[[], Any]:
    """Return a loader of the function, as a new process would load it."""
    names = (f"tiny_{k}" for k in itertools.count())

    def load() -> Any:
        spec = importlib.util.spec_from_file_location(next(names), folder / "tiny.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where numba looks for the function's globals
        spec.loader.exec_module(module)
        return module.total

    return load


def hits(total: Any, x: Any = FLOATS) -> bool:
    """Call the function; return whether it was read from its cache."""
    assert total(x) == 6
    found = sum(total.stats.cache_hits.values()), sum(total.stats.cache_misses.values())
    assert sum(found) == 1
    return bool(found[0])


def test_second_run_reads_the_cache_beside_the_source(
    folder: Path, load: Callable[[], Any]
) -> None:
    assert not hits(load())
    assert hits(load())
    assert list(folder.glob("__pycache__/*.nbc"))


def test_cache_is_the_users_where_the_folder_cannot_be_written(
    folder: Path, load: Callable[[], Any]
) -> None:
    (folder / "__pycache__").write_text("no folder")  # root may write into any folder
    assert not hits(load())
    assert hits(load())
    assert list(folder.parent.glob("of_the_user/**/*.nbc"))


def test_without_any_folder_the_function_is_compiled_each_time(
    folder: Path, load: Callable[[], Any]
) -> None:
    (folder / "__pycache__").write_text("no folder")
    (folder.parent / "of_the_user").write_text("no folder")
    for _ in range(2):
        assert load()(FLOATS) == 6


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("part", ["nothing", "half", "garbage", "another pickle"])
def test_damaged_file_is_replaced(
    folder: Path, load: Callable[[], Any], suffix: str, part: str
) -> None:
    load()(FLOATS)
    (file,) = folder.glob(f"__pycache__/*.{suffix}")
    whole = file.read_bytes()
    damaged = {
        "nothing": b"",
        "half": whole[: len(whole) // 2],
        "garbage": bytes(range(256)) * 10,
        "another pickle": pickle.dumps(numba.__version__) + pickle.dumps([1, 2, 3]),
    }
    file.write_bytes(damaged[part])
    assert not hits(load())
    assert hits(load())


def test_files_of_another_version_of_numba_are_replaced(
    folder: Path, load: Callable[[], Any]
) -> None:
    load()(FLOATS)
    (file,) = folder.glob("__pycache__/*.nbi")
    file.write_bytes(pickle.dumps("0.60.0") + b"what only that version can read")
    assert not hits(load())
    assert hits(load())


def test_file_of_another_signature_is_not_taken(folder: Path, load: Callable[[], Any]) -> None:
    """As after two processes that started at once gave one file to two signatures."""
    total = load()
    total(FLOATS)
    total(FLOATS.astype(np.float32))
    first, second = sorted(folder.glob("__pycache__/*.nbc"))
    second.write_bytes(first.read_bytes())
    assert rounds_until_all_hit(load) == 3


def rounds_until_all_hit(load: Callable[[], Any]) -> int:
    """Return after how many calls for each of two dtypes both are read from the cache."""
    both = FLOATS, FLOATS.astype(np.float32)
    return next(k for k in range(1, 9) if sum(hits(load(), x) for x in both) == 2)


def test_full_disk_is_told_once_and_leaves_no_half_file(folder: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))"
    calls = [CALL.format(dtype) for dtype in ("float64", "float32")]
    with start(folder, "\n".join([limit, *calls])) as process:
        stdout, stderr = process.communicate()
    assert stdout == "6.0\n6.0\n", stderr
    assert stderr.count("expected to keep the compiled loop in a file") == 1
    assert "File too large; each run will compile it again" in stderr
    assert not list(folder.glob("__pycache__/*.nb*"))


def start(folder: Path, code: str) -> subprocess.Popen[str]:
    """Start Python in the module's folder."""
    return subprocess.Popen(
        [sys.executable, "-B", "-c", code],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_processes_that_start_at_once_share_the_cache(
    folder: Path, load: Callable[[], Any]
) -> None:
    dtypes = ["float64", "float32", "float64", "float32"]
    started = [start(folder, CALL.format(dtype)) for dtype in dtypes]
    ended = [process.communicate() for process in started]
    assert ended == [("6.0\n", "")] * len(dtypes)
    assert rounds_until_all_hit(load) <= 3  # they may have taken a file from each other
