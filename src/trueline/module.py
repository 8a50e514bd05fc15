"""The model under Lightning: `w*X + b` with MSELoss and SGD."""

import inspect
import math
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class LinearRegression(LightningModule):
    """Linear regression, `ŷ = X·weight + bias`, trained by SGD on the mean squared error.

    The objective is `mean((ŷ − y)²) + l1·Σ|weight| + l2·Σweight²`, with no factor ½ and the bias
    outside the penalty. The loss being a mean, penalties do not depend on the batch size.

    Args:
        n_features: Columns of X, ≥ 1.
        lr: Learning rate, > 0.
        momentum: In [0, 1); 0 is plain SGD.
        dampening: Of momentum, in [0, 1].
        nesterov: Nesterov's momentum; needs momentum > 0 and dampening 0.
        weight_decay: The optimizer's own decay, ≥ 0; unlike l2 it takes in the bias, and its
            gradient is weight_decay·θ.
        l1: Strength of the L1 penalty, ≥ 0.
        l2: Strength of the L2 penalty, ≥ 0.
        init: Initial parameters: standard normal, as in the article, or zeros.

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
        lr: float = 0.001,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        init: Literal["normal", "zeros"] = "normal",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if wrong := _problems(self.hparams):
            raise ValueError("; ".join(wrong))
        draw = torch.randn if init == "normal" else torch.zeros
        self.weight = torch.nn.Parameter(draw(n_features))
        self.bias = torch.nn.Parameter(draw(()))
        self.mse = torch.nn.MSELoss()

    def configure_model(self) -> None:
        """Bring the parameters to the Trainer's precision before a checkpoint is loaded into them.

        Lightning does so afterwards, and float64 parameters lose half their digits on the way.
        """
        self.trainer.precision_plugin.convert_module(self)

    def forward(self, X: Tensor) -> Tensor:
        """Predict: `X·weight + bias`.

        Args:
            X: Features, shape (n_samples, n_features), any numeric dtype; they are brought to that
                of the parameters.

        Returns:
            Predictions, shape (n_samples,).
        """
        return X.to(self.weight.dtype) @ self.weight + self.bias

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error over a batch.

        Raises:
            ValueError: When y has another shape than the predictions: MSELoss would broadcast the
                two to (n_samples, n_samples) and train a different line.
        """
        X, y = batch
        prediction = self(X)
        if y.shape != prediction.shape:
            raise ValueError(
                f"expected y of shape {tuple(prediction.shape)}, that of the predictions; "
                f"found {tuple(y.shape)}; reshape y"
            )
        return self.mse(prediction, y.to(prediction.dtype))  # type: ignore[no-any-return]

    def penalty(self) -> Tensor:
        """Return `l1·Σ|weight| + l2·Σweight²`."""
        h: Any = self.hparams
        penalty: Tensor = h.l1 * self.weight.abs().sum() + h.l2 * self.weight.square().sum()
        return penalty

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the objective under `loss`, and the mean squared error alone under `mse`.

        `trueline.tensorboard.Scalars` logs them; `self.log` would cost as much as the step.
        """
        mse = self.loss(batch)
        penalised = self.hparams["l1"] or self.hparams["l2"]
        return {"loss": mse + self.penalty() if penalised else mse, "mse": mse.detach()}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log `val/loss`, the mean over all validation rows."""
        # During fit, Scalars logs it at the number of steps taken; Lightning would one earlier.
        fitting = self.trainer.state.fn == "fit"
        self.log("val/loss", self.loss(batch), logger=not fitting, batch_size=len(batch[1]))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log `test/loss`, the mean over all test rows."""
        self.log("test/loss", self.loss(batch), batch_size=len(batch[1]))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the predictions, shape (n_samples,)."""
        return self(batch[0])  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return `torch.optim.SGD` with the hyperparameters of this module."""
        h: Any = self.hparams
        return torch.optim.SGD(
            self.parameters(), h.lr, h.momentum, h.dampening, h.weight_decay, h.nesterov
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let this module's hyperparameters win over those that a checkpoint's optimizer had."""
        options = inspect.signature(torch.optim.SGD).parameters.keys() & self.hparams.keys()
        for state in checkpoint.get("optimizer_states", ()):
            for group in state["param_groups"]:
                group.update({name: self.hparams[name] for name in options})


def _problems(h: Any) -> list[str]:
    """Say which hyperparameters are out of range, each with its remedy."""
    ranges = (
        ("n_features", "1 or more", h.n_features >= 1),
        ("lr", "a finite number above 0", math.isfinite(h.lr) and h.lr > 0),
        ("momentum", "at least 0 and below 1", 0 <= h.momentum < 1),
        ("dampening", "0 to 1", 0 <= h.dampening <= 1),
        ("weight_decay", "a finite number of 0 or more", 0 <= h.weight_decay < math.inf),
        ("l1", "a finite number of 0 or more", 0 <= h.l1 < math.inf),
        ("l2", "a finite number of 0 or more", 0 <= h.l2 < math.inf),
        ("init", "normal or zeros", h.init in ("normal", "zeros")),
    )
    wrong = [
        f"{name}: expected {what}; found {h[name]}" for name, what, holds in ranges if not holds
    ]
    if h.nesterov and (h.momentum <= 0 or h.dampening != 0):
        wrong.append(
            "nesterov: expected momentum above 0 and dampening 0 with it; "
            f"found momentum {h.momentum} and dampening {h.dampening}"
        )
    return wrong
