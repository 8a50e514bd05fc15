"""The callback that runs the NumPy reference in lockstep with training.

At every optimizer step the reference takes the parameters before the step and the very batches that
were used, works out loss, gradient and the parameters after the step in float64, and compares. How
far the two may be apart is not a tolerance but a bound on rounding errors, so a deviation is told
as a fraction of its bound and 1.0 is the line. Between steps the parameters must not change by a
bit, and every epoch must serve each row once. Together that leaves no part of the trajectory
unwatched.
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
from trueline.crosscheck.judge import Judge
from trueline.crosscheck.learning_rate import Interval, MeantLr
from trueline.crosscheck.ledger import EpochEnd, Ledger
from trueline.crosscheck.meant import from_hyperparameters, meant_clipping, meant_schedule
from trueline.crosscheck.reading import batch_arrays, gather, training_rows
from trueline.crosscheck.recorder import Recorder
from trueline.crosscheck.refusals import arithmetic_of, refuse, refused_in_model, refused_settings
from trueline.crosscheck.rows import RowCount, fingerprints, n_rows, same_kind
from trueline.crosscheck.served import Served
from trueline.crosscheck.step import Reference
from trueline.crosscheck.trace import FEW_NUMBERS, chosen, moments_of, read
from trueline.crosscheck.verdict import Failure, Tally
from trueline.data.blocks import BatchLoader, Block
from trueline.errors import CheckFailed, RequestError
from trueline.executions.rows import Rows
from trueline.module import LinearRegression
from trueline.reference import SGD, LeastSquares
from trueline.reference.composed import Moments
from trueline.reference.plateau import ReduceLROnPlateau
from trueline.reference.schedules import Schedule
from trueline.tensorboard import log_points

SAVED_AS = "crosscheck"
"""The entry of a checkpoint that holds what a resumed training is held against."""


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
        ledger = self.ledger
        failed = ledger.first_failure if ledger else None
        failure: Any = failed._asdict() if failed else self.nothing_learned
        tally = ledger.tally if ledger else Tally()
        return {
            "passed": failure is None and self.steps_checked > 0,
            "steps_checked": self.steps_checked,
            "steps_skipped": ledger.steps_skipped if ledger else 0,
            "epochs_counted": self._epochs_counted,
            "worst_ratio": tally.worst_ratio,
            "worst_ratios": dict(tally.worst),
            "first_failure": failure,
        }

    @property
    def _epochs_counted(self) -> int:
        if self.ledger and self.ledger.rows:
            return self.ledger.rows.epochs
        return self._served.epochs if self._served else 0

    @property
    def knows_executions(self) -> bool:
        """Whether steps may be taken many at once: those of `LinearRegression` may."""
        given = self.reference, self.optimizer, self.schedule
        return all(one is None for one in given)

    def watched_steps(self, rows: Rows, first: int, steps: int) -> NDArray[np.int64]:
        """Return which steps of an execution are compared, see `chosen`."""
        began = 0 if self._resumed else self._recorder.first_step
        return chosen(rows, first, steps, began)

    @property
    def steps_checked(self) -> int:
        """Optimizer steps compared so far."""
        return self.ledger.steps_checked if self.ledger else 0

    def _forget(self) -> None:
        self.ledger: Ledger | None = None
        self.nothing_learned: str | None = None
        self._told = False
        self._resumed: dict[str, Any] = {}
        self._moments: Moments | None = None
        self._served: Served | None = None

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
        self._logged = trainer.global_step

    @np.errstate(all="ignore")  # numbers of a training that diverges overflow
    def _open_ledger(
        self, trainer: Trainer, batch: Any, inside_epoch: bool, all_rows: Any
    ) -> Ledger:
        """Begin to judge, now that there is a batch to ask the reference about."""
        hyperparameters = trainer.lightning_module.hparams
        start = self._recorder.initial
        if trainer.world_size > 1:  # this process may have no row of it
            batch = next(theirs for theirs in gather(trainer, batch) if n_rows(theirs))
        judge = Judge(
            self.reference or from_hyperparameters(LeastSquares, hyperparameters),
            self.optimizer or from_hyperparameters(SGD, hyperparameters),
            meant_clipping(trainer),
            arithmetic_of(trainer),
            self._recorder.layout,
            example=(start, batch),
        )
        bases = [rule.optimizer.lr for rule in judge.rules]
        counted = same_kind(all_rows, batch)
        rows = RowCount(fingerprints(all_rows), inside_epoch) if counted else None
        resumed = self._resumed if self._recorder.first_step else {}
        lr = MeantLr(bases, self._schedule, self._interval)
        ledger = Ledger(judge, lr, rows)
        if resumed:
            try:
                self._recorder.load_state_dict(resumed)
                ledger.load_state_dict(resumed["verdict"])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RequestError(
                    "ckpt_path: expected what the cross-check has saved, found something else in "
                    f"the checkpoint ({type(error).__name__}: {error}); use another, or "
                    "--crosscheck off"
                ) from error
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
            rows = None
            if self.count_rows and not in_blocks:
                rows = training_rows(trainer)
            elif self.count_rows and _is_small(loader):
                rows = training_rows(trainer, dtype)
            self.ledger = self._open_ledger(trainer, arrays, batch_idx > 0, rows)
            if isinstance(loader, BatchLoader):
                self._served = Served(loader, int(trainer.num_training_batches))
        if moved := self._recorder.moved():
            self._fail(moved)
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
        self._check_orders(trainer, trainer.current_epoch, batch_idx, 1)
        if not self._recorder.end_batch(outputs):
            return
        assert self.ledger is not None
        done = trainer.global_step - 1
        step, failures = self._recorder.end_step(self.ledger.lr.at(done, trainer.current_epoch))
        if failures:
            self._fail(*failures)
        if step:
            self._follow_frozen(pl_module, self._recorder.frozen)
            self.ledger.enter(step)
        self._metric_due = self._interval == "step"
        self._log(trainer)
        self._tell()

    def _follow_frozen(self, pl_module: LightningModule, frozen: tuple[str, ...]) -> None:
        """Judge what comes by the parameters that are free in it.

        A `LinearRegression` freezes none by itself: its user did. A subclass may do so by mistake,
        and other modules say by their reference what is trained.

        Args:
            pl_module: Module that is trained.
            frozen: Names of its frozen parameters.
        """
        ledger = self.ledger
        assert ledger is not None
        if type(pl_module) is not LinearRegression or frozen == ledger.judge.frozen:
            return
        ledger.settle()
        ledger.judge = ledger.judge.freeze(frozen)

    def _check_orders(self, trainer: Trainer, epoch: int, batch: int, batches: int) -> None:
        """Check the order of the rows, where they are not counted by what was served."""
        ledger, served = self.ledger, self._served
        assert ledger is not None
        if ledger.rows is not None or served is None or not self.count_rows:
            return
        if wrong := served.check_orders(epoch, batch, batches):
            self._fail(Failure(trainer.global_step, f"rows of epoch {epoch}", cause=wrong))

    @np.errstate(all="ignore")  # numbers of a training that diverges overflow
    def _enter_execution(self, trainer: Trainer, pl_module: LightningModule, block: Block) -> None:
        """Enter the steps of an execution."""
        ledger, execution, served = self.ledger, pl_module.execution, self._served
        assert ledger is not None
        assert served is not None
        first = trainer.global_step - execution.steps  # type: ignore[union-attr, operator]
        buffers, after, failures = self._recorder.end_execution(trainer.global_step)
        if failures:
            self._fail(*failures)
        ledger.settle()
        self._follow_frozen(pl_module, ())  # else its steps would be single ones
        rows = execution.pieces[0].span.rows  # type: ignore[union-attr, index]
        if self._moments is None and rows.full_batch and not _is_small(rows.loader):
            self._moments = moments_of(rows)
        compared = self.watched_steps(rows, first, execution.steps)  # type: ignore[union-attr, arg-type]
        given = first, buffers, after, ledger.lr, self._moments, compared
        traces = list(read(served, execution, block, *given))  # type: ignore[arg-type]
        for trace in traces:
            ledger.enter_trace(trace)
        if ledger.rows is not None:
            loader: Any = trainer.train_dataloader
            per_epoch = int(trainer.num_training_batches)
            whole, full = per_epoch == len(loader), loader.batch_size >= len(loader.dataset)
            ledger.count_rows(traces, whole, full)
        elif not rows.full_batch:
            taken = block._replace(batches=execution.steps)  # type: ignore[union-attr, arg-type]
            self._check_orders(trainer, *taken)
            if wrong := served.misgathered(rows, *taken):
                self._fail(
                    Failure(trainer.global_step, f"rows of epoch {block.epoch}", cause=wrong)
                )
        self._metric_due = self._interval == "step"
        self._log(trainer)
        self._tell()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Enter the end of an epoch, whose rows are then counted."""
        self._metric_due = self._metric_due or self._interval == "epoch"
        self._recorder.forget_window()  # of an epoch that was left in the middle of one
        if self.ledger is not None:
            # A loader that ends before its length says is not cut short: it leaves rows out.
            stopped = trainer.should_stop or trainer.global_step == trainer.max_steps
            cut = stopped and not trainer.is_last_batch
            limit: Any = trainer.limit_train_batches  # 1.0 is all of an epoch, and 1 one batch
            whole = not cut and isinstance(limit, float) and limit == 1.0
            self.ledger.enter(EpochEnd(trainer.current_epoch, whole, trainer.global_step))
            self._tell()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail a training in which nothing was compared or nothing moved."""
        if self.ledger is not None:
            self.ledger.settle()
            self._log(trainer, at_end=True)
        self._conclude()
        # A training that goes on may have come to where a step is less than a rounding.
        if self.steps_checked and self._recorder.unmoved and not self._recorder.first_step:
            self._fail_empty(
                f"some parameter to move in {self.steps_checked} steps, found none; raise the "
                "learning rate, or train in more precision"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look once more, after other hooks; and fail a training that had no epochs left."""
        self._conclude()

    def _conclude(self) -> None:
        if self.ledger is None or not self.steps_checked:
            self._fail_empty("an optimizer step to compare, found none; train for more epochs")
        elif failures := self._recorder.at_end(self.ledger.first_failure):
            self._fail(*failures)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Judge what was entered before a training broke off, for the report."""
        if self.ledger is not None:
            # The last steps of a training that diverges may have no bound. The exception says why.
            with contextlib.suppress(RequestError):
                self.ledger.settle()

    def _log(self, trainer: Trainer, at_end: bool = False) -> None:
        """Log the worst ratio of the steps since the last point, every `log_every_n_steps` steps.

        Which steps a point takes in depends on their numbers alone, so that a training that goes on
        from a checkpoint has the same points.
        """
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        step = trainer.global_step
        due = [] if every < 1 else list(range((self._logged // every + 1) * every, step + 1, every))
        if at_end and step != (due or [self._logged])[-1]:
            due.append(step)
        if not trainer.loggers or not due:
            return
        assert self.ledger is not None
        self.ledger.settle()
        self._logged = due[-1]
        name, worst = "crosscheck/worst_ratio", self.ledger.tally.worst_up_to(due)
        log_points(trainer.loggers, [name], [[ratio] for ratio in worst], due)

    def _fail(self, *failures: Failure) -> None:
        """Note failures that it takes no reference to see."""
        assert self.ledger is not None
        for failure in failures:
            self.ledger.fail(failure)
        self._tell()

    def _tell(self) -> None:
        """Raise or warn when there is a first failure."""
        failure = self.ledger.first_failure if self.ledger else None
        if failure is None or self._told:
            return
        self._told = True
        if self.on_failure == "raise":
            raise CheckFailed(f"cross-check failed: {failure}")
        rank_zero_warn(f"cross-check failed: {failure}")

    def _fail_empty(self, expected: str) -> None:
        self.nothing_learned = f"expected {expected}"
        if self.on_failure == "raise":
            raise CheckFailed(f"cross-check failed: {self.nothing_learned}")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save what a resumed training is held against: where this one stands.

        Not as the callback's own state, which Lightning would miss where the checkpoint is used
        without a cross-check.
        """
        if self.ledger is None:
            return
        # Before anything is saved, what it rests on is judged.
        self.ledger.settle()
        self._tell()
        self._observe(trainer)
        state = self._recorder.state_dict() | {"verdict": self.ledger.state_dict()}
        checkpoint[SAVED_AS] = apply_to_collection(state, np.ndarray, torch.tensor)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the state of a checkpoint for the training that goes on from it."""
        state = checkpoint.get(SAVED_AS)
        state = state if isinstance(state, dict) else {}
        self._resumed = apply_to_collection(state, torch.Tensor, torch.Tensor.numpy)


def _is_small(loader: BatchLoader) -> bool:
    """Return whether all rows are in memory, and few."""
    tensors = getattr(loader.dataset, "tensors", None)
    return tensors is not None and sum(t.numel() for t in tensors) <= FEW_NUMBERS
