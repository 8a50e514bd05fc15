"""A deviation as a fraction of its bound, and the first one above 1."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.reference.rounding import DOUBLE, FLOAT64, SINGLE, Arithmetic

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

TINY = {DOUBLE: 1e-300, SINGLE: float(np.finfo(np.float32).tiny)}
"""Added to every bound for underflow, which loses less; by the roundoff of the parameters. Half
precisions bound their own underflow."""
NEAR_THE_END = 1e296
"""Beyond it, a number may be the last before an overflow that comes a rounding or two earlier where
squares are added up in another order."""


class Comparison(NamedTuple):
    """What training found at each step of a stack, beside what the judge expects.

    Args:
        kind: `loss`, with an entry for each batch of the step, or `gradient`, `lr`, `momentum` or
            `parameter`, with an entry for each entry of the parameters.
        found: Numbers that training found, shape (n_steps, n_entries).
        expected: Numbers of the reference, in the same shape.
        bound: Bound on the difference of the two, in the same shape.
        entries: Entries of the parameters that are compared; all unless given.
    """

    kind: str
    found: Array
    expected: Array
    bound: Array
    entries: Any = slice(None)


class Failure(NamedTuple):
    """The first comparison that failed.

    Args:
        step: Number of the optimizer step, counted from 1.
        quantity: Name of what was compared, such as "gradient of bias".
        found: Number that training found, at the entry that is furthest out; None where there is
            no number to it.
        expected: Number of the reference, at that entry.
        bound: Bound on the difference of the two.
        ratio: Difference divided by bound, above 1.
        cause: Likely cause, where a hypothesis fits the numbers.
    """

    step: int
    quantity: str
    found: float | None = None
    expected: float | None = None
    bound: float | None = None
    ratio: float | None = None
    cause: str | None = None

    def __str__(self) -> str:
        where = f"{self.quantity} at step {self.step}: "
        if self.found is None:
            return f"{where}{self.cause}"
        if not np.isfinite(np.array([self.expected, self.bound], float)).all():
            return (
                f"{where}expected finite numbers, found that the training has diverged; lower the "
                "learning rate"
            )
        cause = f"; likely cause: {self.cause}" if self.cause else ""
        if self.bound == 0:
            return f"{where}expected {self.expected:.17g} exactly, found {self.found:.17g}{cause}"
        return (
            f"{where}expected {self.expected:.17g} within {self.bound:.2g}, "
            f"found {self.found:.17g}, {self.ratio:.3g} times the bound{cause}"
        )


def ratios(found: Array, expected: Array, bound: Array) -> Array:
    """Divide each deviation by its bound; 0/0 is 0, and what is not a number is infinite.

    Example:
        >>> zero, one = np.zeros(2), np.ones(2)
        >>> ratios(one, zero, 4 * one)
        array([0.25, 0.25])
        >>> beyond = np.full(2, np.inf)
        >>> with np.errstate(invalid="ignore"):
        ...     ratios(one, one, zero), ratios(np.array([1.5e308, 1.0]), beyond, beyond)
        (array([0., 0.]), array([ 0., inf]))
    """
    ratio = np.abs(found - expected) / bound
    if (ratio <= 1).all():
        return ratio
    # Infinities that agree are right: that a training diverges is said elsewhere.
    agree = (found == expected) | (np.isinf(expected) & (np.sign(expected) * found > NEAR_THE_END))
    return np.where(agree, 0.0, np.where(np.isnan(ratio), np.inf, ratio))


class WorstRatios:
    """Keeps the worst ratio of a training: of loss, gradient and parameters, and by steps.

    Args:
        arithmetic: How the training rounds.
    """

    def __init__(self, arithmetic: Arithmetic = FLOAT64) -> None:
        self._tiny = TINY.get(arithmetic.parameters, TINY[SINGLE])
        self.worst = dict.fromkeys(("loss", "gradient", "parameters"), 0.0)
        self._earlier = 0.0
        self._by_step: list[tuple[Numbers, Array]] = []

    @property
    def worst_ratio(self) -> float:
        """The largest deviation as a fraction of its bound."""
        return max(self.worst.values())

    def add(
        self, compared: list[Comparison], numbers: Numbers
    ) -> tuple[int, Comparison, int, float] | None:
        """Take in the comparisons of a stack; return what is out of its bound first, if anything.

        Args:
            compared: Comparisons in the order in which a training computes them.
            numbers: Numbers of the steps.

        Returns:
            The place of the first such step, its first comparison out of bounds, the entry that is
            furthest out, and the ratio there.
        """
        # All at once: most of the time is NumPy's for a call, whatever the length.
        found, expected, bound = (
            np.concatenate([getattr(each, name) for each in compared], axis=1)
            for name in ("found", "expected", "bound")
        )
        out = ratios(found, expected, bound + self._tiny)
        starts = np.cumsum([0, *(each.found.shape[1] for each in compared)])
        worsts = np.maximum.reduceat(out, starts[:-1], axis=1)
        for each, worst in zip(compared, worsts.max(axis=0).tolist(), strict=True):
            kind = each.kind if each.kind in self.worst else "parameters"
            self.worst[kind] = max(self.worst[kind], worst)
        by_step = worsts.max(axis=1)
        self._by_step.append((numbers, by_step))
        if not (wrong := by_step > 1).any():
            return None
        k = int(np.argmax(wrong))
        first = int(np.argmax(worsts[k] > 1))
        part = out[k, starts[first] : starts[first + 1]]
        return k, compared[first], int(np.argmax(part)), float(part.max())

    def note(self, ratio: float) -> None:
        """Take in a ratio of the parameters that was found outside."""
        self.worst["parameters"] = max(self.worst["parameters"], ratio)

    def worst_up_to(self, numbers: list[int]) -> list[float]:
        """Return for each of some steps the worst ratio since the one before, and forget them.

        Args:
            numbers: Numbers of steps, ascending.
        """
        found = np.zeros(len(numbers) + 1)
        found[0], self._earlier = self._earlier, 0.0
        for steps, worst in self._by_step:
            np.maximum.at(found, np.searchsorted(numbers, steps), worst)
        self._by_step, self._earlier = [], float(found[-1])
        return found[:-1].tolist()  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        """Return the ratios so far, for a training that goes on from a checkpoint."""
        recent = [self._earlier, *(worst.max() for _, worst in self._by_step)]
        return {"worst": dict(self.worst), "recent": float(max(recent))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was made."""
        self.worst, self._earlier = dict(state["worst"]), state["recent"]
