"""Rows that are drawn, with known coefficients: as many as one likes, without a file."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trueline.data.gathered import Gathered, GatheredData, InMemory
from trueline.errors import RequestError

BLOCK = 2**12
"""Rows that are drawn together."""
AT_ONCE = 64
"""Number of blocks in memory at once where the rows go to a file: 100 MB of 50 columns."""


class SyntheticData(GatheredData):
    """Rows `y = X·weight + bias + noise·ε`, with X and ε standard normal.

    Row i is a function of (seed, i), however many rows there are; so are, of the seed alone, the
    coefficients, standard normal too.

    Args:
        n_samples: Number of rows.
        n_features: Columns of X.
        n_targets: Columns of y.
        noise: Standard deviation of what is added to y, ≥ 0.
        batch_size: Rows per optimizer step; full batch unless given.
        shuffle: Whether each epoch visits the rows in an order of its own.
        seed: Seed of the rows and of those orders, ≥ 0.
        dtype: In which the rows are held.
        in_memory: Bytes of rows up to which they are held in memory, more being in a file; auto is
            a quarter of the available memory.

    Attributes:
        weight: What the rows were made with, shape (n_features,) or (n_features, n_targets).
        bias: The same, shape () or (n_targets,).

    Example:
        >>> few, many = SyntheticData(n_samples=3), SyntheticData(n_samples=10_000)
        >>> bool((few.X == many.X[:3]).all()), bool((few.weight == many.weight).all())
        (True, True)
    """

    def __init__(
        self,
        n_samples: int = 10_000,
        n_features: int = 10,
        n_targets: int = 1,
        noise: float = 0.1,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        dtype: Literal["float64", "float32"] = "float64",
        in_memory: InMemory = "auto",
    ) -> None:
        counts = {"n_samples": n_samples, "n_features": n_features, "n_targets": n_targets}
        wrong = [f"{name}: expected 1 or more; found {n}" for name, n in counts.items() if n < 1]
        if not 0 <= noise < np.inf:
            wrong.append(f"noise: expected a finite number of 0 or more; found {noise}")
        if seed < 0:
            wrong.append(f"seed: expected 0 or more; found {seed}")
        if wrong:
            raise RequestError("; ".join(f"--data.{problem}" for problem in wrong))
        single = n_targets == 1
        weight = _generator(seed, 1, 0).standard_normal((n_features, n_targets))
        bias = _generator(seed, 2, 0).standard_normal(n_targets)
        rows = Gathered(n_features, n_targets, False, np.dtype(dtype), in_memory)
        rows.reserve(n_samples)

        def draw(room: NDArray[Any], first: int) -> None:
            out = room[first % (AT_ONCE * BLOCK) :][:BLOCK]
            block = _generator(seed, 0, first // BLOCK)
            drawn = block.standard_normal((len(out), n_features + n_targets))
            X, noises = drawn[:, :n_features].astype(dtype), drawn[:, n_features:]
            out[:, :n_features] = X
            out[:, n_features:] = X @ weight + bias + noise * noises

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(0, n_samples, AT_ONCE * BLOCK):
                end = min(first + AT_ONCE * BLOCK, n_samples)
                with rows.room(end - first) as room:
                    list(pool.map(partial(draw, room), range(first, end, BLOCK)))
        self.weight: NDArray[Any] = weight[:, 0] if single else weight
        self.bias: Any = bias[0] if single else bias
        super().__init__(rows, batch_size, shuffle, seed)


def _generator(seed: int, what: int, block: int) -> np.random.Generator:
    """Return a generator of its own for each (seed, what, block), far from all others.

    References:
        Salmon, Moraes, Dror & Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (2011): Philox,
        whose numbers are a function of key and counter.
    """
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, block, what]))
