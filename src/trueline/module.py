"""The model under Lightning: `w*X + b` with MSELoss and SGD."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trueline.batches import as_batch, labelled
from trueline.checkpoints.reading import PREPROCESSING
from trueline.data.blocks import Block
from trueline.divergence import check_loss, check_parameters
from trueline.epoch_mean import EpochMean
from trueline.errors import RequestError
from trueline.evaluation import LeftOut, reasons_of
from trueline.executions.execution import Execution
from trueline.executions.loop import Executions
from trueline.hyperparameters import problems
from trueline.progress import QuickNotes, at_step_end, hide_max_steps, restore_max_steps, tell
from trueline.proximal import ProximalSGD
from trueline.schedule import Schedule, check_same_schedule
from trueline.unchanged import definition, frozen, ineffective, loss_replaced
from trueline.window import Window, widest_float

CHECKPOINT_FORMAT = 1
"""Of what checkpoints hold; a higher one is from a later version."""
Batch = tuple[Tensor, ...]
"""`(X, y)`, or `(X, y, sample_weight)`."""


class LinearRegression(QuickNotes, LightningModule):
    """Linear regression, `ŷ = X·weight + bias`, trained by SGD on the mean squared error.

    The objective is `mean((ŷ − y)²) + l1·Σ|weight| + l2·Σweight²`, with no factor ½ and the bias
    outside the penalty. The loss being a mean, penalties do not depend on the batch size.

    `weight` has shape (n_features,) and `bias` (); with several targets, (n_features, n_targets)
    and (n_targets,).

    Args:
        n_features: Columns of X, ≥ 1.
        n_targets: Columns of y, ≥ 1.
        lr: Learning rate, > 0. auto takes the one at which the training converges fastest, of
            mini-batches one that is safe; it is worked out from the data before the training.
        momentum: In [0, 1); 0 is plain SGD. auto takes the best one for lr and the full batch, of
            mini-batches 0.
        dampening: Of momentum, in [0, 1].
        nesterov: Nesterov's momentum; needs momentum > 0 and dampening 0.
        weight_decay: The optimizer's own decay, ≥ 0; unlike l2 it takes in the bias, and its
            gradient is weight_decay·θ.
        l1: Strength of the L1 penalty, ≥ 0. A soft threshold after each step applies it, so that
            weights become exactly 0.
        l2: Strength of the L2 penalty, ≥ 0.
        init: Initial parameters: standard normal, as in the article, or zeros.
        schedule: Of the learning rate: `name`, a class in `torch.optim.lr_scheduler`, its options,
            `interval` (epoch or step, epoch unless given), and for ReduceLROnPlateau `monitor`
            (train/loss unless given; by steps there is no other). OneCycleLR leaves the momentum
            alone unless `cycle_momentum` is true; CyclicLR cycles it unless that is false, as in
            torch.
        steps_per_execution: How many steps are taken at once, in a turn of Lightning's loop, where
            that is possible: the same steps to rounding, see `trueline.recurrence`. auto takes as
            many as there are before something is due, such as a validation.

    Attributes:
        preprocessing: Columns and scaling of the table that it was trained on, as its checkpoints
            keep them; empty where a checkpoint has none, None before a training on a table.

    Raises:
        ValueError: When an argument is out of its range; all that are wrong are said at once.

    Example:
        >>> model = LinearRegression(init="zeros")
        >>> model(torch.tensor([[1], [2]]))
        tensor([0., 0.], grad_fn=<AddBackward0>)
    """

    def __init__(
        self,
        n_features: int = 1,
        n_targets: int = 1,
        lr: float | Literal["auto"] = 0.001,
        momentum: float | Literal["auto"] = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        init: Literal["normal", "zeros"] = "normal",
        schedule: dict[str, Any] | None = None,
        steps_per_execution: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if wrong := problems(self.hparams):
            raise ValueError("; ".join(wrong))
        draw = torch.randn if init == "normal" else torch.zeros
        columns = () if n_targets == 1 else (n_targets,)
        self.weight = torch.nn.Parameter(draw((n_features, *columns)))
        self.bias = torch.nn.Parameter(draw(columns))
        self.mse = torch.nn.MSELoss()
        self.schedule = Schedule(schedule) if schedule else None
        self._window = Window()
        self._mean, self._left_out = EpochMean(), LeftOut()
        self._metrics: dict[str, float] = {}
        self._max_steps: int | None = None
        self._executions = Executions(self)
        self.preprocessing: Mapping[str, Any] | None = None

    @property
    def execution(self) -> Execution | None:
        """The steps of the latest execution; None where steps are taken one by one."""
        return self._executions.latest

    @property
    def single_steps(self) -> str | None:
        """Why steps are taken one by one; None where they are not."""
        return self._executions.reason

    @property
    def step_loss(self) -> Tensor:
        """The mean squared error over the rows of the latest step, in all batches and processes."""
        return self._window.mse

    def setup(self, stage: str) -> None:
        """Put numbers in the place of auto before a training, and refuse what cannot be trained.

        Raises:
            ValueError: When every parameter is frozen, or an attribute has no effect.
        """
        if names := ineffective(self):
            raise ValueError(
                f"{names[0]}: expected the method of that name, found a module or parameter too, "
                f"which torch does not use in its place; subclass {type(self).__name__}, or "
                "replace mse"
            )
        if stage == "fit":
            self._refuse_all_frozen()
            self.preprocessing = None  # that of this training comes with its rows
            self.tune(getattr(self.trainer, "datamodule", None))

    def _refuse_all_frozen(self) -> None:
        if not any(p.requires_grad for p in self.parameters()):
            raise ValueError(
                f"expected a parameter that requires a gradient, found {' and '.join(frozen(self))}"
                " frozen; call requires_grad_(True) on one"
            )

    def tune(self, data: Any) -> None:
        """Put numbers in the place of auto, in the hyperparameters.

        Args:
            data: The DataModule that is trained on.

        Raises:
            ValueError: When there is no number, or none can be worked out from such data.
        """
        h: Any = self.hparams
        asked = [name for name in ("lr", "momentum") if h[name] == "auto"]
        if not asked:
            return
        if names := frozen(self):
            raise ValueError(
                f"{asked[0]} auto: expected every parameter to be trained, found "
                f"{' and '.join(names)} frozen; give a number"
            )
        if not hasattr(data, "tuned"):
            raise ValueError(
                f"{asked[0]} auto: expected a RegressionData as datamodule, whose rows tell which "
                f"is best; found {type(data).__name__}; give a number"
            )
        self.save_hyperparameters(data.tuned(h))

    def configure_model(self) -> None:
        """Bring the parameters to the Trainer's precision before a checkpoint is loaded into them.

        Lightning does so afterwards, and float64 parameters lose half their digits on the way.
        """
        if self._trainer is not None:
            self.trainer.precision_plugin.convert_module(self)

    def forward(self, X: Tensor) -> Tensor:
        """Predict: `X·weight + bias`.

        Args:
            X: Features, shape (n_samples, n_features), any numeric dtype; they are brought to that
                of the parameters.

        Returns:
            Predictions, shape (n_samples,), or (n_samples, n_targets) for several targets.
        """
        return X.to(self.weight.dtype) @ self.weight + self.bias

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error over a batch, weighted where the batch has weights.

        `Σ_i w_i·Σ_t r_it² / (n_targets·Σ_i w_i)`, which is mean(r²) without weights.

        Args:
            batch: `(X, y)` or `(X, y, sample_weight)`, or a dict with these names; y in the shape
                of the predictions, sample_weight of shape (n_samples,), > 0.

        Returns:
            The loss, shape (). Of no rows, as a process may get them, it is 0, and so is its
            gradient.

        Raises:
            ValueError: When y or sample_weight has another shape: the loss would broadcast it, to
                (n_samples, n_samples) say, and train a different line.
        """
        X, y, *sample_weight = labelled(batch, self.hparams["n_features"])
        prediction: Tensor = self(X)
        _check_shape("y", y, prediction.shape, "that of the predictions")
        if not len(prediction):
            return prediction.sum()  # a mean over nothing would be nan
        y = y.to(prediction.dtype)
        if not sample_weight:
            return self.mse(prediction, y)  # type: ignore[no-any-return]
        _check_shape("sample_weight", sample_weight[0], prediction.shape[:1], "one for each row")
        if replaced := loss_replaced(self):
            raise ValueError(
                f"sample_weight: expected torch.nn.MSELoss() as mse, found that {replaced}; leave "
                "the weights out, or write a loss with weights in a subclass"
            )
        # By torch's own function: under autocast it keeps to float32, as MSELoss does.
        by_row = torch.nn.functional.mse_loss(prediction, y, reduction="none")
        if by_row.ndim > 1:
            by_row = by_row.mean(dim=1)
        w = sample_weight[0].to(by_row.dtype)
        loss: Tensor = (w / w.sum() * by_row).sum()
        return loss

    def size(self, batch: Batch) -> float:
        """Return how much a batch counts beside others: its rows, or the sum of their weights.

        Args:
            batch: See `loss`.
        """
        X, _, *sample_weight = labelled(batch, self.hparams["n_features"])
        if not sample_weight:
            return len(X)
        return sample_weight[0].sum(dtype=widest_float(X.device)).item()

    def penalty(self) -> Tensor:
        """Return the penalty of the objective, `l1·Σ|weight| + l2·Σweight²`, shape ().

        It has no gradient by L1, which has none at 0: the optimizer takes it by a soft threshold.
        """
        h: Any = self.hparams
        l1: Tensor = h.l1 * self.weight.detach().abs().sum()
        penalty: Tensor = l1 + h.l2 * self.weight.square().sum()
        return penalty

    def training_step(self, batch: Batch | Block, batch_idx: int) -> dict[str, Tensor]:
        """Return the objective under `loss`, and the mean squared error alone under `mse`.

        Of a block, those of its last step. `trueline.tensorboard.Scalars` logs; `self.log` would
        cost as much as the step.
        """
        if isinstance(batch, Block):
            objective, mse = self._executions.run(batch)
            self._window.mse = mse
            return {"loss": objective, "mse": mse}
        mse = self.loss(batch)
        self._window.batch, self._window.mse = batch, mse.detach()
        h: Any = self.hparams
        objective = mse + self.penalty() if h["l1"] or h["l2"] else mse
        return {"loss": objective, "mse": self._window.mse}

    def on_after_backward(self) -> None:
        """Let callbacks such as EarlyStopping know the loss of the step as `train/loss`.

        Raises:
            CheckFailed: When the loss is not finite, before the step is taken.
        """
        if self.step_loss is not Window.mse:  # a training_step of the user's own leaves none
            check_loss(self, self.step_loss)
        tell(self.trainer, "train/loss", self.step_loss)

    def on_train_epoch_end(self) -> None:
        """Tell a schedule that waits for a plateau, and counts epochs, what it monitors."""
        if self.schedule is None or self.schedule.interval != "epoch":
            return
        scheduler: Any = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau) and self.trainer.is_last_batch:
            scheduler.step(self.schedule.monitored(self.trainer.callback_metrics))

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule after a step or, but for one that waits for a plateau, after an epoch.

        Lightning would tell that one after the checkpoint of the epoch is saved, and leave out the
        first epoch of a training that goes on from a checkpoint.
        """
        if not isinstance(scheduler, ReduceLROnPlateau):
            Schedule.tick(scheduler)
        elif self.schedule is not None and self.schedule.interval == "step":
            scheduler.step(self.step_loss.item())

    def on_validation_epoch_start(self) -> None:
        """Begin a mean."""
        self._check_scaled("test_step" if self.trainer.testing else "validation_step")
        self._mean, self._left_out = EpochMean(), LeftOut()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Take a batch into `val/loss`, the mean over all rows, weighted where those are.

        Rows for which the training rows determine no prediction are left out.
        """
        batch = self._scaled(batch)
        reasons = reasons_of(self, batch[0])
        self._left_out.add(reasons, len(batch[0]))
        if reasons is not None:
            kept = torch.from_numpy(reasons == "").to(batch[0].device)
            batch = tuple(part[kept] for part in batch)
        self._mean.update(self.loss(batch), self.size(batch))

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss`."""
        # During fit, Scalars logs it at the number of steps taken; Lightning would one earlier.
        fitting = self.trainer.state.fn == "fit"
        logged = bool(self.trainer.loggers) and not self._is_logged if fitting else True
        self._log_mean("val/loss", logger=logged)
        if not fitting:
            self._left_out.say(", left out of val/loss", self.trainer)

    def _log_mean(self, name: str, logger: bool = True) -> None:
        loss = self._mean.compute(self.trainer)
        if self.trainer.barebones:
            tell(self.trainer, name, loss)  # self.log would warn that it does nothing
        else:
            self.log(name, loss, logger=logger)

    on_test_epoch_start = on_validation_epoch_start

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Take a batch into `test/loss`, see `validation_step`."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log `test/loss`."""
        self._log_mean("test/loss")
        self._left_out.say(", left out of test/loss", self.trainer)

    def on_fit_end(self) -> None:
        """Say which held-out rows counted in no `val/loss`."""
        self._left_out.say(", left out of val/loss", self.trainer)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the predictions, shape (n_samples,) or (n_samples, n_targets).

        They are nan for rows for which the training rows determine none.
        """
        X, *_ = self._scaled(batch)
        found: Tensor = self(X)
        reasons = reasons_of(self, X)
        if reasons is not None:
            found[torch.from_numpy(reasons != "").to(found.device)] = torch.nan
        return found

    def on_predict_start(self) -> None:
        """Refuse what the steps of a subclass would not scale."""
        self._check_scaled("predict_step")

    def _check_scaled(self, step: str) -> None:
        """Refuse features that come from no table where a subclass takes the step.

        Raises:
            RequestError: When the features of the training were scaled, and these would not be.
        """
        own = getattr(type(self), step) is not getattr(LinearRegression, step)
        if own and self._scaling is not None:
            raise RequestError(
                f"data: expected a TableData, since the training was on one whose columns were "
                f"scaled and {type(self).__name__} has a {step} of its own; found other data; give "
                "a table"
            )

    @property
    def _scaling(self) -> list[Tensor] | None:
        """Mean and scale of features that nothing has scaled yet; None where there are none."""
        if self.trainer.state.fn == "fit" or _is_table(self.trainer):
            return None
        return (self.preprocessing or {}).get("scaling")

    def _scaled(self, batch: Any) -> Batch:
        """Scale features that come from no table as those of the training were.

        A line that was trained on a table is evaluated in the units of that table, wherever the
        rows come from; a `TableData` has scaled its own. What differs in a column that was the same
        in all training rows is nan.
        """
        X, *others = as_batch(batch, self.hparams["n_features"])
        if self._scaling is None:
            return (X, *others)
        mean, scale = (part.to(X.device) for part in self._scaling)
        off = X - mean
        differs = scale.isinf() & (off.abs() > 4 * torch.finfo(off.dtype).eps * mean.abs())
        return ((off / scale).masked_fill(differs, torch.nan), *others)

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Begin a new window of accumulated batches."""
        self._window.begin()

    def optimizer_zero_grad(
        self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer
    ) -> None:
        """Let go of the gradients, as the optimizer would do by a longer way."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients where that is asked for; Lightning is slow to find that it is not."""
        if gradient_clip_val:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )

    def backward(self, loss: Tensor) -> None:
        """Make the gradient that of the mean over all rows of a step, whatever they came in."""
        trainer, window = self.trainer, self._window
        if self.execution is not None:
            return  # its steps have been taken
        self._refuse_all_frozen()
        if window.batch is None:  # a training_step of the user's own; Lightning divides its loss
            window.mse = loss.detach() * trainer.accumulate_grad_batches
        elif trainer.accumulate_grad_batches > 1 or trainer.world_size > 1:
            loss = loss * window.take_in(trainer, self.size(window.batch), self.parameters())
        window.batch = None
        loss.backward()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log `train/loss` where no callback does."""
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps
        if not every or not trainer.loggers or self._is_logged or not at_step_end(trainer):
            return
        if self.execution is None:
            steps, losses = [trainer.global_step - 1], [self.step_loss.item()]
        else:
            points = self.execution.points
            assert points is not None
            steps = (trainer.global_step - self.execution.steps + points.steps).tolist()
            losses = points.losses.tolist()
        for step, loss in zip(steps, losses, strict=True):
            if step % every == 0:
                for logger in trainer.loggers:
                    logger.log_metrics({"train/loss": loss}, step)

    @property
    def _is_logged(self) -> bool:
        """Whether a callback logs the losses, with everything else."""
        return any(getattr(callback, "logs_losses", False) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Take a step by the optimizer; of an execution, leave its end in module and optimizer.

        Raises:
            CheckFailed: When the step has left parameters that are not finite.
        """
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.execution is not None:
            # Without gradients, which only a backward pass leaves, the optimizer did nothing.
            self._executions.leave()
        check_parameters(self)

    def configure_optimizers(self) -> Any:
        """Return SGD with the hyperparameters of this module, and the schedule.

        It is `torch.optim.SGD`, or with an L1 penalty `ProximalSGD`.
        """
        h: Any = self.hparams
        rule = self.parameters(), h.lr, h.momentum, h.dampening, h.weight_decay, h.nesterov
        optimizer = ProximalSGD(*rule, l1={self.weight: h.l1}) if h.l1 else torch.optim.SGD(*rule)
        if self.schedule is None:
            return optimizer
        # This module tells a schedule that waits for a plateau itself, see lr_scheduler_step.
        config = {"interval": self.schedule.interval, "reduce_on_plateau": False}
        return [optimizer], [{"scheduler": self.schedule.scheduler(optimizer), **config}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to go on that neither parameters nor optimizer hold."""
        checkpoint["trueline_format"] = CHECKPOINT_FORMAT
        # Lightning's counters say whether; what the gradients were, no checkpoint of it holds.
        if self.preprocessing:
            checkpoint[PREPROCESSING] = self.preprocessing
        checkpoint["inside_step"] = not at_step_end(self.trainer)
        checkpoint["execution"] = self._executions.state_dict()
        # An epoch that ends after a checkpoint is loaded has no metric of its own.
        checkpoint["metrics"] = {n: float(v) for n, v in self.trainer.callback_metrics.items()}

    def on_train_start(self) -> None:
        """Bring back what a checkpoint had, and look how steps can be taken.

        Raises:
            RequestError: When a training on a table whose columns were scaled is to go on without.
        """
        if (self.preprocessing or {}).get("scaling") and not _is_table(self.trainer):
            raise RequestError(
                "data: expected a TableData, as the checkpoint was trained on one whose columns "
                "are scaled, found other data; give the table, or train anew"
            )
        if self._max_steps is not None:
            restore_max_steps(self.trainer, self._max_steps)
            self._max_steps = None
        for name, value in self._metrics.items():
            self.trainer.callback_metrics[name] = torch.tensor(value, dtype=torch.float64)
        self._metrics = {}
        self._executions.start(LinearRegression, DEFINED)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what `on_save_checkpoint` has added; hyperparameters stay those of this module.

        Raises:
            ValueError: When the schedule is another than that of the checkpoint, or lr under one.
            RequestError: When the checkpoint has something else where an execution began.
        """
        h: Any = self.hparams
        preprocessing = checkpoint.get(PREPROCESSING)
        self.preprocessing = preprocessing if isinstance(preprocessing, Mapping) else {}
        states = checkpoint.get("optimizer_states", ())
        metrics = checkpoint.get("metrics")
        metrics = metrics if isinstance(metrics, Mapping) else {}
        self._metrics = {str(n): v for n, v in metrics.items() if isinstance(v, float)}
        if self._trainer is None:  # load_from_checkpoint, which keeps all digits
            self.to(checkpoint["state_dict"]["weight"].dtype)
        elif self.trainer.state.fn == "fit":
            self._max_steps = hide_max_steps(self.trainer)
        self._executions.load_state_dict(checkpoint.get("execution"))
        if states:
            check_same_schedule(checkpoint.get("hyper_parameters", {}), h)
        options = inspect.signature(torch.optim.SGD).parameters.keys() & h.keys()
        if self.schedule:
            options -= {"lr", "momentum"} if self.schedule.cycles_momentum else {"lr"}
        for state in states:
            for group in state["param_groups"]:
                group.update({n: h[n] for n in options})
                group["maximize"] = False
                group.pop("l1", None)  # of a training with an L1 penalty


def _is_table(trainer: Any) -> bool:
    """Return whether the rows come from a table that knows columns and scaling."""
    return hasattr(getattr(trainer, "datamodule", None), "learned")


DEFINED = definition(LinearRegression)
"""The class as it is written here, to know it again where something has been replaced in it."""


def _check_shape(name: str, found: Tensor, expected: torch.Size, what: str) -> None:
    """Refuse a tensor of another shape than expected.

    Raises:
        ValueError: Naming both shapes.
    """
    if found.shape != expected:
        raise ValueError(
            f"expected {name} of shape {tuple(expected)}, {what}; found {tuple(found.shape)}; "
            f"reshape {name}"
        )
