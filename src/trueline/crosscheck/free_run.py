"""The reference on its own way from the first step, and how far training may be from it by now."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.judge import Judge
from trueline.crosscheck.step import Step
from trueline.crosscheck.verdict import Quantity
from trueline.reference import LeastSquares
from trueline.reference.free_run import Ellipsoid, step_map

Array = NDArray[np.float64]


class FreeRun:
    """Trains beside the training, from the same start and the same batches.

    Args:
        judge: Of the steps; see `possible`.
        parameters: Before the first step.
    """

    def __init__(self, judge: Judge, parameters: Array) -> None:
        self.judge = judge
        self.parameters = parameters
        self.buffer: Array | None = None
        self.ellipsoid = Ellipsoid(2 * len(parameters))

    def state_dict(self) -> dict[str, Any]:
        """Return where the reference stands, for a training that goes on from a checkpoint."""
        shape = self.ellipsoid.shape
        return {"parameters": self.parameters, "buffer": self.buffer, "shape": shape}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was made."""
        self.parameters, self.buffer = state["parameters"], state["buffer"]
        self.ellipsoid.shape = state["shape"]

    @staticmethod
    def possible(judge: Judge) -> bool:
        """Return whether a step is an affine map: no L1 penalty, no clipping, one update rule."""
        reference = judge.reference
        affine = isinstance(reference, LeastSquares) and not reference.thresholds
        return affine and judge.clipping is None and len(judge.rules) == 1 and not judge.frozen

    def advance(self, step: Step, compared: list[Quantity]) -> Quantity:
        """Take the step from where the reference is, and compare with where training is.

        Args:
            step: What training did.
            compared: What the one-step check compared; its bounds are what a step adds.
        """
        optimizer = replace(self.judge.rules[0].optimizer, lr=float(step.lrs[0, 0]))
        own = replace(step, before=self.parameters)
        gradient = self.judge.window(own)[2]
        first = self.buffer is None
        self.parameters, self.buffer = optimizer.step(self.parameters, gradient, self.buffer)
        added = {quantity.kind: quantity.bound for quantity in compared}
        zero = np.zeros_like(self.parameters)
        bound = np.concatenate([added["parameter"], added.get("momentum", zero)])
        self.ellipsoid.advance(step_map(optimizer, self._hessian(step), first), bound)
        allowed = self.ellipsoid.bound()[: len(self.parameters)]
        return Quantity("free run", step.after, self.parameters, allowed)

    def _hessian(self, step: Step) -> Array:
        reference: Any = self.judge.reference
        sizes = [self.judge.size(part.batch) for part in step.parts]
        shares = zip(step.parts, sizes, strict=True)
        H: Any = sum(size / sum(sizes) * reference.hessian(p.batch) for p, size in shares if size)
        # The targets share X, and weight lies with its targets side by side, the bias after it.
        return np.kron(H, np.eye(len(self.parameters) // len(H)))
