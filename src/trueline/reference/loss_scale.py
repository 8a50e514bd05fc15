"""The loss scale that keeps float16 gradients from underflow, as `torch.amp.GradScaler` has it."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LossScale:
    """By how much the loss is multiplied before its gradient is taken.

    A gradient that is not finite is thrown away with its step, and the scale is lowered; after
    enough steps without one it is raised.

    Args:
        scale: > 0.
        growth_factor: > 1.
        backoff_factor: In (0, 1).
        growth_interval: Steps in a row without overflow after which the scale grows.
        good_steps: Of them so far.

    References:
        Micikevicius et al., "Mixed Precision Training" (2018), section 3.2.

    Example:
        >>> LossScale(scale=4.0).after(overflow=True).scale
        2.0
        >>> LossScale(scale=4.0, growth_interval=1).after(overflow=False).scale
        8.0
    """

    scale: float
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    good_steps: int = 0

    def after(self, overflow: bool) -> "LossScale":
        """Return the scale after a step, or after one that was skipped for an overflow."""
        if overflow:
            return replace(self, scale=self.scale * self.backoff_factor, good_steps=0)
        if self.good_steps + 1 == self.growth_interval:
            return replace(self, scale=self.scale * self.growth_factor, good_steps=0)
        return replace(self, good_steps=self.good_steps + 1)
