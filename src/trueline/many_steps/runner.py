"""From the module and its optimizer into the loop, and back."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trueline.data.blocks import Block
from trueline.divergence import check_loss
from trueline.errors import RequestError
from trueline.loop.state import Float64, Numbers, Rule, State, StepResult, Steps, as_parameters
from trueline.many_steps.compiling import compile_loop, without_numba
from trueline.many_steps.due import StepsUntilDue
from trueline.many_steps.single_steps import reason_by_now, reason_for_single_steps
from trueline.progress import advance
from trueline.unchanged import refuse_all_frozen

if TYPE_CHECKING:
    from trueline.module import LinearRegression


class ManySteps:
    """Takes the steps of a training by the loop, where that is possible.

    Args:
        module: Module that is trained.

    Attributes:
        latest: Result of the latest steps; None where steps are taken one by one.
        reason: Why they are, or None.
    """

    def __init__(self, module: "LinearRegression") -> None:
        self._module = module
        self._loop: Any = None
        self.latest: StepResult | None = None
        self.reason: str | None = None

    def start(self, own: type, defined: Mapping[str, Any]) -> None:
        """Look how the steps of a training can be taken, and prepare its loader.

        Args:
            own: Class whose training step the loop takes.
            defined: The definition of that class when it was made.
        """
        module, trainer = self._module, self._module.trainer
        self.latest = self._loop = None
        self._defined = defined
        self.reason = reason_for_single_steps(trainer, module, own)
        if self.reason:
            return
        try:
            from trueline.many_steps.loops import loop_of  # imports numba, which takes its time
        except Exception as error:  # numba, or the LLVM that it comes with
            self.reason = without_numba(error)
            return
        loop = loop_of(trainer, module)
        self.reason = compile_loop(trainer, loop, self._state(), self._rule())
        if self.reason:
            return
        self._take_up(loop)
        loader: Any = trainer.train_dataloader
        loader.ahead = self._ahead

    def _take_up(self, loop: Any) -> None:
        """Take the next steps by a loop, until a step takes in another number of batches."""
        trainer, h = self._module.trainer, self._module.hparams
        self._loop, self._window = loop, trainer.accumulate_grad_batches
        width = h["n_features"] + h["n_targets"]
        # Moments of all rows are worked out once.
        numbers = width * (width if loop.of_all_rows else loop.rows.batch_rows)
        per_epoch = int(trainer.num_training_batches)
        self._due = StepsUntilDue(trainer, h["steps_per_execution"], per_epoch, numbers)

    def _ahead(self, epoch: int, batch: int) -> int | None:
        """Return how many batches come next as a block; None for one, by Lightning's loop."""
        self.latest = None
        self.reason = reason_by_now(self._module, self._defined)
        if self._module.trainer.accumulate_grad_batches != self._window:  # by a callback
            from trueline.many_steps.loops import loop_of

            self._take_up(loop_of(self._module.trainer, self._module))
        return None if self.reason else self._due(epoch, batch)

    def run(self, block: Block) -> None:
        """Take the steps of a block, and count its batches.

        Raises:
            RequestError: When the module has been changed after the batches were served.
            CheckFailed: When the loss of the first step is not finite.
        """
        module, trainer = self._module, self._module.trainer
        refuse_all_frozen(module)
        if reason := reason_by_now(module, self._defined):
            raise RequestError(
                f"expected the module of the start of these {block.batches} batches, found that by "
                f"now {reason}; set steps_per_execution 1"
            )
        began = time.monotonic()
        window, per_epoch = trainer.accumulate_grad_batches, self._due.per_epoch
        steps_per_epoch = -(-per_epoch // window)
        epochs, rest = divmod(block.batches, per_epoch)
        steps = epochs * steps_per_epoch + -(-rest // window)
        where = block.epoch, block.batch // window
        result = self._take(*where, steps, steps_per_epoch)
        if result.steps < steps:  # the next loss is not finite
            whole = result.steps // steps_per_epoch if block.batch == 0 else 0
            # The epochs of a block are whole.
            taken = whole * steps_per_epoch or result.steps
            if not taken:
                check_loss(module, torch.tensor(result.next_loss))
            # Again, for the state before the last of these steps.
            result = self._take(*where, taken, steps_per_epoch)
            batches = whole * per_epoch or min(taken * window, per_epoch - block.batch)
            block = block._replace(batches=batches)
            loader: Any = trainer.train_dataloader
            loader.position = min(block.batch + batches, per_epoch)
        self.latest = result
        self._epochs = max(1, block.batches // per_epoch) if block.batch == 0 else 1
        advance(trainer, block.batches, result.steps, self._epochs)
        self._due.note(result.steps, time.monotonic() - began)

    def _take(self, epoch: int, step: int, steps: int, steps_per_epoch: int) -> StepResult:
        """Take steps from the state of the module; leave module and optimizer as they are.

        Args:
            epoch: Epoch of the first step.
            step: Number of the first step in its epoch.
            steps: Number of steps.
            steps_per_epoch: Number of steps in an epoch.
        """
        state, at = self._state(), self._asked(steps)
        lrs, momenta, plateau = self._rates(step, steps, steps_per_epoch)
        options = Steps.of(lrs, momenta, at, len(state.theta), plateau)
        return self._loop.run(state, self._rule(), options, epoch, step)  # type: ignore[no-any-return]

    def _rule(self) -> Rule:
        h, trainer = self._module.hparams, self._module.trainer
        limit = float(trainer.gradient_clip_val or 0)
        by_value = trainer.gradient_clip_algorithm == GradClipAlgorithmType.VALUE
        return Rule(
            dampening=float(h["dampening"]),
            nesterov=bool(h["nesterov"]),
            weight_decay=float(h["weight_decay"]),
            l1=float(h["l1"]),
            l2=float(h["l2"]),
            clip_norm=0.0 if by_value else limit,
            clip_value=limit if by_value else 0.0,
        )

    def _asked(self, steps: int) -> Numbers:
        """Return the steps whose states are asked for: those that are logged or watched."""
        trainer: Any = self._module.trainer
        first, every = trainer.global_step, trainer.log_every_n_steps
        asked = np.zeros(steps, bool)
        asked[-1] = True  # whose loss Lightning gets
        if every and trainer.loggers:
            asked[-first % every :: every] = True
        for callback in trainer.callbacks:
            if watches := getattr(callback, "watched_steps", None):
                asked[watches(first, steps)] = True
        return np.flatnonzero(asked)

    def _state(self) -> State:
        """Return the parameters and momentum buffers of the module and its optimizer."""
        optimizer: Any = self._module.optimizers(use_pl_optimizer=False)
        parameters = self._parameters()
        theta = [p.detach() for p in parameters]
        buffers = [optimizer.state.get(p, {}).get("momentum_buffer") for p in parameters]
        none = [torch.full_like(p, torch.nan) for p in theta]
        held = [n if buffer is None else buffer for n, buffer in zip(none, buffers, strict=True)]
        free = [torch.full(p.shape, p.requires_grad) for p in parameters]
        return State.of(*(self._vector(some) for some in (theta, held, free)))

    def _vector(self, of_parameters: list[Tensor]) -> Any:
        """Return weight and bias as one vector of the loop."""
        weight, bias = (p.cpu().numpy() for p in of_parameters)
        T = self._module.hparams["n_targets"]
        return np.column_stack([weight.reshape(-1, T).T, bias.reshape(T)]).ravel()

    def _rates(self, step: int, steps: int, steps_per_epoch: int) -> tuple[Float64, ...]:
        """Return learning rates and momenta of steps, and the plateau that they may wait for.

        Args:
            step: Number of the first step in its epoch.
            steps: Number of steps.
            steps_per_epoch: Number of steps in an epoch.
        """
        optimizer: Any = self._module.optimizers(use_pl_optimizer=False)
        group, schedule = optimizer.param_groups[0], self._module.schedule
        plateau = np.empty(0)
        if schedule is None or isinstance(self._scheduler(), ReduceLROnPlateau):
            if schedule is not None and schedule.interval == "step":
                plateau = self._plateau()
            return (
                np.full(steps, float(group["lr"])),
                np.full(steps, float(group["momentum"])),
                plateau,
            )
        ahead = schedule.ahead(self._scheduler(), group, step, steps, steps_per_epoch)
        lrs, momenta = np.array(ahead, np.float64).T.copy()
        return lrs, momenta, plateau

    def _plateau(self) -> Float64:
        """Return where a schedule stands that waits for a plateau, and its options."""
        scheduler = self._scheduler()
        sign = 1.0 if scheduler.mode == "min" else -1.0
        relative = scheduler.threshold_mode == "rel"
        better = (1 - sign * scheduler.threshold, 0.0) if relative else (1.0, scheduler.threshold)
        return np.array(
            [
                scheduler.optimizer.param_groups[0]["lr"],
                *(scheduler.best, scheduler.num_bad_epochs, scheduler.cooldown_counter),
                *(sign, scheduler.factor, scheduler.patience, *better),
                *(scheduler.cooldown, scheduler.min_lrs[0], scheduler.eps),
            ],
            np.float64,
        )

    def last_loss(self) -> dict[str, Tensor]:
        """Return the objective and the mean squared error at the last step, shape ()."""
        assert self.latest is not None
        h, like = self._module.hparams, self._module.weight
        weight = self.latest.before[-1, : like.numel()]
        mse = torch.tensor(self.latest.losses[-1], dtype=like.dtype, device=like.device)
        penalty = h["l1"] * np.abs(weight).sum() + h["l2"] * (weight**2).sum()
        return {"loss": mse + penalty, "mse": mse}

    def leave(self) -> None:
        """Leave the state after the latest steps in module, optimizer and schedule."""
        assert self.latest is not None
        end, optimizer = self.latest.end, self._module.optimizers(use_pl_optimizer=False)
        T = self._module.hparams["n_targets"]
        theta, buffers = (torch.from_numpy(as_parameters(v, T)) for v in (end.theta, end.buffer))
        sizes = [p.numel() for p in self._parameters()]
        parts = zip(self._parameters(), theta.split(sizes), buffers.split(sizes), strict=True)
        for parameter, value, buffer in parts:
            with torch.no_grad():
                parameter.copy_(value.view(parameter.shape))
            if not buffer.isnan().all():  # nan stands for no buffer
                held = buffer.view(parameter.shape).to(parameter.device)
                optimizer.state[parameter]["momentum_buffer"] = held  # type: ignore[union-attr]
        schedule, scheduler = self._module.schedule, self._scheduler()
        if schedule is None:
            return
        if not isinstance(scheduler, ReduceLROnPlateau):
            # Lightning's loop adds the last tick.
            for _ in range(
                (self.latest.steps if schedule.interval == "step" else self._epochs) - 1
            ):
                schedule.tick(scheduler)
        elif schedule.interval == "step":
            lr, best, bad, cooling = self.latest.plateau[:4].tolist()
            scheduler.optimizer.param_groups[0]["lr"] = lr
            scheduler.best, scheduler.num_bad_epochs = best, int(bad)
            scheduler.cooldown_counter, scheduler._last_lr = int(cooling), [lr]
            scheduler.last_epoch += self.latest.steps

    def _parameters(self) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
        return self._module.weight, self._module.bias

    def _scheduler(self) -> Any:
        return self._module.lr_schedulers()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy of the module needs: not the rows and the steps of a training."""
        return {**vars(ManySteps(self._module)), "reason": self.reason}
