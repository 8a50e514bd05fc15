"""Callbacks without the cost of hooks that they do not have."""

from typing import Any

from lightning.pytorch import Callback


class FewHooks(Callback):
    """A callback of which Lightning calls, at each step, only the hooks that it has.

    Around each hook, an empty one too, Lightning opens an entry of its profiler, which takes longer
    than a look at the clock or at a loss; but what cannot be called it passes over.
    """

    on_train_epoch_start: Any = None
    on_train_batch_start: Any = None
    on_before_zero_grad: Any = None
    on_before_backward: Any = None
    on_after_backward: Any = None
    on_before_optimizer_step: Any = None
    on_train_batch_end: Any = None
    on_train_epoch_end: Any = None


def has_hook(callback: Callback, name: str) -> bool:
    """Return whether a callback has a hook of its own, of its class or set on itself."""
    own = getattr(callback, name)
    return callable(own) and getattr(own, "__func__", own) is not getattr(Callback, name)
