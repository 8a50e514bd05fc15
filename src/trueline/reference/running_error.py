"""Numbers with bounds on their errors, and what one rounding adds to them.

References:
    Higham, "Accuracy and Stability of Numerical Algorithms" (2002), sections 2.2 and 3.3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueline.reference.rounding import DOUBLE, SINGLE, Arithmetic, gamma

Array = NDArray[Any]

OWN = 1 + gamma(1024, 0.0)
"""Covers the rounding of the bound itself in float64: a few operations, of which those like
`cosh(x)` enlarge the rounding of their operand by up to 710, where they overflow."""

UNDERFLOWS = 4
"""Smallest numbers that one rounding may lose: in training, in the reference, in the bound."""


class Pair(NamedTuple):
    """Numbers x and bounds e on their errors, in one shape: |x̃ − x| ≤ e.

    Truth values with an error are undecided.
    """

    value: Array
    error: Array

    @property
    def reach(self) -> Array:
        """The largest magnitude that each number may have."""
        return np.abs(self.value) + self.error

    @property
    def nearest(self) -> Array:
        """The smallest magnitude that each may have; not above 0 where the sign is open."""
        return np.abs(self.value) - self.error


Rule = Callable[..., Pair]


def rounded(
    arithmetic: Arithmetic, value: Array, passed_on: Array, zero: Array, roundings: Array | int = 1
) -> Pair:
    """Add the rounding of a result that is stored: `e + γ(k)·(|x| + e) + k·smallest`.

    Args:
        arithmetic: That of the training.
        value: The result in float64.
        passed_on: The error that it has from its operands.
        zero: Where the result is 0 without any rounding.
        roundings: Their number k.

    Returns:
        The result with its error, which is infinite where training may overflow.
    """
    reach = np.abs(value) + passed_on
    relative: Any = (
        gamma(roundings, arithmetic.stored)
        if isinstance(roundings, int)
        else (np.vectorize(gamma, otypes=[float])(roundings, arithmetic.stored))
    )
    lost = relative * reach + UNDERFLOWS * arithmetic.smallest * roundings
    error = (passed_on + np.where(zero, 0.0, lost)) * OWN
    # False for nan too: of 0·inf nothing is known.
    within = np.abs(value) + error <= arithmetic.largest
    return Pair(np.asarray(value), np.where(within, error, np.inf))


def summed(arithmetic: Arithmetic, value: Array, error: Array, reach: Array, n: int) -> Pair:
    """Add the roundings inside a sum, in any order of its terms: `Σe + γ(n)·Σ(|x| + e)`.

    Args:
        arithmetic: That of the training.
        value: The sums.
        error: Those of the terms' errors.
        reach: Those of the terms' largest magnitudes.
        n: Number of roundings.
    """
    # γ holds the reference's own roundings, the last factor those of the sums taken here.
    error = (error + gamma(n, arithmetic.summed) * reach) * (OWN + gamma(n, 0.0))
    # Half precisions are summed in float32, whose range is wider.
    single = float(np.finfo(np.float32).max) if arithmetic.summed <= SINGLE else 0.0
    within = reach + error <= max(arithmetic.largest, single)
    return Pair(value, np.where(within, error, np.inf))


def converted(arithmetic: Arithmetic, x: ArrayLike) -> Pair:
    """Bring numbers to the dtype that is stored: no error where it holds them, else `u·|x|`.

    Example:
        >>> from trueline.reference.rounding import BFLOAT16
        >>> converted(BFLOAT16, [0.5, 255.0, 257.0]).error > 0
        array([False, False,  True])

    References:
        Dekker, "A floating-point technique for extending the available precision" (1971).
    """
    value = np.asarray(x, np.float64)
    size = np.abs(value)
    with np.errstate(over="ignore", invalid="ignore"):  # of what is beyond the dtype's range
        # Dekker's splitting leaves as many leading digits as the dtype has.
        enlarged = value * (arithmetic.stored / DOUBLE + 1)
        held = (enlarged - (enlarged - value) == value) | np.isinf(value)
        steps = value / arithmetic.smallest
    subnormal = size < arithmetic.smallest / arithmetic.stored
    held &= ~subnormal | (np.rint(steps) == steps)
    error = np.where(held, 0.0, (arithmetic.stored * size + arithmetic.smallest) * OWN)
    error[(size > arithmetic.largest) & np.isfinite(value)] = np.inf
    return Pair(value, error)
