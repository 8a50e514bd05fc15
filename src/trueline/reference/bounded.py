"""Running error analysis: NumPy code is run once on arrays that carry bounds on their errors.

Who brings a loss and a gradient in plain NumPy need not derive how far rounding may take a correct
training from them: every operation adds its own rounding to the errors that its operands bring.

References:
    Wilkinson, "Error Analysis Revisited" (1986).
    Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 3.3.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn

import numpy as np

from trueline.reference.array_rules import FUNCTIONS, UFUNCS
from trueline.reference.rounding import Arithmetic
from trueline.reference.running_error import Array, Pair, converted
from trueline.reference.ufunc_rules import LOGICAL

METHODS = (
    *("sum", "mean", "max", "min", "any", "all", "dot", "clip", "take"),
    *("ravel", "squeeze", "copy", "repeat", "swapaxes", "diagonal"),
)
"""Methods of arrays that are functions of NumPy by the same name."""


def unsupported(what: str) -> TypeError:
    """Return the error for what has no bound."""
    return TypeError(
        f"expected NumPy functions whose rounding errors can be bounded, found {what}; write it "
        "with supported functions or give the reference a "
        "rounding_bound(parameters, batch, arithmetic) method"
    )


class Bounded(np.lib.mixins.NDArrayOperatorsMixin):
    """An array in float64 and a bound on the error of each entry, for NumPy functions to work on.

    An entry x with error e stands for every x̃ with |x̃ − x| ≤ e. What has no finite bound, such as
    the logarithm of what may be 0, has an infinite error. Comparisons give truth values; those that
    an error may turn round are undecided: they have the error 1, and may choose in `np.where` and
    be multiplied with, but not be an index. A plain number or array would lose the bound, so
    `float()`, `np.asarray` and the like are refused.

    Args:
        value: Numbers, or truth values.
        error: ≥ 0, in a shape that broadcasts to that of `value`.
        arithmetic: How the training rounds; it is passed on to every result.

    Example:
        >>> from trueline.reference.rounding import FLOAT32
        >>> x = Bounded(np.array([3.0, 4.0]), 0.0, FLOAT32)
        >>> mean = np.mean(x * x)
        >>> mean.value, mean.error < 1e-5
        (array(12.5), np.True_)
    """

    def __init__(self, value: Any, error: Any, arithmetic: Arithmetic) -> None:
        value = np.asarray(value)
        self.value = value if value.dtype == bool else np.asarray(value, np.float64)
        error = np.asarray(error, np.float64)
        if np.isnan(error).any():
            error = np.where(np.isnan(error), np.inf, error)
        if error.shape != value.shape or (error.strides != value.strides and value.dtype != bool):
            # Laid out as the numbers are, so that a view of these has a view of their errors.
            given, error = error, np.empty_like(self.value, np.float64)
            error[...] = given
        self.error = error
        self.arithmetic = arithmetic

    def __repr__(self) -> str:
        return f"Bounded(value={self.value}, error={self.error})"

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)
    T = property(lambda self: self.transpose())

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        (out,) = options.pop("out", (None,))
        name = "np." * hasattr(np, ufunc.__name__) + ufunc.__name__
        name += f".{method}" * (method != "__call__")
        if ufunc not in UFUNCS or method != "__call__":
            raise unsupported(name)
        if options or not (out is None or isinstance(out, Bounded)):
            raise unsupported(f"{name} with out= or where=, or into a plain array")
        pairs = [self._pair(x) for x in inputs]
        if ufunc not in LOGICAL:
            if all(pair.value.dtype == bool for pair in pairs):
                raise unsupported(f"{name} of truth values alone")
            pairs = [Pair(pair.value.astype(np.float64, copy=False), pair.error) for pair in pairs]
        with np.errstate(all="ignore"):
            found = Bounded(*UFUNCS[ufunc](self.arithmetic, *pairs), self.arithmetic)
        if out is None:
            return found
        out[...] = found
        return out

    def __array_function__(
        self, function: Callable[..., Any], types: Any, inputs: Any, options: Any
    ) -> Any:
        if function in (np.shape, np.ndim, np.size):
            return function(*(x.value if x is self else x for x in inputs), **options)
        name = f"{function.__module__.replace('numpy', 'np')}.{function.__name__}"
        if function not in FUNCTIONS:
            raise unsupported(name)
        rule, n_arrays = FUNCTIONS[function]
        try:
            call = inspect.signature(rule).bind(self.arithmetic, *inputs, **options)
        except TypeError as error:
            raise unsupported(f"{name} with arguments that are not supported: {error}") from error
        given = call.arguments
        if n_arrays:
            for key in list(given)[1 : 1 + n_arrays]:
                given[key] = None if given[key] is None else self._pair(given[key])
        else:
            given["arrays"] = [self._pair(x) for x in given["arrays"]]
        try:
            with np.errstate(all="ignore"):
                return Bounded(*rule(*call.args, **call.kwargs), self.arithmetic)
        except NotImplementedError as error:
            raise unsupported(str(error)) from error

    def __getitem__(self, index: Any) -> "Bounded":
        at = _plain_index(index)
        return Bounded(self.value[at], self.error[at], self.arithmetic)

    def __setitem__(self, index: Any, x: Any) -> None:
        at, pair = _plain_index(index), self._pair(x)
        self.value[at], self.error[at] = pair.value, pair.error

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator["Bounded"]:
        return (self[i] for i in range(len(self)))

    def __getattr__(self, name: str) -> Any:
        if name in METHODS:
            return partial(getattr(np, name), self)
        if hasattr(np.ndarray, name) and not name.startswith("__"):
            raise unsupported(f"the method or attribute {name} of an array")
        raise AttributeError(f"{type(self).__name__} has no attribute {name}")

    def transpose(self, *axes: Any) -> "Bounded":
        """Return the array with its axes in another order, as `ndarray.transpose` does."""
        value, error = self.value.transpose(*axes), self.error.transpose(*axes)
        return Bounded(value, error, self.arithmetic)

    def reshape(self, *shape: Any) -> "Bounded":
        """Return the array in another shape, as `ndarray.reshape` does."""
        return Bounded(self.value.reshape(*shape), self.error.reshape(*shape), self.arithmetic)

    def flatten(self) -> "Bounded":
        """Return a copy in one dimension."""
        return self.reshape(-1)

    def astype(self, dtype: Any) -> "Bounded":
        """Return the array as it is, or truth values as numbers; it stays in float64."""
        if np.dtype(dtype) != np.float64 and self.value.dtype != bool:
            raise unsupported(f"astype({np.dtype(dtype)})")
        return Bounded(self.value.astype(np.float64), self.error.copy(), self.arithmetic)

    def __bool__(self) -> bool:
        return bool(_decided(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(_decided(self), dtype)

    def _refuse(self, *_: Any) -> NoReturn:
        """Refuse to become a plain number."""
        raise TypeError(
            "expected numbers that keep the bound on their error, found one that is turned into a "
            "plain number or array, by float(), .item(), a function of math or np.asarray, or by "
            "putting it into a plain array; leave it as it is, as in `return np.mean(r * r), ...`, "
            "and build arrays with np.stack or np.concatenate"
        )

    __float__ = __int__ = __complex__ = __index__ = item = tolist = _refuse

    def _pair(self, x: Any) -> Pair:
        """Return an operand with its error; a plain number is a constant, brought to the dtype."""
        if isinstance(x, Bounded):
            return Pair(x.value, x.error)
        plain = np.asarray(x)
        if plain.dtype.kind not in "biuf":
            raise unsupported(f"an operand of type {type(x).__name__}")
        if plain.dtype == bool:
            return Pair(plain, np.zeros(plain.shape))
        return converted(self.arithmetic, plain)


def _decided(x: Bounded) -> Array:
    """Return truth values as a plain array."""
    if x.value.dtype != bool:
        x._refuse()
    if x.error.any():
        raise TypeError(
            "expected comparisons that rounding errors cannot turn round, for an index or an if, "
            f"found {np.count_nonzero(x.error)} undecided of {x.size}; choose with np.where "
            "instead, or give the reference a rounding_bound(parameters, batch, arithmetic) method"
        )
    return x.value


def _plain_index(index: Any) -> Any:
    """Return an index in which truth values that carry errors are plain."""
    if isinstance(index, tuple):
        return tuple(_plain_index(part) for part in index)
    return _decided(index) if isinstance(index, Bounded) else index


def _carried(data: Any, arithmetic: Arithmetic) -> Any:
    """Return parameters or a batch with each floating array bounded; others are exact."""
    if isinstance(data, Mapping):
        return {key: _carried(part, arithmetic) for key, part in data.items()}
    if isinstance(data, list | tuple):
        parts = [_carried(part, arithmetic) for part in data]
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    if isinstance(data, np.ndarray | np.floating) and data.dtype.kind == "f":
        pair = converted(arithmetic, data)
        return Bounded(pair.value.copy(), pair.error, arithmetic)
    return data


def bound_by_running(
    reference: Any, parameters: Mapping[str, Array], batch: Any, arithmetic: Arithmetic
) -> tuple[float, dict[str, Array]]:
    """Bound the errors of a loss and its gradients by running the reference once.

    `bound = 2·e`, where e bounds how far the reference's own sequence of operations, in the
    arithmetic of the training, may be from float64. The factor rests on the one assumption made:
    the training evaluates the same mathematics by another sequence of operations, whose errors are
    bounded alike. Where only the reference cancels large terms, it judges less sharply; where only
    the training does, it may be judged wrong, so the reference should be written as the training
    is. A logistic loss is best written with `np.logaddexp`, which allows for torch's.

    Floating arrays, those of the batch and the parameters, come without an error where the dtype
    holds them exactly, and else with that of bringing them to it. Integers and truth values of the
    batch are exact.

    Args:
        reference: An object with `loss_and_gradient(parameters, batch)`, in NumPy.
        parameters: By name, in float64.
        batch: Arrays, also in lists, tuples and dicts.
        arithmetic: How the training rounds.

    Returns:
        A bound on the loss and one on each gradient, entry by entry; infinite where none is known.

    Raises:
        TypeError: When the reference uses what has no bound, or loses the bounds.

    Example:
        >>> from trueline.reference import LeastSquares
        >>> from trueline.reference.rounding import FLOAT32
        >>> parameters = {"weight": np.array([0.5]), "bias": np.array(0.25)}
        >>> batch = np.array([[1.0], [2.0]]), np.array([3.0, 5.0])
        >>> loss, gradients = bound_by_running(LeastSquares(), parameters, batch, FLOAT32)
        >>> 1e-7 < loss < 1e-4, gradients["weight"].shape
        (True, (1,))
    """
    inputs = (_carried(data, arithmetic) for data in (dict(parameters), batch))
    try:
        loss, gradients = reference.loss_and_gradient(*inputs)
    except ValueError as error:
        # NumPy's own words for what is put into a plain array hide the cause.
        if isinstance(error.__cause__, TypeError):
            raise error.__cause__ from error
        raise
    if not isinstance(loss, Bounded) or loss.shape != ():
        raise TypeError(
            "expected a loss of shape () that carries the bound on its error, found "
            f"{type(loss).__name__} of shape {np.shape(loss)}; return np.mean(...) as it is, "
            "without float()"
        )
    return 2 * float(loss.error), {
        name: 2 * gradient.error if isinstance(gradient, Bounded) else np.zeros(np.shape(gradient))
        for name, gradient in gradients.items()
    }
