"""The article's two PyTorch trainers, corrected: by hand, and with PyTorch's loss and optimizer.

Both take X as the article has it, one feature of shape (n_samples,), and do one full-batch step an
epoch. What the article leaves out, or gets wrong, is told in `docs/article.md`.
"""

import numpy as np
import torch
from torch import Tensor

from trueline.reference import Trace


def train_autograd(
    X: Tensor, y: Tensor, weight: float, bias: float, lr: float, epochs: int
) -> Trace:
    """Train with autograd for the gradients and an update written by hand.

    Args:
        X: One feature, shape (n_samples,), floating; its dtype is that of the training.
        y: Targets, shape (n_samples,), in the same dtype.
        weight: Initial weight.
        bias: Initial bias.
        lr: Learning rate, > 0.
        epochs: Full-batch steps to take.

    Returns:
        Loss and parameters before each step and at the end.

    Example:
        >>> from trueline.reference.article import X, y
        >>> x, y = torch.tensor(X[:, 0]).double(), torch.tensor(y).double()
        >>> trace = train_autograd(x, y, weight=0.0, bias=0.0, lr=0.001, epochs=1)
        >>> trace.weight[-1].round(4), trace.bias[-1].round(4)
        (array([1.6427]), np.float64(0.1184))
    """
    w = torch.tensor(weight, dtype=X.dtype, requires_grad=True)
    b = torch.tensor(bias, dtype=X.dtype, requires_grad=True)
    seen = []
    for _ in range(epochs):
        error = ((y - (w * X + b)) ** 2).mean()
        seen.append((error.item(), w.item(), b.item()))
        error.backward()
        assert w.grad is not None  # backward() has just set them
        assert b.grad is not None
        with torch.no_grad():
            w -= lr * w.grad
            b -= lr * b.grad
        # PyTorch adds to .grad: without this, each step would use the sum of all so far.
        w.grad.zero_()
        b.grad.zero_()
    with torch.no_grad():
        seen.append((((y - (w * X + b)) ** 2).mean().item(), w.item(), b.item()))
    return as_trace(seen)


def train_builtin(
    X: Tensor, y: Tensor, weight: float, bias: float, lr: float, epochs: int
) -> Trace:
    """Train with `MSELoss` and `optim.SGD`.

    Args:
        X: One feature, shape (n_samples,), floating; its dtype is that of the training.
        y: Targets, shape (n_samples,), in the same dtype.
        weight: Initial weight.
        bias: Initial bias.
        lr: Learning rate, > 0.
        epochs: Full-batch steps to take.

    Returns:
        Loss and parameters before each step and at the end.

    Example:
        >>> from trueline.reference.article import X, y
        >>> x, y = torch.tensor(X[:, 0]).double(), torch.tensor(y).double()
        >>> trace = train_builtin(x, y, weight=0.0, bias=0.0, lr=0.001, epochs=1)
        >>> trace.weight[-1].round(4), trace.bias[-1].round(4)
        (array([1.6427]), np.float64(0.1184))
    """
    w = torch.tensor(weight, dtype=X.dtype, requires_grad=True)
    b = torch.tensor(bias, dtype=X.dtype, requires_grad=True)
    optimizer = torch.optim.SGD([w, b], lr=lr)
    loss = torch.nn.MSELoss()
    seen = []
    for _ in range(epochs):
        error = loss(w * X + b, y)
        seen.append((error.item(), w.item(), b.item()))
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    with torch.no_grad():
        seen.append((loss(w * X + b, y).item(), w.item(), b.item()))
    return as_trace(seen)


def as_trace(seen: list[tuple[float, float, float]]) -> Trace:
    """Turn what was seen at each epoch, `(loss, weight, bias)`, into a trace."""
    loss, weight, bias = np.array(seen).T
    return Trace(loss, weight[:, None], bias)
