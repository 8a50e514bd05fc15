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
    r"Does not validate|Subtypes:|Errors:|Given value type:|Given value: (NestedArg|Namespace)"
    r"|Problem with given class_path|Expected a <class 'NoneType'>|Expected a Path"
    r"|Expected a path but"
)


def one_line(message: str) -> str:
    r"""Put an option parser's report of many lines into one, without what only its authors need.

    Example:
        >>> one_line('Parser key "model.lr":\n Expected a <class \'float\'>. Got value: abc')
        '--model.lr: expected a float; found abc'
    """
    lines = [line.strip().lstrip("- ") for line in message.strip().splitlines()]
    lines = [line.rstrip(".") for line in lines if line and not _NOISE.match(line)]
    text = "; ".join(lines)
    text = re.sub(r'Parser key "([^"]+)":(; | )?', r"--\1: ", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("typing.", "")
    text = re.sub(r"[.;] (?:Got value|Given value): ", "; found ", text)
    return text.replace("Expected", "expected")
