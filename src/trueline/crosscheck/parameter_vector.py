"""All parameters as one vector, so that a step of many parameters costs no more than one of one."""

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ParameterVector:
    """Where each parameter lies in the vector.

    Args:
        shapes: Shapes of the parameters by name, in the order of the vector.

    Example:
        >>> layout = ParameterVector({"weight": (2,), "bias": ()})
        >>> layout.vector({"bias": np.array(3.0), "weight": np.array([1.0, 2.0])})
        array([1., 2., 3.])
        >>> layout.name_at(2)
        'bias'
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        ends = list(accumulate(math.prod(shape) for shape in self.shapes.values()))
        pairs = zip([0, *ends], ends, strict=False)
        self.slices = {name: slice(*pair) for name, pair in zip(self.shapes, pairs, strict=True)}

    def vector(self, arrays: Mapping[str, Array]) -> Array:
        """Put arrays into one vector; axes in front of the parameters' own stay in front."""
        name, shape = next(iter(self.shapes.items()))
        front = np.shape(arrays[name])[: np.ndim(arrays[name]) - len(shape)]
        return np.concatenate([np.reshape(arrays[n], (*front, -1)) for n in self.shapes], axis=-1)

    def arrays(self, vector: Array) -> dict[str, Array]:
        """Return the parts of a vector, each in its parameter's shape."""
        return {
            name: vector[..., part].reshape((*vector.shape[:-1], *self.shapes[name]))
            for name, part in self.slices.items()
        }

    def indices(self, names: Iterable[str]) -> NDArray[np.intp]:
        """Return the entries of some parameters in the vector."""
        return np.concatenate([np.empty(0, np.intp), *(np.r_[self.slices[n]] for n in names)])

    def name_at(self, entry: int) -> str:
        """Return the name of the parameter that an entry of the vector belongs to."""
        return next(name for name, part in self.slices.items() if part.start <= entry < part.stop)
