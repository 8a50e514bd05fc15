"""What the columns of a table are for: targets, a weight, and features as numbers or categories."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from trueline.errors import RequestError
from trueline.tables.table import Table, place

MOST_LEVELS = 1000
"""Of a category; a column with more is likely a number or a name, and would fill the memory."""


class Feature(NamedTuple):
    """A column that the model learns from.

    Args:
        name: Of the column.
        levels: Of a category, sorted as texts; None for a number. The first is the base: each of
            the others becomes a feature that is 1 in its rows and 0 elsewhere.
    """

    name: str
    levels: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        """How many features it becomes."""
        return 1 if self.levels is None else len(self.levels) - 1


class Columns(NamedTuple):
    """Which columns of a table are what; saved with a model, it reads the next table alike.

    Args:
        targets: Names, at least one.
        features: In the order of the parameters.
        weight: Name of the column that says how much each row counts, if one does.

    Example:
        >>> columns = Columns(("y",), (Feature("age"), Feature("color", ("blue", "red"))))
        >>> columns.feature_names
        ('age', 'color[red]')
        >>> Columns.from_dict(columns.to_dict()) == columns
        True
    """

    targets: tuple[str, ...]
    features: tuple[Feature, ...]
    weight: str | None = None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Of the columns of X."""
        return tuple(
            name
            for feature in self.features
            for name in (
                [feature.name]
                if feature.levels is None
                else [f"{feature.name}[{level}]" for level in feature.levels[1:]]
            )
        )

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """The levels of each category, the base level first."""
        return {f.name: f.levels for f in self.features if f.levels is not None}

    @property
    def categorical(self) -> tuple[str, ...]:
        """The names of the features that are categories."""
        return tuple(self.categories)

    def used(self, targets: bool = True) -> tuple[str, ...]:
        """Return the names of the columns to read, with targets and weight or without."""
        features = tuple(feature.name for feature in self.features)
        weight = () if self.weight is None else (self.weight,)
        return (*features, *self.targets, *weight) if targets else features

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON has."""
        return {
            "targets": list(self.targets),
            "weight": self.weight,
            "features": [
                {"name": f.name, "levels": None if f.levels is None else list(f.levels)}
                for f in self.features
            ],
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Columns":
        """Return what `to_dict` was called on.

        Raises:
            RequestError: When it is not what `to_dict` gives.
        """
        try:
            features = tuple(
                Feature(f["name"], None if f["levels"] is None else tuple(f["levels"]))
                for f in saved["features"]
            )
            columns = cls(tuple(saved["targets"]), features, saved["weight"])
            sound = columns.to_dict() == saved and _sound(columns)
        except (KeyError, TypeError):
            sound = False
        if not sound:
            raise RequestError(
                f"columns: expected targets, weight and features as they were saved, found "
                f"{str(saved)[:80]}; save the model again"
            )
        return columns


def choose(
    table: Table,
    target: str | Sequence[str],
    features: Sequence[str] | None = None,
    weight: str | None = None,
    categorical: Sequence[str] = (),
) -> Columns:
    """Say which columns of a table are what; the table is read once if it has categories.

    Args:
        table: That the model learns from.
        target: One name or several.
        features: Names; all but targets, weight and the index of a pandas frame if None.
        weight: Name of the column of how much each row counts.
        categorical: Which features are categories: texts, booleans or integers.

    Raises:
        RequestError: When names are not in the table or contradict each other, types are not
            numbers, or a category has more than 1,000 levels; naming all of these.
    """
    targets = (target,) if isinstance(target, str) else tuple(target)
    taken = {*targets, weight, *table.index}
    if features is None:
        chosen = tuple(name for name in table.names if name not in taken)
    else:
        chosen = (features,) if isinstance(features, str) else tuple(features)
    categorical = (categorical,) if isinstance(categorical, str) else tuple(categorical)
    wrong = _contradictions(targets, chosen, weight, categorical)
    if features is None and "" in chosen:
        where = f"{table.path}, column {table.names.index('') + 1}"
        wrong.append(
            f"{where}: expected a name, found none, as of an index or one comma too many; name it, "
            "or name the features"
        )
    used = (*chosen, *targets, *(() if weight is None else (weight,)))
    wrong += table.problems(list(dict.fromkeys(used)))
    wrong += [] if wrong else wrong_types(table, used, categorical)
    if wrong:
        raise RequestError("; ".join(wrong))
    levels = _levels(table, categorical)
    columns = Columns(targets, tuple(Feature(name, levels.get(name)) for name in chosen), weight)
    if twice := _twice(columns.feature_names):
        raise RequestError(
            f"{table.path}: expected features of different names, found {twice[0]!r} as a column "
            "and as a level; rename the column"
        )
    return columns


def as_texts(column: pa.Array) -> pa.Array:
    """Return the values of a category as texts."""
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string())


def _sound(columns: Columns) -> bool:
    """Return whether all names and levels are texts, and there are some of each."""
    names = [*columns.used(), *(level for f in columns.features for level in f.levels or ())]
    levels = all(feature.levels != () for feature in columns.features)
    some = bool(columns.targets and columns.features) and levels
    return some and all(isinstance(name, str) for name in names)


def _contradictions(
    targets: tuple[str, ...],
    features: tuple[str, ...],
    weight: str | None,
    categorical: tuple[str, ...],
) -> list[str]:
    """Say what cannot be, whatever the table has: columns named twice, or for two ends."""
    wrong = []
    for kind, names in (("target", targets), ("features", features), ("categorical", categorical)):
        wrong += [
            f"{kind}: expected {name!r} once, found it twice; name it once"
            for name in _twice(names)
        ]
        if not names and kind != "categorical":
            wrong.append(f"{kind}: expected at least one column, found none; name one")
    aims = {*targets}
    for name in dict.fromkeys(features):
        if name in aims:
            wrong.append(f"features: expected no target, found {name!r}; leave it out of one")
        if name == weight:
            wrong.append(f"features: expected no weight, found {name!r}; leave it out of one")
    if weight in targets:
        wrong.append(f"weight: expected no target, found {weight!r}; name another column")
    known = {*features}
    wrong += [
        f"categorical: expected features, found {name!r}; add it to them"
        for name in categorical
        if name not in known
    ]
    return wrong


def _twice(names: Sequence[str]) -> list[str]:
    """Return the names that are there more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def wrong_types(table: Table, used: Sequence[str], categorical: Sequence[str]) -> list[str]:
    """Say which columns have types that become no numbers; none where only texts are known.

    Args:
        table: That has the columns.
        used: Names of the columns.
        categorical: Which of them are categories.
    """
    if table.schema is None:
        return []
    wrong = []
    categories = {*categorical}
    for name in used:
        type_ = table.schema.field(name).type
        inner = type_.value_type if types.is_dictionary(type_) else type_
        number = (
            types.is_integer(inner)
            or types.is_floating(inner)
            or types.is_decimal(inner)
            or types.is_boolean(inner)
            or types.is_null(inner)
        )
        text = types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)
        where = f"{place(table.path, name)}: expected"
        if name in categories:
            if not (text or types.is_integer(inner) or types.is_boolean(inner)):
                remedy = "convert it, or leave it out of categorical"
                wrong.append(f"{where} texts, integers or booleans, found {type_}; {remedy}")
        elif not number:
            remedy = "name it as categorical, or leave it out" if text else "convert it to numbers"
            wrong.append(f"{where} numbers, found {type_}; {remedy}")
    return wrong


def _levels(table: Table, categorical: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Find the levels of all categories in one pass."""
    found: dict[str, set[str]] = {name: set() for name in categorical}
    for batch in table.batches(categorical, categorical=categorical) if categorical else ():
        for name in categorical:
            values = pc.unique(as_texts(batch.record.column(name)))
            found[name].update(values.drop_null().to_pylist())
            if len(found[name]) > MOST_LEVELS:
                raise RequestError(
                    f"{place(batch.file, name)}: expected {MOST_LEVELS:,} levels at most, found "
                    "more; leave it out of categorical, or of the features"
                )
    for name, levels in found.items():
        if not levels:
            raise RequestError(
                f"{place(table.path, name)}: expected at least one level, found every row empty; "
                "leave it out of the features"
            )
    return {name: tuple(sorted(levels)) for name, levels in found.items()}
