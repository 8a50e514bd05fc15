"""What is printed goes nowhere once nobody reads it any more."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator


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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nobody_reads(file: int) -> bool:
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(file, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
