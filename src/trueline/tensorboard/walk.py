"""The way that the parameters took: theirs at a few hundred steps of a training."""

import math

import numpy as np
from numpy.typing import NDArray

Steps = NDArray[np.int64]
Array = NDArray[np.float64]

FIRST = 64
"""Steps at the beginning that are all kept: most of the way is made there."""
PER_DOUBLING = 6
"""Steps that are kept between k and 2k from there on: 150 by a billion."""
MOST = 500
"""Other steps that are kept, evenly spaced."""
MOST_ENTRIES = 2**12
"""Of the parameters; of more, nothing is kept, which would take megabytes for a picture."""


def landmarks(first: int, stop: int) -> Steps:
    """Return the steps from first to before stop that are kept of every training.

    Example:
        >>> landmarks(62, 120)
        array([ 62,  63,  64,  71,  80,  90, 101, 114])
    """
    early = np.arange(first, min(stop, FIRST))
    doublings = math.log2(max(stop, FIRST) / FIRST)
    late = FIRST * 2 ** (np.arange(math.ceil(PER_DOUBLING * doublings) + 1) / PER_DOUBLING)
    late = late.astype(np.int64)
    return np.concatenate([early, late[(first <= late) & (late < stop)]])


def next_landmark(step: int) -> int:
    """Return the first step, from one on, that is kept of every training."""
    return int(landmarks(step, 2 * step + FIRST + 1)[0])


class Walk:
    """Parameters before some steps, weight and bias in one vector.

    What is kept depends on the numbers of the steps alone, not on how they come.

    Example:
        >>> walk = Walk()
        >>> walk.add([0, 4], [[1.0, 0.0], [2.0, 0.5]])
        >>> walk.add([2], [[1.5, 0.25]])
        >>> steps, parameters = walk.taken()
        >>> steps.tolist(), parameters[:, 0].tolist()
        ([0, 2, 4], [1.0, 1.5, 2.0])
    """

    def __init__(self) -> None:
        self._found: dict[int, Array] = {}
        self._stride = 1
        self._room = 2 * MOST

    def add(self, steps: Steps | list[int], parameters: Array | list[list[float]]) -> None:
        """Keep the parameters, shape (n_steps, n_entries), before some steps, if they are few."""
        rows = np.array(parameters, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] > MOST_ENTRIES:
            return
        for step, row in zip(np.asarray(steps).tolist(), rows, strict=True):
            self._found[step] = row
        while len(self._found) > self._room:
            self._thin()

    def _thin(self) -> None:
        """Keep every second of the evenly spaced steps, and the landmarks."""
        marks = set(landmarks(0, max(self._found) + 1).tolist())
        self._stride *= 2
        self._found = {
            step: row
            for step, row in self._found.items()
            if step in marks or step % self._stride == 0
        }
        self._room = 2 * MOST + len(marks)

    def taken(self) -> tuple[Steps, Array]:
        """Return the steps, ascending, and the parameters before each."""
        steps = sorted(self._found)
        return np.array(steps, np.int64), np.array([self._found[step] for step in steps])
