"""Counts rows: each row of the training data once an epoch, in an order that is not a replay.

A row is known by a fingerprint of its numbers, so the check sees what reached the model, whatever
sampler, workers and processes it came through.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.record import arrays_of

Fingerprints = NDArray[np.uint64]

ORDERS_KEPT = 100
"""Epochs whose order is remembered, to know it again after a resume: a replay starts at epoch 0."""
ROWS_FOR_REPLAY = 13
"""Number of different rows from which on chance repeats one of 100 orders less than once in 10⁷."""
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ divided by the golden ratio (Knuth, TAOCP 3, 6.4)
_HALF = np.uint64(32)


def fingerprints(batch: Any) -> Fingerprints:
    """Return 64 bits for each row of a batch, from all its arrays.

    Args:
        batch: Arrays of the same length, in a tuple, list or mapping, nested or not.

    Returns:
        Shape (n_rows,).
    """
    flat = [array.reshape(len(array), -1) for array in arrays_of(batch) if array.size]
    if not flat:
        return np.empty(0, np.uint64)
    columns = np.concatenate(flat, axis=1, dtype=np.float64)
    # By halves, so that products of small integers, whose low bits as floats are all zero, still
    # reach the high bits of the sum (multilinear hashing, Lemire & Kaser 2014).
    halves = columns.view(np.uint32)
    rows: Fingerprints = np.einsum(
        "ij,j->i", halves, _multipliers(halves.shape[1]), dtype=np.uint64, casting="unsafe"
    )
    return (rows ^ (rows >> _HALF)) * _MIX


@cache
def _multipliers(n: int) -> Fingerprints:
    """Return n odd numbers of 64 bits, drawn once and for all."""
    drawn = np.random.default_rng(0).integers(0, 2**64, n, dtype=np.uint64)
    return drawn | np.uint64(1)


def same_kind(rows: Any, batch: Any) -> bool:
    """Return whether the rows of a batch can be known among all rows: by the same arrays."""
    found, all_rows = arrays_of(batch), arrays_of(rows)
    shapes = [array.shape[1:] for array in found] == [array.shape[1:] for array in all_rows]
    return bool(found) and shapes and len({len(array) for array in found}) == 1


def listed(rows: NDArray[np.int64], said: str) -> str:
    """Say something of some rows by their numbers; nothing of no rows.

    Example:
        >>> listed(np.array([3, 7]), "never served"), listed(np.array([]), "never served")
        ('rows 3, 7 never served', '')
    """
    if not len(rows):
        return ""
    numbers = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
    return f"row{'s' if len(rows) > 1 else ''} {numbers} {said}"


class RowCount:
    """Counts the rows of each epoch against those that there are.

    Args:
        expected: Fingerprints of all rows.
        inside_epoch: Whether counting begins inside an epoch, whose first rows it did not see.
    """

    def __init__(self, expected: Fingerprints, inside_epoch: bool = False) -> None:
        self._inside_epoch = inside_epoch
        self._n = len(expected)
        self._kinds, self._first, self._there = np.unique(
            expected, return_index=True, return_counts=True
        )
        self.epochs = 0
        self.foreign_step: int | None = None
        self._served: list[Fingerprints] = []
        self._steps: list[int] = []
        self._orders: dict[str, int] = {}
        self._resumed = self._ended_before = False

    def serve(self, batches: list[Any], steps: list[int]) -> None:
        """Note batches that were served.

        Args:
            batches: The batches, in order.
            steps: Number of the step that each was served for.
        """
        if not batches:
            return
        # All rows at once: NumPy takes about as long for a hundred batches as for one.
        parts = [arrays_of(batch) for batch in batches]
        rows = fingerprints([np.concatenate(arrays) for arrays in zip(*parts, strict=True)])
        self._served += np.split(rows, np.cumsum([len(arrays[0]) for arrays in parts])[:-1])
        self._steps += steps

    def end_epoch(self, epoch: int, whole: bool) -> str | None:
        """Judge an epoch; return what is wrong with it, if anything.

        For a row that is not in the data, `foreign_step` is the first step that got one.

        Args:
            epoch: Number of the epoch.
            whole: Whether it ran to its end; where it was cut short, rows may be missing.
        """
        ended_before, self._ended_before = self._ended_before, False
        if not self._served:
            # Resumed after an epoch's last step, and before its end: its rows have been counted.
            return None if ended_before or not whole else "no row was served"
        parts, steps = self._served, self._steps
        self._served, self._steps = [], []
        served = np.concatenate(parts)
        whole, self._inside_epoch = whole and not self._inside_epoch, False
        self.epochs += whole
        kinds, times = np.unique(served, return_counts=True)
        right = np.array_equal(kinds, self._kinds) and np.array_equal(times, self._there)
        if whole and right:
            return self._replay(served, epoch)
        for step, rows in zip(steps, parts, strict=True):
            if not np.isin(rows, self._kinds).all():
                self.foreign_step = step
                return "a row was served that is not in the data"
        return self._wrong_counts(served, whole)

    def _wrong_counts(self, served: Fingerprints, whole: bool) -> str | None:
        """Say which rows were served too often, and which not often enough."""
        there = self._there
        times = np.bincount(np.searchsorted(self._kinds, served), minlength=len(there))
        wrong = []
        for many, which in ((True, times > there), (False, (times < there) & whole)):
            said = "served more than once" if many else "never served"
            if (there[which] > 1).any():
                said = "served too often" if many else "served too seldom"
            wrong.append(listed(np.sort(self._first[which]), said))
        return "; ".join(filter(None, wrong)) or None

    def _replay(self, served: Fingerprints, epoch: int) -> str | None:
        """Tell the first epoch after a resume that visits the rows in the order of an earlier."""
        order, after_resume = _order_of(served), self._resumed
        earlier, self._resumed = self._orders.get(order), False
        if len(self._orders) < ORDERS_KEPT:
            self._orders.setdefault(order, epoch)
        shuffled = len(self._orders) > 1 and len(self._kinds) >= ROWS_FOR_REPLAY
        if earlier is None or not after_resume or not shuffled:
            return None
        which = f"epoch {earlier}" if earlier >= 0 else "the epoch before"
        return f"the rows came in the order of {which} again: the shuffle was replayed"

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: the orders so far, and rows served this epoch."""
        served = np.concatenate([*self._served, np.empty(0, np.uint64)])
        return {
            "epochs": self.epochs,
            "orders": dict(self._orders),
            "served": served.view(np.int64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting where a checkpoint was made."""
        self._inside_epoch = False
        self.epochs = state["epochs"]
        self._orders = dict(state["orders"])
        served = np.asarray(state["served"]).view(np.uint64)
        whole = self._ended_before = len(served) >= self._n
        if whole:
            # Saved between an epoch's last step and its end: the next rows are those of another.
            self._orders.setdefault(_order_of(served), -1)
        self._served = [served] if len(served) and not whole else []
        self._steps = [0] * len(self._served)
        self._resumed = not self._served


def _order_of(rows: Fingerprints) -> str:
    return hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest()
