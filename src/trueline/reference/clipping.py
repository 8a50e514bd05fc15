"""Gradient clipping, as torch's `clip_grad_norm_` and `clip_grad_value_` document it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trueline.reference.rounding import gamma

Array = NDArray[np.float64]

NORM_OFFSET = 1e-6
"""What torch adds to the norm that it divides by."""


@dataclass(frozen=True)
class Clipping:
    """Clips gradients before the step, by their norm or by value.

    By norm, all gradients are scaled alike by `min(1, limit/(‖g‖ + 10⁻⁶))`, where ‖g‖ is the
    Euclidean norm of all their entries together. By value, each entry is held in [−limit, limit].

    Args:
        limit: > 0.
        algorithm: `norm` or `value`.

    References:
        Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks"
        (2013), algorithm 1.

    Example:
        >>> gradients = {"weight": np.array([3.0]), "bias": np.array(4.0)}
        >>> clipped = Clipping(limit=1.0).clip(gradients)
        >>> clipped["weight"].round(6), clipped["bias"].round(6)
        (array([0.6]), np.float64(0.8))
    """

    limit: float
    algorithm: Literal["norm", "value"] = "norm"

    def clip(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Return the gradients clipped, each in its shape."""
        if self.algorithm == "value":
            return {n: np.clip(g, -self.limit, self.limit) for n, g in gradients.items()}
        scale = min(1.0, self.limit / (_norm(gradients) + NORM_OFFSET))
        return {name: np.asarray(scale * g) for name, g in gradients.items()}

    def clip_steps(self, gradients: Array, bounds: Array, unit_roundoff: float) -> tuple[Any, Any]:
        """Clip the gradients of many steps at once, and bound the errors of what comes of it.

        By value, clipping brings no two numbers further apart. By norm, an error of ε in the norm t
        changes the scale c by at most `c·ε/(t − ε)`, and no scale is above 1.

        Args:
            gradients: Gradient of each step as a vector, shape (..., n_entries).
            bounds: Bounds on the errors of the judged gradients, in the same shape.
            unit_roundoff: Unit roundoff of the arithmetic that is judged.

        Returns:
            The clipped gradients, and a bound on the error of each entry.
        """
        if self.algorithm == "value":
            return np.clip(gradients, -self.limit, self.limit), bounds
        norm = np.sqrt((gradients * gradients).sum(axis=-1, keepdims=True))
        spread = np.sqrt((bounds * bounds).sum(axis=-1, keepdims=True))
        spread += gamma(gradients.shape[-1] + 4, unit_roundoff) * (norm + spread)
        scale = np.minimum(1.0, self.limit / (norm + NORM_OFFSET))
        certain = norm > spread
        change = np.minimum(1.0, scale * spread / np.where(certain, norm - spread, 1.0))
        change = np.where(certain, change, 1.0)
        wider = np.minimum(1.0, scale + change) * bounds
        wider = wider + (change + gamma(3, unit_roundoff) * scale) * (np.abs(gradients) + bounds)
        # While the norm is certain to be below the limit, the scale is 1 on both sides.
        below = norm + spread + NORM_OFFSET < self.limit
        return scale * gradients, np.where(below, bounds, wider)


def _norm(arrays: Mapping[str, Array]) -> float:
    """Return the Euclidean norm of all entries together."""
    return math.sqrt(sum(float(np.vdot(a, a)) for a in arrays.values()))
