"""The versions that numbers come from."""

import platform

import lightning
import numpy as np
import torch

import trueline


def versions() -> dict[str, str]:
    """Return the versions of Trueline, Python and the packages that compute, by name."""
    return {
        "trueline": trueline.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
