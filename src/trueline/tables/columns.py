"""Which columns of a table are features, targets and weights."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import compute

from trueline.errors import RequestError
from trueline.tables.formats import Table

MOST_LEVELS = 1_000
"""Of a categorical column, each but the first with a column of its own."""


class Feature(NamedTuple):
    """A column that is a feature.

    Args:
        name: Of the column.
        levels: Of a categorical one, its values as text, sorted; None of one with numbers.
    """

    name: str
    levels: tuple[str, ...] | None = None


class Columns(NamedTuple):
    """Which columns are what; it may be applied to another table, whatever its order of columns.

    Args:
        features: The columns that are features.
        targets: Names of those to predict.
        weight: The name of the one that says how much a row counts, if any.
    """

    features: tuple[Feature, ...]
    targets: tuple[str, ...]
    weight: str | None = None

    @property
    def feature_names(self) -> list[str]:
        """Of each number that a row has: a column, or `column[level]`; the first level has none."""
        return [
            name
            for feature in self.features
            for name in (
                [feature.name]
                if feature.levels is None
                else [f"{feature.name}[{level}]" for level in feature.levels[1:]]
            )
        ]

    @property
    def text(self) -> set[str]:
        """The categorical columns."""
        return {feature.name for feature in self.features if feature.levels is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain values."""
        features = [[f.name, None if f.levels is None else list(f.levels)] for f in self.features]
        return {"features": features, "targets": list(self.targets), "weight": self.weight}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Columns":
        """Return what `to_dict` was made of.

        Raises:
            ValueError: When it is something else.
        """
        features = tuple(
            Feature(name, None if levels is None else tuple(levels))
            for name, levels in given["features"]
        )
        columns = cls(features, tuple(given["targets"]), given["weight"])
        names = [
            *(f.name for f in features),
            *(level for f in features for level in f.levels or ()),
            *columns.targets,
            *([] if columns.weight is None else [columns.weight]),
        ]
        if not all(isinstance(name, str) for name in names) or not columns.targets:
            raise ValueError("expected names of columns")
        return columns


def choose(
    table: Table,
    targets: Sequence[str],
    features: Sequence[str] | None = None,
    weight: str | None = None,
    categorical: Sequence[str] = (),
) -> Columns:
    """Say which columns are what, and look through categorical ones for their levels.

    Args:
        table: That has them.
        targets: Columns to predict.
        features: Columns to predict them from; all others unless given.
        weight: The column that says how much a row counts.
        categorical: Those of the features that are not numbers.

    Raises:
        RequestError: When one is not there, or is to be two things at once.
    """
    taken = [*targets, *([] if weight is None else [weight])]
    if features is None:
        features = [name for name in table.names if name not in taken]
    table.check([*taken, *features, *categorical])
    for name in {*taken, *features}:
        roles = [*taken, *features].count(name)
        if roles > 1:
            raise RequestError(
                f"{table.path}: expected column {name!r} as one of feature, target and weight, "
                f"found it {roles} times; leave it out of all but one"
            )
    if others := [name for name in categorical if name not in features]:
        raise RequestError(
            f"--data.categorical: expected features, found {', '.join(others)}; add to "
            "--data.features or leave out"
        )
    if not features:
        raise RequestError(f"{table.path}: expected a feature beside the target, found no column")
    found = {name: _levels(table, name) for name in categorical}
    return Columns(
        tuple(Feature(name, found.get(name)) for name in features), tuple(targets), weight
    )


def _levels(table: Table, name: str) -> tuple[str, ...]:
    """Return the values of a column as text, sorted."""
    levels: set[str] = set()
    for batch in table.batches([name]):
        column = as_text(batch.columns.column(0), table, name)
        levels.update(v for v in compute.unique(column).to_pylist() if v is not None)
        if len(levels) > MOST_LEVELS:
            raise RequestError(
                f"{table.path}: column {name!r}: expected at most {MOST_LEVELS:,} different values "
                "of a categorical column, found more; leave it out"
            )
    if not levels:
        raise RequestError(f"{table.path}: column {name!r}: expected values, found none")
    return tuple(sorted(levels))


def as_text(column: Any, table: Table, name: str) -> Any:
    """Return a categorical column as text.

    Raises:
        RequestError: When it is of a type that has no levels.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    plain = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    if not (plain or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise RequestError(
            f"{table.path}: column {name!r}: expected text, integers or true and false in a "
            f"categorical column, found {kind}; leave it out"
        )
    return column.cast(pa.string())
