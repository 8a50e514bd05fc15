"""Records what a training does, step by step: the batches, the numbers before, and those after."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from trueline.crosscheck.reading import ModuleState, batch_arrays, gather, loss_scale
from trueline.crosscheck.step import Part, Step
from trueline.crosscheck.verdict import Failure
from trueline.errors import RequestError

Array = NDArray[np.float64]


class Recorder:
    """Puts together, from what Lightning shows at each hook, the steps that a judge can take.

    Args:
        trainer: At the start of its training.
        module: That it trains.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self._trainer = trainer
        self._module = module
        self._precision = str(trainer.precision)
        self._loss_scale = loss_scale(trainer)
        self.first_step = trainer.global_step
        self._state = ModuleState(module, trainer.optimizers[0])
        self.layout = self._state.layout
        self.initial = self.last = self._state.parameters()
        # A training that starts anew has no momentum yet, whatever the optimizer holds.
        self._buffers = self._state.buffers() if self.first_step else None
        self._no_buffers = np.full_like(self.last, np.nan)
        self.frozen: tuple[str, ...] = ()
        self.forget_window()

    @property
    def unmoved(self) -> bool:
        """Whether the parameters are those of the start."""
        return np.array_equal(self.last, self.initial)

    def forget_window(self) -> None:
        """Begin a window of batches anew."""
        self._parts: list[Part] = []
        self._gradient: Array | None = None

    def start_batch(self, batch: Any) -> Any:
        """Note a batch; return it as arrays."""
        # A copy, made before the module has seen the batch: it might change it in place.
        self._parts.append(Part(batch_arrays(batch)))
        return self._parts[-1].batch

    def start_step(self) -> None:
        """Note the gradients and the learning rates that the optimizer will use."""
        self._gradient = self._state.gradients()
        self.frozen = self._state.frozen()
        self._lr = self._state.lrs()

    def end_batch(self, outputs: Any) -> bool:
        """Note the loss of a batch; return whether the batch was the last one of its window.

        Raises:
            RequestError: When training_step did not return its loss.
        """
        if not isinstance(outputs, Mapping) or outputs.get("loss") is None:
            raise RequestError(
                "the cross-check expected training_step to return its loss, found none; return it, "
                "or train without the cross-check (--crosscheck off)"
            )
        asked = self._trainer.accumulate_grad_batches
        # Lightning has divided the loss by the number of batches in a window.
        self._parts[-1].loss = float(outputs["loss"].item()) * asked
        return self._gradient is not None or self._is_full

    @property
    def _is_full(self) -> bool:
        return (
            len(self._parts) == self._trainer.accumulate_grad_batches or self._trainer.is_last_batch
        )

    def end_step(self, lrs: Array) -> tuple[Step | None, list[Failure]]:
        """Close the window.

        Args:
            lrs: The learning rates that are meant, see `Step`.

        Returns:
            The step, with what all processes know of it, if there was one at the right time, and
            what is wrong with it that takes no reference to see.
        """
        trainer, number = self._trainer, self._trainer.global_step
        parts, gradient, asked = self._parts, self._gradient, trainer.accumulate_grad_batches
        full = self._is_full
        before, self.last = self.last, self._state.parameters()
        buffer, self._buffers = self._buffers, self._state.buffers()
        self.forget_window()
        if gradient is None or not full:
            batches = f"{asked} batch" + ("es" if asked > 1 else "")
            when = f"an optimizer step after {batches}, found none"
            if not full:
                when = f"no optimizer step before {batches}, found one"
            return None, [Failure(number, "window", cause=f"expected {when}")]
        failures = []
        if trainer.world_size > 1:
            everyone = gather(trainer, (parts, gradient, self.last))
            parts = [part for theirs in everyone for part in theirs[0]]
            failures += differing([theirs[1:] for theirs in everyone], number)
        skipped = False
        if self._loss_scale is not None:
            skipped = not np.isfinite(gradient).all()
            self._loss_scale = self._loss_scale.after(skipped)
            if (found := loss_scale(trainer)) != self._loss_scale:
                wrong = f"expected {self._loss_scale}, found {found}"
                failures.append(Failure(number, "loss scale", cause=wrong))
        step = Step(
            number=number,
            epoch=trainer.current_epoch,
            parts=parts,
            before=before,
            gradient=gradient,
            after=self.last,
            buffer=buffer,
            buffer_after=self._no_buffers if self._buffers is None else self._buffers,
            lr=self._lr,
            lrs=lrs,
            divisor=asked,
            skipped=skipped,
        )
        return step, failures

    def end_execution(self, number: int) -> tuple[Array | None, Array, list[Failure]]:
        """Note what an execution left.

        Returns:
            The momentum buffers before it, the parameters after it, and what is wrong with them
            that takes no reference to see.
        """
        before = self._buffers
        self.last, self._buffers = self._state.parameters(), self._state.buffers()
        self.frozen = self._state.frozen()
        self.forget_window()
        failures = []
        if self._trainer.world_size > 1:
            everyone = gather(self._trainer, (self.last,))
            failures = differing(everyone, number)
        return before, self.last, failures

    def moved(self) -> Failure | None:
        """Return a failure where the parameters are not, to the bit, what the last step left."""
        before, self.last = self.last, self._state.parameters()
        if self.last.tobytes() == before.tobytes():
            return None
        i = int(np.argmax(self.last.view(np.int64) != before.view(np.int64)))
        return Failure(
            self._trainer.global_step + 1,
            f"{self.layout.name_at(i)} since the last step",
            found=float(self.last[i]),
            expected=float(before[i]),
            bound=0.0,
            ratio=float("inf"),
            cause="not the optimizer but something else changed it",
        )

    def at_end(self, failure: Failure | None) -> list[Failure]:
        """Return what is wrong at the end of a training, in this process or in another.

        Args:
            failure: That this process has found so far.
        """
        # Read anew from the module, which may have been given other parameters.
        self._state = ModuleState(self._module, self._trainer.optimizers[0])
        everyone = gather(self._trainer, (self._state.parameters(), failure))
        failures = [theirs for _, theirs in everyone if theirs is not None]
        failures += differing([theirs[:1] for theirs in everyone], self._trainer.global_step + 1)
        moved = self.moved()
        return [*failures, moved] if moved else failures

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training must have to the bit."""
        return {
            "precision": self._precision,
            "parameters": self.last,
            "buffers": self._buffers,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was made, if its numbers are those of this precision."""
        if state["precision"] != self._precision:
            return
        found, expected = np.shape(state["parameters"]), np.shape(self.last)
        if found != expected:
            raise ValueError(f"expected parameters of shape {expected}, found {found}")
        self.last, self._buffers = state["parameters"], state["buffers"]


def differing(everyone: list[tuple[Array, ...]], number: int) -> list[Failure]:
    """Return a failure for each process whose arrays are not those of process 0, to the bit."""
    wrong = "its gradients or parameters are not those of process 0"
    return [
        Failure(number, f"process {rank}", cause=wrong)
        for rank, theirs in enumerate(everyone)
        if not all(map(np.array_equal, theirs, everyone[0]))
    ]
