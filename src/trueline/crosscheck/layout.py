"""All parameters as one vector, so that a step of many parameters costs no more than one of one."""

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Layout:
    """Where each parameter lies in the vector.

    Args:
        shapes: Of the parameters, by name, in the order of the vector.

    Example:
        >>> layout = Layout({"weight": (2,), "bias": ()})
        >>> layout.vector({"bias": np.array(3.0), "weight": np.array([1.0, 2.0])})
        array([1., 2., 3.])
        >>> layout.name_at(2)
        'bias'
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self.sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        ends = accumulate(self.sizes.values())
        self.slices = {
            name: slice(end - size, end)
            for (name, size), end in zip(self.sizes.items(), ends, strict=True)
        }

    def vector(self, arrays: Mapping[str, Array]) -> Array:
        """Put arrays, each in its parameter's shape, into one vector.

        Axes in front of the parameters' own stay in front.
        """
        first, shape = next(iter(self.shapes.items()))
        front = np.shape(arrays[first])[: np.ndim(arrays[first]) - len(shape)]
        flat = [np.reshape(arrays[name], (*front, self.sizes[name])) for name in self.shapes]
        return np.concatenate(flat, axis=-1)

    def arrays(self, vector: Array) -> dict[str, Array]:
        """Return the parts of a vector, each in its parameter's shape."""
        front = vector.shape[:-1]
        return {
            name: vector[..., part].reshape((*front, *self.shapes[name]))
            for name, part in self.slices.items()
        }

    def indices(self, names: Iterable[str]) -> NDArray[np.intp]:
        """Return the entries of some parameters in the vector."""
        parts = [np.arange(self.slices[n].start, self.slices[n].stop) for n in names]
        return np.concatenate(parts)

    def name_at(self, entry: int) -> str:
        """Return the name of the parameter that an entry of the vector belongs to."""
        return next(name for name, part in self.slices.items() if part.start <= entry < part.stop)
