"""The gradient over all rows as one matrix, where each step takes in all of them."""

import torch
from torch import Tensor

from trueline.executions.rows import Rows
from trueline.recurrence import gradient_from_rows, gram


class FullBatch:
    """All rows as their moments: one Hessian for all steps.

    Args:
        rows: Of the training.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        width = rows.width
        G, size = torch.zeros(width, width, dtype=torch.float64, device=rows.device), 0.0
        for Z, weight in rows.chunks():
            G += gram(Z[None], None if weight is None else weight[None])[0]
            size += len(Z) if weight is None else weight.sum().item()
        together = rows.add_up(torch.cat([G.view(-1), G.new_tensor([size])]))
        self.size = together[-1].item() * rows.n_targets
        self._moments = together[:-1].view(width, width) / self.size

    def at(self, origin: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient around an origin, and the loss there.

        Args:
            origin: θ, shape (p, T), float64.

        Returns:
            That of the mean squared error as a matrix that acts on `[δ; 1]`, shape (p, p + T), and
            the loss, shape ().
        """
        p = len(origin)
        if self.rows.dtype == torch.float64:
            constant, loss = self._by_rows(origin)
        else:
            # What moments round in float64 is nothing in float32, and they are at hand.
            s = torch.cat([origin, -torch.eye(origin.shape[1]).to(origin)])
            products = self._moments @ s
            constant, loss = 2 * products[:p], (s * products).sum().clamp(min=0)
        return torch.cat([2 * self._moments[:p, :p], constant], dim=1), loss

    def _by_rows(self, origin: Tensor) -> tuple[Tensor, Tensor]:
        """Return gradient and loss from the residuals of each row."""
        constant, squares = torch.zeros_like(origin), origin.new_zeros(())
        for Z, weight in self.rows.chunks():
            by_parameter, of_loss = gradient_from_rows(Z, origin, weight)
            constant += by_parameter
            squares += of_loss
        together = self.rows.add_up(torch.cat([constant.view(-1), squares.view(1)]))
        return together[:-1].view_as(origin) / self.size, together[-1] / self.size
