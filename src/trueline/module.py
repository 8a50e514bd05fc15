"""The model under Lightning: `w*X + b` with MSELoss and SGD."""

from typing import Any, Literal

import torch
from torch import Tensor

from trueline.batches import Batch, check_shape, labelled
from trueline.checkpoints.module_state import SavedState
from trueline.data.blocks import Block
from trueline.evaluation import Evaluation
from trueline.hyperparameters import problems
from trueline.many_steps.runner import ManySteps
from trueline.progress import QuickNotes
from trueline.proximal import ProximalSGD
from trueline.schedule import Schedule
from trueline.steps import Steps
from trueline.unchanged import definition, frozen, ineffective, loss_replaced, refuse_all_frozen
from trueline.window import widest_float


class LinearRegression(QuickNotes, Steps, Evaluation, SavedState):
    """Linear regression, `ŷ = X·weight + bias`, trained by SGD on the mean squared error.

    The objective is `mean((ŷ − y)²) + l1·Σ|weight| + l2·Σweight²`, with no factor ½ and the bias
    outside the penalty. The loss being a mean, penalties do not depend on the batch size.

    `weight` has shape (n_features,) and `bias` (); with several targets, (n_features, n_targets)
    and (n_targets,).

    Args:
        n_features: Number of columns of X, ≥ 1.
        n_targets: Number of columns of y, ≥ 1.
        lr: Learning rate, > 0. auto works it out from the data before the training: the one that
            converges fastest, or for mini-batches one that is safe.
        momentum: Momentum in [0, 1); 0 is plain SGD. auto takes the best one for lr and the full
            batch, and 0 for mini-batches.
        dampening: Dampening of momentum, in [0, 1].
        nesterov: Whether momentum is Nesterov's; needs momentum > 0 and dampening 0.
        weight_decay: The optimizer's own decay, ≥ 0. Unlike l2 it takes in the bias, and its
            gradient is weight_decay·θ.
        l1: Strength of the L1 penalty, ≥ 0. A soft threshold after each step applies it, so that
            weights become exactly 0.
        l2: Strength of the L2 penalty, ≥ 0.
        init: Initial parameters: standard normal, as in the article, or zeros.
        schedule: Schedule of the learning rate: `name`, a class in `torch.optim.lr_scheduler`, its
            options, `interval` (epoch unless given, or step), and for ReduceLROnPlateau `monitor`
            (train/loss unless given; by steps there is no other). OneCycleLR cycles the momentum
            only if `cycle_momentum` is true, CyclicLR unless it is false, as in torch.
        steps_per_execution: Number of steps that the compiled loop takes in one call. auto takes
            all steps until something is due, such as a validation. 1 leaves each step to torch and
            Lightning; its results differ by rounding. All other values give the same bits.

    Attributes:
        preprocessing: Columns and scaling of the table that it was trained on, as checkpoints keep
            them; empty where a checkpoint has none, None before a training on a table.

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
        self._many_steps = ManySteps(self)

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
            refuse_all_frozen(self)
            self.preprocessing = None  # that of this training comes with its rows
            self.tune(getattr(self.trainer, "datamodule", None))

    def tune(self, data: Any) -> None:
        """Put numbers in the place of auto, in the hyperparameters.

        Args:
            data: DataModule of the training.

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
            The loss, shape (). For no rows, which a process may get, loss and gradient are 0.

        Raises:
            ValueError: When y or sample_weight has another shape: the loss would broadcast it, to
                (n_samples, n_samples) say, and train a different line.
        """
        X, y, *sample_weight = labelled(batch, self.hparams["n_features"])
        prediction: Tensor = self(X)
        check_shape("y", y, prediction.shape, "that of the predictions")
        if not len(prediction):
            return prediction.sum()  # a mean over nothing would be nan
        y = y.to(prediction.dtype)
        if not sample_weight:
            return self.mse(prediction, y)  # type: ignore[no-any-return]
        check_shape("sample_weight", sample_weight[0], prediction.shape[:1], "one for each row")
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
        return l1 + float(h.l2) * self.weight.square().sum()

    def training_step(self, batch: Batch | Block, batch_idx: int) -> dict[str, Tensor]:
        """Return the objective under `loss`, and the mean squared error alone under `mse`.

        For a block of steps, both are those of its last step. The callback Scalars logs them:
        `self.log` would cost as much as the step.
        """
        if isinstance(batch, Block):
            return self._many_steps.last_loss()
        mse = self.loss(batch)
        self._window.batch, self._window.mse = batch, mse.detach()
        has_penalty = self.hparams["l1"] or self.hparams["l2"]
        objective = mse + self.penalty() if has_penalty else mse
        return {"loss": objective, "mse": self._window.mse}

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

    def on_train_start(self) -> None:
        """Take up what a checkpoint had, and look how steps can be taken."""
        self.take_up()
        self._many_steps.start(LinearRegression, DEFINED)


DEFINED = definition(LinearRegression)
"""The class as it is written here, to know it again where something has been replaced in it."""
