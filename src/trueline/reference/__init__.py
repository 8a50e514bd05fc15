"""The judge: linear regression by SGD in NumPy, with hand-written gradients.

This package imports NumPy and nothing else, of ours or of others, so that it shares no code with
what it judges. Read `linear`, `sgd`, `clipping`, `train`, `rounding`,
`factored_rows`, `triangle`, `solve`, in that order.

Shapes used throughout: `X` (n_samples, n_features), `y` (n_samples,) or (n_samples, n_targets),
`weight` (n_features,) or (n_features, n_targets), `bias` () or (n_targets,).
"""

from trueline.reference.clipping import Clipping
from trueline.reference.linear import LeastSquares, gradient, mean_squared_error, predict
from trueline.reference.sgd import SGD
from trueline.reference.train import Trace, train

__all__ = [
    "SGD",
    "Clipping",
    "LeastSquares",
    "Trace",
    "gradient",
    "mean_squared_error",
    "predict",
    "train",
]
