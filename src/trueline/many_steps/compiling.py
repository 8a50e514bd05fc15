"""Compiling the loop before its first step, and what becomes of a training without numba."""

import threading
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

PATIENCE = 1.0
"""Seconds of compiling after which the user is told."""
LONGEST = 200
"""Characters of an error of numba that are shown; some of its messages have pages."""


def compile_loop(trainer: Trainer, loop: Any, *options: Any) -> str | None:
    """Compile a loop, or read it from its cache.

    Args:
        trainer: Trainer at the start of its training.
        loop: The `trueline.loop.loop.Loop` of the training.
        options: State and update rule of the training.

    Returns:
        Why steps are taken one by one, where numba cannot compile the loop; else None.
    """
    timer = threading.Timer(PATIENCE, _tell, (trainer, loop))
    timer.start()
    try:
        loop.compile(*options)
    except Exception as error:
        return without_numba(error)
    finally:
        timer.cancel()
    return None


def without_numba(error: Exception) -> str:
    """Return the reason of single steps where numba raises an error."""
    text = " ".join(str(error).split())[:LONGEST]
    return f"numba, which compiles the loop, does not work here ({type(error).__name__}: {text})"


def _tell(trainer: Trainer, loop: Any) -> None:
    """Say that the loop is being compiled, in the progress bar where it is ours."""
    if not loop.kernel.stats.cache_misses:
        return
    tell = getattr(trainer.progress_bar_callback, "tell", rank_zero_info)
    tell("compiling the loop, which only the first run does")
