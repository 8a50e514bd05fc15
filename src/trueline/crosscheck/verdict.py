"""A deviation as a fraction of its bound, and the first one above 1."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TINY = float(np.finfo(np.float32).tiny)
"""The smallest normal float32: what is lost to underflow is less, in float32 and in float64."""


class Quantity(NamedTuple):
    """One comparison.

    Args:
        name: What is compared, such as "gradient of bias".
        found: In training.
        expected: By the reference, in the shape of `found`.
        bound: On the difference of the two, in the same shape.
    """

    name: str
    found: Array
    expected: Array
    bound: Array


class Failure(NamedTuple):
    """The first comparison that failed.

    Args:
        step: Optimizer step, counted from 1.
        quantity: What was compared.
        found: In training, at the entry that is furthest out.
        expected: By the reference, at that entry.
        bound: On the difference of the two.
        ratio: Difference divided by bound; above 1, or not a number.
        cause: The likely cause, where one hypothesis fits the numbers.
    """

    step: int
    quantity: str
    found: float
    expected: float
    bound: float
    ratio: float
    cause: str | None = None

    def __str__(self) -> str:
        cause = f"; likely cause: {self.cause}" if self.cause else ""
        if self.bound == 0:
            return (
                f"{self.quantity} at step {self.step}: expected {self.expected:.17g} unchanged, "
                f"found {self.found:.17g}{cause}"
            )
        return (
            f"{self.quantity} at step {self.step}: expected {self.expected:.17g} within "
            f"{self.bound:.2g}, found {self.found:.17g}, {self.ratio:.3g} times the bound{cause}"
        )


def ratios(quantity: Quantity) -> Array:
    """Divide each entry's deviation by its bound, flat; 0/0 is 0.

    Example:
        >>> zero, one = np.zeros(2), np.ones(2)
        >>> ratios(Quantity("loss", one, zero, 4 * one)), ratios(Quantity("loss", one, one, zero))
        (array([0.25, 0.25]), array([0., 0.]))
    """
    _, found, expected, bound = quantity
    return np.asarray(np.abs(found - expected) / (bound + TINY)).ravel()


def worst_ratio(quantities: list[Quantity]) -> float:
    """Return the largest ratio of all entries of all quantities; nan where there is one."""
    return float(np.concatenate([ratios(quantity) for quantity in quantities]).max())


def first_failure(step: int, quantities: list[Quantity]) -> Failure:
    """Return the first quantity out of its bound, at its entry that is furthest out.

    Raises:
        ValueError: When all quantities are within their bounds.
    """
    for quantity in quantities:
        out = ratios(quantity)
        if not (out <= 1).all():
            i = int(np.argmax(out))  # nan counts as the largest
            at = [float(array.ravel()[i]) for array in quantity[1:]]
            return Failure(step, quantity.name, at[0], at[1], at[2], float(out[i]))
    raise ValueError("expected a quantity out of its bound, found none")
