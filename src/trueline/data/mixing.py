"""An order of the numbers below n of which any part can be worked out by itself."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

ROUNDS = 4
"""Of steps that mix; after three, orders cannot be told from drawn ones any more."""


class Mixing:
    """A keyed permutation of the numbers below n.

    A number of so many bits goes through rounds of steps that can all be undone: add, multiply by
    an odd number, fold the upper half onto the lower. What comes out below n keeps its place; what
    does not goes through again ("cycle walking").

    Args:
        n: How many numbers, ≥ 1.
        generator: Draws the summands and factors.

    References:
        Black & Rogaway, "Ciphers with Arbitrary Finite Domains" (2002): cycle walking.
        Mitchell, Stokes, Frank & Holmes, "Bandwidth-Optimal Random Shuffling for GPUs" (2022).

    Example:
        >>> sorted(Mixing(5, np.random.default_rng(0)).run(0, 5).tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, n: int, generator: np.random.Generator) -> None:
        bits = max(1, (n - 1).bit_length())
        self._dtype = np.uint16 if bits <= 16 else np.uint32 if bits <= 32 else np.uint64
        drawn = generator.integers(0, 2**bits, (2, ROUNDS), np.uint64)
        self._n, self._whole = n, n == 2**bits
        self._mask = self._dtype((1 << bits) - 1)
        self._wraps = bits == 8 * self._mask.nbytes
        self._half = self._dtype((bits + 1) // 2)
        self._rounds = [(self._dtype(a), self._dtype(b | 1)) for a, b in drawn.T.tolist()]

    def at(self, places: Numbers) -> Numbers:
        """Return the numbers at some places, each below n."""
        return self._mixed(places.astype(self._dtype)).astype(np.int64)

    def run(self, start: int, stop: int) -> Numbers:
        """Return the numbers at consecutive places."""
        return self._mixed(np.arange(start, stop, dtype=self._dtype)).astype(np.int64)

    def _mixed(self, x: NDArray[Any]) -> NDArray[Any]:
        self._mix(x)
        if not self._whole:
            outside = np.flatnonzero(x >= self._n)
            while len(outside):
                again = x[outside]
                self._mix(again)
                x[outside] = again
                outside = outside[again >= self._n]
        return x

    def _mix(self, x: NDArray[Any]) -> None:
        folded = np.empty_like(x)
        for summand, factor in self._rounds:
            x += summand
            x *= factor
            if not self._wraps:
                x &= self._mask
            np.right_shift(x, self._half, out=folded)
            x ^= folded


def mixing(n: int, seed: int) -> Mixing:
    """Return an order of the numbers below n that is a function of the seed."""
    return Mixing(n, np.random.default_rng((seed, n)))
