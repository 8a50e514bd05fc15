"""How the kernels are compiled: by numba, without Python's lock, into a cache on disk."""

from collections.abc import Callable
from typing import Any

from numba import njit

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Freedom of the compiler: it may add in another order, so that sums run in vector registers.
Infinite numbers and nan stay what they are."""


def compiled(function: Callable[..., Any]) -> Any:
    """Return a function compiled, at its first call for each combination of dtypes."""
    try:
        return njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache can be written
        return njit(nogil=True, fastmath=FAST, error_model="numpy")(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Return a function that is compiled as a part of those that call it."""
    return njit(inline="always", nogil=True, fastmath=FAST, error_model="numpy")(function)
