"""Results as JSON: whole files, in which a number that JSON has no word for is null."""

import json
import math
from pathlib import Path
from typing import Any

from trueline.results.whole_files import write_whole


def jsonable(value: Any) -> Any:
    """Replace nan and infinities by None, and −0 by 0, within dicts, lists and tuples too.

    Tuples become lists.

    Example:
        >>> jsonable({"loss": float("nan"), "f_df": (1, 13)})
        {'loss': None, 'f_df': [1, 13]}
    """
    if isinstance(value, dict):
        return {key: jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else None  # −0 is 0
    return value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a result.

    Args:
        path: Of the file, in a folder that is there.
        content: Of dicts, lists, texts and numbers.

    Raises:
        OSError: When it cannot be written; a file that is there then stays as it is.
    """
    text = json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))
