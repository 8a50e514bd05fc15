"""How Lightning takes a step of a LinearRegression: backward pass, update, schedule, loss.

The step itself is in `trueline.module`; what stands here keeps Lightning's loop to it, whatever the
rows of a step come in and however many steps are taken in one turn.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trueline.batches import Batch
from trueline.data.blocks import Block
from trueline.divergence import check_loss, check_parameters
from trueline.loop.state import StepResult
from trueline.many_steps.runner import ManySteps
from trueline.progress import at_step_end, tell
from trueline.schedule import Schedule
from trueline.unchanged import refuse_all_frozen
from trueline.window import Window


class Steps(LightningModule):
    """The hooks around a step."""

    schedule: Schedule | None
    size: Callable[[Batch], float]
    _many_steps: ManySteps

    def __init__(self) -> None:
        super().__init__()
        self._window = Window()

    @property
    def execution(self) -> StepResult | None:
        """Result of the latest steps of the loop; None where steps are taken one by one."""
        return self._many_steps.latest

    @property
    def single_steps(self) -> str | None:
        """Why steps are taken one by one; None where they are not."""
        return self._many_steps.reason

    @property
    def step_loss(self) -> Tensor:
        """The mean squared error over the rows of the latest step, in all batches and processes."""
        return self._window.mse

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Take the steps of a block, before Lightning asks whether a step is due."""
        if isinstance(batch, Block):
            self._many_steps.run(batch)
            self._window.mse = self._many_steps.last_loss()["mse"]

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
        elif self.schedule is not None and self.schedule.interval == "step" and not self.execution:
            scheduler.step(self.step_loss.item())

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
        if gradient_clip_val and not self.execution:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )

    def backward(self, loss: Tensor) -> None:
        """Make the gradient that of the mean over all rows of a step, whatever they came in."""
        trainer, window = self.trainer, self._window
        if self.execution is not None:
            return  # its steps have been taken
        refuse_all_frozen(self)
        if window.batch is None:  # a training_step of the user's own; Lightning divides its loss
            window.mse = loss.detach() * trainer.accumulate_grad_batches
        elif trainer.accumulate_grad_batches > 1 or trainer.world_size > 1:
            size = self.size(window.batch)
            loss = loss * window.take_in(trainer, size, self.parameters())
        window.batch = None
        loss.backward()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log `train/loss` where no callback does."""
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps
        if not every or not trainer.loggers or self.is_logged or not at_step_end(trainer):
            return
        if self.execution is None:
            first, losses = trainer.global_step - 1, [self.step_loss.item()]
        else:
            first, losses = (
                trainer.global_step - self.execution.steps,
                self.execution.losses.tolist(),
            )
        for step, loss in enumerate(losses, first):
            if step % every == 0:
                for logger in trainer.loggers:
                    logger.log_metrics({"train/loss": loss}, step)

    @property
    def is_logged(self) -> bool:
        """Whether a callback logs the losses, with everything else."""
        return any(getattr(callback, "logs_losses", False) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Take a step by the optimizer, or leave the state after the steps of the loop instead.

        Raises:
            CheckFailed: When the step has left parameters that are not finite.
        """
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.execution is not None:
            # Without gradients, which only a backward pass leaves, the optimizer did nothing.
            self._many_steps.leave()
        check_parameters(self)
