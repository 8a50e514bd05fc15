"""What goes into the loop and what comes out of it, as NumPy arrays.

Within the loop, parameters, gradients and momentum buffers are vectors of P entries: for each
target its weights, and then its bias.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float64 = NDArray[np.float64]
Numbers = NDArray[np.int64]

WIDEST = 2048
"""Columns up to which all rows are replaced by their moments: 32 MB of float64."""


class Rule(NamedTuple):
    """The update rule, but for learning rate and momentum, of which each step has its own.

    Args:
        dampening: Dampening of momentum, in [0, 1].
        nesterov: Whether momentum is Nesterov's.
        weight_decay: Decay of weight and bias, ≥ 0; it is no part of the loss.
        l1: Strength of the L1 penalty on the weight, ≥ 0.
        l2: Strength of the L2 penalty on the weight, ≥ 0.
        clip_norm: Largest norm of the gradient; 0 for no such clipping.
        clip_value: Largest magnitude of an entry of the gradient; 0 for no such clipping.
    """

    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    clip_norm: float = 0.0
    clip_value: float = 0.0


class Shape(NamedTuple):
    """Columns of a row.

    Args:
        n_features: Number of features.
        n_targets: Number of targets.
        weighted: Whether rows have a weight, in their last column.
        unit: Power of two that each weight is multiplied with in moments, so that their sum is
            finite. Steps from rows find one for each batch.
    """

    n_features: int
    n_targets: int
    weighted: bool = False
    unit: float = 1.0

    @property
    def n_parameters(self) -> int:
        """Entries of weight and bias together."""
        return (self.n_features + 1) * self.n_targets


class State(NamedTuple):
    """Where a training stands; steps change it in place.

    Args:
        theta: Parameters, shape (P,), in the precision of the training.
        buffer: Momentum buffers, in the same shape and dtype; nan where there is none yet.
        free: Which entries are trained, bool, shape (P,).
        sums: Sums over the rows of a batch so far: gradient, squared residuals and weights; and the
            unit of these weights, see `kernels.unit_of`; shape (P + 3,).
    """

    theta: Array
    buffer: Array
    free: NDArray[np.bool_]
    sums: Array

    @classmethod
    def of(cls, theta: Array, buffer: Array | None, free: NDArray[np.bool_]) -> "State":
        """Return the state of parameters and buffers, which are copied."""
        held = np.full_like(theta, np.nan) if buffer is None else buffer.astype(theta.dtype)
        return cls(theta.copy(), held, free, np.zeros(len(theta) + 3, theta.dtype))


class Steps(NamedTuple):
    """Options and results of consecutive steps.

    Args:
        lrs: Learning rates, float64, shape (steps,).
        momenta: Momentum of each step, float64, shape (steps,).
        plateau: State and options of a schedule that waits for a plateau of the loss, see
            `kernels.advance_plateau`; empty where no schedule does. It changes with the steps, and
            so do the learning rates.
        losses: Memory for the mean squared errors, float64, shape (steps,).
        at: Numbers of the steps whose states are asked for, ascending, shape (n,).
        states: Memory for parameters, gradient and momentum buffers before each of these, and
            parameters and buffers after it; float64, shape (5, n, P).
    """

    lrs: Float64
    momenta: Float64
    plateau: Float64
    losses: Float64
    at: Numbers
    states: Float64

    @classmethod
    def of(
        cls,
        lrs: Float64,
        momenta: Float64,
        at: Numbers,
        n_parameters: int,
        plateau: Float64 | None = None,
    ) -> "Steps":
        """Return steps to take, with memory for their results."""
        states = np.full((5, len(at), n_parameters), np.nan)
        losses = np.full(len(lrs), np.nan)
        return cls(lrs, momenta, np.empty(0) if plateau is None else plateau, losses, at, states)

    def result(
        self, taken: int, anchor: Float64 | None, end: State, n_targets: int
    ) -> "StepResult":
        """Return what so many steps have left."""
        asked = self.states[:, : np.searchsorted(self.at, taken)]
        before, gradient, buffer, after, buffer_after = as_parameters(asked, n_targets)
        has_momentum = bool(self.momenta.any())
        return StepResult(
            steps=taken,
            next_loss=float(self.losses[taken]) if taken < len(self.losses) else np.nan,
            losses=self.losses[:taken],
            lrs=self.lrs[:taken],
            at=self.at[: len(before)],
            before=before,
            gradient=gradient,
            after=after,
            buffer=buffer if has_momentum else None,
            buffer_after=buffer_after if has_momentum else None,
            anchor=None if anchor is None else as_parameters(anchor, n_targets),
            plateau=self.plateau,
            end=end,
        )


@dataclass
class StepResult:
    """Consecutive steps that the loop has taken.

    Args:
        steps: Number of steps taken: fewer than asked for where the loss of the next one is not
            finite.
        next_loss: That loss; nan where all steps were taken.
        losses: Mean squared error over the rows of each step, before it; shape (steps,).
        lrs: Learning rate of each step, shape (steps,).
        at: Steps whose states were asked for, counted from 0, ascending; shape (n,).
        before: Parameters before each of these, shape (n, P).
        after: Parameters after each of these, shape (n, P).
        gradient: Gradients of mean squared error and L2 penalty, before clipping; shape (n, P).
        buffer: Momentum buffers before each, shape (n, P); nan where there is none yet. None
            without momentum.
        buffer_after: Momentum buffers after each, in the same form.
        anchor: Parameters that moments were taken around, shape (P,); None where steps were taken
            from rows.
        plateau: Where a schedule that waits for a plateau stands, see `Steps`.
        end: State after the last step.
    """

    steps: int
    next_loss: float
    losses: Float64
    lrs: Float64
    at: Numbers
    before: Float64
    after: Float64
    gradient: Float64
    buffer: Float64 | None
    buffer_after: Float64 | None
    anchor: Float64 | None
    plateau: Float64
    end: State

    def select(self, steps: Numbers) -> NDArray[np.intp]:
        """Return where steps are among those whose states were asked for.

        Args:
            steps: Numbers of steps that were asked for, ascending.
        """
        found = np.searchsorted(self.at, steps)
        if not np.array_equal(self.at[found], steps):
            raise ValueError(f"expected steps that were asked for, {self.at}; found {steps}")
        return found


def as_parameters(vectors: Array, n_targets: int) -> Array:
    """Return vectors of the loop in the order of a module's parameters.

    Args:
        vectors: For each target its weights and then its bias, shape (..., P).
        n_targets: Number of targets T.

    Returns:
        The weights, shape (n_features, T), raveled, and then the biases; shape (..., P).
    """
    if n_targets == 1:
        return vectors
    *front, size = vectors.shape
    by_target = vectors.reshape(*front, n_targets, size // n_targets)
    weights, biases = by_target[..., :-1].swapaxes(-1, -2), by_target[..., -1]
    return np.concatenate([weights.reshape(*front, size - n_targets), biases], axis=-1)
