"""The minimum of the objective with an L1 penalty, found exactly from the triangle of the rows.

Where the signs of the weights are known, the minimum solves a linear system. Coordinate descent
comes near the signs; an active set method then corrects them one by one, and each time solves the
system. It ends where the conditions of optimality hold: `|2·Bᵀr/N| = l1` for weights that are not
0, and at most l1 for those that are.

References:
    Friedman, Hastie & Tibshirani, "Regularization Paths for Generalized Linear Models via
    Coordinate Descent" (2010), section 2.
    Lee, Battle, Raina & Ng, "Efficient sparse coding algorithms" (2007), algorithm 1: the active
    set.
    Halko, Martinsson & Tropp, "Finding Structure with Randomness" (2011), algorithm 4.1: the range
    of a matrix of low rank.
    Tibshirani, "The lasso problem and uniqueness" (2013), lemma 2.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from trueline.reference.triangle import KEPT, Array, Line, Triangle

SWEEPS = 50
"""Sweeps of coordinate descent before the active set; most problems need fewer."""
CHANGES = 10
"""Changes of the active set, for each weight, after which the search is given up."""
ROUNDING = 64 * float(np.finfo(np.float64).eps)
"""Relative rounding error allowed for in a gradient and in a rank."""


class Minimum(NamedTuple):
    """A line at which the penalised objective is smallest.

    Args:
        line: Minimiser. Weights that are zero are exactly 0.
        pull: Negative gradient of the smooth part by the weights, shape (n_features, n_targets):
            l1·sign(weight) where a weight is not 0, and within ±l1 elsewhere.
        unique: Whether there is no other minimiser.
        l1: Strength of the L1 penalty.
        l2: Strength of the L2 penalty.
        weight_decay: Weight decay of SGD.
    """

    line: Line
    pull: Array
    unique: bool
    l1: float
    l2: float
    weight_decay: float

    def bend(self, weight: Array) -> Array:
        """Return `Σ(l1 − pull·sign(weight))·|weight|`, what the L1 penalty's bends cost a line.

        The objective of a line exceeds the minimum by this and by `½·Δᵀ·H·Δ`, where Δ is how far
        its parameters are off and H the Hessian of the rest. No term is below 0: nothing cancels.

        Args:
            weight: Shape (..., n_features, n_targets).

        Returns:
            Shape (..., n_targets).
        """
        terms = (self.l1 - self.pull * np.sign(weight)) * np.abs(weight)
        return np.asarray(terms.sum(axis=-2))

    def excess_of_penalties(self, parameters: Array) -> Array:
        """Return the penalties' part in the excess of lines' objectives over the minimum.

        Args:
            parameters: Weights over the bias, shape (..., n_features + 1, n_targets).

        Returns:
            Shape (..., n_targets).
        """
        weight, bias = parameters[..., :-1, :], parameters[..., -1, :]
        decay = self.weight_decay / 2
        apart = weight - np.reshape(self.line.weight, weight.shape[-2:])
        squares = (self.l2 + decay) * np.sum(apart**2, axis=-2)
        return np.asarray(self.bend(weight) + squares + decay * (bias - self.line.bias) ** 2)


@lru_cache(maxsize=KEPT)
def lasso(rows: Triangle, l1: float, l2: float = 0.0, weight_decay: float = 0.0) -> Minimum:
    """Minimise `mean(r²) + l1·Σ|weight| + l2·Σweight² + weight_decay/2·(Σweight² + Σbias²)`.

    Args:
        rows: Rows, as their triangle.
        l1: Strength of the L1 penalty, > 0.
        l2: Strength of the L2 penalty, ≥ 0.
        weight_decay: Weight decay of SGD, ≥ 0, which takes in the bias.

    Returns:
        The minimum.

    Raises:
        ValueError: When the rows are not finite, or the search does not end.

    Example:
        >>> from trueline.reference.triangle import triangle
        >>> X = np.array([[1.0, 0.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, 0.0]])
        >>> lasso(triangle(X, 3 * X[:, 0] + 5), l1=0.5).line
        Line(weight=array([2.75, 0.  ]), bias=array(5.))
    """
    if not np.isfinite(rows.R).all():
        raise ValueError("expected finite rows; found nan or inf in their triangle; remove them")
    A, y = rows.penalised(l2, weight_decay)
    p, N = rows.columns, rows.rows * rows.n_targets
    Q, R = np.linalg.qr(A)
    z = Q.T @ y
    # Without the bias it is the minimum of ½‖B·w − z‖² + strength·Σ|w|.
    B, strength = R[1:, 1:], N * l1 / 2
    targets = z[1:]
    if (height := rows.n_samples - 1) < len(B) and not (l2 or weight_decay):
        B, targets = _shortened(B, targets, height)
    found = [_Search(B, target, strength) for target in targets.T]
    weight = np.stack([search.minimise() for search in found], axis=1)
    pull = l1 * np.stack([search.pull() for search in found], axis=1)
    bias = (z[0] - R[0, 1:] @ weight) / R[0, 0]
    bias = bias - rows.center[: p - 1] @ weight + rows.center[p - 1 :]
    line = Line(weight[:, 0], np.asarray(bias[0])) if rows.single else Line(weight, bias)
    unique = all(search.is_unique() for search in found)
    return Minimum(line, pull, unique, l1, l2, weight_decay)


def _shortened(B: Array, z: Array, height: int) -> tuple[Array, Array]:
    """Return B, whose rank is at most `height`, and z in so many rows: `QᵀB` and `Qᵀz`."""
    mixed = B @ np.random.default_rng(0).standard_normal((B.shape[1], height))
    Q = np.linalg.qr(mixed)[0]  # spans the columns of B with probability 1
    return Q.T @ B, Q.T @ z


class _Search:
    """The search for the minimum of `½‖B·w − z‖² + strength·Σ|w|`.

    Args:
        B: Shape (n, n_features).
        z: Shape (n,).
        strength: Strength of the penalty.
    """

    def __init__(self, B: Array, z: Array, strength: float) -> None:
        self.B, self.z, self.strength = B, z, strength
        self.length = np.linalg.norm(B, axis=0)
        self.w = np.zeros(len(self.length))
        # What a correlation may be off by, for its terms are rounded.
        self.slack = ROUNDING * (strength + self.length * np.linalg.norm(z))

    def correlation(self) -> Array:
        """Return `Bᵀ(z − B·w)`, the negative gradient of the squares."""
        return np.asarray(self.B.T @ (self.z - self.B @ self.w))

    def minimise(self) -> Array:
        """Return the minimiser.

        Raises:
            ValueError: When the active set does not settle.
        """
        self._descend()
        signs = np.sign(self.w)
        for _ in range(CHANGES * (len(signs) + 10)):
            if signs.any():
                target, flat = self._solve(signs)
                if self._move(signs, target, flat):
                    continue  # a weight became 0 on the way
            excess = np.abs(self.correlation()) - self.strength - self.slack
            excess[signs != 0] = 0
            if not (excess > 0).any():
                return self.w
            j = int(np.argmax(excess / np.maximum(self.length, np.finfo(np.float64).tiny)))
            signs[j] = np.sign(self.correlation()[j])
        raise ValueError("expected a minimum; found none, for columns nearly depend on each other")

    def _descend(self) -> None:
        """Come near the minimum by coordinate descent."""
        r, square = self.z.copy(), self.length**2
        columns = np.ascontiguousarray(self.B.T)
        moving = np.flatnonzero(square > 0)
        for _ in range(SWEEPS):
            largest = 0.0
            for j in moving:
                b, old = columns[j], self.w[j]
                found = b @ r + square[j] * old
                new = np.sign(found) * max(abs(found) - self.strength, 0.0) / square[j]
                if new != old:
                    r -= (new - old) * b
                    self.w[j] = new
                    largest = max(largest, abs(new - old) * self.length[j])
            if largest <= ROUNDING * np.linalg.norm(self.z):
                return

    def _solve(self, signs: Array) -> tuple[Array, bool]:
        """Return where the weights with a sign are at their best, as if signs could not change.

        Returns:
            The weights, or where columns depend on each other a direction that does not change the
            squares nor raises the penalty; and whether it is a direction.
        """
        active = np.flatnonzero(signs)
        scaled = self.B[:, active] / self.length[active]
        Q, R = np.linalg.qr(scaled)
        whole = np.zeros_like(self.w)
        height = np.abs(np.diag(R))
        if len(active) > len(R) or (height <= ROUNDING * len(active)).any():
            left = np.linalg.svd(scaled)[2][-1] / self.length[active]
            whole[active] = -left if left @ signs[active] > 0 else left
            return whole, True
        pull = self.strength * signs[active] / self.length[active]
        half = Q.T @ self.z - np.linalg.solve(R.T, pull)
        whole[active] = np.linalg.solve(R, half) / self.length[active]
        return whole, False

    def _move(self, signs: Array, target: Array, flat: bool) -> bool:
        """Move towards a target as far as no sign changes; say whether a weight became 0."""
        step = target if flat else target - self.w
        turning = np.flatnonzero((signs != 0) & (signs * step < 0))
        ahead = np.where(flat, np.inf, 1.0)
        lengths = np.abs(self.w[turning] / step[turning])
        if len(turning) and lengths.min() < ahead:
            ahead = lengths.min()
            stopped = turning[lengths == ahead]
            self.w += ahead * step
            self.w[stopped] = signs[stopped] = 0
            return True
        self.w = target
        return False

    def pull(self) -> Array:
        """Return the correlation over the strength: ±1 for columns that the minimum may use."""
        correlation = self.correlation()
        # To rounding; a minimum elsewhere may use a column whose weight is 0 in this one.
        reached = np.abs(correlation) >= self.strength - self.slack
        limit = np.sign(np.where(self.w == 0, correlation, self.w))
        return np.where(reached | (self.w != 0), limit, correlation / self.strength)

    def is_unique(self) -> bool:
        """Return whether the columns that the minimum may use are linearly independent."""
        reached = np.abs(self.pull()) == 1
        scaled = self.B[:, reached] / self.length[reached]
        return bool(np.linalg.matrix_rank(scaled) == scaled.shape[1]) if reached.any() else True
