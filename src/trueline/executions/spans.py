"""Spans, consecutive steps that are taken together, and what is known of their states."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.executions.full_batch import FullBatch
from trueline.executions.rows import Rows
from trueline.recurrence import (
    Composed,
    InTurn,
    Repeated,
    Rule,
    gradient_from_rows,
    polished,
    step_maps,
)

Numbers = NDArray[np.int64]


class Position(NamedTuple):
    """How far a training is: batches of an epoch that are done."""

    epoch: int
    batch: int


class State(NamedTuple):
    """Where a training stands: its parameters and momentum buffers.

    Args:
        parameters: `[weight, bias]`, shape (p, T).
        buffers: In the same shape; None without momentum, and before the first step.
    """

    parameters: Tensor
    buffers: Tensor | None

    def to(self, where: torch.dtype | torch.device) -> "State":
        """Return it in another dtype, or on another device."""
        buffers = None if self.buffers is None else self.buffers.to(where)
        return State(self.parameters.to(where), buffers)


class Span:
    """Consecutive steps that are taken together, from where they begin.

    Args:
        rows: Of the training.
        full_batch: For steps that take in all rows; None where they do not.
        position: Of the first step.
        start: Parameters and buffers before it, float64.
        lrs: Learning rates, one for each step, float64.
        rule: The update rule.
        composed: Whether they are composed, or taken one by one.

    Attributes:
        summed_in: The dtype in which products of rows are summed.
        exact: Whether that is float64, so that each step is right by itself to a few roundings.
    """

    def __init__(
        self,
        rows: Rows,
        full_batch: FullBatch | None,
        position: Position,
        start: State,
        lrs: Tensor,
        rule: Rule,
        composed: bool,
    ) -> None:
        self.rows = rows
        self.position = position
        self.start = start
        self.lrs = lrs
        self.rule = rule
        self.p = len(start.parameters)
        self._gradient = None
        if full_batch is not None:
            self._gradient, self._loss = full_batch.at(start.parameters)
        self.summed_in = torch.float64 if full_batch is not None else rows.summed_in
        # In float32 moments round a thousand times more than their composition: none is refined.
        self.exact = self.summed_in == torch.float64
        self._maps: Composed | Repeated | None = None
        self._states: Tensor | None = None
        self._in_turn: InTurn | None = None
        if composed:
            self._counted_from = start.parameters
            self._maps, self._delta = self._composed()
            if self.exact:
                self._states = polished(self._maps, self._delta)
        else:
            self._counted_from = torch.zeros_like(start.parameters)
            rounded = start.to(self.summed_in)
            self._in_turn = InTurn(self._gradients(), *rounded, lrs, rule)

    def _composed(self) -> tuple[Composed | Repeated, Tensor]:
        """Return the maps of the steps, and what the first acts on."""
        rows, lrs, rule, workspace = self.rows, self.lrs, self.rule, self.rows.workspace
        origin, buffers = self.start
        delta = torch.zeros_like(origin)
        if rule.momentum:
            delta = torch.cat([delta, torch.zeros_like(delta) if buffers is None else buffers])
        first = buffers is None and bool(rule.momentum)
        if self._gradient is not None:
            same = not first and bool((lrs == lrs[0]).all())
            some = lrs[:1] if same else lrs
            one = torch.ones(1, dtype=torch.float64, device=origin.device)
            maps = step_maps(
                self._gradient[None], one, origin, some, rule, first, workspace=workspace
            )
            return Repeated(maps[0], len(lrs)) if same else Composed(maps, workspace), delta
        G, sizes = rows.moments(self.position.epoch, self._batches)
        rest: Any = {"moments": True, "workspace": workspace}
        maps = step_maps(G, 2 / sizes, origin, lrs, rule, first, **rest)
        return Composed(maps, workspace), delta

    def _gradients(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Return the gradient of each step as a function of the parameters."""
        if (gradient := self._gradient) is not None:
            origin = self.start.parameters
            # Copies: a product with a part of a matrix takes twenty times as long.
            curved, constant = gradient[:, : self.p].clone(), gradient[:, self.p :].clone()
            for _ in self.lrs:
                yield lambda theta: torch.addmm(constant, curved, theta - origin)
            return
        for Z, weight, size in self.rows.batch_by_batch(self.position.epoch, self._batches):
            yield partial(_mean_gradient, Z, weight, size)

    @property
    def _batches(self) -> Numbers:
        return self.position.batch + np.arange(len(self.lrs))

    def __len__(self) -> int:
        return len(self.lrs)

    def close(self) -> None:
        """Give the memory of the maps to the next span: states cannot be asked for any more."""
        self._maps = self._states = self._in_turn = None

    def states(self, steps: Numbers) -> tuple[Tensor, Tensor | None]:
        """Return parameters and buffers before some steps, or after the last one.

        Args:
            steps: From 0 to the number of steps, ascending.

        Returns:
            Float64, shape (len(steps), p, T) each; the buffers None without momentum.
        """
        at = torch.from_numpy(steps)
        if self._in_turn is not None:
            self._states = self._in_turn.until(int(steps.max(initial=0)))
        if self._states is not None:
            # Consecutive ones are a view.
            run = len(steps) and steps[-1] - steps[0] == len(steps) - 1
            part = slice(int(steps[0]), int(steps[-1]) + 1) if run else at.to(self._states.device)
            found = self._states[part].double()
        else:
            assert isinstance(self._maps, Composed)
            inner = at[at < len(self)]
            if 8 * len(inner) > len(self):
                found = self._maps.states(self._delta)[at.to(self._delta.device)]
            else:
                found = self._maps.states_before(self._delta, inner)
                if len(inner) < len(at):
                    found = torch.cat([found, self._maps.end(self._delta)[None]])
        buffers = found[:, self.p :] if self.rule.momentum else None
        return self._counted_from + found[:, : self.p], buffers

    def losses(self, steps: Numbers, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean squared errors and the gradients of the objective at some steps.

        Args:
            steps: From 0, ascending.
            parameters: Before each.

        Returns:
            In float64, shapes (len(steps),) and (len(steps), p, T).
        """
        penalty = Rule(l2=self.rule.l2).pull(parameters)
        if self._gradient is not None:
            delta = parameters - self.start.parameters
            curved = self._gradient[:, : self.p] @ delta
            constant = self._gradient[:, self.p :]
            losses = self._loss + (delta * (constant + curved / 2)).sum((1, 2))
            gradient = constant + curved
        else:
            losses, gradient = self._by_rows(steps, parameters)
        return losses, gradient + penalty * parameters

    def _by_rows(self, steps: Numbers, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses and gradients from the residuals of each row, as a step by itself does."""
        n, p, T = parameters.shape
        sums = parameters.new_zeros(n, p * T + 2)
        dtype = self.rows.dtype
        theta = parameters.to(dtype)
        for at, Z, weight in self.rows.of(self.position.epoch, self.position.batch + steps):
            w = None if weight is None else weight.to(dtype)
            by_parameter, squares = gradient_from_rows(Z.to(dtype), theta[at], w)
            sums[at, : p * T] = by_parameter.flatten(1).double()
            sums[at, p * T] = squares.double()
            sums[at, p * T + 1] = Z.shape[1] if weight is None else weight.double().sum(1)
        sums = self.rows.add_up(sums)
        by_parameter, squares, size = sums[:, :-2], sums[:, -2], sums[:, -1] * T
        return squares / size, by_parameter.view_as(parameters) / size[:, None, None]


def _mean_gradient(Z: Tensor, weight: Tensor | None, size: float, theta: Tensor) -> Tensor:
    return gradient_from_rows(Z, theta, weight)[0].div_(size)
