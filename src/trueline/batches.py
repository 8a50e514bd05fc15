"""The batches that `LinearRegression` takes, whatever shape a DataLoader serves them in."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Batch = tuple[Tensor, ...]
"""`(X, y)`, or `(X, y, sample_weight)`."""
NAMES = ("X", "y", "sample_weight")


def as_batch(batch: Any, n_features: int) -> tuple[Tensor, ...]:
    """Return the tensors of a batch as `(X,)`, `(X, y)` or `(X, y, sample_weight)`.

    Args:
        batch: X alone, or up to three tensors in that order, or under these names.
        n_features: Columns that X must have; a single column may come without an axis of its own.

    Raises:
        ValueError: When the batch is something else, or X has another shape.

    Example:
        >>> [X] = as_batch(Tensor([1.0, 2.0]), n_features=1)
        >>> X.shape
        torch.Size([2, 1])
    """
    parts = _parts(batch)
    X = parts[0]
    if X.ndim == n_features == 1:
        X = X[:, None]
    if X.ndim != 2 or X.shape[1] != n_features:
        raise ValueError(
            f"expected X of shape (n_samples, {n_features}), found {tuple(X.shape)}; reshape X"
        )
    return (X, *parts[1:])


def labelled(batch: Any, n_features: int) -> tuple[Tensor, ...]:
    """Return the same of a batch that must have y.

    Raises:
        ValueError: When it has none, or `as_batch` refuses it.
    """
    parts = as_batch(batch, n_features)
    if len(parts) == 1:
        raise ValueError("expected a batch of X and y, found X alone; serve y too")
    return parts


def _parts(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch in the order of `NAMES`."""
    if isinstance(batch, Tensor):
        return [batch]
    if hasattr(batch, "_asdict") and "X" in batch._fields:
        # The rows of a table come with what they are from, which is no tensor.
        batch = {n: part for n, part in batch._asdict().items() if isinstance(part, Tensor)}
    if isinstance(batch, Mapping):
        found = [name for name in NAMES if name in batch]
        if len(found) == len(batch) and found == [*NAMES[: len(found)]] and found:
            batch = [batch[name] for name in found]
    sequence = isinstance(batch, list | tuple) and 1 <= len(batch) <= len(NAMES)
    if sequence and all(isinstance(part, Tensor) for part in batch):
        return [*batch]
    raise ValueError(
        "expected a batch of X, y and sample_weight, or the first of these, as tensors or a dict "
        f"of them; found {_described(batch)}; change the DataLoader, or override the step"
    )


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict of {', '.join(map(str, batch)) or 'nothing'}"
    if isinstance(batch, list | tuple):
        kinds = ", ".join(type(part).__name__ for part in batch)
        return f"a {type(batch).__name__} of {kinds or 'nothing'}"
    return type(batch).__name__


def check_shape(name: str, found: Tensor, expected: torch.Size, what: str) -> None:
    """Refuse a tensor of another shape than expected.

    Args:
        name: Name of the tensor.
        found: The tensor.
        expected: Shape that it should have.
        what: What that shape is, for the message.

    Raises:
        ValueError: When the shape is another, naming both.
    """
    if found.shape != expected:
        raise ValueError(
            f"expected {name} of shape {tuple(expected)}, {what}; found {tuple(found.shape)}; "
            f"reshape {name}"
        )
