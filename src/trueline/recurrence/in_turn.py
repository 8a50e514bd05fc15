"""The same steps one after another, where there are so many parameters that this is cheaper.

A map is as wide as there are parameters, and to compose two costs the cube of that; a step by
itself costs two products of matrix and vector.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from trueline.recurrence.step import Rule

Gradient = Callable[[Tensor], Tensor]
"""That of the mean squared error, shape (p, T), as a function of θ."""


class InTurn:
    """The states of steps that are taken one after another, as far as they are asked for.

    Args:
        gradients: One for each step.
        origin: θ before the first step, shape (p, T), in the dtype that the steps are taken in.
        buffers: Momentum buffers v, in the same shape; None before the first step of a training.
        lrs: Learning rates, shape (K,).
        rule: The update rule, and the L2 penalty.
    """

    def __init__(
        self,
        gradients: Iterator[Gradient],
        origin: Tensor,
        buffers: Tensor | None,
        lrs: Tensor,
        rule: Rule,
    ) -> None:
        self._gradients = gradients
        self._lrs = lrs
        self._rule = rule
        self._theta, self._buffers = origin, buffers
        before = one_by_one((), origin, buffers, lrs[:0], rule)
        self._states = before.new_empty(len(lrs) + 1, *before.shape[1:])
        self._states[:1] = before
        self._taken = 0

    def until(self, step: int) -> Tensor:
        """Take the steps before one, as far as they have not been taken.

        Args:
            step: From 0 to K.

        Returns:
            The states before each step and after the last, as `one_by_one` has them, of any content
            beyond this step; shape (K + 1, q, T).
        """
        if step > self._taken:
            gradients, lrs = islice(self._gradients, step - self._taken), self._lrs
            found = one_by_one(
                gradients, self._theta, self._buffers, lrs[self._taken : step], self._rule
            )
            self._states[self._taken : step + 1] = found
            self._theta, buffers = found[-1].tensor_split([len(self._theta)])
            self._buffers = buffers if self._rule.momentum else None
            self._taken = step
        return self._states


def one_by_one(
    gradients: Iterable[Gradient],
    origin: Tensor,
    buffers: Tensor | None,
    lrs: Tensor,
    rule: Rule,
) -> Tensor:
    """Return the states of K steps that are taken one after another, by the rule of `step_maps`.

    Args:
        gradients: Of the mean squared error, shape (p, T), as a function of θ; one for each step.
        origin: θ before the first step, shape (p, T), in the dtype that the steps are taken in.
        buffers: Momentum buffers v, in the same shape; None before the first step of a training.
        lrs: Learning rates, shape (K,).
        rule: The update rule, and the L2 penalty.

    Returns:
        `[θ; v]` before each step and after the last, or θ without momentum: (K + 1, q, T).

    Example:
        >>> of_a_square = [lambda theta: 2 * theta] * 2
        >>> origin, lrs = torch.ones(1, 1), torch.tensor([0.25, 0.25])
        >>> one_by_one(of_a_square, origin, None, lrs, Rule()).ravel()
        tensor([1.0000, 0.5000, 0.2500])
    """
    p, T = origin.shape
    states = origin.new_zeros(len(lrs) + 1, 2 * p if rule.momentum else p, T)
    states[0, :p] = origin
    if buffers is not None and rule.momentum:
        states[0, p:] = buffers
    pulled, pull = bool(rule.l2 or rule.weight_decay), rule.pull(origin)
    first = buffers is None
    # In memory of its own: the bits of a product may depend on how its factors are aligned.
    theta = origin.clone()
    for before, after, lr, gradient in zip(
        states[:-1].unbind(), states[1:].unbind(), lrs.tolist(), gradients, strict=True
    ):
        g = gradient(theta)
        if pulled:
            g.addcmul_(pull, theta)
        if rule.momentum:
            v = after[p:]
            if first:
                v.copy_(g)
            else:
                torch.mul(before[p:], rule.momentum, out=v).add_(g, alpha=1 - rule.dampening)
            g = g.add_(v, alpha=rule.momentum) if rule.nesterov else v
            first = False
        theta = torch.add(theta, g, alpha=-lr)
        after[:p] = theta
    return states
