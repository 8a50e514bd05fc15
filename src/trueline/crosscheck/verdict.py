"""A deviation as a fraction of its bound, and the first one above 1."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.reference.rounding import DOUBLE, FLOAT64, SINGLE, Arithmetic

Array = NDArray[np.float64]

TINY = {DOUBLE: 1e-300, SINGLE: float(np.finfo(np.float32).tiny)}
"""What is added to every bound for underflow, which loses less: by the parameters' roundoff. The
arithmetic of half precisions bounds its own."""


class Quantity(NamedTuple):
    """One comparison of vectors.

    Args:
        kind: `loss`, with an entry for each part of the step, or `gradient`, `lr`, `momentum` or
            `parameter`, with an entry for each entry of the parameters.
        found: In training.
        expected: By the reference.
        bound: On the difference of the two.
        entries: Of all parameters' entries, those that are compared; all unless given.
    """

    kind: str
    found: Array
    expected: Array
    bound: Array
    entries: Any = slice(None)


class Failure(NamedTuple):
    """The first comparison that failed.

    Args:
        step: Optimizer step, counted from 1.
        quantity: What was compared, such as "gradient of bias".
        found: In training, at the entry that is furthest out; None where there is no number to it.
        expected: By the reference, at that entry.
        bound: On the difference of the two.
        ratio: Difference divided by bound, above 1.
        cause: The likely cause, where one hypothesis fits the numbers.
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


NEAR_THE_END = 1e296
"""Beyond it, a number may be the last before an overflow that comes a rounding or two earlier where
squares are added up in another order."""


def ratios(quantity: Quantity, tiny: float = TINY[DOUBLE]) -> Array:
    """Divide each entry's deviation by its bound; 0/0 is 0, and what is not a number infinite.

    Example:
        >>> zero, one = np.zeros(2), np.ones(2)
        >>> ratios(Quantity("loss", one, zero, 4 * one)), ratios(Quantity("loss", one, one, zero))
        (array([0.25, 0.25]), array([0., 0.]))
        >>> beyond, found = np.full(2, np.inf), np.array([1.5e308, 1.0])
        >>> with np.errstate(invalid="ignore"):
        ...     ratios(Quantity("loss", found, beyond, beyond))
        array([ 0., inf])
    """
    _, found, expected, bound, _ = quantity
    ratio = np.abs(found - expected) / (bound + tiny)
    # Infinities that agree are right: divergence is told elsewhere.
    agree = (found == expected) | (np.isinf(expected) & (np.sign(expected) * found > NEAR_THE_END))
    return np.where(agree, 0.0, np.where(np.isnan(ratio), np.inf, ratio))


class Tally:
    """Keeps the worst ratio of a training, over all and for loss, gradient and parameters.

    Args:
        arithmetic: That of the training.
    """

    def __init__(self, arithmetic: Arithmetic = FLOAT64) -> None:
        self._tiny = TINY.get(arithmetic.parameters, TINY[SINGLE])
        self.worst = dict.fromkeys(("loss", "gradient", "parameters"), 0.0)
        self._recent = 0.0
        self._by_step: list[tuple[NDArray[np.int64], Array]] = []

    @property
    def worst_ratio(self) -> float:
        """The largest deviation as a fraction of its bound."""
        return max(self.worst.values())

    def add(
        self, quantities: list[Quantity], recent: bool = True
    ) -> tuple[Quantity, int, float] | None:
        """Take comparisons in; return the first that is out of its bound, if any.

        Args:
            quantities: Compared.
            recent: Whether they belong to the latest steps; else `add_steps` says to which.

        Returns:
            The quantity, its entry that is furthest out, and the ratio there.
        """
        # At once for all of them: most of the time is NumPy's for a call, whatever the length.
        found, expected, bound = (
            np.concatenate([getattr(quantity, name).ravel() for quantity in quantities])
            for name in ("found", "expected", "bound")
        )
        out = ratios(Quantity("", found, expected, bound), self._tiny)
        starts = np.cumsum([0, *(quantity.found.size for quantity in quantities)])
        worsts = np.maximum.reduceat(out, starts[:-1])
        for quantity, worst in zip(quantities, worsts.tolist(), strict=True):
            kind = quantity.kind if quantity.kind in self.worst else "parameters"
            self.worst[kind] = max(self.worst[kind], worst)
        worst = float(worsts.max())
        if recent:
            self._recent = max(self._recent, worst)
        if worst <= 1:
            return None
        k = int(np.argmax(worsts > 1))
        part = out[starts[k] : starts[k + 1]]
        return quantities[k], int(np.argmax(part)), float(worsts[k])

    def note(self, ratio: float) -> None:
        """Take in a ratio of the parameters that was found outside."""
        self.worst["parameters"] = max(self.worst["parameters"], ratio)

    def by_step(self, quantity: Quantity) -> Array:
        """Return the largest ratio of each step in a comparison of many, shape (n_steps,)."""
        found = ratios(quantity, self._tiny)
        return np.asarray(found.reshape(len(found), -1).max(axis=1))

    def state_dict(self) -> dict[str, Any]:
        """Return the ratios so far, for a training that goes on from a checkpoint."""
        recent = [self._recent, *(worst.max() for _, worst in self._by_step)]
        return {"worst": dict(self.worst), "recent": float(max(recent))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was made."""
        self.worst = dict(state["worst"])
        self._recent = state["recent"]

    def add_steps(self, numbers: NDArray[np.int64], worst: Array) -> None:
        """Note the worst ratio of each of some steps, to be told by `worst_up_to`."""
        self._by_step.append((numbers, worst))

    def worst_up_to(self, numbers: list[int]) -> list[float]:
        """Return the worst ratios from the number asked for last to the first of these, and so on.

        Args:
            numbers: Of steps, ascending.
        """
        if not self._by_step:
            recent, self._recent = self._recent, 0.0
            return [recent, *[0.0] * (len(numbers) - 1)]
        steps, worst = (np.concatenate(part) for part in zip(*self._by_step, strict=True))
        at = np.searchsorted(numbers, steps)
        found = np.zeros(len(numbers) + 1)
        found[0] = self._recent
        np.maximum.at(found, at, worst)
        self._by_step, self._recent = [], float(found[-1])
        return found[:-1].tolist()  # type: ignore[no-any-return]
