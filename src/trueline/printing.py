"""What is printed goes nowhere once nobody reads it any more."""

import contextlib
import os
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
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            raise  # it was another pipe
