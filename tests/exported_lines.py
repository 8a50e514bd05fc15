"""Tables of houses, and trainings on them, to export."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from conftest import Run

Cli = Callable[..., Run]
RUN = Path("lightning_logs/version_0")
N = 60


def columns(seed: int = 0) -> dict[str, Any]:
    """Return columns of each kind, far from 0 and near it, and targets that depend on all."""
    draw = np.random.default_rng(seed)
    area, year = draw.uniform(40, 140, N), draw.integers(1950, 2020, N)
    heat, rooms, sold = draw.integers(0, 3, N), draw.integers(2, 5, N), draw.random(N) < 0.5
    price = 3 * area - 0.1 * year + 20 * heat + 7 * rooms**2 + 5 * sold + draw.standard_normal(N)
    return {
        "area": area,
        "year built": year,
        "heating": np.array(["district", "gas, old", "öl"])[heat],
        "rooms": rooms,
        "sold": sold,
        "only": np.full(N, "same"),
        "price": price,
        "rent": price / 9 + draw.standard_normal(N),
        "count": draw.integers(1, 5, N),
    }


def write(folder: Path, names: tuple[str, ...] = ("t.csv", "t.parquet")) -> None:
    """Write the table in each format."""
    table = columns()
    for name in names:
        if name.endswith("parquet"):
            parquet.write_table(pa.table(table), folder / name)
            continue
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table)
            writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))


def fit(cli: Cli, folder: Path, name: str, options: list[str]) -> Run:
    """Train on a table."""
    write(folder, (name,))
    given = ["--data=TableData", f"--data.path={name}", "--trainer.enable_progress_bar=false"]
    target = [] if any("target" in o for o in options) else ["--data.target=price"]
    run = cli("fit", *given, *target, *options)
    assert run.status == 0, run.stderr
    return run


def fit_houses(cli: Cli, folder: Path) -> None:
    """Train on a number and a category."""
    fit(cli, folder, "t.csv", ["--data.features=area,heating", "--data.categorical=heating"])
