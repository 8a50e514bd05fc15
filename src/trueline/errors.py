"""The two ways a run ends badly, and how a message names an option."""

import errno
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


def explain(error: OSError, place: str) -> str:
    """Say what the operating system refused, and what to change.

    Args:
        error: Refusal, with the file's name where it is known.
        place: Option that says where files go.

    Example:
        >>> explain(OSError(errno.ENOSPC, "No space left on device", "a.csv"), "--path")
        'expected to write a.csv, found: No space left on device; make room, or give another --path'
    """
    reason, number = error.strerror or str(error) or type(error).__name__, error.errno
    if number in (errno.EMFILE, errno.ENFILE):
        return f"expected to open a file, found: {reason}; allow more of them with ulimit -n"
    if isinstance(error, ConnectionError | TimeoutError) or error.filename is number is None:
        return f"expected an answer or a file, found: {reason}; give another address or file"
    file = error.filename or "the files of the run"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"expected to write {file}, found: {reason}; make room, or give another {place}"
    if number == errno.EEXIST:
        return f"expected a folder {file}, found a file; give another {place}"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"expected to use {file}, found: {reason}; allow it, or give another {place}"
    return f"expected to use {file}, found: {reason}; give another file, or another {place}"
