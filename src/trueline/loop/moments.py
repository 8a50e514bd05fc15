"""The moments of rows: all that steps of least squares need to know of them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trueline.loop import kernels
from trueline.loop.rows import Rows
from trueline.loop.state import Array, Float64

AddUp = Callable[[Float64], Float64]
"""Adds an array up over all processes."""


def alone(sums: Float64) -> Float64:
    """Return sums as they are: there is a single process."""
    return sums


class Moments:
    """The mean of `zᵀz` over all rows, `z = [x, 1, r]`, with the residuals r at an anchor.

    The anchor is the minimum, as exact as the equations of the moments give it. The residuals are
    worked out at the anchor itself, so gradient and loss there are right whatever it is.

    Args:
        rows: Rows of the training.
        dtype: Precision of the training, to which rows are brought first.
        share: First row of this process, and the one after its last.
        add_up: Adds an array up over all processes.

    Attributes:
        mean: Mean of `zᵀz`, float64, shape (1, p + T, p + T).
        anchor: Parameters, float64, shape (P,).
    """

    @np.errstate(all="ignore")  # what the precision does not hold is infinite: so is the loss
    def __init__(
        self, rows: Rows, dtype: Any, share: tuple[int, int], add_up: AddUp = alone
    ) -> None:
        p, T = rows.shape.n_features + 1, rows.shape.n_targets
        sums = np.zeros((p + T, p + T))
        for z, weighted in _joined(rows, share, dtype):
            sums += weighted.T @ z
        sums = add_up(sums)
        scale = np.sqrt(np.diag(sums)[:p])
        scale[scale == 0] = 1
        solved: Array = np.zeros((p, T))
        if np.isfinite(sums).all():
            equations = sums[:p, :p] / scale[:, None] / scale
            solved = np.linalg.lstsq(equations, sums[:p, p:] / scale[:, None], rcond=None)[0]
        # Of one process, lest rounding differs between their machines.
        anchor = add_up(solved / scale[:, None] * (share[0] == 0))
        with_residuals = np.zeros((p + T, T))
        for z, weighted in _joined(rows, share, dtype):
            residuals = z[:, :p] @ anchor - z[:, p:]
            with_residuals[:p] += weighted[:, :p].T @ residuals
            # The weights are in the column of ones.
            with_residuals[p:] += (weighted[:, p - 1 : p] * residuals).T @ residuals
        sums[:, p:] = add_up(with_residuals)
        self.anchor = anchor.T.ravel()
        self.mean = (sums / (sums[p - 1, p - 1] * T))[None]


def _joined(rows: Rows, share: tuple[int, int], dtype: Any) -> Iterator[tuple[Float64, Float64]]:
    """Return rows `[x, 1, y]` in float64, some at a time, and the same times their weights."""
    f, T, weighted, unit = rows.shape
    for Z in rows.chunks(*share):
        z = np.ones((len(Z), f + 1 + T))
        z[:, :f], z[:, f + 1 :] = Z[:, :f].astype(dtype), Z[:, f : f + T].astype(dtype)
        yield z, z * (Z[:, -1:].astype(dtype).astype(np.float64) * unit) if weighted else z


def of_steps(
    rows: Rows, anchor: Float64, dtype: Any, where: tuple[int, int, int], rank: int, world_size: int
) -> Float64:
    """Return the sums of `zᵀz` over this process's share of consecutive steps, and their sizes.

    Args:
        rows: Rows of the training.
        anchor: Parameters at which residuals are taken.
        dtype: Precision of the training.
        where: Epoch, number of the first step in it, and number of steps.
        rank: This process, from 0.
        world_size: Number of processes.

    Returns:
        Shape (steps, (p + T)² + 1), the size of each step in the last column.
    """
    width = rows.shape.n_features + 1 + rows.shape.n_targets
    sums, sizes = np.zeros((where[2], width, width)), np.zeros(where[2])
    like = np.empty(0, dtype)
    for piece in rows.shares(*where, rank, world_size):
        part = slice(piece.first, piece.first + len(piece.bounds) - 1)
        kernels.moments_of_rows(
            tuple(piece), tuple(rows.shape), anchor, like, sums[part], sizes[part]
        )
    return np.column_stack([sums.reshape(where[2], -1), sizes])
