"""The callback that runs the NumPy reference beside training.

From the parameters before an optimizer step and the very batches that were used, the reference
works out loss, gradient and the parameters after the step in float64, and compares. How far the two
may be apart is not a tolerance but a bound on rounding errors, so a deviation is told as a fraction
of its bound and 1.0 is the line. Of many steps on large data, `DatasetRows.sampled` picks some.
"""

import contextlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection
from numpy.typing import NDArray

from trueline.batches import as_batch
from trueline.crosscheck.dataset_rows import DatasetRows
from trueline.crosscheck.expected import ExpectedLr, Interval, expected_judge, expected_schedule
from trueline.crosscheck.record import Reference, Steps, n_rows
from trueline.crosscheck.recorder import Recorder
from trueline.crosscheck.row_count import RowCount, fingerprints, same_kind
from trueline.crosscheck.step_queue import EpochEnd, StepQueue
from trueline.crosscheck.to_numpy import (
    as_array,
    batch_arrays,
    gather,
    is_epoch_whole,
    training_rows,
)
from trueline.crosscheck.unsupported import refuse, unsupported_model, unsupported_settings
from trueline.crosscheck.verdict import Failure, WorstRatios
from trueline.data.blocks import BatchLoader, Block
from trueline.errors import CheckFailed, RequestError
from trueline.module import LinearRegression
from trueline.reference import SGD
from trueline.reference.plateau import ReduceLROnPlateau
from trueline.reference.schedules import Schedule

SAVED_AS = "crosscheck"
"""Entry of a checkpoint. A callback's own state Lightning would miss in a run without the check."""


class CrossCheck(Callback):
    """Holds every step of a training against an independent NumPy reference.

    What is expected is never read from the torch optimizer or its scheduler, which are among the
    judged. For `LinearRegression` it comes from the module's hyperparameters.

    Args:
        reference: Loss and gradient in NumPy.
        optimizer: The update rule, with the lr before any schedule; for parameter groups one for
            each parameter's name, or for a dotted prefix of names.
        on_failure: `raise` stops at the first step that fails; `warn` goes on, and reports.
        schedule: Schedule of the learning rate, if it has one.
        interval: What the schedule counts.
        monitor: Metric that a schedule waiting for a plateau watches. It is taken as found.
        count_rows: Whether each row must be served once an epoch. Rows can be counted where they
            come from a `RegressionData`, or the loader's `dataset` is a `TensorDataset`.

    Raises:
        RequestError: Before training, naming every setting that the reference cannot follow.
        CheckFailed: When a quantity leaves its bound, when a row is served twice or not at all,
            when no step was compared, or when no parameter moved.

    Example:
        >>> from trueline.data import DummyData
        >>> from trueline.module import LinearRegression
        >>> check = CrossCheck()
        >>> trainer = Trainer(accelerator="cpu", precision="64-true", max_epochs=3, logger=False,
        ...     callbacks=[check], enable_checkpointing=False, enable_progress_bar=False,
        ...     enable_model_summary=False)
        >>> trainer.fit(LinearRegression(), DummyData())
        >>> check.report()["passed"], check.report()["steps_checked"]
        (True, 3)
    """

    def __init__(
        self,
        reference: Reference | None = None,
        optimizer: SGD | Mapping[str, SGD] | None = None,
        on_failure: Literal["raise", "warn"] = "raise",
        schedule: Schedule | ReduceLROnPlateau | None = None,
        interval: Interval = "epoch",
        monitor: str = "train/loss",
        count_rows: bool = True,
    ) -> None:
        if on_failure not in ("raise", "warn"):
            raise ValueError(f"on_failure: expected raise or warn; found {on_failure}")
        if interval not in ("step", "epoch"):
            raise ValueError(f"interval: expected step or epoch; found {interval}")
        self.reference = reference
        self.optimizer = optimizer
        self.on_failure = on_failure
        self.schedule = schedule
        self.interval = interval
        self.monitor = monitor
        self.count_rows = count_rows
        self._forget()

    def _forget(self) -> None:
        self._queue: StepQueue | None = None
        self._rows: DatasetRows | None = None
        self._resumed: dict[str, Any] = {}
        self._nothing_learned: str | None = None
        self._told = False

    def report(self) -> dict[str, Any]:
        """Return the verdict.

        Returns:
            `passed`, `steps_checked`, `steps_skipped` (by a loss scale that overflowed),
            `epochs_counted` (whose rows were counted), `worst_ratio`, `worst_ratios` of loss,
            gradient and parameters, and `first_failure`.
        """
        queue = self._queue
        failed = queue.first_failure if queue else None
        failure: Any = failed._asdict() if failed else self._nothing_learned
        worst = queue.worst if queue else WorstRatios()
        counted: Any = queue.rows if queue and queue.rows else self._rows
        return {
            "passed": failure is None and self.steps_checked > 0,
            "steps_checked": self.steps_checked,
            "steps_skipped": queue.steps_skipped if queue else 0,
            "epochs_counted": counted.epochs if counted and self.count_rows else 0,
            "worst_ratio": worst.worst_ratio,
            "worst_ratios": dict(worst.worst),
            "first_failure": failure,
        }

    @property
    def steps_checked(self) -> int:
        """Optimizer steps compared so far."""
        return self._queue.steps_checked if self._queue else 0

    @property
    def knows_executions(self) -> bool:
        """Whether steps may be taken many at once: those of `LinearRegression` may."""
        return all(g is None for g in (self.reference, self.optimizer, self.schedule))

    def watched_steps(self, first: int, steps: int) -> NDArray[np.int64]:
        """Return which steps of the loop are compared, see `DatasetRows.sampled`."""
        assert self._rows is not None
        began = 0 if self._resumed else self._recorder.first_step
        self._compared = self._rows.sampled(self._first_step, first, steps, began)
        return self._compared

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier training."""
        self._forget()

    def check_settings(self, trainer: Trainer) -> None:
        """Refuse, before there is a model, the settings that the reference cannot follow."""
        refuse(unsupported_settings(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to record, or refuse what the reference cannot follow."""
        given = pl_module.hparams, self.schedule, self.interval, self.monitor
        self._schedule, self._interval, self._monitor = expected_schedule(*given)
        model = unsupported_model(trainer, self.reference, self.optimizer, self._schedule)
        refuse(unsupported_settings(trainer) + model)
        self._recorder = Recorder(trainer, pl_module)
        self._metric_due = False

    @np.errstate(all="ignore")  # numbers of a training that diverges overflow
    def _open_queue(self, trainer: Trainer, batch: Any, inside_epoch: bool) -> StepQueue:
        """Begin to judge, now that there is a batch to ask the reference about."""
        loader: Any = trainer.train_dataloader
        if trainer.world_size > 1:  # this process may have no row of it
            batch = next(theirs for theirs in gather(trainer, batch) if n_rows(theirs))
        given = self._recorder.layout, (self._recorder.initial, batch)
        judge = expected_judge(trainer, self.reference, self.optimizer, *given)
        by_number = getattr(loader, "ahead", None) is not None
        all_rows = training_rows(trainer) if self.count_rows and not by_number else None
        counted = same_kind(all_rows, batch)
        rows = RowCount(fingerprints(all_rows), inside_epoch) if counted else None
        if isinstance(loader, BatchLoader):
            dtype = as_array(next(trainer.lightning_module.parameters())).dtype
            batches, window = int(trainer.num_training_batches), trainer.accumulate_grad_batches
            self._rows = DatasetRows(loader, batches, window, dtype)
        bases = [rule.optimizer.lr for rule in judge.rules]
        lr, first = ExpectedLr(bases, self._schedule, self._interval), self._recorder.first_step
        queue = StepQueue(judge, lr, rows, first)
        if self._resumed and first:
            self._restore(queue)
        return queue

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the batch, and look whether the parameters are those that the last step left."""
        if isinstance(batch, Block):
            self._first_step = batch.batch // trainer.accumulate_grad_batches
            example = trainer.train_dataloader.example()  # type: ignore[union-attr]
            arrays = batch_arrays(trainer.precision_plugin.convert_input(example))
        else:
            if type(pl_module) is LinearRegression:
                batch = as_batch(batch, pl_module.hparams["n_features"])
            arrays = self._recorder.start_batch(batch)
        if self._queue is None:
            self._queue = self._open_queue(trainer, arrays, batch_idx > 0)
        self._fail(self._recorder.moved())
        self._observe(trainer)

    def _observe(self, trainer: Trainer) -> None:
        """Tell the schedule the metric after a step or an epoch: the scheduler knows it by now."""
        if self._queue and self._metric_due and self._monitor in trainer.callback_metrics:
            self._queue.lr.observe(float(trainer.callback_metrics[self._monitor]))
        self._metric_due = False

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Note what the step will use."""
        if getattr(pl_module, "execution", None) is None:
            self._recorder.start_step()

    @np.errstate(all="ignore")  # numbers of a training that diverges overflow
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Enter the step when the batch was the last one of its window; of a block, all steps."""
        queue, recorder = self._queue, self._recorder
        assert queue is not None
        epoch, step, steps = trainer.current_epoch, batch_idx // trainer.accumulate_grad_batches, 1
        self._metric_due = self._interval == "step"
        stacks: list[Steps] = []
        if isinstance(batch, Block):
            epoch, step, steps = batch.epoch, self._first_step, pl_module.execution.steps
            given: Any = batch, self._rows, queue.lr, self._compared
            stacks, failures = recorder.end_execution(pl_module.execution, *given)
            self._metric_due &= not queue.lr.waits
        elif recorder.end_batch(outputs):
            one, failures = recorder.end_step(queue.lr.at(trainer.global_step - 1, epoch))
            stacks = [one] if one else []
        else:
            self._metric_due = False
            return
        # Its user froze them. A subclass may do so by mistake; others say by their reference.
        if type(pl_module) is LinearRegression:
            queue.freeze(recorder.frozen)
        for stack in stacks:
            queue.enter(stack)
        if isinstance(batch, Block):
            queue.settle()
        self._fail(*failures)
        if self._rows and self.count_rows and (wrong := self._rows.serve(epoch, step, steps)):
            self._fail(Failure(trainer.global_step, f"rows of epoch {epoch}", cause=wrong))
        queue.log(trainer)
        self._tell()

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Enter the end of an epoch, whose rows are then counted."""
        self._metric_due = self._metric_due or self._interval == "epoch"
        self._recorder.forget_window()  # of an epoch that was left in the middle of one
        if self._queue is not None:
            whole = is_epoch_whole(trainer)
            self._queue.enter(EpochEnd(trainer.current_epoch, whole, trainer.global_step))
            self._tell()

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Fail a training in which nothing was compared or nothing moved."""
        if self._queue is not None:
            self._queue.settle()
            self._queue.log(trainer, at_end=True)
        self.on_fit_end()
        # A training that goes on may have come to where a step is less than a rounding.
        if self.steps_checked and self._recorder.unmoved and not self._recorder.first_step:
            self._fail_empty(
                f"some parameter to move in {self.steps_checked} steps, found none; raise the "
                "learning rate, or train in more precision"
            )

    def on_fit_end(self, *_: Any) -> None:
        """Look once more, after other hooks; and fail a training that had no epochs left."""
        if self._queue is None or not self.steps_checked:
            self._fail_empty("an optimizer step to compare, found none; train for more epochs")
        else:
            self._fail(*self._recorder.at_end(self._queue.first_failure))

    def on_exception(self, *_: Any) -> None:
        """Judge what was entered before a training broke off, for the report."""
        # The last steps of a training that diverges may have no bound. The exception says why.
        with contextlib.suppress(RequestError):
            if self._queue is not None:
                self._queue.settle()

    def _fail(self, *failures: Failure | None) -> None:
        """Note failures that it takes no reference to see."""
        assert self._queue is not None
        for failure in filter(None, failures):
            self._queue.fail(failure)
        self._tell()

    def _fail_empty(self, expected: str) -> None:
        """Note that there was nothing to learn from a training."""
        self._nothing_learned = f"expected {expected}"
        if self.on_failure == "raise":
            raise CheckFailed(f"cross-check failed: {self._nothing_learned}")

    def _tell(self) -> None:
        """Raise or warn when there is a first failure."""
        failure = self._queue.first_failure if self._queue else None
        if failure is None or self._told:
            return
        self._told = True
        if self.on_failure == "raise":
            raise CheckFailed(f"cross-check failed: {failure}")
        rank_zero_warn(f"cross-check failed: {failure}")

    def on_save_checkpoint(self, trainer: Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        """Save what a resumed training is held against: where this one stands."""
        if self._queue is None:
            return
        # Before anything is saved, what it rests on is judged.
        self._queue.settle()
        self._tell()
        self._observe(trainer)
        state = self._recorder.state_dict() | {"verdict": self._queue.state_dict()}
        state["dataset"] = self._rows.state_dict() if self._rows else None
        checkpoint[SAVED_AS] = apply_to_collection(state, np.ndarray, torch.tensor)

    def on_load_checkpoint(self, trainer: Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the state of a checkpoint for the training that goes on from it."""
        state = checkpoint.get(SAVED_AS)
        state = state if isinstance(state, dict) else {}
        self._resumed = apply_to_collection(state, torch.Tensor, torch.Tensor.numpy)

    def _restore(self, queue: StepQueue) -> None:
        """Go on where a checkpoint was made.

        Raises:
            RequestError: When its state is not one that a cross-check has saved.
        """
        try:
            self._recorder.load_state_dict(self._resumed)
            queue.load_state_dict(self._resumed["verdict"])
            if self._rows and (state := self._resumed.get("dataset")):
                self._rows.load_state_dict(state)
                if queue.rows and self._resumed["verdict"]["rows"] is None:
                    served = fingerprints(self._rows.begun())
                    queue.rows.load_state_dict(
                        {"epochs": 0, "orders": {}, **state, "served": served}
                    )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(
                "ckpt_path: expected what the cross-check has saved, found something else in the "
                f"checkpoint ({type(error).__name__}: {error}); use another, or --crosscheck off"
            ) from error
