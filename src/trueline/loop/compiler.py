"""How the kernels are compiled: by numba, without Python's lock, into a cache on disk."""
# mypy: disallow-untyped-calls=False

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    # Sums may be added in another order, in vector registers. Infinite numbers and nan stay.
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}


class Cache(FunctionCache):
    """numba's cache of compiled functions, whose faults cost time and never the training."""

    warned = False

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was compiled for a signature before, or None."""
        try:
            found = super().load_overload(sig, target_context)
            # Two processes that start at once may give one file to two signatures.
            if found is None or found.signature.args == tuple(sig):
                return found
        except Exception:  # a damaged file may raise anything
            pass
        with contextlib.suppress(OSError):
            self.flush()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled for a signature, where the disk takes it."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            if not Cache.warned:
                warnings.warn(
                    f"expected to keep the compiled loop in a file, found: {error}; each run will "
                    "compile it again, which takes seconds. Set NUMBA_CACHE_DIR to a folder that "
                    "can be written and has space",
                    stacklevel=2,
                )
            Cache.warned = True


def compiled(function: Callable[..., Any]) -> Any:
    """Return a function compiled, at its first call for each combination of dtypes.

    It is kept beside its source, or in the user's cache folder, or nowhere: wherever numba can
    write first.
    """
    dispatcher = njit(**OPTIONS)(function)
    with contextlib.suppress(RuntimeError):  # none of these folders can be written
        dispatcher._cache = Cache(function)
    return dispatcher


def inlined(function: Callable[..., Any]) -> Any:
    """Return a function that is compiled as a part of the functions that call it."""
    return njit(inline="always", **OPTIONS)(function)
