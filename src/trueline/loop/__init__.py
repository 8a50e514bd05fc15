"""SGD on least squares, compiled: many steps in one call. NumPy arrays in, NumPy arrays out.

`train` takes a whole training; numba is imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trueline.loop.training import Trained, train

__all__ = ["Trained", "train"]


def __getattr__(name: str) -> Any:
    """Import `train` or its result."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trueline.loop import training

    return getattr(training, name)
