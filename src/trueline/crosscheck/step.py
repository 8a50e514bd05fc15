"""A step of training as the judge sees it, and what it needs to judge one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.rows import arrays_of
from trueline.reference import SGD

Array = NDArray[np.float64]
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
class Part:
    """A batch that went into a step, and the loss that training found over it.

    Args:
        batch: Its tensors as arrays.
        loss: None until training has found it.
    """

    batch: Any
    loss: float | None = None


@dataclass(slots=True)
class Step:
    """One optimizer step as training did it; vectors are laid out by a `Layout`.

    Args:
        number: Counted from 1.
        epoch: Counted from 0.
        parts: The batches that it used: of all accumulated parts, and of all processes.
        before: Parameters before the step.
        gradient: As the optimizer got it, before clipping.
        after: Parameters after the step.
        buffer: Momentum buffers before the step; None at the first one.
        buffer_after: Those after it; nan where there is none.
        lr: That the optimizer used for each entry; nan where no group has the parameter.
        lrs: The learning rate that is meant for each rule, and a bound on its error; shape
            (n_rules, 2).
        divisor: What Lightning divides each loss by, the asked number of parts in a window.
        skipped: Whether a loss scale that was too large made the optimizer skip it.
    """

    number: int
    epoch: int
    parts: list[Part]
    before: Array
    gradient: Array
    after: Array
    buffer: Array | None
    buffer_after: Array
    lr: Array
    lrs: Array
    divisor: int = 1
    skipped: bool = False

    @property
    def numbers(self) -> int:
        """How many numbers its batches hold."""
        return sum(np.size(array) for part in self.parts for array in arrays_of(part.batch))


@dataclass(frozen=True)
class Rule:
    """The update rule that is meant for some of the parameters.

    Args:
        names: Of the parameters.
        entries: Where they are in the vector.
        optimizer: The update rule; its lr is the one before any schedule.
        l1: Strength of the L1 penalty on each of the entries; 0 where none of them has one.
    """

    names: list[str]
    entries: Any
    optimizer: SGD
    l1: Array | float
