"""Which options a sweep goes over: lists of values, and ranges to draw from.

`NAME=A,B,C` is a list and `NAME=LOW..HIGH` a range. Values are as they are typed for
`trueline fit`; those with commas of their own are written as a JSON list, `NAME=["a,b", "c"]`.
"""

import json
import math
import re
from dataclasses import dataclass
from itertools import product
from typing import Any

from trueline.errors import RequestError

RANGE = re.compile(r"(?P<low>[^:,/]*?)\.\.(?P<high>[^:,/]*?)(?::(?P<scale>\w+))?")
NAME = re.compile(r"[A-Za-z_][\w.]*")
WHOLE = re.compile(r"[+-]?\d+")
SCALES = ("linear", "log")
DECADE = 10.0
"""A range of positive numbers that spans as much is drawn from by its logarithm."""
LONGEST = 100_000
"""Trainings of a grid: nobody waits for more."""


@dataclass(frozen=True)
class Values:
    """An option that takes one value after another.

    Args:
        name: Of the option, such as `model.lr`.
        values: As typed.
    """

    name: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(self.values)}"


@dataclass(frozen=True)
class Range:
    """An option that is drawn from a range.

    Args:
        name: Of the option.
        low: Least value.
        high: Largest value.
        whole: Whether whole numbers are drawn.
        log: Whether the logarithm is drawn evenly.
    """

    name: str
    low: float
    high: float
    whole: bool
    log: bool

    def number(self, value: float) -> float:
        """Return a value as it is typed."""
        return int(value) if self.whole else value

    def __str__(self) -> str:
        return f"{self.name}: {self.low:g} to {self.high:g}, {'log' if self.log else 'linear'}"


Swept = Values | Range


def read(texts: list[str]) -> list[Swept]:
    """Read what `--over` was given.

    Raises:
        RequestError: When one is not a list or a range, or an option is there twice.

    Example:
        >>> [str(swept) for swept in read(["model.lr=1e-4..1e-1", "data.batch_size=5,15"])]
        ['model.lr: 0.0001 to 0.1, log', 'data.batch_size: 5, 15']
    """
    if not texts:
        raise RequestError(
            "--over: expected an option and its values, such as --over model.lr=0.001,0.01 or "
            "--over model.lr=1e-4..1e-1; found none"
        )
    swept = [_read_one(text) for text in texts]
    names = [one.name for one in swept]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RequestError(f"--over {twice[0]}: expected once, found {names.count(twice[0])} times")
    return swept


def grid(swept: list[Swept]) -> list[dict[str, str]] | None:
    """Return all combinations, the last option running fastest; None where there is a range.

    Raises:
        RequestError: When there are too many.
    """
    lists = [one for one in swept if isinstance(one, Values)]
    if len(lists) < len(swept):
        return None
    if (size := math.prod(len(one.values) for one in lists)) > LONGEST:
        raise RequestError(
            f"--over: expected {LONGEST:,} combinations at most, found {size:,}; give ranges and "
            "--trials"
        )
    names = [one.name for one in lists]
    return [dict(zip(names, each, strict=True)) for each in product(*(o.values for o in lists))]


def _read_one(text: str) -> Swept:
    name, equals, given = text.partition("=")
    name, given = name.strip().lstrip("-"), given.strip()
    if not equals or not NAME.fullmatch(name):
        raise RequestError(
            f"--over {text}: expected NAME=A,B,C or NAME=LOW..HIGH, with the name of an option of "
            "trueline fit"
        )
    if found := RANGE.fullmatch(given):
        return _range(name, given, **found.groupdict())
    values = _listed(name, given)
    if not all(values) or len(set(values)) < len(values):
        raise RequestError(f"--over {name}: expected values, each once; found {given or 'none'}")
    return Values(name, values)


def _listed(name: str, given: str) -> tuple[str, ...]:
    if not given.startswith("["):
        return tuple(value.strip() for value in given.split(","))
    try:
        values = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"--over {name}: expected a JSON list, found {given} ({error})"
        ) from None
    return tuple(v if isinstance(v, str) else json.dumps(v) for v in values)


def _range(name: str, given: str, low: str, high: str, scale: str | None) -> Range:
    ends = [_number(name, end) for end in (low, high)]
    if not ends[0] < ends[1]:
        raise RequestError(f"--over {name}: expected a range from low to high, found {given}")
    if scale not in (None, *SCALES):
        raise RequestError(f"--over {name}: expected :linear or :log after a range, found :{scale}")
    if scale == "log" and ends[0] <= 0:
        raise RequestError(f"--over {name}: expected numbers above 0 for :log, found {given}")
    whole = bool(WHOLE.fullmatch(low.strip()) and WHOLE.fullmatch(high.strip()))
    log = scale == "log" or (scale is None and ends[0] > 0 and ends[1] >= DECADE * ends[0])
    return Range(name, ends[0], ends[1], whole, log)


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RequestError(
            f"--over {name}: expected a range of numbers, found {text.strip() or 'none'}"
        )
    return number


def to_json(swept: list[Swept]) -> list[dict[str, Any]]:
    """Return what is swept as plain values, which tell two sweeps apart."""
    return [{"kind": type(one).__name__, **vars(one)} for one in swept]
