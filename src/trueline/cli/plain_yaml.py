"""Reads YAML that may come from anywhere, and refuses what is too large before it is built."""

from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from trueline.errors import RequestError

MOST_BYTES = 2**20
"""Bytes of a config file. One with every option of `fit` has 4 kB."""
MOST_VALUES = 100_000
"""Values in a config once its aliases are followed. One with every option has 150."""
DEEPEST = 50
"""Levels of nesting. Options have five."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def problem(text: str) -> str | None:
    r"""Say what makes a YAML text too large to follow; None where nothing does.

    The text is read event by event, so that an alias counts as much as what it stands for without
    ever being followed.

    Args:
        text: YAML, or JSON, which is YAML too.

    Raises:
        yaml.YAMLError: When it is not YAML.

    Example:
        >>> problem("a: &a [1, 2]\nb: *a")
        >>> problem("a: &a [*a]")
        'aliases that stand for more than 100,000 values'
    """
    sizes: dict[str, int] = {}  # by anchor
    open_nodes: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if event.anchor is not None:
                sizes[event.anchor] = MOST_VALUES + 1  # until it ends: it may not hold itself
            if len(open_nodes) > DEEPEST:
                return f"values nested more than {DEEPEST} levels deep"
            continue
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        else:
            continue
        if open_nodes:
            anchor, before = open_nodes[-1]
            open_nodes[-1] = anchor, size + before
            size += before
        if size > MOST_VALUES:
            what = "aliases that stand for" if sizes else "a list or mapping of"
            return f"{what} more than {MOST_VALUES:,} values"
    return None


def check(text: str, source: str) -> None:
    """Refuse YAML that is too large to follow.

    Args:
        text: YAML, or anything else, which is left to its reader.
        source: Option or file that it comes from, for the message.

    Raises:
        RequestError: Naming the source and what is too large.
    """
    try:
        found = problem(text)
    except yaml.YAMLError:
        return
    if found:
        raise RequestError(f"{source}: expected plain options, found {found}; write them out")


def read(path: Path, source: str) -> Any:
    """Read a YAML file.

    Args:
        path: File to read.
        source: Option or file, for messages.

    Raises:
        RequestError: When the file or what it holds is too large.
        OSError: When it cannot be read.
        UnicodeDecodeError: When it is not text.
        yaml.YAMLError: When it is not YAML.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise RequestError(
            f"{source}: expected a file of options, at most {MOST_BYTES:,} bytes, found more; "
            "leave out what is no option"
        )
    text = content.decode("utf-8")
    check(text, source)
    return yaml.load(text, Loader=LOADER)


def _checked(text: str) -> Any:
    check(text, "config")
    return _load(text)


# Values of options may be YAML too, and name further files of options.
_load = jsonargparse.get_loader("yaml")
jsonargparse.set_loader("yaml", _checked, (yaml.YAMLError,))
