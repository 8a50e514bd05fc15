"""Options drawn at random, and a whole run under them: fit, predict, test and export of one table.

The table is written here and its line is solved here, by NumPy. `python tests/option_matrix.py 200`
tries 200 draws.
"""

import contextlib
import csv
import datetime
import gzip
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import feather, parquet

from trueline.data import TableData

Array = NDArray[np.float64]
Columns = dict[str, list[Any]]
FORMATS = ("csv", "tsv", "csv.gz", "parquet", "feather", "npy")
TEXT_FORMATS = ("csv", "tsv", "csv.gz")
LEVELS = ("gas", "district", "oil, or wood", 'the "other"')
KEYS: dict[str, Callable[[int], Any]] = {
    "text": lambda i: f"row {i}",
    "awkward text": lambda i: f'{i}, "NA"\n' if i % 3 else "NA",
    "integer": lambda i: 10**15 + 7 * i,
    "number": lambda i: i / 3,
    "date": lambda i: datetime.date(2020, 1, 1) + datetime.timedelta(days=i),
}


@dataclass(frozen=True)
class Draw:
    """The options of one run.

    Args:
        seed: Seed of the table and of the draw.
        format: Ending of the table's file.
        n_rows: Number of rows in the table.
        n_numbers: Number of numeric features.
        n_targets: Number of targets.
        categories: Number of categorical features.
        key: Kind of the key column; a key of `KEYS`.
        weight: Whether rows have weights.
        missing: Fraction of features and targets that are missing; rows with one are dropped.
        val_fraction: Fraction of rows held out for validation.
        test_fraction: Fraction of rows held out for tests.
        batch_size: Rows in a batch; None for the full batch.
        shuffle: Whether each epoch has an order of its own.
        standardize: Whether training sees standardised features.
        in_memory: Bytes of rows above which rows lie in a file; None for the default.
        by_config: Whether predict and test get their options from the run's config.yaml.
        output: Ending of the file of predictions.
    """

    seed: int
    format: str
    n_rows: int
    n_numbers: int
    n_targets: int
    categories: int
    key: str
    weight: bool
    missing: float
    val_fraction: float
    test_fraction: float
    batch_size: int | None
    shuffle: bool
    standardize: bool
    in_memory: int | None
    by_config: bool
    output: str


def draw(seed: int) -> Draw:
    """Draw the options of a run."""
    rng = np.random.default_rng(seed)
    kind = FORMATS[seed % len(FORMATS)]
    has_text = kind != "npy"
    return Draw(
        seed=seed,
        format=kind,
        n_rows=int(rng.integers(80, 140)),
        n_numbers=int(rng.integers(1, 4)),
        n_targets=int(rng.choice([1, 1, 2, 3])),
        categories=int(rng.integers(0, 3)) if has_text else 0,
        key=str(rng.choice([*KEYS])) if has_text else "number",
        weight=bool(rng.random() < 0.4),
        missing=float(rng.choice([0.0, 0.04])) if has_text else 0.0,
        val_fraction=float(rng.choice([0.0, 0.2, 0.35])),
        test_fraction=float(rng.choice([0.0, 0.15, 0.3])),
        batch_size=[None, None, 1, 9, 18][rng.integers(5)],
        shuffle=bool(rng.random() < 0.5),
        standardize=bool(rng.random() < 0.7),
        in_memory=[None, 0, 1000][rng.integers(3)],
        by_config=bool(rng.random() < 0.5),
        output=str(rng.choice(["csv", "parquet"])),
    )


@dataclass
class Table:
    """A table, as columns and as numbers.

    Args:
        columns: Values by the name of their column; None where one is missing.
        design: Rows `[features, 1]`, shape (n_rows, n_features + 1), NaN where one is missing.
        y: Targets, shape (n_rows, n_targets), NaN where one is missing.
        weight: Sample weights, shape (n_rows,).
        numbers: Names of the numeric features.
        categories: Names of the categorical features.
        targets: Names of the targets.
    """

    columns: Columns
    design: Array
    y: Array
    weight: Array
    numbers: list[str]
    categories: list[str]
    targets: list[str]


def make_table(d: Draw) -> Table:
    """Make the rows: with noise for the full batch, exactly on a line for mini-batches.

    SGD on mini-batches ends at least squares only where all rows lie on one line.
    """
    rng = np.random.default_rng((d.seed, 1))
    n = d.n_rows
    numeric = rng.normal(size=(n, d.n_numbers)) * [1.0, 2.0, 0.5][: d.n_numbers] + 1.0
    levels = rng.integers(len(LEVELS), size=(n, d.categories))
    dummies = [levels[:, [j]] == np.arange(len(LEVELS)) for j in range(d.categories)]
    X = np.concatenate([numeric, *dummies, np.ones((n, 1))], axis=1)
    y = X @ rng.normal(size=(X.shape[1], d.n_targets)) * 3
    if d.batch_size is None:
        y += rng.normal(size=y.shape)
    holes = rng.random((n, d.n_numbers + d.categories)) < d.missing
    lost = rng.random(y.shape) < d.missing / 2
    columns: Columns = {"key": [KEYS[d.key](i) for i in range(n)]}
    numbers = [f"x{j}" for j in range(d.n_numbers)]
    categories = [f"kind{j}" for j in range(d.categories)]
    for j, name in enumerate(numbers):
        columns[name] = _with_holes(numeric[:, j], holes[:, j])
    for j, name in enumerate(categories):
        text = np.array(LEVELS, dtype=object)[levels[:, j]]
        columns[name] = _with_holes(text, holes[:, d.n_numbers + j])
    weight = rng.integers(1, 5, size=n).astype(float)
    if d.weight:
        columns["times"] = weight.tolist()
    targets = [f"y{t}" for t in range(d.n_targets)]
    for t, name in enumerate(targets):
        columns[name] = _with_holes(y[:, t], lost[:, t])
    order = rng.permutation(len(columns))
    columns = {name: columns[name] for name in np.array([*columns])[order].tolist()}
    X[holes.any(axis=1)] = np.nan
    y[lost] = np.nan
    weights = weight if d.weight else np.ones(n)
    return Table(columns, X, y, weights, numbers, categories, targets)


def _with_holes(values: NDArray[Any], holes: NDArray[np.bool_]) -> list[Any]:
    return [None if hole else value for value, hole in zip(values.tolist(), holes, strict=True)]


def write(path: Path, columns: Columns) -> None:
    """Write a table in the format that its name ends in."""
    if path.name.endswith(".npy"):
        np.save(path, np.array([*columns.values()], dtype=float).T)
    elif path.suffix == ".parquet":
        parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".feather":
        feather.write_feather(pa.table(columns), path)
    else:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "wt", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(columns)
            writer.writerows(
                ["" if v is None else repr(v) if isinstance(v, float) else v for v in row]
                for row in zip(*columns.values(), strict=True)
            )


def check(d: Draw, cli: Callable[..., Any], folder: Path) -> None:
    """Run the four commands under some options, and compare them with NumPy row by row.

    Args:
        d: The options.
        cli: Runs `trueline` in `folder` and returns status, stdout and stderr.
        folder: Empty folder.

    Raises:
        AssertionError: When a result differs.
    """
    table = make_table(d)
    path = folder / f"table.{d.format}"
    write(path, table.columns)
    names = {name: name for name in table.columns}
    if d.format == "npy":
        names = {name: f"column_{j}" for j, name in enumerate(table.columns)}
    features = [names[name] for name in (*table.numbers, *table.categories)]
    given: dict[str, Any] = {
        "path": path.name,
        "target": ",".join(names[name] for name in table.targets),
        "features": ",".join(features),
        "val_fraction": d.val_fraction,
        "test_fraction": d.test_fraction,
        "seed": d.seed % 7,
        "missing": "drop" if d.missing else "error",
    }
    if d.categories:
        given["categorical"] = ",".join(table.categories)
    if d.weight:
        given["weight"] = names["times"]
    trained = {**given, "standardize": str(d.standardize).lower(), "shuffle": d.shuffle}
    if d.batch_size is not None:
        trained["batch_size"] = d.batch_size
    if d.in_memory is not None:
        trained["in_memory"] = d.in_memory
    parts = _parts(d, table, {**given, "path": str(path)})
    # Columns of different scale take longer; of smaller batches an epoch has more.
    epochs = 3000 * (1 if d.standardize else min(d.batch_size or 1, 4))
    length = [f"--trainer.max_epochs={epochs}"] if d.batch_size else []
    _succeeds(cli("fit", *_options(trained), *length, "--crosscheck=raise", "--figures=false"))
    line = _least_squares(table, parts["train"])
    scale = np.nanstd(table.y, axis=0)
    near = 1e-3 if d.batch_size else 1e-5
    expected = table.design @ line

    again = ["--config=lightning_logs/version_0/config.yaml"]
    data = again if d.by_config else _options({"path": path.name})
    if not d.by_config and d.missing:
        data += ["--data.missing=drop"]
    out = folder / f"predictions.{d.output}"
    asked = ["--ckpt_path=lightning_logs/version_0/checkpoints/last.ckpt"]
    keys = f"--predictions.keys={names['key']}"
    run = _succeeds(cli("predict", *data, *asked, keys, f"--predictions.path={out.name}"))
    found = _read(out)
    assert _as_text(found[names["key"]]) == _as_text(table.columns["key"])
    for t, name in enumerate(table.targets):
        column = f"prediction_{names[name]}" if d.n_targets > 1 else "prediction"
        predictions = _numbers(found[column])
        assert (np.isnan(predictions) == np.isnan(expected[:, t])).all(), "missing predictions"
        off = np.nanmax(np.abs(predictions - expected[:, t])) / scale[t]
        assert off < near, f"prediction off by {off:.2g} of the spread of y"
    if np.isnan(expected).any():
        assert str(np.isnan(expected[:, 0]).sum()) in run.stderr

    run = _succeeds(cli("test", *(again if d.by_config else _options(given)), *asked))
    loss = float(run.stdout.split("test/loss")[1].split()[1])
    part = parts["test"]
    w = table.weight[part, None] * np.ones(d.n_targets)
    best = np.average((expected[part] - table.y[part]) ** 2, weights=w)
    assert abs(loss - best) <= 10 * near * scale.max() * (math.sqrt(best) + near * scale.max())

    _succeeds(cli("export", asked[0], "--path=line.json"))
    document = json.loads((folder / "line.json").read_text())
    for t in range(d.n_targets):
        predictions = _by_document(document["lines"][t], table, names)
        off = np.nanmax(np.abs(predictions - expected[:, t])) / scale[t]
        assert off < near, f"the exported line is off by {off:.2g} of the spread of y"


def _succeeds(run: Any) -> Any:
    assert run.status == 0, run.stderr
    return run


def _options(options: dict[str, Any]) -> list[str]:
    return ["--data=TableData", *(f"--data.{name}={value}" for name, value in options.items())]


def _parts(d: Draw, table: Table, given: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Return which rows each part holds, and check that the parts share none.

    Which rows are drawn is the program's choice; a row is known again by its numbers.
    """
    with contextlib.redirect_stdout(None):
        data = TableData(**{**given, "standardize": False})
    whole = ~np.isnan(table.design).any(axis=1) & ~np.isnan(table.y).any(axis=1)
    n, found = int(whole.sum()), {}
    for name in ("train", "val", "test"):
        part = data if name == "train" else data.held_out.get(name)
        if part is None:
            continue
        X = np.asarray(part.X)[:, : d.n_numbers]
        same = (X[:, None] == table.design[None, :, : d.n_numbers]).all(axis=2)
        assert (same.sum(axis=1) == 1).all()
        found[name] = same.argmax(axis=1)
    assert sorted(np.concatenate([*found.values()]).tolist()) == np.flatnonzero(whole).tolist()
    for name, fraction in (("val", d.val_fraction), ("test", d.test_fraction)):
        assert len(found.get(name, ())) == math.ceil(fraction * n)
    found.setdefault("test", found["train"])
    return found


def _least_squares(table: Table, rows: NDArray[Any]) -> Array:
    root = np.sqrt(table.weight[rows])[:, None]
    return np.linalg.lstsq(root * table.design[rows], root * table.y[rows], rcond=None)[0]


def _read(path: Path) -> Columns:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pydict()  # type: ignore[no-any-return]
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return {name: [row[j] for row in rows] for j, name in enumerate(header)}


def _numbers(values: list[Any]) -> Array:
    return np.array([np.nan if v in ("", None) else float(v) for v in values])


def _as_text(values: list[Any]) -> list[str]:
    """Return values as text, by which those of CSV and of Parquet compare."""
    try:
        return [f"{float(value):.17g}" for value in values]
    except (TypeError, ValueError):
        return [str(value) for value in values]


def _by_document(line: dict[str, Any], table: Table, names: dict[str, str]) -> Array:
    total = np.full(len(table.design), float(line["intercept"]))
    for name in (*table.numbers, *table.categories):
        coefficient, values = line["coefficients"][names[name]], table.columns[name]
        if name in table.numbers:
            total += coefficient * np.array([np.nan if v is None else v for v in values])
        else:
            total += np.array([np.nan if v is None else coefficient[v] for v in values])
    return total


if __name__ == "__main__":
    import io
    import tempfile
    from types import SimpleNamespace

    from trueline.cli.entry import main

    def call(*arguments: str) -> Any:
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            status = main(arguments)
        return SimpleNamespace(status=status, stdout=stdout.getvalue(), stderr=stderr.getvalue())

    first, draws, failed = int((*sys.argv, 0, 0)[2]), int(sys.argv[1]), 0
    for seed in range(first, first + draws):
        with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
            try:
                check(draw(seed), call, Path(name))
            except AssertionError as error:
                failed += 1
                print(f"{draw(seed)}\n    {error}", flush=True)
    print(f"{draws - failed} of {draws} draws agree with NumPy")
    sys.exit(failed > 0)
