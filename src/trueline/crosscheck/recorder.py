"""Records what a training does: the batches of steps, the numbers before them, and those after."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from trueline.crosscheck.dataset_rows import DatasetRows
from trueline.crosscheck.expected import ExpectedLr
from trueline.crosscheck.record import MicroBatch, Steps, map_arrays
from trueline.crosscheck.to_numpy import ModuleState, batch_arrays, gather, loss_scale
from trueline.crosscheck.verdict import Failure
from trueline.data.blocks import Block
from trueline.errors import RequestError
from trueline.loop.state import StepResult

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]


class Recorder:
    """Puts together, from what Lightning shows at each hook, the steps that a judge can take.

    Args:
        trainer: Trainer at the start of its training.
        module: Module that it trains.

    Attributes:
        last: Parameters that the latest step has left.
        buffers: Momentum buffers that it has left; nan where there is none.
        frozen: Names of the parameters that the latest step was to leave alone.
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
        none = np.full_like(self.last, np.nan)
        self.buffers = self._state.buffers() if self.first_step else none
        self.frozen: tuple[str, ...] = ()
        self.forget_window()

    @property
    def unmoved(self) -> bool:
        """Whether the parameters are those of the start."""
        return np.array_equal(self.last, self.initial)

    def forget_window(self) -> None:
        """Begin a window of batches anew."""
        self._parts: list[tuple[Any, float]] = []
        self._gradient: Array | None = None

    def start_batch(self, batch: Any) -> Any:
        """Note a batch; return it as arrays."""
        # A copy, made before the module has seen the batch: it might change it in place.
        self._parts.append((batch_arrays(batch), np.nan))
        return self._parts[-1][0]

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
        self._parts[-1] = self._parts[-1][0], float(outputs["loss"].item()) * asked
        return self._gradient is not None or self._is_full

    @property
    def _is_full(self) -> bool:
        asked = self._trainer.accumulate_grad_batches
        return len(self._parts) == asked or self._trainer.is_last_batch

    def end_step(self, lrs: Array) -> tuple[Steps | None, list[Failure]]:
        """Close the window.

        Args:
            lrs: Expected learning rates, shape (n_rules, 2).

        Returns:
            The step, with what all processes know of it, if there was one at the right time, and
            what is wrong with it that takes no reference to see.
        """
        trainer, number = self._trainer, self._trainer.global_step
        parts, gradient, asked = self._parts, self._gradient, trainer.accumulate_grad_batches
        full = self._is_full
        before, buffer = self.last, self.buffers
        self.last, self.buffers = self._state.parameters(), self._state.buffers()
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
            failures += _differing([theirs[1:] for theirs in everyone], number)
        skipped = False
        if self._loss_scale is not None:
            skipped = not np.isfinite(gradient).all()
            self._loss_scale = self._loss_scale.after(skipped)
            if (found := loss_scale(trainer)) != self._loss_scale:
                wrong = f"expected {self._loss_scale}, found {found}"
                failures.append(Failure(number, "loss scale", cause=wrong))
        step = Steps(
            numbers=np.array([number]),
            epochs=np.array([trainer.current_epoch]),
            parts=[
                MicroBatch(map_arrays(lambda array: array[None], batch), np.array([loss]))
                for batch, loss in parts
            ],
            before=before[None],
            gradient=gradient[None],
            after=self.last[None],
            buffer=buffer[None],
            buffer_after=self.buffers[None],
            lr=self._lr[None],
            lrs=lrs[None],
            divisor=asked,
            skipped=skipped,
        )
        return step, failures

    def end_execution(
        self, result: StepResult, block: Block, rows: DatasetRows, lr: ExpectedLr, compared: Numbers
    ) -> tuple[list[Steps], list[Failure]]:
        """Note what the loop has done.

        Args:
            result: Steps of the loop.
            block: Batches that were served for them.
            rows: Rows of the training, by their numbers.
            lr: Expected learning rates.
            compared: Numbers of the steps that are compared, from 0.

        Returns:
            These steps, and what is wrong with them that takes no reference to see.
        """
        trainer, before = self._trainer, self.buffers
        last, self.buffers = self._state.parameters(), self._state.buffers()
        failures = self._not_handed_on(result, last)
        failures += _differing(gather(trainer, (last,)), trainer.global_step)
        self.last, self.frozen = last, self._state.frozen()
        self.forget_window()
        first, step = trainer.global_step - result.steps, block.batch
        step //= trainer.accumulate_grad_batches
        numbers, epochs = first + compared, block.epoch + (step + compared) // rows.steps_per_epoch
        by_loss = lr.waits and lr.interval == "step"
        lrs = lr.along(result.losses)[compared] if by_loss else lr.of_steps(numbers, epochs)
        none, at = np.full(result.before.shape, np.nan), result.select(compared)
        arrays = {
            "numbers": numbers + 1,
            "epochs": epochs,
            "before": result.before[at],
            "gradient": result.gradient[at],
            "after": result.after[at],
            "buffer": (none if result.buffer is None else result.buffer)[at],
            "buffer_after": (none if result.buffer_after is None else result.buffer_after)[at],
            "lr": result.lrs[compared, None],
            "lrs": lrs,
        }
        arrays["buffer"][compared == 0] = before
        arrays["buffer_after"][compared == result.steps - 1] = self.buffers
        found, from_moments = [], result.anchor is not None
        for which, batch, moments in rows.batches(block.epoch, step + compared, from_moments):
            parts = [MicroBatch(batch, result.losses[compared[which]])]
            given: Any = {name: array[which] for name, array in arrays.items()}
            given |= {"without_penalty": True, "anchor": result.anchor, "moments": moments}
            found.append(Steps(parts=parts, **given))
        return found, failures

    def _not_handed_on(self, result: StepResult, last: Array) -> list[Failure]:
        """Return what is wrong where a step began elsewhere than the one before it ended.

        Args:
            result: Steps of the loop, which began where the steps before them ended.
            last: Parameters of the module after the steps.
        """
        ends = np.concatenate([self.last[None], result.after])
        starts = np.concatenate([result.before, last[None]])
        follows = np.diff(result.at, prepend=-1, append=result.steps) == 1
        differ = (ends.view(np.int64) != starts.view(np.int64)).any(axis=1) & follows
        if not differ.any():
            return []
        k, steps = int(np.argmax(differ)), [*result.at, result.steps]
        step = self._trainer.global_step - result.steps + int(steps[k]) + 1
        return [self._moved_from(ends[k], starts[k], step)]

    def moved(self) -> Failure | None:
        """Return a failure where the parameters are not, to the bit, what the last step left."""
        before, self.last = self.last, self._state.parameters()
        if self.last.tobytes() == before.tobytes():
            return None
        return self._moved_from(before, self.last, self._trainer.global_step + 1)

    def _moved_from(self, expected: Array, found: Array, step: int) -> Failure:
        i = int(np.argmax(found.view(np.int64) != expected.view(np.int64)))
        return Failure(
            step,
            f"{self.layout.name_at(i)} since the last step",
            found=float(found[i]),
            expected=float(expected[i]),
            bound=0.0,
            ratio=float("inf"),
            cause="not the optimizer but something else changed it",
        )

    def at_end(self, failure: Failure | None) -> list[Failure]:
        """Return what is wrong at the end of a training, in this process or in another.

        Args:
            failure: First failure that this process has found.
        """
        # Read anew from the module, which may have been given other parameters.
        self._state = ModuleState(self._module, self._trainer.optimizers[0])
        everyone = gather(self._trainer, (self._state.parameters(), failure))
        failures = [theirs for _, theirs in everyone if theirs is not None]
        failures += _differing([theirs[:1] for theirs in everyone], self._trainer.global_step + 1)
        moved = self.moved()
        return [*failures, moved] if moved else failures

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training must have to the bit."""
        buffers = None if np.isnan(self.buffers).all() else self.buffers
        return {"precision": self._precision, "parameters": self.last, "buffers": buffers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was made, if its numbers are those of this precision."""
        if state["precision"] != self._precision:
            return
        found, expected = np.shape(state["parameters"]), np.shape(self.last)
        if found != expected:
            raise ValueError(f"expected parameters of shape {expected}, found {found}")
        self.last, buffers = state["parameters"], state["buffers"]
        self.buffers = np.full_like(self.last, np.nan) if buffers is None else buffers


def _differing(everyone: list[tuple[Array, ...]], number: int) -> list[Failure]:
    """Return a failure for each process whose arrays are not those of process 0, to the bit."""
    wrong = "its gradients or parameters are not those of process 0"
    return [
        Failure(number, f"process {rank}", cause=wrong)
        for rank, theirs in enumerate(everyone)
        if not all(map(np.array_equal, theirs, everyone[0]))
    ]
