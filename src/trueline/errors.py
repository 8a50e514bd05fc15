"""The two ways a run ends badly, and the exit status of each."""


class RequestError(ValueError):
    """The request or the input is wrong: exit status 2.

    The message says what was expected, what was found and what to change.
    """

    exit_status = 2


class CheckFailed(RuntimeError):  # noqa: N818 - it is a verdict, not an error in the program
    """The run failed a check, such as the cross-check or staying finite: exit status 1."""

    exit_status = 1
