"""The two ways a run ends badly, the exit status of each, and the wording of option errors."""

import re


class RequestError(ValueError):
    """The request or the input is wrong: exit status 2.

    The message says what was expected, what was found and what to change.
    """

    exit_status = 2


class CheckFailed(RuntimeError):  # noqa: N818 - it is a verdict, not an error in the program
    """The run failed a check, such as the cross-check or staying finite: exit status 1."""

    exit_status = 1


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
