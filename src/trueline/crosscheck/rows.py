"""Counts rows: each row of the training data once an epoch, in an order that is not a replay.

A row is known by a fingerprint of its numbers, so the check sees what reached the model, whatever
sampler, workers and processes it came through.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Fingerprints = NDArray[np.uint64]

ORDERS_KEPT = 100
"""Epochs whose order is remembered, to know it again after a resume: a replay starts at epoch 0."""
ROWS_FOR_REPLAY = 13
"""From so many different rows on, chance repeats one of 100 orders less than once in 10⁷."""
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ divided by the golden ratio (Knuth, TAOCP 3, 6.4)
_HALF = np.uint64(32)


def fingerprints(batch: Any) -> Fingerprints:
    """Return 64 bits for each row of a batch, from all its arrays.

    Args:
        batch: Arrays of the same length, in a tuple, list or mapping, nested or not.

    Returns:
        Shape (n_rows,).
    """
    columns = np.concatenate([_columns(array) for array in arrays_of(batch)], axis=1)
    bits = columns.view(np.uint64)
    # Mixed by itself first: the low bits of small integers, as floats, are all zero.
    bits = (bits ^ (bits >> _HALF)) * _MIX
    place = np.arange(1, 2 * bits.shape[1], 2, dtype=np.uint64) * _MIX
    rows: Fingerprints = ((bits ^ (bits >> _HALF)) * place).sum(axis=1, dtype=np.uint64)
    return (rows ^ (rows >> _HALF)) * _MIX


def arrays_of(batch: Any) -> list[NDArray[Any]]:
    """Return the arrays in a batch that have rows."""
    if isinstance(batch, np.ndarray):
        return [batch] if batch.ndim else []
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return [array for part in batch for array in arrays_of(part)]
    return []


def n_rows(batch: Any) -> int:
    """Return the number of rows of a batch: the length of the first array in it; 1 without any."""
    arrays = arrays_of(batch)
    return len(arrays[0]) if arrays else 1


def _columns(array: NDArray[Any]) -> NDArray[np.float64]:
    return array.astype(np.float64, copy=False).reshape(len(array), -1)


class RowCount:
    """Counts the rows of each epoch against those that there are.

    Args:
        expected: Fingerprints of all rows.
    """

    def __init__(self, expected: Fingerprints) -> None:
        self.expected = expected
        self._sorted = np.sort(expected)
        distinct = 1 + np.count_nonzero(np.diff(self._sorted))
        self._replay_is_telling = distinct >= ROWS_FOR_REPLAY
        self.epochs = 0
        self._served: list[Fingerprints] = []
        self._good = np.empty(0, np.uint64)
        self._orders: dict[str, int] = {}
        self._resumed = False

    def recognise(self, batches: list[Any]) -> list[Fingerprints]:
        """Return the fingerprints of the rows of each batch."""
        if not batches:
            return []
        parts = [arrays_of(batch) for batch in batches]
        together = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        rows, found, start = fingerprints(together), [], 0
        for arrays in parts:
            found.append(rows[start : start + len(arrays[0])])
            start += len(arrays[0])
        return found

    def known(self, batches: list[Fingerprints]) -> bool:
        """Return whether all rows of some batches are among those that there are."""
        rows = np.concatenate([*batches, np.empty(0, np.uint64)])
        at = np.searchsorted(self._sorted, rows).clip(max=len(self._sorted) - 1)
        return bool((self._sorted[at] == rows).all())

    def serve(self, batches: list[Fingerprints]) -> None:
        """Note the rows of a step."""
        self._served += batches

    def end_epoch(self, epoch: int, whole: bool) -> str | None:
        """Judge an epoch; return what is wrong with it, if anything.

        Args:
            epoch: Its number.
            whole: Whether it ran to its end; where it was cut short, rows may be missing.
        """
        if not self._served:
            return None  # resumed after the epoch's last step: an earlier run has counted it
        served = self._served[0] if len(self._served) == 1 else np.concatenate(self._served)
        self._served = []
        if whole:
            self.epochs += 1
            if np.array_equal(served, self._good) and not self._resumed:
                return None
            if np.array_equal(np.sort(served), self._sorted):
                self._good = served
                return self._replay(served, epoch)
        return self._wrong_counts(served, whole)

    def _wrong_counts(self, served: Fingerprints, whole: bool) -> str | None:
        """Say which rows were served too often, and which not often enough."""
        if not self.known([served]):
            return None  # that has been told at the step that served it
        kinds, first, there = np.unique(self.expected, return_index=True, return_counts=True)
        times = np.bincount(np.searchsorted(kinds, served), minlength=len(kinds))[: len(kinds)]
        wrong = []
        for many, which in ((True, times > there), (False, (times < there) & whole)):
            rows = np.sort(first[which])
            if len(rows):
                listed = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
                said = "served more than once" if many else "never served"
                if (there[which] > 1).any():
                    said = "served too often" if many else "served too seldom"
                wrong.append(f"row{'s' if len(rows) > 1 else ''} {listed} {said}")
        return "; ".join(wrong) or None

    def _replay(self, served: Fingerprints, epoch: int) -> str | None:
        """Tell the first epoch after a resume that visits the rows in the order of an earlier."""
        order = hashlib.blake2b(served.tobytes(), digest_size=8).hexdigest()
        earlier, after_resume = self._orders.get(order), self._resumed
        self._resumed = False
        if len(self._orders) < ORDERS_KEPT:
            self._orders.setdefault(order, epoch)
        shuffled = len(self._orders) > 1
        if earlier is not None and after_resume and shuffled and self._replay_is_telling:
            return f"the rows came in the order of epoch {earlier} again: the shuffle was replayed"
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: the orders so far, and rows served this epoch."""
        served = np.concatenate([*self._served, np.empty(0, np.uint64)])
        return {"orders": dict(self._orders), "served": served.view(np.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting where a checkpoint was made."""
        self._orders = dict(state["orders"])
        served = np.asarray(state["served"]).view(np.uint64)
        # Saved between an epoch's last step and its end: the next rows are those of another epoch.
        self._served = [served] if 0 < len(served) < len(self.expected) else []
        self._resumed = not self._served
