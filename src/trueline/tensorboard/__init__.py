"""What a training leaves in TensorBoard: curves, a layout of them, hyperparameters, text, figures.

The x axis is the number of optimizer steps taken. A point at step k shows the state before the next
step: the parameters after k steps, with the loss and the gradients at those parameters, over the
batch of that step; the last point's loss is over all rows.

Example:
    >>> from trueline.tensorboard.names import names
    >>> names({"weight": (2,), "bias": ()})
    ['weight_0', 'weight_1', 'bias']
"""

from trueline.tensorboard.logger import RunLogger, log_points
from trueline.tensorboard.scalars import Scalars

__all__ = ["RunLogger", "Scalars", "log_points"]
