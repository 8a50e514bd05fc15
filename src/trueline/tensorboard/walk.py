"""The way that the parameters took: theirs at a few hundred steps of a training."""

import numpy as np
from numpy.typing import NDArray

Steps = NDArray[np.int64]
Array = NDArray[np.float64]

FIRST = 64
"""Steps at the beginning that are all kept: most of the way is made there."""
PER_DOUBLING = 6
"""Steps that are kept between k and 2k from there on: 150 by a billion."""
MOST = 500
"""Other steps that are kept, evenly spaced; at times twice as many."""
MOST_ENTRIES = 2**12
"""Of the parameters; of more, nothing is kept, which would take megabytes for a picture."""


LAST_DOUBLING = 50
"""Beyond it, 10¹⁶ steps, no training goes."""
LANDMARKS = np.union1d(
    np.arange(FIRST),
    (FIRST * 2 ** (np.arange(LAST_DOUBLING * PER_DOUBLING) / PER_DOUBLING)).astype(np.int64),
)


def landmarks(first: int, stop: int) -> Steps:
    """Return the steps from first to before stop that are kept of every training.

    Example:
        >>> landmarks(62, 120)
        array([ 62,  63,  64,  71,  80,  90, 101, 114])
    """
    start, end = np.searchsorted(LANDMARKS, [first, stop])
    return np.asarray(LANDMARKS[start:end])


def next_landmark(step: int) -> int:
    """Return the first step, from one on, that is kept of every training."""
    return int(LANDMARKS[np.searchsorted(LANDMARKS, step)])


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
        self._marks: dict[int, Array] = {}
        self._evenly: dict[int, Array] = {}
        self._stride = 1

    def add(self, steps: Steps | list[int], parameters: Array | list[list[float]]) -> None:
        """Keep the parameters, shape (n_steps, n_entries), before some steps, if they are few."""
        rows = np.array(parameters, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] > MOST_ENTRIES:
            return
        numbers = np.asarray(steps)
        marked = np.isin(numbers, LANDMARKS).tolist()
        for step, row, mark in zip(numbers.tolist(), rows, marked, strict=True):
            if mark:
                self._marks[step] = row
            elif step % self._stride == 0:
                self._evenly[step] = row
        while len(self._evenly) > 2 * MOST:
            self._stride *= 2
            self._evenly = {k: row for k, row in self._evenly.items() if k % self._stride == 0}

    def taken(self) -> tuple[Steps, Array]:
        """Return the steps, ascending, and the parameters before each."""
        found = self._marks | self._evenly
        steps = sorted(found)
        return np.array(steps, np.int64), np.array([found[step] for step in steps])
