"""What is printed is visible; without a reader it goes nowhere, and an error is named."""

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import NoReturn, TextIO

from trueline.errors import RequestError


class StandardOutput(io.TextIOWrapper):
    """Standard output that says what it is where it takes no more, as on a full disk."""

    def write(self, text: str) -> int:
        """Write as any text file does."""
        try:
            return super().write(text)
        except OSError as error:
            self._refuse(error)

    def flush(self) -> None:
        """Write what is left."""
        try:
            super().flush()
        except OSError as error:
            self._refuse(error)

    def _refuse(self, error: OSError) -> NoReturn:
        if isinstance(error, BrokenPipeError):
            raise error  # nobody reads, see `to_whoever_reads`
        discard(self)  # else Python would try once more as it ends
        raise RequestError(
            f"standard output: expected to write to it, found: {error.strerror}; make room, or "
            "send it elsewhere"
        ) from error


def open_streams() -> None:
    """Open the standard streams that the caller has closed, so that no file takes their numbers.

    Raises:
        RequestError: When standard output is one of them.
    """
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            closed.append(os.open(os.devnull, os.O_RDWR))  # which takes the lowest free number
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    if 1 in closed:
        raise RequestError(
            "standard output: expected it open, found it closed; send it to a file or to /dev/null"
        )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or pipe without Δ and µ


def name_output() -> None:
    """Make this process's standard output a `StandardOutput`."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        options = out.encoding, out.errors, None, out.line_buffering, out.write_through
        sys.stdout = StandardOutput(out.buffer, *options)


IGNORABLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Characters that nobody sees though Unicode counts them as letters or marks."""


def visible(text: str) -> str:
    r"""Escape what is not printed as itself: control, format and invisible characters.

    Names, levels and paths come from files, and may hold anything.

    Example:
        >>> visible("Größe\x1b[31m\n")
        'Größe\\x1b[31m\\n'
    """
    return "".join(
        c if c.isprintable() and c not in IGNORABLE else c.encode("unicode_escape").decode()
        for c in text
    )


def cut(text: str, widest: int) -> str:
    r"""Return a text as it is shown in a table: visible, and no wider than so many columns.

    Example:
        >>> cut("temperature\n", 8), cut("温度温度", 5)
        ('tempera…', '温度…')
    """
    from rich.cells import cell_len, set_cell_size

    text = visible(text)
    if cell_len(text) <= widest:
        return text
    return set_cell_size(text, widest - 1).rstrip() + "…"


def width_of(text: str) -> int:
    """Return how many columns of a terminal a visible text takes; East Asian letters take two."""
    from rich.cells import cell_len

    return cell_len(text)


def padded(text: str, width: int) -> str:
    """Return a visible text with spaces after it, up to a width in columns of a terminal."""
    return text + " " * (width - width_of(text))


@contextlib.contextmanager
def to_whoever_reads() -> Iterator[None]:
    """Print what is printed within; where the reader goes, as head does, the rest goes nowhere.

    What was at work when that was found out is left, without an error.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads(sys.stdout.fileno()):
            raise  # it was another pipe
        discard(sys.stdout)


def _nobody_reads(file: int) -> bool:
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(file, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def discard(stream: TextIO) -> None:
    """Let what a stream still holds, and what is written to it from now on, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
