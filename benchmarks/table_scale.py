"""A folder of Parquet files, larger than memory need be: how much memory it takes, and how long.

    python benchmarks/table_scale.py [--rows 100000000] [--rounds 3] [--folder DIR] [--out FILE]

Trains `w*X + b` on 10 features in float32, one shuffled epoch by batches of 1,024, on the rows and
on a quarter of them, each in a process of its own, and beside it lets pyarrow alone read the same
files into record batches. The files are made once, in `--folder`.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from reports import machine, publish

N_FEATURES = 10
ROWS_A_FILE = 5_000_000
ROWS_AT_ONCE = 2**16


def make_files(folder: Path, n: int) -> None:
    """Write n rows into files of at most `ROWS_A_FILE`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(N_FEATURES, dtype=np.float32)
    names = [*(f"x{j}" for j in range(N_FEATURES)), "y"]
    schema = pa.schema([(name, pa.float32()) for name in names])
    for first in range(0, n, ROWS_A_FILE):
        path = folder / f"rows-{first // ROWS_A_FILE:04d}.parquet"
        with parquet.ParquetWriter(path, schema, use_dictionary=False) as file:
            for start in range(first, min(first + ROWS_A_FILE, n), 2**20):
                rows = min(2**20, n - start, first + ROWS_A_FILE - start)
                X = rng.standard_normal((rows, N_FEATURES), dtype=np.float32)
                y = X @ weight + 1 + 0.1 * rng.standard_normal(rows, dtype=np.float32)
                columns = [np.ascontiguousarray(X[:, j]) for j in range(N_FEATURES)]
                file.write_table(pa.Table.from_arrays([*columns, y], schema=schema))


def scan(folder: Path) -> dict[str, float]:
    """Read all files with pyarrow alone."""
    begin, n = time.perf_counter(), 0
    for path in sorted(folder.iterdir()):
        with parquet.ParquetFile(path) as file:
            n += sum(batch.num_rows for batch in file.iter_batches(ROWS_AT_ONCE))
    return {"rows": n, "seconds": time.perf_counter() - begin}


def train(folder: Path) -> dict[str, float]:
    """Train one epoch, cross-check on."""
    from lightning.pytorch import Trainer

    from trueline.crosscheck import CrossCheck
    from trueline.data import TableData
    from trueline.module import LinearRegression

    begin = time.perf_counter()
    served: dict[str, Any] = {"batch_size": 1024, "shuffle": True, "in_memory": 2**28}
    data = TableData(str(folder), "y", dtype="float32", **served)
    read = time.perf_counter() - begin
    check = CrossCheck()
    quiet: dict[str, Any] = {"logger": False, "limit_val_batches": 0, "precision": "32-true"}
    quiet |= {f"enable_{n}": False for n in ("checkpointing", "progress_bar", "model_summary")}
    trainer = Trainer(max_epochs=1, callbacks=[check], accelerator="cpu", **quiet)
    model = LinearRegression(data.n_features, lr="auto")
    begin = time.perf_counter()
    trainer.fit(model, data)
    seconds = time.perf_counter() - begin
    assert check.report()["passed"]
    return {
        "rows": data.n_samples,
        "read": read,
        "seconds": seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "worst_ratio": check.report()["worst_ratio"],
    }


def alone(what: str, folder: Path) -> dict[str, float]:
    """Do one of these in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--only", what, "--folder", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def report(found: dict[int, dict[str, list[dict[str, float]]]]) -> list[str]:
    """Return the lines of the report."""
    lines = [
        "| rows | peak memory | pyarrow alone | an epoch | ratio | reading, standardising, closed "
        "form, before it |",
        "|---|---|---|---|---|---|",
    ]
    for n, runs in found.items():
        peak = max(run["peak_mb"] for run in runs["train"])
        alone, epoch, read = (
            statistics.median(n / run[key] for run in runs[what])
            for what, key in (("scan", "seconds"), ("train", "seconds"), ("train", "read"))
        )
        rate = statistics.median(
            s["seconds"] / t["seconds"] for s, t in zip(runs["scan"], runs["train"], strict=True)
        )
        lines.append(
            f"| {n:,} | {peak:,.0f} MB | {alone / 1e6:.1f} M rows/s | {epoch / 1e6:.1f} M rows/s | "
            f"{rate:.2f} | {read / 1e6:.1f} M rows/s |"
        )
    return lines


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/trueline-tables"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=("scan", "train"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps({"scan": scan, "train": train}[options.only](options.folder)))
        return
    found: dict[int, dict[str, list[dict[str, float]]]] = {}
    for n in (options.rows // 4, options.rows):
        folder = options.folder / str(n)
        if not folder.exists():
            make_files(folder, n)
        found[n] = {"scan": [], "train": []}
        for _ in range(options.rounds):
            for what, runs in found[n].items():
                runs.append(alone(what, folder))
                print(what, n, runs[-1], file=sys.stderr)
    about = (
        f"{machine('torch', 'pyarrow')}. 10 features in float32, one shuffled epoch by batches of "
        "1,024 with the cross-check on; medians, and the rate of an epoch beside that at which "
        "pyarrow alone reads the same files, run by turns."
    )
    publish("Tables at scale", about, report(found), options.out)


if __name__ == "__main__":
    main()
