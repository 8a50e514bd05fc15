"""One optimizer step, taken once more in NumPy: what should have come, and how far it may be off.

This knows no Lightning and no torch; `callback` brings it what training did.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.layout import Layout
from trueline.crosscheck.rows import n_rows
from trueline.crosscheck.stack import Stack
from trueline.crosscheck.step import Reference, Rule, Step
from trueline.crosscheck.verdict import Quantity
from trueline.errors import RequestError
from trueline.reference import SGD, Clipping, LeastSquares, moments
from trueline.reference.linear import share_of
from trueline.reference.rounding import (
    DOUBLE,
    Arithmetic,
    gamma,
    step_bound,
    window_bound,
)
from trueline.reference.running_error import bound_by_running

Array = NDArray[np.float64]
Parameters = Mapping[str, Array]


class Judge:
    """Takes steps in float64 and bounds how far training may be from them.

    Args:
        reference: Loss and gradient in NumPy.
        optimizer: The update rule for all parameters, or one for each name or dotted prefix.
        clipping: The clipping that is meant, if any.
        arithmetic: How the training rounds.
        layout: Of the vectors.
        example: Parameters and a batch, to ask the reference about what it trains.

    Raises:
        RequestError: When the reference's gradients do not fit the module, or a parameter has no
            update rule.
    """

    def __init__(
        self,
        reference: Reference,
        optimizer: SGD | Mapping[str, SGD],
        clipping: Clipping | None,
        arithmetic: Arithmetic,
        layout: Layout,
        example: tuple[Array, Any],
    ) -> None:
        self.reference = reference
        self.clipping = clipping
        self.arithmetic = arithmetic
        self.layout = layout
        self.rules, self.untrained = self._find_rules(optimizer, *example)
        self.frozen: tuple[str, ...] = ()
        self._without_frozen = self

    def freeze(self, names: tuple[str, ...]) -> "Judge":
        """Return the judge of steps that leave some parameters alone.

        Args:
            names: Names of the frozen parameters, all of them.
        """
        original = self._without_frozen
        rules = []
        for rule in original.rules:
            kept = [name for name in rule.names if name not in names]
            entries = rule.entries
            if kept != rule.names:
                entries = self.layout.indices(kept) if kept else np.empty(0, np.intp)
            rules.append(Rule(kept, entries, rule.optimizer, self._thresholds(entries)))
        untrained = [n for n in self.layout.shapes if n in names or n in original.untrained]
        return original.varied(frozen=names, rules=rules, untrained=untrained)

    def _find_rules(
        self, optimizer: SGD | Mapping[str, SGD], parameters: Array, batch: Any
    ) -> tuple[list[Rule], list[str]]:
        """Find out which parameters the reference trains, by which rule, and which it does not.

        Raises:
            RequestError: When its gradients do not fit the module, or a parameter has no rule.
        """
        arrays = self.layout.arrays(parameters)
        gradients = self.reference.loss_and_gradient(arrays, batch)[1]
        bounds = self.bounds(arrays, batch)[1]
        for name, gradient in gradients.items():
            shape = self.layout.shapes.get(name)
            found = np.shape(gradient), np.shape(bounds.get(name, np.empty(0)))
            if found != (shape, shape):
                raise RequestError(
                    f"reference: expected a gradient of {name} and a bound on it of shape "
                    f"{shape}, found shapes {found[0]} and {found[1]}; mend the reference given "
                    "to CrossCheck"
                )
        trained = [name for name in self.layout.shapes if name in gradients]
        rules = []
        given = optimizer if isinstance(optimizer, Mapping) else {"": optimizer}
        for key, rule in given.items():
            names = [n for n in trained if not key or n == key or n.startswith(f"{key}.")]
            if not names:
                raise RequestError(
                    f"CrossCheck(optimizer=...): expected names of trained parameters, "
                    f"{', '.join(trained)}; found {key}"
                )
            whole = names == list(self.layout.shapes)
            entries = slice(None) if whole else self.layout.indices(names)
            rules.append(Rule(names, entries, rule, self._thresholds(entries)))
        ruled = [name for rule in rules for name in rule.names]
        if sorted(ruled) != sorted(trained):
            raise RequestError(
                "CrossCheck(optimizer=...): expected one update rule for each trained parameter, "
                f"{', '.join(trained)}; found rules for {', '.join(ruled)}"
            )
        return rules, [name for name in self.layout.shapes if name not in gradients]

    def _thresholds(self, entries: Any) -> Array | float:
        """Return the strength of the L1 penalty on some entries; 0 where none of them has one."""
        of_names = getattr(self.reference, "thresholds", {})
        shapes = self.layout.shapes.items()
        strengths = {name: np.full(shape, of_names.get(name, 0.0)) for name, shape in shapes}
        found = self.layout.vector(strengths)[entries]
        return found if found.any() else 0.0

    def size(self, batch: Any) -> float:
        """Return how much a batch counts beside others."""
        size = getattr(self.reference, "size", None)
        return float(size(batch) if size else n_rows(batch))

    def bounds(self, parameters: Parameters, batch: Any) -> tuple[float, Mapping[str, Array]]:
        """Bound the errors of loss and gradients over one batch."""
        own = getattr(self.reference, "rounding_bound", None)
        try:
            if own:
                return own(parameters, batch, self.arithmetic)  # type: ignore[no-any-return]
            return bound_by_running(self.reference, parameters, batch, self.arithmetic)
        except TypeError as error:
            raise RequestError(f"reference: {error}") from error

    def part(self, parameters: Array, batch: Any) -> tuple[float, float, Array, Array]:
        """Return loss, its bound, gradient and its bound over one batch.

        Raises:
            RequestError: When there is no finite bound.
        """
        arrays = self.layout.arrays(parameters)
        if not self.size(batch):  # a process may have no row of a batch
            zero = np.zeros(len(parameters))
            return 0.0, 0.0, zero, zero
        loss, gradients = self.reference.loss_and_gradient(arrays, batch)
        loss_bound, bounds = self.bounds(arrays, batch)
        if self.untrained:
            rest = {name: np.zeros(self.layout.shapes[name]) for name in self.untrained}
            gradients, bounds = {**gradients, **rest}, {**bounds, **rest}
        gradient, bound = self.layout.vector(gradients), self.layout.vector(bounds)
        refuse_unbounded(np.asarray(loss), np.asarray(loss_bound))
        refuse_unbounded(gradient, bound)
        return float(loss), float(loss_bound), gradient, bound

    def window(self, step: Step) -> tuple[Array, Array, Array, Array]:
        """Return the losses of all parts, their bounds, the gradient over all rows, its bound."""
        parts = [self.part(step.before, part.batch) for part in step.parts]
        losses, loss_bounds = (np.array([part[i] for part in parts]) for i in (0, 1))
        if len(parts) == 1 and step.divisor == 1:
            return losses, loss_bounds, parts[0][2], parts[0][3]
        sizes = [self.size(part.batch) for part in step.parts]
        share = np.array(sizes)[:, None] / sum(sizes)
        gradients, bounds = (np.array([part[i] for part in parts]) for i in (2, 3))
        bound, size = np.sum(share * bounds, axis=0), np.sum(share * np.abs(gradients), axis=0)
        u = self.arithmetic.parameters
        loss_bounds = loss_bounds + gamma(2, u) * np.abs(losses)  # divided, and multiplied again
        gradient = np.sum(share * gradients, axis=0)
        return losses, loss_bounds, gradient, window_bound(bound, size, len(parts), u)

    def judge(self, step: Step) -> list[Quantity]:
        """Take a step and put what should have come beside what training found.

        Returns:
            The comparisons, in the order in which a training computes them.
        """
        losses, loss_bounds, gradient, bound = self.window(step)
        return [
            Quantity("loss", _losses_of(step), losses, loss_bounds),
            Quantity("gradient", step.gradient, gradient, bound),
            *self.updates(step, *self.clip(gradient, bound)),
        ]

    def losses(self, step: Step) -> Quantity:
        """Put the losses alone beside what training found."""
        return Quantity("loss", _losses_of(step), *self.window(step)[:2])

    def updates(self, step: Any, gradient: Array, bound: Array) -> list[Quantity]:
        """Compare what the optimizer did with the gradient that it should have used.

        Args:
            step: A `Step`, or anything with its arrays, which may have an axis for steps in front.
            gradient: After clipping.
            bound: On its error.
        """
        compared, after, allowed = [], step.before.copy(), np.zeros_like(bound)
        for k, rule in enumerate(self.rules):
            if not rule.names:
                continue
            at = (..., rule.entries)
            lr, lr_error = step.lrs[..., k, :1], step.lrs[..., k, 1:]
            optimizer: Any = replace(rule.optimizer, lr=lr)
            buffer = None if step.buffer is None else step.buffer[at]
            state = step.before[at], gradient[at], bound[at]
            after[at], momentum, allowed[at], kept = self._step(
                optimizer, *state, buffer, lr_error, rule.l1
            )
            found = step.lr[at]
            if np.isfinite(found).all():  # what no group has shows by not moving
                zero = np.zeros_like(found)
                compared.append(Quantity("lr", found, lr + zero, lr_error + zero, rule.entries))
            if optimizer.momentum:
                found = step.buffer_after[at]
                compared.append(Quantity("momentum", found, momentum, kept, rule.entries))
        return [*compared, Quantity("parameter", step.after, after, allowed)]

    def _step(
        self,
        optimizer: SGD,
        before: Array,
        gradient: Array,
        bound: Array,
        buffer: Array | None,
        lr_error: Any,
        l1: Any,
    ) -> tuple[Any, ...]:
        """Return parameters and momentum after a step, and the bounds on both.

        A buffer is nan where a parameter that was frozen so far has none yet.
        """

        def step(buffer: Array | None) -> tuple[Any, ...]:
            u = self.arithmetic.parameters
            return (
                *optimizer.step(before, gradient, buffer, l1),
                *step_bound(optimizer, before, gradient, bound, buffer, u, lr_error, l1),
            )

        if buffer is None or not (new := np.isnan(buffer)).any():
            return step(buffer)
        pairs = zip(step(None), step(np.where(new, 0.0, buffer)), strict=True)
        return tuple(np.where(new, first, later) for first, later in pairs)

    def can_stack(self, steps: list[Step]) -> bool:
        """Return whether `judge_stack` takes these steps: of equal shape, one batch each."""
        return (
            len(steps) > 0
            and type(self.reference) is LeastSquares
            and self.arithmetic.uniform
            and all(len(s.parts) == 1 and s.divisor == 1 and not s.skipped for s in steps)
            and len({len(s.parts[0].batch[0]) for s in steps}) == 1
            and len(steps[0].parts[0].batch[0]) > 0
            and (steps[0].buffer is None) == (steps[-1].buffer is None)
        )

    def judge_stack(self, stack: Stack) -> list[Quantity]:
        """Do what `judge` does for many steps, whose comparisons are stacked.

        Each step is judged from the parameters before it, so none needs the one before.
        """
        if stack.anchor is None:
            found = self._by_residuals(stack)
        else:
            found = self._by_moments(stack)
        losses, loss_bounds, gradient, bound = found
        for name in self.untrained:
            gradient[..., self.layout.slices[name]] = bound[..., self.layout.slices[name]] = 0
        refuse_unbounded(losses, loss_bounds)
        refuse_unbounded(gradient, bound)
        return [
            Quantity("loss", stack.losses, losses, loss_bounds),
            Quantity("gradient", stack.gradient, gradient, bound),
            *self.updates(stack, *self.clip(gradient, bound)),
        ]

    def _by_residuals(self, stack: Stack) -> tuple[Array, Array, Array, Array]:
        """Return losses, gradients and their bounds, where training took steps from rows."""
        reference: Any = self.reference
        batch = tuple(np.asarray(array, np.float64) for array in stack.batch)
        losses, gradients, loss_bounds, bounds = reference.judge_steps(
            self.layout.arrays(stack.before), batch, self.arithmetic
        )
        return losses, loss_bounds, self.layout.vector(gradients), self.layout.vector(bounds)

    def _by_moments(self, stack: Stack) -> tuple[Array, Array, Array, Array]:
        """Return losses, gradients and their bounds, where training took steps from moments."""
        reference: Any = self.reference
        X, y, *weights = stack.batch
        n, shape = X.shape[1], (-1, X.shape[2] + 1, y.shape[2] if y.ndim > 2 else 1)
        theta = stack.before.reshape(shape)
        anchor = np.broadcast_to(stack.anchor, stack.before.shape).reshape(shape)
        if stack.moments is None:
            share = share_of(shape[2], n, *(np.asarray(w, np.float64) for w in weights))
            found = moments.evaluate(
                X,
                y.reshape(*y.shape[:2], -1),
                share[..., None] if weights else share,
                theta,
                anchor,
            )
        else:
            found = moments.evaluate_all_rows(stack.moments, theta, anchor)
        # Of the moments that training used, and of those of the reference.
        times = 1 if stack.moments is None else 2
        bound = times * moments.gradient_bound(found, n, bool(weights), DOUBLE)
        penalty = np.full(theta.shape[1:], 2 * reference.l2)
        penalty[-1] = 0
        pulled = penalty * np.abs(theta)
        gradient, u = found.gradient + penalty * theta, self.arithmetic.parameters
        bound = bound + gamma(4, u) * (np.abs(gradient) + bound + pulled)
        sums = gamma((2 if weights else 1) * n + 2 * stack.before.shape[1] + 16, DOUBLE)
        penalties = reference.l1 * np.abs(theta[:, :-1]) + reference.l2 * theta[:, :-1] ** 2
        losses = found.loss + penalties.sum(axis=(1, 2))
        loss_bound = (times + 1) * sums * found.loss_reach + gamma(
            shape[1] * shape[2] + 5, u
        ) * losses
        flat = (a.reshape(stack.before.shape) for a in (gradient, bound))
        return losses, loss_bound, *flat

    def varied(self, **changes: Any) -> "Judge":
        """Return a judge that differs in some attributes, such as `clipping` or `arithmetic`."""
        other = copy(self)
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    def clip(self, gradient: Array, bound: Array) -> tuple[Array, Array]:
        """Return the gradient as it should be clipped, and the bound on its error."""
        if not self.clipping:
            return gradient, bound
        return self.clipping.clip_steps(gradient, bound, self.arithmetic.parameters)


def _losses_of(step: Step) -> Array:
    return np.array([np.nan if part.loss is None else part.loss for part in step.parts])


def refuse_unbounded(values: Array, bounds: Array) -> None:
    """Refuse a batch whose numbers are finite and their bounds are not: nothing would be checked.

    Raises:
        RequestError: Saying what would help.
    """
    if (np.isfinite(values) & ~np.isfinite(bounds)).any():
        raise RequestError(
            "the cross-check expected a batch whose rounding errors can be bounded, found one "
            "too long for the precision, or with values too large for it, as in a training that "
            "diverges; lower the learning rate or --data.batch_size, scale the data, or set "
            "--trainer.precision 64-true"
        )
