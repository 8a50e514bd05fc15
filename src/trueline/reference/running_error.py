"""Running error analysis: NumPy code is run once on arrays that carry bounds on their errors.

Each operation passes on the errors of its operands, by its steepest slope between x − e and x + e,
and adds its own rounding. So a user's loss and gradient get bounds that nobody need derive.

References:
    Wilkinson, "Error Analysis Revisited" (1986).
    Higham, "Accuracy and Stability of Numerical Algorithms" (2002), chapters 2 to 4.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from trueline.reference.rounding import OWN, SINGLE, Arithmetic, gamma

Array = NDArray[Any]
Axis = int | tuple[int, ...] | None

UNDERFLOWS = 4
"""Smallest numbers that one rounding may lose: in training, in the reference, in the bound."""

FEW_ULPS = 8
"""Roundings in an elementary function. Libraries state up to 4 units in the last place, each worth
two unit roundoffs: NumPy's vectorised functions in its pull request 19478, CUDA's `powf` in the
appendix on mathematical functions of the programming guide."""


def unsupported(found: str) -> TypeError:
    """Return the error for an operation that has no bound."""
    functions: list[Any] = [*UFUNCS, np.matmul, *FUNCTIONS]
    names = ", ".join(sorted(function.__name__ for function in functions))
    return TypeError(
        f"expected NumPy functions whose rounding errors can be bounded, found {found}; write it "
        f"with supported functions ({names}) or give the reference a "
        "rounding_bound(parameters, batch, arithmetic) method"
    )


class Bounded(np.lib.mixins.NDArrayOperatorsMixin):
    """An array in float64 and a bound on the error of each entry, for NumPy functions to work on.

    An entry x with error e stands for every x̃ with |x̃ − x| ≤ e; without a known bound, e = ∞. A
    comparison that errors may turn round is undecided: a truth value with error 1, which may choose
    in `np.where` and be multiplied with, but not be an index.

    Args:
        value: Numbers, or truth values.
        error: Bounds ≥ 0, in a shape that broadcasts to that of `value`.
        arithmetic: The rounding of the training, which is passed on to every result.

    Example:
        >>> from trueline.reference.rounding import FLOAT32
        >>> mean = np.mean(Bounded(np.array([3.0, 4.0]), 0.0, FLOAT32) ** 2)
        >>> mean.value, mean.error < 1e-5
        (array(12.5), np.True_)
    """

    def __init__(self, value: Any, error: Any, arithmetic: Arithmetic) -> None:
        value, error = np.asarray(value), np.asarray(error, np.float64)
        self.value = value if value.dtype == bool else np.asarray(value, np.float64)
        self.error = np.where(np.isnan(error), np.inf, error) if np.isnan(error).any() else error
        strides = self.value.strides if self.dtype != bool else self.error.strides
        if self.error.shape != value.shape or self.error.strides != strides:
            # Errors are laid out as the numbers are, so that views of both reach the same entries.
            given, self.error = self.error, np.empty_like(self.value, np.float64)
            self.error[...] = given
        self.arithmetic = arithmetic

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)
    T = property(lambda self: np.transpose(self))
    reach = property(lambda self: np.abs(self.value) + self.error, doc="largest magnitude")
    nearest = property(lambda self: np.abs(self.value) - self.error, doc="smallest; ≤ 0 if open")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        (out,) = options.pop("out", (None,))
        name = "np." * hasattr(np, ufunc.__name__) + ufunc.__name__
        if method != "__call__" or not (ufunc in UFUNCS or ufunc is np.matmul):
            raise unsupported(name + f".{method}" * (method != "__call__"))
        if options or not (out is None or isinstance(out, Bounded)):
            raise unsupported(f"{name} with out= or where=, or into a plain array")
        x = lifted(*inputs)
        with np.errstate(all="ignore"):
            result = matmul(*x) if ufunc is np.matmul else elementwise(ufunc, *x)
        if out is None:
            return result
        out[...] = result
        return out

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        name = f"{function.__module__.replace('numpy', 'np')}.{function.__name__}"
        if function not in FUNCTIONS:
            raise unsupported(name)
        try:
            inspect.signature(FUNCTIONS[function]).bind(*inputs, **options)
        except TypeError as error:
            raise unsupported(f"{name} with arguments that are not supported: {error}") from error
        with np.errstate(all="ignore"):
            return FUNCTIONS[function](*inputs, **options)

    def __getattr__(self, name: str) -> Any:
        function, method = getattr(np, name, None), getattr(np.ndarray, name, None)
        if name.startswith("_") or method is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        if function not in FUNCTIONS:
            raise unsupported(f"the method or attribute {name} of an array")
        return partial(moved(method) if function in MOVES else function, self)

    def __getitem__(self, index: Any) -> "Bounded":
        return Bounded(self.value[index], self.error[index], self.arithmetic)

    def __setitem__(self, index: Any, x: Any) -> None:
        _, new = lifted(self, x)
        self.value[index], self.error[index] = new.value, new.error

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator["Bounded"]:
        return map(self.__getitem__, range(len(self)))

    def astype(self, dtype: Any) -> "Bounded":
        """Return a copy, with truth values as numbers; it stays in float64."""
        if np.dtype(dtype) != np.float64 and self.dtype != bool:
            raise unsupported(f"astype({np.dtype(dtype)})")
        return Bounded(self.value.astype(np.float64), self.error.copy(), self.arithmetic)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if self.dtype != bool:
            self._refuse()
        if self.error.any():
            raise TypeError(
                "expected comparisons that rounding errors cannot turn round, for an index or an "
                f"if, found {np.count_nonzero(self.error)} undecided of {self.size}; choose with "
                "np.where, or give the reference a rounding_bound(parameters, batch, arithmetic)"
            )
        return np.array(self.value, dtype)

    def __bool__(self) -> bool:
        return bool(self.__array__())

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError(
            "expected numbers that keep the bound on their error, found one that is turned into a "
            "plain number or array, by float(), .item(), a function of math or np.asarray, or by "
            "putting it into a plain array; leave it as it is, as in `return np.mean(r * r), ...`, "
            "and build arrays with np.stack or np.concatenate"
        )

    __float__ = __int__ = __complex__ = __index__ = item = tolist = _refuse


def lifted(*operands: Any) -> list[Bounded]:
    """Return operands with their errors; plain numbers are constants, brought to the dtype."""
    arithmetic = next(x.arithmetic for x in operands if isinstance(x, Bounded))

    def lift(x: Any) -> Bounded:
        plain = np.asarray(x)
        if plain.dtype.kind not in "biuf":
            raise unsupported(f"an operand of type {type(x).__name__}")
        return Bounded(plain, arithmetic.lost(plain), arithmetic)

    return [x if isinstance(x, Bounded) else lift(x) for x in operands]


def rounded(a: Arithmetic, value: Array, passed_on: Array, zero: Array, k: int = 1) -> Bounded:
    """Add k roundings, but to 0 for certain: `e + γ(k)·(|x| + e) + k·smallest`; ∞ on overflow."""
    lost = gamma(k, a.stored) * (np.abs(value) + passed_on) + UNDERFLOWS * a.smallest * k
    error = (passed_on + np.where(zero, 0.0, lost)) * OWN
    # False for nan too: nothing is known of 0·inf.
    return Bounded(value, np.where(np.abs(value) + error <= a.largest, error, np.inf), a)


# Elementwise: a rule takes f = f(x) and x; it returns a bound on |f(x̃) − f(x)| and the number of
# roundings in f. No rule subtracts f(x) from f(x + e), whose difference is lost where e is small.
Rule = Callable[..., tuple[Any, int]]


def elementwise(ufunc: np.ufunc, *x: Bounded) -> Bounded:
    """Bound an elementwise function by its rule and its own rounding."""
    if ufunc not in LOGICAL:
        if all(part.dtype == bool for part in x):
            raise unsupported(f"np.{ufunc.__name__} of truth values alone")
        x = tuple(part.astype(float) if part.dtype == bool else part for part in x)
    f = np.asarray(ufunc(*(part.value for part in x)))
    passed_on, k = UFUNCS[ufunc](f, *x)
    if k == 0:
        return Bounded(f, np.array(passed_on, float), x[0].arithmetic)
    # Sums do not underflow; other functions do, unless an operand is 0 for certain.
    certain = ufunc in (np.add, np.subtract) or sum(part.reach == 0 for part in x) > 0
    return rounded(x[0].arithmetic, f, passed_on, (f == 0) & (passed_on == 0) & certain, k)


def quotient_change(f: Array, a: Bounded, b: Bounded) -> Array:
    """Return `(e_a + |a/b|·e_b)/(|b| − e_b)`, infinite where b̃ may be 0."""
    return np.where(b.nearest > 0, (a.error + np.abs(f) * b.error) / b.nearest, np.inf)


def log_change(lowest: Array, e: Array) -> Array:
    """Return `log x − log(x − e)`, infinite where x − e is not above 0."""
    return np.where(lowest > 0, np.log1p(e / lowest), np.inf)


def sqrt_change(f: Array, x: Bounded) -> Array:
    """Return `√x − √(x − e)`, infinite where x − e is below 0."""
    lowest = x.value - x.error
    change = np.where(x.error > 0, x.error / (f + np.sqrt(np.maximum(lowest, 0))), 0)
    return np.where(lowest >= 0, change, np.inf)


def power(f: Array, a: Bounded, b: Bounded) -> tuple[Array, int]:
    """Bound `aᵇ`: `e_a·|b|·ãᵇ⁻¹ + ãᵇ·(exp(e_b·|log ã|) − 1)`, where b̃ is whole or ã above 0."""
    whole = (b.value == np.rint(b.value)) & (b.error == 0)
    slope = np.abs(b.value) * np.where(b.value >= 1, a.reach, a.nearest) ** (b.value - 1)
    change = np.where((a.error == 0) | (b.value == 0), 0, a.error * slope)
    log = np.abs(np.log(a.value)) + log_change(a.value - a.error, a.error)
    change = change + np.where(b.error > 0, (np.abs(f) + change) * np.expm1(b.error * log), 0)
    known = np.where(whole, (b.value >= 0) | (a.nearest > 0), a.value > a.error)
    still_zero = (a.reach == 0) & (b.value > b.error)
    # A square is one product; other powers are repeated products or calls that are units off.
    k = int(np.clip(np.max(np.abs(b.value), initial=0, where=whole), FEW_ULPS, 2**53))
    is_square = (whole & (b.value == 2)).all()
    return np.where(still_zero, 0, np.where(known, change, np.inf)), 1 if is_square else k


def logaddexp(_: Array, a: Bounded, b: Bounded) -> tuple[Array, int]:
    """Bound `log(eᵃ + eᵇ)` as `max(a, b) + log1p(exp(−|a − b|))`, or as torch's logistic loss.

    Near 0, that loss cancels two terms of the size of a and b.
    """
    u, apart, spread = a.arithmetic.stored, a.value - b.value, a.error + b.error
    # The slope by a is the share of eᵃ in eᵃ + eᵇ.
    change = a.error / (1 + np.exp(-apart - spread)) + b.error / (1 + np.exp(apart - spread))
    # The difference, exp and log1p round what may be far larger than a result near 0.
    nearest = np.maximum(np.abs(apart) - spread, 0)
    inner = gamma(2 * FEW_ULPS, u) * (1 + nearest) * np.exp(-nearest)
    return change + inner + gamma(1, u) * (a.reach + b.reach), FEW_ULPS


def larger(_: Array, a: Bounded, b: Bounded) -> tuple[Array, int]:
    """Return the error of the larger number, or the larger error where either may be it."""
    decided = np.abs(a.value - b.value) > (a.error + b.error) * OWN
    taken = np.where(a.value > b.value, a.error, b.error)
    return np.where(decided, taken, np.maximum(a.error, b.error)), 0


def undecided(_: Array, a: Bounded, b: Bounded) -> tuple[Array, int]:
    """Return 1 where errors may turn a comparison round."""
    spread = (a.error + b.error) * OWN
    return (np.abs(a.value - b.value) <= spread) & (spread > 0) | np.isinf(spread), 0


COMPARISONS = (np.greater, np.greater_equal, np.less, np.less_equal, np.equal, np.not_equal)
LOGICAL = (np.bitwise_and, np.bitwise_or, np.invert, np.logical_and, np.logical_or, np.logical_not)

UFUNCS: dict[np.ufunc, Rule] = {
    **dict.fromkeys((np.add, np.subtract), lambda _, a, b: (a.error + b.error, 1)),
    np.multiply: lambda _, a, b: (np.abs(a.value) * b.error + a.error * b.reach, 1),
    np.divide: lambda f, a, b: (quotient_change(f, a, b), 1),
    np.power: power,
    np.square: lambda _, x: (x.error * (np.abs(x.value) + x.reach), 1),
    np.sqrt: lambda f, x: (sqrt_change(f, x), 1),
    np.exp: lambda f, x: (f * np.expm1(x.error), FEW_ULPS),
    np.log: lambda _, x: (log_change(x.value - x.error, x.error), FEW_ULPS),
    np.log1p: lambda _, x: (log_change(1 + x.value - x.error, x.error), FEW_ULPS),
    np.logaddexp: logaddexp,
    np.tanh: lambda _, x: (x.error / np.cosh(np.maximum(x.nearest, 0)) ** 2, FEW_ULPS),
    np.sign: lambda f, x: (np.where((x.nearest <= 0) & (x.error > 0), 1 + np.abs(f), 0), 0),
    **dict.fromkeys((np.negative, np.absolute), lambda _, x: (x.error, 0)),
    np.maximum: larger,
    np.minimum: lambda f, a, b: larger(-f, -a, -b),
    **dict.fromkeys(COMPARISONS, undecided),
    **dict.fromkeys(LOGICAL, lambda _, *masks: (sum(mask.error for mask in masks) > 0, 0)),
}


def summed(a: Arithmetic, error: Array, reach: Array, n: int) -> Array:
    """Add the roundings inside sums of n terms, in any order: `Σe + γ(n)·Σ(|x| + e)`."""
    # γ holds the reference's own roundings, the last factor those of the sums taken here.
    error = (error + gamma(n, a.summed) * reach) * (OWN + gamma(n, 0.0))
    # Half precisions are summed in float32, whose range is wider.
    single = float(np.finfo(np.float32).max) if a.summed <= SINGLE else 0.0
    return np.where(reach + error <= max(a.largest, single), error, np.inf)


def total(x: Bounded, axis: Axis = None, *, keepdims: bool = False, mean: int = 0) -> Bounded:
    """Bound a sum, or a mean, which is divided before it is stored."""
    parts = (x.value, x.error, x.reach)
    value, error, reach = (np.sum(part, axis=axis, keepdims=keepdims) for part in parts)
    n = x.size // max(np.size(value), 1)
    by = n if mean else 1
    error = summed(x.arithmetic, error, reach, n + mean)
    return rounded(x.arithmetic, value / by, error / by, reach == 0)


def matmul(a: Bounded, b: Bounded) -> Bounded:
    """Bound a product of matrices, `|A|·E_B + E_A·(|B| + E_B)` and its roundings."""
    value, arithmetic, n = a.value @ b.value, a.arithmetic, a.shape[-1]
    a, b = (_as_factor(x, arithmetic) for x in (a, b))
    error, reach = np.abs(a.value) @ b.error + a.error @ b.reach, a.reach @ b.reach
    zero = reach == 0
    if zero.any():  # of factors that are 0, or of products too small for float64
        zero = (a.reach > 0).astype(float) @ (b.reach > 0).astype(float) == 0
    error = error + np.where(zero, 0, UNDERFLOWS * n * arithmetic.smallest)
    return rounded(arithmetic, value, summed(arithmetic, error, reach, n + 1), zero)


def _as_factor(x: Bounded, a: Arithmetic) -> Bounded:
    """Bring a factor of a matrix product to the precision in which it is multiplied."""
    lost = (a.products * x.reach + a.smallest) * OWN
    return Bounded(x.value, x.error + (lost if a.products > a.stored else 0) * (x.reach > 0), a)


def dot(a: Any, b: Any) -> Any:
    """Bound `np.dot` of scalars, vectors and matrices."""
    if np.ndim(b) > 2:
        raise unsupported("np.dot of arrays with more than two axes")
    return a @ b if np.ndim(a) and np.ndim(b) else a * b


def largest(x: Bounded, axis: Axis = None, *, keepdims: bool = False) -> Bounded:
    """Bound the largest entry, which may be any whose error lets it."""
    lowest = np.max(x.value - x.error, axis=axis, keepdims=True)
    may_be = np.where(x.value + x.error >= lowest, x.error, 0)
    value, error = (np.max(part, axis=axis, keepdims=keepdims) for part in (x.value, may_be))
    return Bounded(value, error, x.arithmetic)


def where(condition: Any, x: Any, y: Any) -> Bounded:
    """Bound a choice: where the condition is undecided, the error covers both."""
    condition, x, y = lifted(condition, x, y)
    first = condition.value.astype(bool)
    other = np.where(first, y.error, x.error) + np.abs(x.value - y.value) * OWN
    error = np.where(first, x.error, y.error)
    error = np.where(condition.error > 0, np.maximum(error, other), error)
    return Bounded(np.where(first, x.value, y.value), error, x.arithmetic)


def clip(x: Any, a_min: Any = None, a_max: Any = None) -> Any:
    """Bound `np.clip`: the larger of the number and one limit, the smaller of that and another."""
    low, high = -np.inf if a_min is None else a_min, np.inf if a_max is None else a_max
    return np.minimum(np.maximum(x, low), high)


def full_like(x: Bounded, fill_value: Any) -> Any:
    """Return one number in the shape of an array."""
    return np.broadcast_to(lifted(x, fill_value)[1], x.shape).copy()


def moved(function: Callable[..., Array]) -> Callable[..., Bounded]:
    """Return the rule of a function that moves entries: errors move alike."""
    return lambda x, *how, **options: Bounded(
        function(x.value, *how, **options), function(x.error, *how, **options), x.arithmetic
    )


def joined(function: Callable[..., Array]) -> Callable[..., Bounded]:
    """Return the rule of a function that joins a list of arrays."""

    def rule(arrays: Sequence[Any], axis: int = 0) -> Bounded:
        x = lifted(*arrays)
        value, error = [part.value for part in x], [part.error for part in x]
        return Bounded(function(value, axis=axis), function(error, axis=axis), x[0].arithmetic)

    return rule


MOVES = (
    *(np.transpose, np.reshape, np.ravel, np.expand_dims, np.squeeze, np.broadcast_to),
    *(np.swapaxes, np.copy),
)

FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    np.sum: total,
    np.mean: partial(total, mean=1),
    np.dot: dot,
    np.max: largest,
    np.min: lambda x, axis=None, *, keepdims=False: -largest(-x, axis, keepdims=keepdims),
    np.where: where,
    np.clip: clip,
    np.zeros_like: lambda x: full_like(x, 0.0),
    np.ones_like: lambda x: full_like(x, 1.0),
    np.full_like: full_like,
    **{function: moved(function) for function in MOVES},
    **{function: joined(function) for function in (np.concatenate, np.stack)},
    np.shape: lambda x: x.shape,
    np.ndim: lambda x: x.ndim,
    np.size: lambda x: x.size,
}


def _carried(data: Any, arithmetic: Arithmetic) -> Any:
    """Return parameters or a batch with each floating array bounded; others are exact."""
    if isinstance(data, Mapping):
        return {key: _carried(part, arithmetic) for key, part in data.items()}
    if isinstance(data, list | tuple):
        parts = [_carried(part, arithmetic) for part in data]
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    if isinstance(data, np.ndarray | np.floating) and data.dtype.kind == "f":
        return Bounded(np.array(data, np.float64), arithmetic.lost(data), arithmetic)
    return data


def bound_by_running(
    reference: Any, parameters: Mapping[str, Array], batch: Any, arithmetic: Arithmetic
) -> tuple[float, dict[str, Array]]:
    """Bound the errors of a loss and its gradients by running the reference once: `bound = 2·e`.

    e bounds how far the reference's own operations, in the arithmetic of the training, may be from
    float64. The factor 2 rests on the one assumption made: the training evaluates the same
    mathematics by another sequence of operations, whose errors are bounded alike. A training that
    cancels large terms where the reference does not may be judged wrong, so the reference should be
    written as the training is. A logistic loss is best written with `np.logaddexp`, which allows
    for torch's. Integers and truth values of the batch are exact; floating arrays have the error of
    bringing them to the dtype.

    Args:
        reference: An object with `loss_and_gradient(parameters, batch)`, in NumPy.
        parameters: Arrays by name, in float64.
        batch: Arrays, also in lists, tuples and dicts.
        arithmetic: The rounding of the training.

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
