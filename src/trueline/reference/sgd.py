"""The update rule, as the documentation of `torch.optim.SGD` states it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, dampening, Nesterov and weight decay.

    With gradient `g`, parameter `θ` and momentum buffer `v`:

        g ← −g  (maximize)
        g ← g + weight_decay·θ
        v ← g at the first step, momentum·v + (1 − dampening)·g afterwards
        g ← g + momentum·v  (nesterov)   or   v  (momentum alone)
        θ ← θ − lr·g

    The first gradient enters the buffer undamped. This is torch's rule and not that of every
    library.

    Args:
        lr: Learning rate, > 0.
        momentum: In [0, 1).
        dampening: In [0, 1].
        nesterov: Needs momentum > 0 and dampening 0.
        weight_decay: ≥ 0; applies to every parameter, the bias too.
        maximize: Climb instead of descend; the weight decay still pulls towards 0.

    References:
        Sutskever, Martens, Dahl & Hinton, "On the importance of initialization and momentum in
        deep learning" (2013), equations 3 and 4.
    """

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    maximize: bool = False

    def step(
        self, parameter: Array, gradient: Array, buffer: Array | None = None
    ) -> tuple[Array, Array | None]:
        """Take one step.

        Args:
            parameter: θ, any shape.
            gradient: In the shape of θ.
            buffer: v as the last step returned it; None at the first step.

        Returns:
            The new θ and the new v (None without momentum).

        Example:
            >>> sgd = SGD(lr=0.1, momentum=0.9)
            >>> theta, v = sgd.step(np.array(1.0), np.array(2.0))
            >>> theta, v = sgd.step(theta, np.array(2.0), v)
            >>> round(float(theta), 12), round(float(v), 12)
            (0.42, 3.8)
        """
        if self.maximize:
            gradient = -gradient
        if self.weight_decay:
            gradient = gradient + self.weight_decay * parameter
        if self.momentum:
            if buffer is None:
                buffer = gradient
            else:
                buffer = self.momentum * buffer + (1 - self.dampening) * gradient
            gradient = gradient + self.momentum * buffer if self.nesterov else buffer
        return np.asarray(parameter - self.lr * gradient), buffer
