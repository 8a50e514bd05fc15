"""The update rule, as the documentation of `torch.optim.SGD` states it, and its proximal form."""

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

    An L1 penalty has no gradient at 0. It is taken by its proximal map, the soft threshold
    `S(z, t) = z − clip(z, −t, t)`, which is exactly 0 for |z| ≤ t. With the pull of the penalty,
    `s = clip(z, −t, t)/lr`, and `c`, the coefficient of `g` in `v` (1 at the first step,
    1 − dampening afterwards):

        z = θ − lr·v,  t = lr·c·l1,  θ ← S(z, t),  v ← v + s                  (momentum)
        z = θ − lr·g,  t = lr·l1,  v ← momentum·v + g + s,
        θ ← S(z, t) − lr·momentum·v                                           (nesterov)

    Both are torch's rule where l1 is 0. Where they rest, v is 0 and −g is a subgradient of l1·|θ|:
    θ minimises the penalised objective.

    Args:
        lr: Learning rate, > 0.
        momentum: In [0, 1).
        dampening: In [0, 1].
        nesterov: Needs momentum > 0 and dampening 0.
        weight_decay: ≥ 0; applies to every parameter, the bias too.
        maximize: Climb instead of descend; weight decay and L1 penalty still pull towards 0.

    References:
        Sutskever, Martens, Dahl & Hinton, "On the importance of initialization and momentum in
        deep learning" (2013), equations 3 and 4.
        Ochs, Chen, Brox & Pock, "iPiano: Inertial Proximal Algorithm for Nonconvex Optimization"
        (2014), algorithm 1: the heavy ball with a proximal map.
        Beck & Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse
        Problems" (2009), equations 4.1 to 4.3: Nesterov's momentum with one.
    """

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    maximize: bool = False

    def step(
        self,
        parameter: Array,
        gradient: Array,
        buffer: Array | None = None,
        l1: Array | float = 0.0,
    ) -> tuple[Array, Array | None]:
        """Take one step.

        Args:
            parameter: θ, any shape.
            gradient: Gradient of the objective without its L1 penalty, in the shape of θ.
            buffer: v as the last step returned it; None at the first step.
            l1: Strength of the L1 penalty, ≥ 0; broadcasts with θ.

        Returns:
            The new θ and the new v (None without momentum).

        Example:
            >>> sgd = SGD(lr=0.1, momentum=0.9)
            >>> theta, v = sgd.step(np.array(1.0), np.array(2.0))
            >>> theta, v = sgd.step(theta, np.array(2.0), v)
            >>> round(float(theta), 12), round(float(v), 12)
            (0.42, 3.8)
            >>> SGD(lr=0.1).step(np.array([1.0, 0.25]), np.array([2.0, 2.0]), l1=3.0)[0]
            array([0.5, 0. ])
        """
        g = -gradient if self.maximize else gradient
        if self.weight_decay:
            g = g + self.weight_decay * parameter
        v, damped = g, 1.0
        if self.momentum and buffer is not None:
            damped = 1 - self.dampening
            v = self.momentum * buffer + damped * g
        if np.any(l1):
            return self._proximal_step(parameter, g, v, buffer, damped * l1)
        if not self.momentum:
            return np.asarray(parameter - self.lr * g), None
        direction = g + self.momentum * v if self.nesterov else v
        return np.asarray(parameter - self.lr * direction), v

    def _proximal_step(
        self, parameter: Array, g: Array, v: Array, buffer: Array | None, l1: Array | float
    ) -> tuple[Array, Array | None]:
        """Take the step with an L1 penalty, whose strength is damped as the gradient in v is."""
        z = parameter - self.lr * (g if self.nesterov else v)
        pulled = np.clip(z, -self.lr * l1, self.lr * l1)
        theta = np.asarray(z - pulled)
        if not self.momentum:
            return theta, None
        # A schedule may end at lr 0, where no threshold pulls.
        moves = np.not_equal(self.lr, 0)
        v = v + np.divide(pulled, self.lr, out=np.zeros_like(z), where=moves)
        if not self.nesterov:
            return theta, v
        # Without its look ahead the parameter was x. Where it stays 0, so that x is 0, v is exact.
        x = parameter if buffer is None else parameter + self.lr * (self.momentum * buffer)
        v = np.divide(x, self.lr, out=v, where=moves & (theta == 0))
        return theta - self.lr * (self.momentum * v), v
