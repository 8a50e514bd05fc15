"""How far a training may be from a reference that goes its own way from the first step.

A step of SGD on a quadratic objective is an affine map of parameters and momentum buffers. Two
trainings that take the same steps thus come apart by `e ← M·e + ξ`: the map M, which is I − lr·H
without momentum, carries their distance on, and each step adds its own rounding ξ, which the
one-step bound holds. The norm of M alone will not do with momentum, where it exceeds 1 although the
powers of M fall; an ellipsoid that M maps exactly does.
"""

import numpy as np
from numpy.typing import NDArray

from trueline.reference.sgd import SGD

Array = NDArray[np.float64]


def step_map(optimizer: SGD, H: Array, first: bool) -> Array:
    """Return the map of one step on (parameters, momentum buffers), less its constant.

    Args:
        optimizer: The update rule.
        H: Second derivative of the objective, shape (p, p).
        first: Whether there is no buffer yet.

    Returns:
        Shape (2p, 2p).

    Example:
        >>> step_map(SGD(lr=0.1), np.array([[2.0]]), first=True)
        array([[0.8, 0. ],
               [0. , 0. ]])
    """
    identity, zero = np.eye(len(H)), np.zeros_like(H)
    lr, momentum = optimizer.lr, optimizer.momentum
    A = (-H if optimizer.maximize else H) + optimizer.weight_decay * identity
    if not momentum:
        return np.block([[identity - lr * A, zero], [zero, zero]])
    kept, entering = (0.0, 1.0) if first else (momentum, 1 - optimizer.dampening)
    buffer = entering * A, kept * identity
    ahead = A + momentum * buffer[0], momentum * buffer[1]
    direction = ahead if optimizer.nesterov else buffer
    return np.block([[identity - lr * direction[0], -lr * direction[1]], [*buffer]])


class Ellipsoid:
    """A set that holds the distance of two trainings: `e·C⁻¹·e ≤ 1`.

    Args:
        size: Number of entries of e.

    References:
        Kurzhanski & Vályi, "Ellipsoidal Calculus for Estimation and Control" (1997), section 2.3:
        the sum of two ellipsoids lies in (1 + 1/q)·C₁ + (1 + q)·C₂ for every q > 0.

    Example:
        >>> ellipsoid = Ellipsoid(1)
        >>> for _ in range(60):
        ...     ellipsoid.advance(np.array([[0.5]]), np.array([1.0]))
        >>> ellipsoid.bound().round(6)
        array([2.])
    """

    def __init__(self, size: int) -> None:
        self.shape = np.zeros((size, size))

    def advance(self, M: Array, bound: Array) -> None:
        """Map by M and add all ξ with |ξ| ≤ bound, entry by entry."""
        carried = M @ self.shape @ M.T
        # The box of the bound lies in the ellipsoid that passes through its corners.
        added = np.count_nonzero(bound) * np.square(bound)
        inside = bound > 0
        if not carried.any() or not inside.any():
            self.shape = carried + np.diag(added)
            return
        # q by the traces, each entry measured by its own bound.
        q = np.sqrt(np.mean(np.diag(carried)[inside] / added[inside])) or 1.0
        self.shape = (1 + 1 / q) * carried + (1 + q) * np.diag(added)

    def bound(self) -> Array:
        """Return how far each entry may be from 0, shape (size,)."""
        return np.sqrt(np.diag(self.shape))
