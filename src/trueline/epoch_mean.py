"""The mean of a loss over an epoch, whatever batches and processes its rows came in."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor


class EpochMean:
    """`Σ size·mean / Σ size` over batches, in float64.

    Lightning sums in the dtype of the loss and averages the means of processes, however many rows
    each of them had.

    Example:
        >>> mean = EpochMean()
        >>> mean.update(torch.tensor(1.0), size=3)
        >>> mean.update(torch.tensor(2.0), size=1)
        >>> mean.compute()
        tensor(1.2500, dtype=torch.float64)
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)

    def update(self, mean: Tensor, size: float) -> None:
        """Take a batch in.

        Args:
            mean: The loss over the batch, shape ().
            size: Its rows, or the sum of their weights. Of a batch without rows nothing is taken.
        """
        if not size:
            return
        # On the loss's device, where adding waits for nothing; Apple's GPU has no float64.
        device = "cpu" if mean.device.type == "mps" else mean.device
        share = mean.detach().to(device, torch.float64) * size
        self._sums = self._sums.to(device) + torch.stack([share, torch.full_like(share, size)])

    def compute(self, trainer: Trainer | None = None) -> Tensor:
        """Return the mean over all batches so far.

        Args:
            trainer: Whose processes have a share of the rows each; without one, the rows of this
                process are all there are.

        Returns:
            Shape (), float64; nan without rows.
        """
        sums = self._sums
        if trainer is not None and trainer.world_size > 1:
            here = sums.to(trainer.strategy.root_device)
            sums = trainer.strategy.reduce(here, reduce_op="sum")
        return sums[0] / sums[1]
