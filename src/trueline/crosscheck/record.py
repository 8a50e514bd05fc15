"""Steps of a training as the judge sees them: arrays with an axis of steps in front."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trueline.reference.moments import Moments

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
Parameters = Mapping[str, Array]


class Reference(Protocol):
    """What can judge a LightningModule: its loss and gradient once more, in NumPy.

    `parameters` maps the module's parameter names to float64 arrays of their shapes; `batch` is the
    training batch with each tensor an array, floating ones in float64.

    Two more methods and an attribute are used where a reference has them.
    `rounding_bound(parameters, batch, arithmetic)` returns a bound on the loss and on each
    gradient; without it the bound is worked out by running error analysis. `size(batch)` returns
    how much a batch counts beside others when gradients are accumulated; without it, its number of
    rows. `thresholds` maps a parameter's name to the strength of its L1 penalty: the loss has the
    penalty, the gradient has not, and the step takes it by a soft threshold.
    """

    def loss_and_gradient(
        self, parameters: Parameters, batch: Any
    ) -> tuple[float, Mapping[str, Array]]:
        """Return the objective, a mean over the rows of the batch, and its gradients.

        A parameter that has no entry among the gradients is one that training must not change.
        """


@dataclass(slots=True)
class MicroBatch:
    """A batch of each step: one of those whose gradients the step accumulated.

    Args:
        batch: Arrays, in tuples and dicts; None for steps that take in all of many rows.
        losses: Loss that training found over it, shape (n,).
    """

    batch: Any
    losses: Array


@dataclass(slots=True)
class Steps:
    """A stack of n optimizer steps as training did them, in one kind of batches.

    All arrays have an axis of steps in front. Vectors are laid out by a `ParameterVector`.

    Args:
        numbers: Numbers of the steps, counted from 1.
        epochs: Epoch of each step, counted from 0.
        parts: Batches of the steps: all that were accumulated, of all processes.
        before: Parameters before each step, shape (n, P).
        gradient: Gradient as the optimizer got it, before clipping, shape (n, P).
        after: Parameters after each step, shape (n, P).
        buffer: Momentum buffers before each step, shape (n, P); nan where there is none yet.
        buffer_after: Momentum buffers after each step, in the same form.
        lr: Learning rate used for each entry, shape (n, P), nan where no group has the parameter;
            or for all, shape (n, 1).
        lrs: Expected learning rate of each rule, and a bound on its error, shape (n, n_rules, 2).
        divisor: Number of batches that Lightning divides each loss by.
        skipped: Whether a loss scale that was too large made the optimizer skip the steps.
        without_penalty: Whether the losses leave the penalty out, as those of the loop do.
        anchor: Parameters around which training took moments, shape (P,); None for steps from rows.
        moments: Moments of all rows, worked out by the judge, where steps take in all of many rows.
    """

    numbers: Numbers
    epochs: Numbers
    parts: list[MicroBatch]
    before: Array
    gradient: Array
    after: Array
    buffer: Array
    buffer_after: Array
    lr: Array
    lrs: Array
    divisor: int = 1
    skipped: bool = False
    without_penalty: bool = False
    anchor: Array | None = None
    moments: Moments | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def kind(self) -> Any:
        """What two stacks must share to become one."""
        parts = [[a.shape[1:] for a in arrays_of(part.batch)] for part in self.parts]
        return parts, self.divisor, self.skipped, self.anchor is None

    def one(self, k: int) -> "Steps":
        """Return step k as a stack of one."""
        part = slice(k, k + 1)
        parts = [
            MicroBatch(map_arrays(lambda a: a[part], each.batch), each.losses[part])
            for each in self.parts
        ]
        arrays: Any = {name: getattr(self, name)[part] for name in ARRAYS}
        return dataclasses.replace(self, parts=parts, **arrays)


ARRAYS = (
    *("numbers", "epochs", "before", "gradient", "after", "buffer", "buffer_after", "lr", "lrs"),
)


def stacked(stacks: Sequence[Steps]) -> Steps:
    """Return stacks of one kind as one."""
    if len(stacks) == 1:
        return stacks[0]
    arrays: Any = {name: np.concatenate([getattr(s, name) for s in stacks]) for name in ARRAYS}
    parts = [
        MicroBatch(
            map_arrays(lambda *a: np.concatenate(a), *(part.batch for part in same)),
            np.concatenate([part.losses for part in same]),
        )
        for same in zip(*(s.parts for s in stacks), strict=True)
    ]
    return dataclasses.replace(stacks[0], parts=parts, **arrays)


def map_arrays(function: Callable[..., Any], *batches: Any) -> Any:
    """Apply a function to each array of a batch, or to each set of arrays of batches alike."""
    first = batches[0]
    if isinstance(first, np.ndarray):
        return function(*batches)
    if isinstance(first, Mapping):
        return {key: map_arrays(function, *(b[key] for b in batches)) for key in first}
    if isinstance(first, list | tuple):
        return tuple(map_arrays(function, *parts) for parts in zip(*batches, strict=True))
    return first


def arrays_of(batch: Any) -> list[NDArray[Any]]:
    """Return the arrays in a batch that have rows."""
    found: list[NDArray[Any]] = []
    map_arrays(lambda array: found.append(array) if array.ndim else None, batch)
    return found


def n_rows(batch: Any) -> int:
    """Return the number of rows of a batch: the length of the first array in it; 1 without any."""
    arrays = arrays_of(batch)
    return len(arrays[0]) if arrays else 1


def step_of(batch: Any, k: int) -> Any:
    """Return the batch of one step of a stack."""
    return map_arrays(lambda array: array[k], batch)
