"""The two ways a run ends badly, and how a message names an option."""

from contextvars import ContextVar

on_command_line = ContextVar("on_command_line", default=False)
"""Whether the options at hand were given to a command, rather than to a class in Python."""


class RequestError(ValueError):
    """The request or the input is wrong: exit status 2.

    The message says what was expected, what was found and what to change.
    """

    exit_status = 2


class CheckFailed(RuntimeError):  # noqa: N818 - it is a verdict, not an error in the program
    """The run failed a check, such as the cross-check or staying finite: exit status 1."""

    exit_status = 1


def option(name: str) -> str:
    """Return an option of a class as the user gives it.

    Args:
        name: Name on the command line, such as model.lr.

    Example:
        >>> option("model.lr")
        'lr'
    """
    return f"--{name}" if on_command_line.get() else name.rpartition(".")[2]
