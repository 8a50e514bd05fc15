"""Holds what is exported against the model's own predictions, on rows that it was trained on."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trueline.data import DummyData, RegressionData, SyntheticData
from trueline.errors import CheckFailed, RequestError
from trueline.export.trained import Trained
from trueline.reference.rounding import gamma
from trueline.reference.triangle import Triangle
from trueline.tables import open_table, read
from trueline.tables.columns import as_texts

Array = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]

Way = Literal["scaling", "means", "intercept"]
"""How a prediction is worked out: as the training scales, or by coefficients in the units of the
table, with columns counted from their means or from 0."""
MOST_ROWS = 100_000
"""That are compared; of a longer table, so many spread over it."""
MOST_NUMBERS = 10_000_000
"""Of those rows together, which 80 MB hold."""
AT_ONCE = 4096
"""Rows that are predicted at once: a category may have 1,000 levels, and each row all of them."""
DRAWN = ("n_features", "n_targets", "noise", "seed", "dtype")
"""Options of SyntheticData that say what its rows are."""


class Sample(NamedTuple):
    """Rows to compare predictions on.

    Args:
        X: Features in their units, shape (n_samples, n_features).
        columns: The same rows as who uses the export has them, by name; `X` where there are none.
        whole: All rows of a training whose columns have no names, where these are all of them.
    """

    X: Array
    columns: Columns
    whole: Triangle | None = None


def table_sample(trained: Trained, path: str) -> Sample:
    """Read rows of a table: numbers as the training does, categories as texts.

    Args:
        trained: On such a table.
        path: Of the table.

    Raises:
        RequestError: When there is no such table, or it has other columns or levels.
    """
    assert trained.learned is not None
    columns = trained.learned.columns
    table = open_table(path)
    n_rows = table.n_rows or trained.learned.rows.n_samples
    every = -(-n_rows // _most(len(columns.feature_names)))
    parts, numbers = [], []
    for rows in read(table, columns, "drop", targets=False):
        kept = (rows.numbers - 1) % every == 0
        parts.append(rows.X[kept])
        numbers.append(rows.numbers[kept])
    X, chosen = np.concatenate(parts).astype(np.float64), np.concatenate(numbers)
    found: dict[str, Any] = {name: [] for name in columns.categorical}
    before = 0
    names = columns.categorical
    for batch in table.batches(names, categorical=names) if names else ():
        of_batch = (chosen > before) & (chosen <= before + len(batch.record))
        for name in found:
            texts = as_texts(batch.record.column(name)).take(chosen[of_batch] - before - 1)
            found[name] += texts.to_pylist()
        before += len(batch.record)
    inputs = {name: np.array(texts, dtype=object) for name, texts in found.items()}
    inputs |= {f.name: X[:, part.start] for f, part in trained.features if f.levels is None}
    return Sample(X, inputs)


def nameless_sample(trained: Trained, name: str, options: Mapping[str, Any]) -> Sample:
    """Make rows of data that has no table.

    Args:
        trained: On it.
        name: Of its class.
        options: With which it was made.

    Raises:
        RequestError: When that is none of ours, or has other numbers of features or targets.
    """
    if name not in ("DummyData", "SyntheticData"):
        raise RequestError(
            "expected a training on TableData, DummyData or SyntheticData, whose rows an export is "
            f"checked on; found {name}; add --unchecked to go without"
        )
    sizes = n_features, _ = trained.line.weight.shape
    drawn = name == "SyntheticData"
    found = (options.get("n_features"), options.get("n_targets")) if drawn else (1, 1)
    if found != sizes:
        raise RequestError(
            f"expected as many features and targets as the checkpoint has, {sizes}, found {found} "
            "in the config.yaml of its run; add --unchecked to go without"
        )
    if not drawn:
        data: RegressionData = DummyData()
        return _nameless(data, data.triangle)
    try:
        n_rows = min(options["n_samples"], _most(n_features))
        data = SyntheticData(n_rows, **{key: options[key] for key in DRAWN})
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"expected in the config.yaml of the run how its rows were drawn, found: {error}; add "
            "--unchecked to go without"
        ) from error
    return _nameless(data, data.triangle if n_rows == options["n_samples"] else None)


def check(trained: Trained, sample: Sample, predict: Callable[[Columns], Array], by: Way) -> float:
    """Compare predictions with those of the model.

    Args:
        trained: The line.
        sample: Rows.
        predict: Predicts from what was exported; given columns, returns (n_samples, n_targets).
        by: How that is done.

    Returns:
        The largest deviation, as a fraction of its bound.

    Raises:
        CheckFailed: When one is beyond its bound, or no row was compared.
    """
    worst, where = 0.0, 0
    for first in range(0, len(sample.X), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        X, columns = sample.X[some], {n: column[some] for n, column in sample.columns.items()}
        own, found = own_predictions(trained, X), predict(columns)
        off = np.abs(found - own)
        limit = bound(trained, X, by)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where((off == 0) | (np.isnan(own) & np.isnan(found)), 0.0, off / limit)
        # NaN, which is no distance, is beyond every bound.
        ratio = np.nan_to_num(ratio, nan=np.inf, posinf=np.inf).max(axis=1)
        if ratio.max() > worst:
            worst, where = float(ratio.max()), first + int(ratio.argmax())
    if not len(sample.X):
        raise CheckFailed("expected rows to compare predictions on, found none; nothing written")
    if worst > 1:
        raise CheckFailed(
            "expected the export to predict what the model does, to rounding; found a deviation "
            f"{worst:.3g} times its bound, at row {where + 1:,} of the {len(sample.X):,} that were "
            "compared; nothing was written"
        )
    return worst


def own_predictions(trained: Trained, X: Array) -> Array:
    """Return what the model predicts, shape (n_samples, n_targets); nan where it does not."""
    with torch.no_grad():
        found = trained.model(torch.from_numpy(trained.scaling.applied_to(X)))
    own = np.asarray(found.double().numpy().reshape(len(X), -1))
    if (span := trained.span) is not None:
        own[span.is_off(X)] = np.nan
    return own


def bound(trained: Trained, X: Array, by: Way) -> Array:
    """Bound how far two correct predictions may be apart.

    With s the scaled features, p features out of c columns, and u the unit roundoff of the
    parameters: s is rounded three times, each product once, and there are at most p + c sums. So
    `γ(p + c + 5)·(|s||weight| + |bias|)` bounds the error of the model, in u, and of a graph that
    does the same, in float64. Coefficients in the units of the table add
    `γ(p + c + 5)·(|x − mean||weight/scale| + |bias|)` in float64. For a level, which they have in
    the base as well, and for all columns where they are counted from 0, it is `|x| + |mean|` in the
    place of `|x − mean|`.

    Args:
        trained: The line.
        X: Features in their units.
        by: How one of the two is worked out.

    Returns:
        Shape (n_samples, n_targets).
    """
    (weight, bias), (mean, scale) = trained.line, trained.scaling
    n = X.shape[1] + len(trained.features) + 5
    unit_roundoff = torch.finfo(trained.model.weight.dtype).eps / 2
    size = np.abs((X - mean) / scale) @ np.abs(weight) + np.abs(bias)
    found = gamma(n, unit_roundoff) * size
    if by != "scaling":
        by_units = np.abs(weight) / scale[:, None]
        near = trained.numeric & (by == "means")
        reach = np.where(near, np.abs(X - mean), np.abs(X) + np.abs(mean))
        found += gamma(n, 0.0) * (reach @ by_units + np.abs(bias))
    return np.asarray(found)


def _nameless(data: RegressionData, whole: Triangle | None) -> Sample:
    X = data.X.double().numpy()
    return Sample(X, {"X": X}, whole)


def _most(n_features: int) -> int:
    return max(1, min(MOST_ROWS, MOST_NUMBERS // max(1, n_features)))
