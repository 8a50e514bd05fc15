"""The callback that runs the NumPy reference in lockstep with training.

At an optimizer step the reference takes the parameters before the step and the very batches that
were used, works out loss, gradient and the parameters after the step in float64, and compares. How
far the two may be apart is not a tolerance but a bound on rounding errors, so a deviation is told
as a fraction of its bound and 1.0 is the line. Between steps the parameters must not change by a
bit, and every epoch must serve each row once. Every step is compared, but for many steps at once on
large data, of which `trace.chosen` picks some.
"""

import contextlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from trueline.batches import as_batch
from trueline.crosscheck.learning_rate import Interval, MeantLr
from trueline.crosscheck.ledger import EpochEnd, Ledger
from trueline.crosscheck.meant import meant_judge, meant_schedule
from trueline.crosscheck.outcome import Outcome
from trueline.crosscheck.reading import batch_arrays, gather, is_epoch_whole, training_rows
from trueline.crosscheck.recorder import Recorder
from trueline.crosscheck.refusals import refuse, refused_in_model, refused_settings
from trueline.crosscheck.rows import RowCount, fingerprints, n_rows, same_kind
from trueline.crosscheck.saved_state import restore, save, saved_in
from trueline.crosscheck.served import Served
from trueline.crosscheck.stack import chosen, stacks_of
from trueline.crosscheck.step import Reference
from trueline.crosscheck.verdict import Failure
from trueline.data.blocks import BatchLoader, Block
from trueline.errors import RequestError
from trueline.loop.rows import Rows
from trueline.many_steps.rows import rows_of
from trueline.module import LinearRegression
from trueline.reference import SGD
from trueline.reference.plateau import ReduceLROnPlateau
from trueline.reference.schedules import Schedule


class CrossCheck(Callback):
    """Holds every step of a training against an independent NumPy reference.

    What is meant is never read from the torch optimizer or its scheduler, which are among the
    judged. For `LinearRegression` it comes from the module's hyperparameters.

    Args:
        reference: Loss and gradient in NumPy.
        optimizer: The update rule, with the lr before any schedule; for parameter groups one for
            each parameter's name, or for a dotted prefix of names.
        on_failure: `raise` stops at the first step that fails; `warn` goes on, and reports.
        schedule: What changes the learning rate, if anything does.
        interval: What the schedule counts.
        monitor: The metric that a schedule waiting for a plateau watches. It is taken as found.
        count_rows: Whether each row must be served once an epoch. It can be counted where the
            training loader's `dataset` is a `TensorDataset`, and is unless this is False.

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

    def report(self) -> dict[str, Any]:
        """Return the verdict.

        Returns:
            `passed`, `steps_checked`, `steps_skipped` (by a loss scale that overflowed),
            `epochs_counted` (whose rows were counted), `worst_ratio`, `worst_ratios` of loss,
            gradient and parameters, and `first_failure`.
        """
        return self._outcome.report(self._served.epochs if self._served else 0)

    @property
    def ledger(self) -> Ledger | None:
        """The steps of this training and the verdict on them, once there is a batch."""
        return self._outcome.ledger

    @property
    def steps_checked(self) -> int:
        """Optimizer steps compared so far."""
        return self._outcome.steps_checked

    @property
    def knows_executions(self) -> bool:
        """Whether steps may be taken many at once: those of `LinearRegression` may."""
        given = self.reference, self.optimizer, self.schedule
        return all(one is None for one in given)

    def watched_steps(self, first: int, steps: int) -> NDArray[np.int64]:
        """Return which steps of the loop are compared, see `chosen`."""
        began = 0 if self._resumed else self._recorder.first_step
        assert self._served is not None
        return chosen(self._served, first, steps, began)

    def _forget(self) -> None:
        self._outcome = Outcome(self.on_failure)
        self._resumed: dict[str, Any] = {}
        self._served: Served | None = None
        self._rows: Rows | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier training."""
        self._forget()

    def check_settings(self, trainer: Trainer) -> None:
        """Refuse, before there is a model, the Trainer's settings that the reference cannot follow.

        Raises:
            RequestError: Naming all of them.
        """
        refuse(refused_settings(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to record, or refuse what the reference cannot follow."""
        given = self.schedule, self.interval, self.monitor
        self._schedule, self._interval, self._monitor = meant_schedule(pl_module.hparams, *given)
        model = refused_in_model(trainer, self.reference, self.optimizer, self._schedule)
        refuse(refused_settings(trainer) + model)
        self._recorder = Recorder(trainer, pl_module)
        self._metric_due = False
        self._outcome.logged = trainer.global_step

    @np.errstate(all="ignore")  # numbers of a training that diverges overflow
    def _open_ledger(
        self, trainer: Trainer, batch: Any, inside_epoch: bool, all_rows: Any
    ) -> Ledger:
        """Begin to judge, now that there is a batch to ask the reference about."""
        if trainer.world_size > 1:  # this process may have no row of it
            batch = next(theirs for theirs in gather(trainer, batch) if n_rows(theirs))
        judge = meant_judge(trainer, self.reference, self.optimizer, self._recorder, batch)
        bases = [rule.optimizer.lr for rule in judge.rules]
        counted = same_kind(all_rows, batch)
        rows = RowCount(fingerprints(all_rows), inside_epoch) if counted else None
        ledger = Ledger(judge, MeantLr(bases, self._schedule, self._interval), rows)
        if self._resumed and self._recorder.first_step:
            restore(self._resumed, self._recorder, ledger)
        return ledger

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the batch, and look whether the parameters are those that the last step left."""
        loader: Any = trainer.train_dataloader
        # Of such a training some steps may be single ones too.
        in_blocks = getattr(loader, "ahead", None) is not None
        dtype = next(pl_module.parameters()).dtype
        if isinstance(batch, Block):
            arrays = batch_arrays(trainer.precision_plugin.convert_input(loader.example()))
        else:
            # The rows of blocks are counted in the dtype of the parameters.
            given = batch
            if type(pl_module) is LinearRegression:
                given = as_batch(batch, pl_module.hparams["n_features"])
            if in_blocks:
                given = tuple(tensor.to(dtype) for tensor in given)
            arrays = self._recorder.start_batch(given)
        if self.ledger is None:
            rows_dtype = dtype if in_blocks else None
            rows = training_rows(trainer, rows_dtype) if self.count_rows else None
            self._outcome.ledger = self._open_ledger(trainer, arrays, batch_idx > 0, rows)
            if isinstance(loader, BatchLoader):
                window, per_epoch = (
                    trainer.accumulate_grad_batches,
                    int(trainer.num_training_batches),
                )
                self._served = Served(loader, per_epoch, window, dtype)
        if moved := self._recorder.moved():
            self._outcome.fail(moved)
        self._observe(trainer)

    def _observe(self, trainer: Trainer) -> None:
        """Tell the schedule the metric after a step or an epoch: the scheduler knows it by now."""
        if self.ledger and self._metric_due and self._monitor in trainer.callback_metrics:
            self.ledger.lr.observe(float(trainer.callback_metrics[self._monitor]))
        self._metric_due = False

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note what the step will use."""
        if getattr(pl_module, "execution", None) is None:
            self._recorder.start_step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Enter the step when the batch was the last one of its window; of a block, all steps."""
        if isinstance(batch, Block):
            self._enter_execution(trainer, pl_module, batch)
            return
        step = batch_idx // trainer.accumulate_grad_batches
        self._check_orders(trainer, trainer.current_epoch, step, 1)
        if not self._recorder.end_batch(outputs):
            return
        assert self.ledger is not None
        done = trainer.global_step - 1
        step, failures = self._recorder.end_step(self.ledger.lr.at(done, trainer.current_epoch))
        self._outcome.fail(*failures)
        if step:
            self._follow_frozen(pl_module, self._recorder.frozen)
            self.ledger.enter(step)
        self._metric_due = self._interval == "step"
        self._outcome.log(trainer)
        self._outcome.tell()

    def _follow_frozen(self, pl_module: LightningModule, frozen: tuple[str, ...]) -> None:
        """Judge what comes by the parameters that are free in it.

        A `LinearRegression` freezes none by itself: its user did. A subclass may do so by mistake,
        and other modules say by their reference what is trained.

        Args:
            pl_module: Module that is trained.
            frozen: Names of its frozen parameters.
        """
        assert self.ledger is not None
        if type(pl_module) is LinearRegression:
            self.ledger.freeze(frozen)

    def _check_orders(self, trainer: Trainer, epoch: int, step: int, steps: int) -> None:
        """Check the order of the rows, where they are not counted by what was served."""
        ledger, served = self.ledger, self._served
        assert ledger is not None
        if ledger.rows is not None or served is None or not self.count_rows:
            return
        self._fail_rows(trainer, epoch, served.check_orders(epoch, step, steps))

    def _fail_rows(self, trainer: Trainer, epoch: int, wrong: str | None) -> None:
        if wrong:
            self._outcome.fail(Failure(trainer.global_step, f"rows of epoch {epoch}", cause=wrong))

    @np.errstate(all="ignore")  # numbers of a training that diverges overflow
    def _enter_execution(self, trainer: Trainer, pl_module: LightningModule, block: Block) -> None:
        """Enter the steps of an execution."""
        ledger, execution, served = self.ledger, pl_module.execution, self._served
        assert ledger is not None
        assert served is not None
        first = trainer.global_step - execution.steps  # type: ignore[union-attr, operator]
        buffers, after, failures = self._recorder.end_execution(trainer.global_step)
        self._outcome.fail(*failures)
        ledger.settle()
        self._follow_frozen(pl_module, self._recorder.frozen)
        assert execution is not None
        step = block.batch // trainer.accumulate_grad_batches
        where = block.epoch, step, first
        compared, expected = self.watched_steps(first, execution.steps), ledger.lr.of_steps
        waits = self._interval == "step" and ledger.lr.waits
        if waits:
            along = ledger.lr.along(execution.losses)
            expected = lambda numbers, epochs: along[numbers - first]  # noqa: E731
        given = served, execution, where, (buffers, after), expected, compared
        stacks = list(stacks_of(*given, ledger.judge.reference))
        for stack in stacks:
            ledger.enter_stack(stack)
        if ledger.rows is not None:
            whole = trainer.num_training_batches == len(trainer.train_dataloader)  # type: ignore[arg-type]
            ledger.count_rows(stacks, whole, served.full_batch)
        elif not served.full_batch:
            self._check_orders(trainer, block.epoch, step, execution.steps)
            self._rows = self._rows or rows_of(trainer, pl_module)
            wrong = served.misgathered(self._rows, block.epoch, step, execution.steps)
            self._fail_rows(trainer, block.epoch, wrong)
        self._metric_due = self._interval == "step" and not waits
        self._outcome.log(trainer)
        self._outcome.tell()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Enter the end of an epoch, whose rows are then counted."""
        self._metric_due = self._metric_due or self._interval == "epoch"
        self._recorder.forget_window()  # of an epoch that was left in the middle of one
        if self.ledger is not None:
            whole = is_epoch_whole(trainer)
            self.ledger.enter(EpochEnd(trainer.current_epoch, whole, trainer.global_step))
            self._outcome.tell()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail a training in which nothing was compared or nothing moved."""
        if self.ledger is not None:
            self.ledger.settle()
            self._outcome.log(trainer, at_end=True)
        self._conclude()
        # A training that goes on may have come to where a step is less than a rounding.
        if self.steps_checked and self._recorder.unmoved and not self._recorder.first_step:
            self._outcome.fail_empty(
                f"some parameter to move in {self.steps_checked} steps, found none; raise the "
                "learning rate, or train in more precision"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look once more, after other hooks; and fail a training that had no epochs left."""
        self._conclude()

    def _conclude(self) -> None:
        if self.ledger is None or not self.steps_checked:
            self._outcome.fail_empty(
                "an optimizer step to compare, found none; train for more epochs"
            )
        elif failures := self._recorder.at_end(self.ledger.first_failure):
            self._outcome.fail(*failures)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Judge what was entered before a training broke off, for the report."""
        if self.ledger is not None:
            # The last steps of a training that diverges may have no bound. The exception says why.
            with contextlib.suppress(RequestError):
                self.ledger.settle()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save what a resumed training is held against: where this one stands."""
        if self.ledger is None:
            return
        # Before anything is saved, what it rests on is judged.
        self.ledger.settle()
        self._outcome.tell()
        self._observe(trainer)
        save(checkpoint, self._recorder, self.ledger)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the state of a checkpoint for the training that goes on from it."""
        self._resumed = saved_in(checkpoint)
