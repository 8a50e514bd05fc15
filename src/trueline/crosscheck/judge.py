"""Optimizer steps, taken once more in NumPy: what should have come, and how far it may be off.

This knows no Lightning and no torch; `callback` brings it what training did. Each step is judged
from the parameters before it, so that none needs the one before.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.crosscheck.parameter_vector import ParameterVector
from trueline.crosscheck.record import Reference, Steps, n_rows, step_of
from trueline.crosscheck.verdict import Comparison
from trueline.errors import RequestError
from trueline.reference import SGD, Clipping, LeastSquares, moments
from trueline.reference.rounding import Arithmetic, gamma, step_bound, window_bound
from trueline.reference.running_error import bound_by_running

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """The update rule that is expected for some of the parameters.

    Args:
        names: Names of the parameters.
        entries: Entries of the parameters in the vector.
        optimizer: The update rule; its lr is the one before any schedule.
        l1: Strength of the L1 penalty on each of the entries; 0 where none of them has one.
    """

    names: list[str]
    entries: Any
    optimizer: SGD
    l1: Array | float


class Objective(NamedTuple):
    """Losses and gradients of a stack of n steps, each with a bound on its error.

    Args:
        losses: Loss of each batch, shape (n, n_parts).
        loss_bounds: Bounds on the losses, in the same shape.
        gradient: Gradient of each step over all its batches, shape (n, P).
        bound: Bound on each entry of the gradient, in the same shape.
    """

    losses: Array
    loss_bounds: Array
    gradient: Array
    bound: Array


class Judge:
    """Takes steps in float64 and bounds how far training may be from them.

    Args:
        reference: Loss and gradient in NumPy.
        optimizer: The update rule for all parameters, or one for each name or dotted prefix.
        clipping: The clipping that is expected, if any.
        arithmetic: How the training rounds.
        layout: Layout of the vectors.
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
        layout: ParameterVector,
        example: tuple[Array, Any],
    ) -> None:
        self.reference: Any = reference
        self.clipping = clipping
        self.arithmetic = arithmetic
        self.layout = layout
        self.rules, self.untrained = self._find_rules(optimizer, *example)
        self.frozen: tuple[str, ...] = ()
        self._without_frozen = self

    @property
    def takes_stacks(self) -> bool:
        """Whether many steps are evaluated at once: least squares, where all rounds alike."""
        return type(self.reference) is LeastSquares and self.arithmetic.uniform

    def freeze(self, names: tuple[str, ...]) -> "Judge":
        """Return the judge of steps that leave some parameters alone.

        Args:
            names: Names of the frozen parameters, all of them.
        """
        free = self._without_frozen
        rules = [
            self._rule([name for name in rule.names if name not in names], rule.optimizer)
            for rule in free.rules
        ]
        untrained = [n for n in self.layout.shapes if n in names or n in free.untrained]
        return free.varied(frozen=names, rules=rules, untrained=untrained)

    def varied(self, **changes: Any) -> "Judge":
        """Return a judge that differs in some attributes, such as `clipping` or `arithmetic`."""
        other = copy(self)
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    def _find_rules(
        self, optimizer: SGD | Mapping[str, SGD], parameters: Array, batch: Any
    ) -> tuple[list[Rule], list[str]]:
        """Find out which parameters the reference trains, by which rule, and which it does not.

        Raises:
            RequestError: When its gradients do not fit the module, or a parameter has no rule.
        """
        arrays = self.layout.arrays(parameters)
        gradients = self.reference.loss_and_gradient(arrays, batch)[1]
        bounds = self._bounds(arrays, batch)[1]
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
            rules.append(self._rule(names, rule))
        ruled = [name for rule in rules for name in rule.names]
        if sorted(ruled) != sorted(trained):
            raise RequestError(
                "CrossCheck(optimizer=...): expected one update rule for each trained parameter, "
                f"{', '.join(trained)}; found rules for {', '.join(ruled)}"
            )
        return rules, [name for name in self.layout.shapes if name not in gradients]

    def _rule(self, names: list[str], optimizer: SGD) -> Rule:
        of_names, shapes = getattr(self.reference, "thresholds", {}), self.layout.shapes
        whole = names == list(shapes)
        entries = slice(None) if whole else self.layout.indices(names)
        strengths = {
            name: np.full(shape, of_names.get(name, 0.0)) for name, shape in shapes.items()
        }
        l1 = self.layout.vector(strengths)[entries]
        return Rule(names, entries, optimizer, l1 if l1.any() else 0.0)

    def judge(self, steps: Steps) -> list[Comparison]:
        """Take steps and put what should have come beside what training found.

        Returns:
            The comparisons, in the order in which a training computes them.

        Raises:
            RequestError: When there is no finite bound.
        """
        expected = self.objective(steps)
        found = np.stack([part.losses for part in steps.parts], axis=1)
        if steps.without_penalty:
            w, h = (
                self.layout.arrays(steps.before)["weight"].reshape(len(steps), -1),
                self.reference,
            )
            found = found + (h.l1 * np.abs(w) + h.l2 * w * w).sum(axis=1, keepdims=True)
        losses = Comparison("loss", found, expected.losses, expected.loss_bounds)
        if steps.skipped:  # the loss scale was too large: nothing may have moved
            zero = np.zeros_like(steps.before)
            return [losses, Comparison("parameter", steps.after, steps.before, zero)]
        gradient = Comparison("gradient", steps.gradient, expected.gradient, expected.bound)
        clipped = self.clip(expected.gradient, expected.bound)
        return [losses, gradient, *self._updates(steps, *clipped)]

    def objective(self, steps: Steps) -> Objective:
        """Return losses and gradients of steps: over all rows, whatever batches they came in."""
        if steps.anchor is not None:
            return self._from_moments(steps)
        parts = [self.evaluate(steps.before, part.batch) for part in steps.parts]
        losses, loss_bounds = (np.stack([part[i] for part in parts], axis=1) for i in (0, 1))
        if len(parts) == 1 and steps.divisor == 1:
            return Objective(losses, loss_bounds, parts[0][2], parts[0][3])
        sizes = np.array(
            [[self._size(step_of(p.batch, k)) for k in range(len(steps))] for p in steps.parts]
        )
        share = (sizes / sizes.sum(axis=0))[..., None]
        gradients, bounds = (np.array([part[i] for part in parts]) for i in (2, 3))
        size, u = np.sum(share * np.abs(gradients), axis=0), self.arithmetic.parameters
        bound = window_bound(np.sum(share * bounds, axis=0), size, len(parts), u)
        loss_bounds = loss_bounds + gamma(2, u) * np.abs(losses)  # divided, and multiplied again
        return Objective(losses, loss_bounds, np.sum(share * gradients, axis=0), bound)

    def evaluate(self, before: Array, batch: Any) -> tuple[Array, Array, Array, Array]:
        """Return losses, bounds on them, gradients, and bounds on these, over one batch a step.

        Args:
            before: Parameters before each step, shape (n, P).
            batch: Batch of each step, its arrays with an axis of steps in front.

        Raises:
            RequestError: When there is no finite bound.
        """
        if self.takes_stacks and batch[0].shape[1]:
            arrays = self.layout.arrays(before)
            found = self.reference.judge_steps(arrays, batch, self.arithmetic)
            losses, loss_bounds = found[::2]
            gradients, bounds = (self.layout.vector(each) for each in found[1::2])
        else:
            one_by_one = [self._evaluate_one(b, step_of(batch, k)) for k, b in enumerate(before)]
            of_all = (np.array(each) for each in zip(*one_by_one, strict=True))
            losses, loss_bounds, gradients, bounds = of_all
        refuse_unbounded(losses, loss_bounds)
        return losses, loss_bounds, *self._trained(gradients, bounds)

    def _evaluate_one(self, before: Array, batch: Any) -> tuple[float, float, Array, Array]:
        zero = np.zeros_like(before)
        if not self._size(batch):  # a process may have no row of a batch
            return 0.0, 0.0, zero, zero
        arrays = self.layout.arrays(before)
        loss, gradients = self.reference.loss_and_gradient(arrays, batch)
        loss_bound, bounds = self._bounds(arrays, batch)
        rest = self.layout.arrays(zero)  # of parameters that have no gradient
        gradient, bound = (self.layout.vector({**rest, **g}) for g in (gradients, bounds))
        return float(loss), float(loss_bound), gradient, bound

    def _bounds(self, parameters: Mapping[str, Array], batch: Any) -> tuple[float, Any]:
        """Bound the errors of loss and gradients over one batch of one step."""
        own = getattr(self.reference, "rounding_bound", None)
        try:
            if own:
                return own(parameters, batch, self.arithmetic)  # type: ignore[no-any-return]
            return bound_by_running(self.reference, parameters, batch, self.arithmetic)
        except TypeError as error:
            raise RequestError(f"reference: {error}") from error

    def _size(self, batch: Any) -> float:
        """Return how much a batch of one step counts beside others."""
        size = getattr(self.reference, "size", None)
        return float(size(batch) if size else n_rows(batch))

    def _from_moments(self, steps: Steps) -> Objective:
        """Return losses and gradients of steps that training took from moments of their rows."""
        known = steps.moments or moments.moments_of_each(*steps.parts[0].batch)
        shape = steps.before.shape[1] // known.n_targets, known.n_targets
        theta, anchor = (np.reshape(a, (-1, *shape)) for a in (steps.before, steps.anchor))  # type: ignore[arg-type]
        h, u = self.reference, self.arithmetic.parameters
        loss, gradient, loss_bound, bound = moments.evaluate(known, theta, anchor, h.l1, h.l2, u)
        vectors = (array.reshape(steps.before.shape) for array in (gradient, bound))
        return Objective(loss[:, None], loss_bound[:, None], *self._trained(*vectors))

    def _trained(self, gradient: Array, bound: Array) -> tuple[Array, Array]:
        """Return gradients and their bounds with 0 where a parameter is not trained.

        Raises:
            RequestError: When there is no finite bound.
        """
        for name in self.untrained:
            gradient[:, self.layout.slices[name]] = bound[:, self.layout.slices[name]] = 0
        refuse_unbounded(gradient, bound)
        return gradient, bound

    def clip(self, gradient: Array, bound: Array) -> tuple[Array, Array]:
        """Return gradients as they should be clipped, and the bounds on their errors."""
        if not self.clipping:
            return gradient, bound
        return self.clipping.clip_steps(gradient, bound, self.arithmetic.parameters)

    def _updates(self, steps: Steps, gradient: Array, bound: Array) -> list[Comparison]:
        """Compare what the optimizer did with the gradient that it should have used."""
        compared, after, allowed = [], steps.before.copy(), np.zeros_like(bound)
        for k, rule in enumerate(self.rules):
            if not rule.names:
                continue
            at = (slice(None), rule.entries)
            lr, lr_error = steps.lrs[:, k, :1], steps.lrs[:, k, 1:]
            optimizer = replace(rule.optimizer, lr=lr)  # type: ignore[arg-type]
            state = steps.before[at], gradient[at], bound[at], steps.buffer[at], lr_error, rule.l1
            after[at], momentum, allowed[at], kept = self.update(optimizer, *state)
            found = steps.lr[at] if steps.lr.shape[1] > 1 else steps.lr
            if np.isfinite(found).all():  # what no group has shows by not moving
                zero = np.zeros_like(found)
                compared.append(Comparison("lr", found, lr + zero, lr_error + zero, rule.entries))
            if optimizer.momentum:
                found = steps.buffer_after[at]
                compared.append(Comparison("momentum", found, momentum, kept, rule.entries))
        return [*compared, Comparison("parameter", steps.after, after, allowed)]

    def update(
        self,
        optimizer: SGD,
        before: Array,
        gradient: Array,
        bound: Array,
        buffer: Array,
        lr_error: Any,
        l1: Any,
    ) -> tuple[Any, ...]:
        """Return parameters and momentum after a step, and the bounds on both.

        A buffer is nan where there is none yet: at the first step, or after a parameter was frozen.
        """

        def step(buffer: Array | None) -> tuple[Any, ...]:
            u = self.arithmetic.parameters
            return (
                *optimizer.step(before, gradient, buffer, l1),
                *step_bound(optimizer, before, gradient, bound, buffer, u, lr_error, l1),
            )

        new = np.isnan(buffer)
        if not optimizer.momentum or new.all():
            return step(None)
        if not new.any():
            return step(buffer)
        pairs = zip(step(None), step(np.where(new, 0.0, buffer)), strict=True)
        return tuple(np.where(new, first, later) for first, later in pairs)


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
