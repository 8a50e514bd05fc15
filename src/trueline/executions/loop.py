"""Executions under Lightning: from the module and its optimizer, and back into them."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trueline.data.blocks import Block
from trueline.errors import RequestError
from trueline.executions.execution import Execution
from trueline.executions.executor import Executor
from trueline.executions.lookahead import Lookahead
from trueline.executions.method import choose, reason_by_now
from trueline.executions.rows import Rows
from trueline.executions.spans import State
from trueline.progress import advance
from trueline.recurrence import Rule

if TYPE_CHECKING:
    from trueline.module import LinearRegression


class Executions:
    """Takes the steps of a training many at once, where that is possible.

    Args:
        module: That is trained.

    Attributes:
        latest: The latest execution; None where steps are taken one by one.
        reason: Why they are, or None.
    """

    def __init__(self, module: "LinearRegression") -> None:
        self._module = module
        self._executor: Executor | None = None
        self._saved: Mapping[str, Any] | None = None
        self.latest: Execution | None = None
        self.reason: str | None = None

    def start(self, own: type, defined: Mapping[str, Any]) -> None:
        """Look how the steps of a training can be taken, and tell its loader.

        Args:
            own: The class whose steps are known to be affine.
            defined: The definition of that class when it was made.
        """
        module, trainer = self._module, self._module.trainer
        self.latest = self._executor = None
        self._defined = defined
        method = choose(trainer, module, own, defined)
        self.reason = method.single_steps
        if self.reason:
            return
        h: Any = module.hparams
        loader: Any = trainer.train_dataloader
        per_epoch = int(trainer.num_training_batches)
        rows = Rows(
            loader,
            per_epoch,
            h.n_targets,
            module.weight.dtype,
            module.device,
            lambda tensor: _add_up(trainer, tensor),
        )
        self._executor = Executor(rows, self._rule(), method.composed)
        self._executor.load_state_dict(self._saved or {})
        width = rows.width
        # What takes in all rows at each step looks at them once a span.
        numbers = width * (width if rows.full_batch else loader.batch_size)
        self._lookahead = Lookahead(trainer, h.steps_per_execution, loader, per_epoch, numbers)
        loader.ahead = self._ahead

    def _rule(self) -> Rule:
        h: Any = self._module.hparams
        return Rule(h.momentum, h.dampening, h.nesterov, h.weight_decay, h.l2)

    def _ahead(self, epoch: int, batch: int) -> int | None:
        """Return how many batches come next as a block; None for one, by Lightning's loop."""
        self.reason = reason_by_now(self._module.trainer, self._module, self._defined)
        if self.reason is None:
            return self._lookahead(epoch, batch)
        self.latest = None
        return None

    def run(self, block: Block) -> tuple[Tensor, Tensor]:
        """Take the steps of a block.

        Returns:
            The objective and the mean squared error at the last step, shape ().

        Raises:
            RequestError: When the module has been changed after the batches were served.
        """
        assert self._executor is not None
        module, per_epoch = self._module, self._lookahead.per_epoch
        if reason := reason_by_now(module.trainer, module, self._defined):
            raise RequestError(
                f"expected the module of the start of these {block.batches} steps, found that by "
                f"now {reason}; set steps_per_execution 1"
            )
        self._executor.rule = self._rule()
        began, state = time.monotonic(), self._state()
        with torch.no_grad():
            execution = self._run(block, state)
            if not self._is_finite(execution):
                # Up to the step whose loss is not finite, which then is the first one of a block.
                good = self._good_steps(block._replace(batches=execution.steps), state)
                steps = good // per_epoch * per_epoch or max(good, 1)
                if steps < block.batches:
                    block = block._replace(batches=steps)
                    loader: Any = module.trainer.train_dataloader
                    loader.position = min(block.batch + steps, per_epoch)
                    execution = self._run(block, state)
            self._block, self.latest = block, execution
        self._lookahead.note(block.batches, time.monotonic() - began)
        points, l2 = execution.points, module.hparams["l2"]
        assert points is not None
        T = module.hparams["n_targets"]
        before = torch.from_numpy(points.parameters[-1, :-T])
        mse = torch.tensor(points.losses[-1], dtype=module.weight.dtype, device=module.device)
        return mse + (l2 * before.square().sum()).to(mse), mse

    def _run(self, block: Block, state: State) -> Execution:
        """Take the steps of a block, and report those that are logged, and the last."""
        assert self._executor is not None
        trainer: Any = self._module.trainer
        first, every, steps = trainer.global_step, trainer.log_every_n_steps, block.batches
        due = every if every and trainer.loggers else 0
        logged = np.arange(-first % due if due else steps, steps, due or 1)
        if len(logged) == 0 or logged[-1] != steps - 1:
            logged = np.append(logged, steps - 1)
        kept = np.zeros(steps + 1, bool)
        kept[logged] = True
        for callback in trainer.callbacks:
            if watches := getattr(callback, "watched_steps", None):
                watched = watches(self._executor.rows, first, steps)
                kept[watched] = kept[watched + 1] = True
        execution = self._executor.run(
            block, state, lambda n: self._lrs(block, n), np.flatnonzero(kept)
        )
        if execution.steps == steps:  # else it broke off where nothing was finite any more
            execution.points = execution.report(logged)
        return execution

    def _is_finite(self, execution: Execution) -> bool:
        if execution.points is None:
            return False
        loss = torch.tensor(execution.points.losses[-1], dtype=execution.end.parameters.dtype)
        return bool(torch.isfinite(loss) & torch.isfinite(execution.end.parameters).all())

    def _good_steps(self, block: Block, state: State) -> int:
        """Return before how many steps of a block the loss is finite."""
        assert self._executor is not None
        every = np.arange(block.batches)
        again = self._executor.run(block, state, lambda n: self._lrs(block, n), every)
        good = 0
        for piece, at in again.within(every):
            losses = piece.span.losses(at, piece.states(at)[0])[0]
            finite = torch.isfinite(losses.to(state.parameters.dtype))
            if not finite.all():
                return good + int(finite.long().argmin())
            good += len(at)
        return good

    def leave(self) -> None:
        """Leave the end of the latest execution in module, optimizer and Lightning's counters."""
        assert self.latest is not None
        module, block = self._module, self._block
        parameters, buffers = self.latest.end
        optimizer: Any = module.optimizers(use_pl_optimizer=False)
        with torch.no_grad():
            for parameter, value in zip(self._parameters(), _split(parameters), strict=True):
                parameter.copy_(value.view_as(parameter))
            if buffers is not None:
                for parameter, value in zip(self._parameters(), _split(buffers), strict=True):
                    buffer = value.reshape(parameter.shape).clone()
                    optimizer.state[parameter]["momentum_buffer"] = buffer
        per_epoch = self._lookahead.per_epoch
        epochs = max(1, block.batches // per_epoch) if block.batch == 0 else 1
        advance(module.trainer, block.batches, epochs)
        schedule, scheduler = module.schedule, self._scheduler()
        if schedule is not None and scheduler is not None:
            # Lightning's loop adds the last tick.
            for _ in range((block.batches if schedule.interval == "step" else epochs) - 1):
                schedule.tick(scheduler)

    def _parameters(self) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
        return self._module.weight, self._module.bias

    def _state(self) -> State:
        """Return the parameters and momentum buffers of the module and its optimizer."""
        T = self._module.hparams["n_targets"]
        optimizer: Any = self._module.optimizers(use_pl_optimizer=False)
        weight, bias = self._parameters()

        def joined(of_weight: Tensor, of_bias: Tensor) -> Tensor:
            return torch.cat([of_weight.detach().reshape(-1, T), of_bias.detach().reshape(1, T)])

        held = [optimizer.state.get(p, {}).get("momentum_buffer") for p in (weight, bias)]
        buffers = None if any(buffer is None for buffer in held) else joined(*held)
        if not self._module.hparams["momentum"]:
            buffers = None
        return State(joined(weight, bias), buffers)

    def _scheduler(self) -> Any:
        """Return the schedule, if one changes the learning rate by itself."""
        scheduler = self._module.lr_schedulers()
        return None if isinstance(scheduler, ReduceLROnPlateau) else scheduler

    def _lrs(self, block: Block, steps: int) -> Tensor:
        """Return the learning rates of so many steps from the first of a block on.

        Returns:
            Shape (steps,), float64.
        """
        optimizer: Any = self._module.optimizers(use_pl_optimizer=False)
        group, device = optimizer.param_groups[0], self._module.device
        schedule, scheduler = self._module.schedule, self._scheduler()
        if schedule is None or scheduler is None:
            return torch.full((steps,), group["lr"], dtype=torch.float64, device=device)
        lrs = schedule.ahead(scheduler, group, block.batch, steps, self._lookahead.per_epoch)
        return torch.tensor(lrs, dtype=torch.float64, device=device)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy of the module needs: not the rows and the steps of a training."""
        return {**vars(Executions(self._module)), "reason": self.reason}

    def state_dict(self) -> dict[str, Any]:
        """Return what a training needs to go on inside a span."""
        return self._executor.state_dict() if self._executor else {}

    def load_state_dict(self, state: Any) -> None:
        """Keep what a checkpoint has for the training that goes on from it.

        Raises:
            RequestError: When it is something else.
        """
        tensors = {"parameters", "buffers", "lrs"}
        good = isinstance(state, Mapping) and (
            not state
            or (
                state.keys() == {"epoch", "batch", "rule", *tensors}
                and all(isinstance(state[n], int) and state[n] >= 0 for n in ("epoch", "batch"))
                and all(isinstance(state[n], Tensor | None) for n in tensors)
                and isinstance(state["rule"], list)
            )
        )
        if state is not None and not good:
            raise RequestError(
                "ckpt_path: expected under execution where its span began, found something else; "
                "use another"
            )
        self._saved = state


def _split(joined: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias."""
    return joined[:-1], joined[-1]


def _add_up(trainer: Any, tensor: Tensor) -> Tensor:
    if trainer.world_size == 1:
        return tensor
    return trainer.strategy.reduce(tensor, reduce_op="sum")  # type: ignore[no-any-return]
