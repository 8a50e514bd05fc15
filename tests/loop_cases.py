"""Trainings of the compiled loop, drawn over all options at once."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st

from trueline.data import order as orders
from trueline.data.order import RowOrder
from trueline.data.spool import Spool
from trueline.loop import loop as loops
from trueline.loop import rows as pieces
from trueline.loop.loop import Loop
from trueline.loop.moments import Moments, of_steps
from trueline.loop.rows import Rows
from trueline.loop.state import Rule, Shape, State, StepResult, Steps
from trueline.many_steps.loops import SumsOnDevice

STEPS = 12


@dataclass
class Case:
    """A training: its rows, their order, its options, and the way its steps are taken.

    Args:
        matrix: Rows `[x, y]` or `[x, y, weight]`.
        shape: Columns of these rows.
        order: Arguments of RowOrder.
        batch_rows: Rows of a step.
        n_served: Rows that an epoch serves.
        in_file: Whether the rows are in a Spool.
        rule: Update rule.
        lrs: Learning rate of each step.
        momenta: Momentum of each step.
        plateau: Arguments of torch's ReduceLROnPlateau; None without.
        theta: Parameters at the start, shape (n_features + 1, n_targets), weight over bias.
        free: Which parameters are trained, in the same shape.
        epoch: Epoch of the first step.
        step: Number of the first step in its epoch.
        way: `rows`, `moments` of all rows, moments `of steps` that processes share, or `device`.
        world_size: Number of processes that share the moments.
        chunk: Rows of a piece.
        small_pool: Rows of a pool within a larger one.
        at_once: Steps whose moments are held at once.
    """

    matrix: Any
    shape: Shape
    order: dict[str, Any]
    batch_rows: int
    n_served: int
    in_file: bool
    rule: Rule
    lrs: Any
    momenta: Any
    plateau: dict[str, Any] | None
    theta: Any
    free: Any
    epoch: int
    step: int
    way: str
    world_size: int
    chunk: int
    small_pool: int
    at_once: int

    @property
    def dtype(self) -> Any:
        return self.theta.dtype

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n_served // self.batch_rows)

    def numbers(self, k: int) -> Any:
        """Return the row numbers of step k, which the order of the epoch says."""
        epoch, step = divmod(self.step + k, self.steps_per_epoch)
        places = slice(step * self.batch_rows, min((step + 1) * self.batch_rows, self.n_served))
        with self.small_pieces():
            return RowOrder(**self.order).rows(self.epoch + epoch)[places]

    def batch(self, k: int) -> tuple[Any, ...]:
        """Return the rows of step k as X, y and weights, in the precision of the training."""
        rows = self.matrix[self.numbers(k)].astype(self.dtype).astype(np.float64)
        f, T = self.shape.n_features, self.shape.n_targets
        found = rows[:, :f], rows[:, f : f + T], rows[:, f + T :].ravel()
        return found if self.shape.weighted else found[:2]

    def start(self) -> State:
        theta = as_vector(self.theta)
        return State.of(theta, None, as_vector(self.free))

    def steps(self, at: Any, part: slice = slice(None), plateau: Any = None) -> Steps:
        """Return the options of some steps; with the plateau as it stands, where given."""
        if plateau is None:
            plateau = np.empty(0) if self.plateau is None else as_plateau(**self.plateau)
        rates = self.lrs[part].copy(), self.momenta[part].copy()
        return Steps.of(*rates, np.asarray(at), self.shape.n_parameters, plateau)

    def loop(self) -> Loop:
        order, matrix = RowOrder(**self.order), self.matrix
        if self.in_file:
            matrix = Spool(matrix.shape[1], matrix.dtype)
            matrix.append(self.matrix)
        rows = Rows(matrix, order, self.shape, self.batch_rows, self.n_served)
        if self.way == "rows":
            return Loop(rows)
        if self.way == "moments":
            return Loop(rows, shared_moments(rows, self.dtype, self.world_size))
        moments, width = Moments(rows, self.dtype, (0, len(self.matrix))), self.matrix.shape[1]
        width = self.shape.n_features + 1 + self.shape.n_targets

        def means(*where: int) -> Any:
            if self.way == "device":
                like = torch.empty(0, dtype=torch.from_numpy(self.theta).dtype)
                sums = SumsOnDevice(rows, moments.anchor, like)(*where)
            else:
                sums = sum(
                    of_steps(rows, moments.anchor, self.dtype, where, rank, self.world_size)
                    for rank in range(self.world_size)
                )
            M = sums[:, :-1].reshape(-1, width, width)
            return M / (sums[:, -1, None, None] * self.shape.n_targets)

        return Loop(rows, moments, means)

    @contextlib.contextmanager
    def small_pieces(self) -> Iterator[None]:
        width = self.shape.n_features + 1 + self.shape.n_targets
        with (
            mock.patch.object(pieces, "CHUNK", self.chunk),
            mock.patch.object(orders, "POOL", self.small_pool),
            mock.patch.object(orders, "SEGMENT", self.order["segment"]),
            mock.patch.object(pieces, "FEW", self.chunk),
            mock.patch.object(loops, "MOMENT_BYTES", self.at_once * 8 * width**2),
        ):
            yield

    def run(self) -> StepResult:
        """Take all steps in one call, and ask for all states."""
        with self.small_pieces():
            at = np.arange(len(self.lrs))
            where = self.epoch, self.step
            return self.loop().run(self.start(), self.rule, self.steps(at), *where)


def shared_moments(rows: Rows, dtype: Any, world_size: int) -> Moments:
    """Return the moments of all rows, each process adding up its share."""
    n = rows.matrix.shape[0]
    ends = [n * rank // world_size for rank in range(world_size + 1)]
    sums: list[list[Any]] = [[] for _ in range(world_size)]

    def run(rank: int) -> Moments:
        """Be one process, up to the first sum that the others have not given yet."""
        asked = iter(range(len(sums[rank]) + 1))

        def add_up(mine: Any) -> Any:
            k = next(asked)
            if k == len(sums[rank]):
                sums[rank].append(mine)
                raise StopIteration
            return np.sum([theirs[k] for theirs in sums], axis=0)

        return Moments(rows, dtype, (ends[rank], ends[rank + 1]), add_up)

    while True:
        for rank in range(world_size):
            try:
                found = run(rank)
            except StopIteration:
                continue
            if rank == world_size - 1:
                return found


def as_vector(by_parameter: Any) -> Any:
    """Return weight over bias as the loop has them: target by target."""
    return np.ascontiguousarray(by_parameter.T).ravel()


def as_plateau(**options: Any) -> Any:
    """Return where torch's ReduceLROnPlateau stands at the start, and its options."""
    parameter = torch.nn.Parameter(torch.zeros(()))
    lr = options.pop("lr")
    it = torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD([parameter], lr), **options)
    sign = 1.0 if it.mode == "min" else -1.0
    relative = it.threshold_mode == "rel"
    better = (1 - sign * it.threshold, 0.0) if relative else (1.0, it.threshold)
    state = [lr, it.best, it.num_bad_epochs, it.cooldown_counter]
    return np.array(
        [*state, sign, it.factor, it.patience, *better, it.cooldown, it.min_lrs[0], it.eps]
    )


@st.composite
def cases(draw: Any, way: str | None = None) -> Case:
    """Draw a training over all options."""
    way = way or draw(st.sampled_from(["rows", "rows", "moments", "of steps", "device"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, f, T = draw(st.integers(1, 40)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    full = way == "moments" or draw(st.integers(0, 4)) == 0
    n_served = n if full or draw(st.booleans()) else draw(st.integers(1, n))
    dtypes = st.sampled_from([np.float64, np.float32])
    dtype, stored = draw(dtypes), draw(dtypes)
    spread = draw(st.sampled_from([None, 0.3, 10.0, 30.0]))
    X = rng.standard_normal((n, f)) + draw(st.sampled_from([0.0, 0.0, 3.0]))
    X[:, :1] = 2 if draw(st.integers(0, 5)) == 0 else X[:, :1]  # a constant feature
    y = X @ rng.standard_normal((f, T)) + rng.standard_normal((n, T))
    w = np.empty((n, 0)) if spread is None else 10 ** rng.uniform(-spread, spread, (n, 1))
    matrix = np.hstack([X, y, w]).astype(stored)
    segment = draw(st.integers(1, 4))
    pool = segment * draw(st.integers(1, 5)) if draw(st.booleans()) else 2**16
    order = {"n_samples": n, "shuffle": draw(st.booleans()), "seed": draw(st.integers(0, 99))}
    momentum = draw(st.sampled_from([0.0, 0.0, 0.5, 0.9]))
    nesterov = momentum > 0 and draw(st.booleans())
    strengths = st.sampled_from([0.0, 0.0, 0.02, 0.3])
    clip = draw(st.sampled_from(["", "", "norm", "value"]))
    limit = draw(st.sampled_from([0.01, 0.5, 3.0]))
    lrs, momenta = np.full(STEPS, draw(st.sampled_from([0.001, 0.02]))), np.full(STEPS, momentum)
    if draw(st.booleans()):
        lrs = lrs * rng.integers(0, 3, STEPS)  # schedules may end at 0
    if momentum and draw(st.booleans()):
        momenta = momenta * rng.integers(0, 3, STEPS) / 2
    plateau = None
    if draw(st.integers(0, 3)) == 0:
        plateau = {
            "lr": lrs[0] or 0.01,
            "mode": draw(st.sampled_from(["min", "max"])),
            "threshold_mode": draw(st.sampled_from(["rel", "abs"])),
            "threshold": draw(st.sampled_from([0.0, 0.1])),
            "factor": 0.7,
            **{name: draw(st.integers(0, 2)) for name in ("patience", "cooldown")},
            "min_lr": draw(st.sampled_from([0.0, 0.008])),
        }
    free = np.ones((f + 1, T), bool)
    frozen = draw(st.sampled_from(["", "", "weight", "bias"]))
    if frozen:
        free[slice(-1) if frozen == "weight" else -1] = False
    batch_rows = n if full else draw(st.integers(1, n_served))
    largest = float(matrix[:, -1].max())
    unit = 1.0 if spread is None else float(2.0 ** -np.frexp(largest)[1])
    return Case(
        matrix=matrix,
        shape=Shape(f, T, spread is not None, unit),
        order={**order, "pool": pool, "segment": segment},
        batch_rows=batch_rows,
        n_served=n_served,
        in_file=way != "device" and draw(st.booleans()),
        rule=Rule(
            dampening=draw(st.sampled_from([0.0, 0.3])) if momentum and not nesterov else 0.0,
            nesterov=nesterov,
            weight_decay=draw(strengths),
            l1=draw(strengths),
            l2=draw(strengths),
            clip_norm=limit if clip == "norm" else 0.0,
            clip_value=limit if clip == "value" else 0.0,
        ),
        lrs=lrs,
        momenta=momenta,
        plateau=plateau,
        theta=rng.standard_normal((f + 1, T)).astype(dtype),
        free=free,
        epoch=draw(st.integers(0, 3)),
        step=draw(st.integers(0, -(-n_served // batch_rows) - 1)),
        way=way,
        world_size=draw(st.integers(1, 3)),
        small_pool=segment * draw(st.integers(1, 3)) if draw(st.booleans()) else 2**16,
        chunk=draw(st.sampled_from([3, 7, 16, 2**16])),
        at_once=draw(st.integers(1, 20)),
    )
