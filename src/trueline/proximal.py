"""SGD with an L1 penalty, in torch: a proximal step, which leads weights to exactly 0."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class ProximalSGD(torch.optim.SGD):
    """`torch.optim.SGD` with a soft threshold after the gradient step.

    The gradients are those of the objective without its L1 penalty. Momentum remembers how the
    parameter moved, threshold included, so that a training comes to rest at the minimum of the
    penalised objective. Where the penalty is 0, a step is that of `torch.optim.SGD`.

    Args:
        params: Parameters, or parameter groups.
        lr: Learning rate, ≥ 0.
        momentum: In [0, 1).
        dampening: Dampening of momentum, in [0, 1].
        weight_decay: Weight decay, ≥ 0.
        nesterov: Whether momentum is Nesterov's.
        l1: Strength of the L1 penalty on each parameter that has one.

    References:
        Ochs, Chen, Brox & Pock, "iPiano: Inertial Proximal Algorithm for Nonconvex Optimization"
        (2014), algorithm 1.
        Beck & Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse
        Problems" (2009), section 4, whose point x is the parameter before Nesterov's look ahead.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 0.25]))
        >>> weight.grad = torch.tensor([2.0, 2.0])
        >>> _ = ProximalSGD([weight], lr=0.1, l1={weight: 3.0}).step()
        >>> weight.data
        tensor([0.5000, 0.0000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        l1: Mapping[Tensor, float],
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)
        # In the groups, which copies and pickles of an optimizer keep.
        for group in self.param_groups:
            group["l1"] = [l1.get(parameter, 0.0) for parameter in group["params"]]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a checkpoint's momentum; the penalty stays the one that was given."""
        given = [group["l1"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, l1 in zip(self.param_groups, given, strict=True):
            group["l1"] = l1

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: Function that computes the gradients and returns the loss.

        Returns:
            The loss; None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter, l1 in zip(group["params"], group["l1"], strict=True):
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, l1, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, l1: float, group: dict[str, Any]) -> None:
        """Take the step of one parameter."""
        lr, momentum, nesterov = group["lr"], group["momentum"], group["nesterov"]
        state = self.state[parameter]
        buffer = state.get("momentum_buffer")
        gradient = -gradient if group["maximize"] else gradient
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        kept, direction = torch.zeros_like(parameter), gradient
        if momentum and buffer is not None:
            kept, entering = momentum * buffer, 1 - group["dampening"]
            direction, l1 = kept + entering * gradient, entering * l1
        if not (threshold := lr * l1):
            if momentum:
                state["momentum_buffer"] = direction
            ahead = gradient + momentum * direction if nesterov else direction
            parameter.sub_(ahead, alpha=lr)
            return
        moved = parameter - lr * (gradient if nesterov else direction)
        reached = moved - moved.clamp(-threshold, threshold)
        if momentum:
            # (before − reached)/lr, without the rounding of a difference.
            before = parameter + lr * kept if nesterov else parameter
            pulled = direction + l1 * reached.sign()
            direction = torch.where(reached == 0, before / lr, pulled)
            state["momentum_buffer"] = direction
        parameter.copy_(reached - lr * (momentum * direction) if nesterov else reached)
