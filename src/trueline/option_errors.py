"""Puts what an option parser has to say into one line that names the remedy."""

import difflib
import inspect
import re
from collections.abc import Collection

from trueline.data import DummyData

_NOISE = re.compile(
    r"Does not validate|Subtypes:|Errors:|Given value type:|Given value: (NestedArg|Namespace)|"
    r"Problem with given class_path|Expected a <class 'NoneType'>|Expected a path"
)


def one_line(message: str) -> str:
    r"""Put an option parser's report of many lines into one, without what only its authors need.

    Example:
        >>> one_line('Parser key "model.lr":\n Expected a <class \'float\'>. Got value: abc')
        '--model.lr: expected float; found abc'
    """
    lines = [line.strip().removeprefix("- ") for line in message.strip().splitlines()]
    text = "; ".join(line.rstrip(".") for line in lines if line and not _NOISE.match(line))
    for pattern, plain in (
        (r'Parser key "([^"]+)":; Parser key "([^"]+)":', r'Parser key "\1.\2":'),
        (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),  # a class by its name
        (r"typing\.Literal\[(.*?)\]", r"\1"),  # choices by themselves
        (r"Expected a ", "expected "),
        (r"; expected ", " or "),
        (r"[.;] (?:Got value|Given value): ", "; found "),
        (r'Parser key "([^"]+)":(?:; | or )? ?(?:expected )?(.*)', r"--\1: expected \2"),
        (r": expected (Option|File|No module)", r": \1"),
    ):
        text = re.sub(pattern, plain, text)
    return text


def with_remedy(message: str, known: Collection[str], command: str) -> str:
    """Add what to do about an option error: the option that was meant, or where to look.

    Args:
        message: On one line.
        known: Names of the options that there are, without dashes; those of data are added.
        command: Whose options they are.

    Example:
        >>> with_remedy("unrecognized arguments: --model.lrr 1", ["model.lr"], "fit")
        'unrecognized arguments: --model.lrr 1; did you mean --model.lr?'
    """
    data = [f"data.{name}" for name in inspect.signature(DummyData).parameters]
    typed = re.search(r"arguments: --([\w.]+)|option '([\w.]+)'|Option '(\w+)'", message)
    if typed:
        name = typed[1] or typed[2] or f"data.{typed[3]}"
        if close := difflib.get_close_matches(name, [*known, *data], n=1):
            return f"{message}; did you mean --{close[0]}?"
    if message.startswith("--data:"):
        return f"{message}; give the name of a data class, such as DummyData, or its import path"
    return f"{message}; see trueline {command} --help"
