"""The batches that make up one step of the optimizer, however many and on whatever processes."""

from collections.abc import Iterable

import torch
from lightning.pytorch import Trainer
from torch import Tensor


class Window:
    """Batches whose gradients are accumulated for one step.

    Attributes:
        batch: Batch at hand, on this process; None where a training_step of another makes one.
        mse: The mean squared error over the rows of all batches so far; from a batch's forward pass
            until it is taken in, over its own.
        size: Of the batches so far, on all processes.
        squares: Sum of their mean squared errors, each times its size.
    """

    batch: tuple[Tensor, ...] | None = None
    mse = torch.tensor(torch.nan)
    size = squares = 0.0

    def begin(self) -> None:
        """Begin a step."""
        self.size = self.squares = 0.0

    def take_in(self, trainer: Trainer, size: float, parameters: Iterable[Tensor]) -> float:
        """Take in the batch at hand, and make the gradient so far its share of the step's.

        A step's rows may come in several batches, which Lightning weights alike however many rows
        they have, and divides by the number that was asked for where an epoch ends earlier; and
        from several processes, whose shares of a batch need not be equal.

        Args:
            trainer: Of the training.
            size: Of the batch at hand, on this process.
            parameters: Whose gradients are accumulated.

        Returns:
            What the loss, as Lightning has divided it, is to be multiplied with.
        """
        mse = self.mse.to(widest_float(self.mse.device))
        sums = torch.stack([torch.full_like(mse, size), size * mse])
        of_all, squares = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        before = self.size
        self.size, self.squares = before + of_all, self.squares + squares
        self.mse = torch.as_tensor(self.squares / self.size, dtype=mse.dtype)
        for parameter in parameters:
            if before and parameter.grad is not None:
                parameter.grad.mul_(before / self.size)
        # Lightning has divided by the batches in a window, and will by the number of processes.
        undivided = trainer.accumulate_grad_batches * trainer.world_size
        return undivided * size / self.size


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, but for Apple's GPU, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64
