"""The callback that runs the NumPy reference in lockstep with training.

At every optimizer step the reference takes the parameters before the step and the very batch that
was used, works out loss, gradient and the parameters after the step in float64, and compares. How
far the two may be apart is not a tolerance but a bound on rounding errors, so a deviation is told
as a fraction of its bound and 1.0 is the line. Between steps the parameters must not change by a
bit. Together that leaves no part of the trajectory unwatched.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from trueline.crosscheck.diagnosis import Step, likely_cause
from trueline.crosscheck.refusals import FOLLOWED, refuse, refused_in_model, refused_settings
from trueline.crosscheck.verdict import Failure, Quantity, first_failure, worst_ratio
from trueline.errors import CheckFailed, RequestError
from trueline.reference import SGD, Clipping, LeastSquares
from trueline.reference.rounding import UNIT_ROUNDOFF, step_bound

Array = NDArray[np.float64]
Parameters = Mapping[str, Array]
T = TypeVar("T", SGD, LeastSquares)


class Reference(Protocol):
    """What can judge a LightningModule: its loss and gradient once more, in NumPy.

    `parameters` maps the module's parameter names to float64 arrays of their shapes; `batch` is the
    training batch with each tensor an array, floating ones in float64.
    """

    def loss_and_gradient(
        self, parameters: Parameters, batch: Any
    ) -> tuple[float, dict[str, Array]]:
        """Return the objective over one batch and its gradient by each parameter."""

    def rounding_bound(
        self, parameters: Parameters, batch: Any, unit_roundoff: float
    ) -> tuple[float, dict[str, Array]]:
        """Bound how far rounding may take a correct loss and gradient from the reference's."""


class CrossCheck(Callback):
    """Holds every step of a training against an independent NumPy reference.

    Args:
        reference: Loss and gradient in NumPy; for `LinearRegression` it is built from the module's
            hyperparameters.
        optimizer: The update rule that is meant; built from the hyperparameters `lr`, `momentum`,
            `dampening`, `nesterov` and `weight_decay` of the module unless given. It is never read
            from the torch optimizer, which is among the judged.
        on_failure: `raise` stops at the first step that fails; `warn` goes on, and reports.

    Raises:
        RequestError: Before training, naming every setting that the reference cannot follow.
        CheckFailed: When a quantity leaves its bound, when no step was compared, or when no
            parameter moved.

    Example:
        >>> from trueline.data import DummyData
        >>> from trueline.module import LinearRegression
        >>> check = CrossCheck()
        >>> trainer = Trainer(accelerator="cpu", precision="64-true", max_epochs=3, logger=False,
        ...     callbacks=[check], enable_checkpointing=False, enable_progress_bar=False,
        ...     enable_model_summary=False)
        >>> trainer.fit(LinearRegression(), DummyData())
        >>> check.report()["passed"], check.report()["steps_checked"]
        (True, 3)
    """

    def __init__(
        self,
        reference: Reference | None = None,
        optimizer: SGD | None = None,
        on_failure: Literal["raise", "warn"] = "raise",
    ) -> None:
        if on_failure not in ("raise", "warn"):
            raise ValueError(f"on_failure: expected raise or warn; found {on_failure}")
        self.reference = reference
        self.optimizer = optimizer
        self.on_failure = on_failure
        self._forget()

    def report(self) -> dict[str, Any]:
        """Return the verdict: `passed`, `steps_checked`, `worst_ratio` and `first_failure`."""
        failure: Any = self.first_failure._asdict() if self.first_failure else self.nothing_learned
        return {
            "passed": failure is None and self.steps_checked > 0,
            "steps_checked": self.steps_checked,
            "worst_ratio": self.worst_ratio,
            "first_failure": failure,
        }

    def _forget(self) -> None:
        self.steps_checked = 0
        self.worst_ratio = 0.0
        self._worst_since_log = 0.0
        self.first_failure: Failure | None = None
        self.nothing_learned: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier training."""
        self._forget()

    def check_settings(self, trainer: Trainer) -> None:
        """Refuse, before there is a model, the Trainer's settings that the reference cannot follow.

        Raises:
            RequestError: Naming all of them.
        """
        refuse(refused_settings(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the reference up, or refuse what it cannot follow."""
        model = refused_in_model(trainer, self.reference, self.optimizer)
        refuse(refused_settings(trainer) + model)
        self._reference: Reference = self.reference or _from_hyperparameters(
            LeastSquares, pl_module.hparams
        )
        self._optimizer = self.optimizer or _from_hyperparameters(SGD, pl_module.hparams)
        limit, by_value = trainer.gradient_clip_val, trainer.gradient_clip_algorithm == "value"
        self._clipping = (
            Clipping(limit, "value" if by_value else "norm") if limit and limit > 0 else None
        )
        self._dtype = FOLLOWED[str(trainer.precision)]
        self._initial = self._last = self._parameters(pl_module)
        self._first_step = trainer.global_step
        self._batch: Any = None
        self._gradients: dict[str, Array] | None = None
        self._buffers: dict[str, Array | None] = {
            # A training that starts anew has no momentum yet, whatever the optimizer holds.
            name: _momentum_buffer(trainer.optimizers[0], p) if self._first_step else None
            for name, p in pl_module.named_parameters()
        }

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the batch and the parameters before the step, which the last step left."""
        # A copy, made before the module has seen the batch: it might change it in place.
        self._last_batch, self._batch = self._batch, _as_arrays(batch, self._dtype)
        self._last_gradients, self._gradients = self._gradients, None
        self._before = self._untouched_parameters(pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note the gradients that the step will use."""
        self._gradients = {
            name: np.zeros(p.shape) if p.grad is None else _array(p.grad)
            for name, p in pl_module.named_parameters()
        }

    @np.errstate(all="ignore")  # a training that diverges is for StopWhenNotFinite to tell
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the step in NumPy and compare."""
        u = UNIT_ROUNDOFF[self._dtype]
        loss, gradients, loss_bound, bounds = self._loss_and_gradients(u)
        if not isinstance(outputs, Mapping) or outputs.get("loss") is None:
            raise RequestError(
                f"the cross-check expected training_step to return its loss, found {outputs}; "
                "return it, or train without the cross-check (--crosscheck off)"
            )
        found = _array(outputs["loss"])
        compared = [Quantity("loss", found, np.asarray(loss), np.asarray(loss_bound))]
        for name, expected in gradients.items():
            gradient = self._gradients[name] if self._gradients else np.zeros_like(expected)
            compared.append(Quantity(f"gradient of {name}", gradient, expected, bounds[name]))
        if self._clipping:
            bounds = self._clipping.rounding_bound(gradients, bounds, u)
            gradients = self._clipping.clip(gradients)
        self._last = self._parameters(pl_module)
        buffers = dict(self._buffers)
        for name, parameter in pl_module.named_parameters():
            state = self._before[name], gradients[name]
            after, momentum = self._optimizer.step(*state, buffers[name])
            allowed = step_bound(self._optimizer, *state, bounds[name], buffers[name], u)
            compared.append(Quantity(name, self._last[name], after, allowed[0]))
            if momentum is not None:
                kept = _momentum_buffer(trainer.optimizers[0], parameter)
                self._buffers[name] = kept
                kept = np.full(after.shape, np.nan) if kept is None else kept
                compared.append(Quantity(f"momentum of {name}", kept, momentum, allowed[1]))

        def cause(quantity: str) -> str | None:
            if self._gradients is None:
                return "the batch passed without an optimizer step"
            step = Step(
                reference=self._reference,
                optimizer=self._optimizer,
                clipping=self._clipping,
                before=self._before,
                buffers=buffers,
                batch=self._batch,
                last_batch=self._last_batch,
                loss=float(found),
                gradients=self._gradients,
                last_gradients=self._last_gradients,
                after=self._last,
                unit_roundoff=u,
            )
            return likely_cause(step, quantity)

        self._compare(compared, cause)
        self.steps_checked += 1
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.steps_checked % every == 0 and trainer.logger:
            metrics = {"crosscheck/worst_ratio": self._worst_since_log}
            trainer.logger.log_metrics(metrics, trainer.global_step)
            self._worst_since_log = 0.0

    def _loss_and_gradients(
        self, unit_roundoff: float
    ) -> tuple[float, dict[str, Array], float, dict[str, Array]]:
        """Ask the reference, and check that what it gives fits the module."""
        loss, gradients = self._reference.loss_and_gradient(self._before, self._batch)
        loss_bound, bounds = self._reference.rounding_bound(
            self._before, self._batch, unit_roundoff
        )
        if not np.isfinite(loss_bound) and np.isfinite(loss):
            raise RequestError(
                "the cross-check expected a batch whose rounding errors can be bounded, found one "
                f"too long for {self._dtype}; lower --data.batch_size or set --trainer.precision "
                "64-true"
            )
        for name, before in self._before.items():
            if not before.shape == gradients[name].shape == bounds[name].shape:
                raise RequestError(
                    f"reference: expected a gradient of {name} and a bound on it of shape "
                    f"{before.shape}, found shapes {gradients[name].shape} and "
                    f"{bounds[name].shape}; mend the reference given to CrossCheck"
                )
        return loss, gradients, loss_bound, bounds

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail a training in which nothing was compared or nothing moved."""
        self._untouched_parameters(pl_module)
        unmoved = all(np.array_equal(value, self._initial[n]) for n, value in self._last.items())
        # A training that goes on may have come to where a step is less than a rounding.
        if self.steps_checked and unmoved and not self._first_step:
            self._fail_empty(f"some parameter to move in {self.steps_checked} steps, found none")
        self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail also a training that ended before it began, as one that has no epochs left does."""
        if self.steps_checked:
            self._untouched_parameters(pl_module)
        else:
            self._fail_empty("an optimizer step to compare, found none; train for more epochs")

    def _fail_empty(self, expected: str) -> None:
        self.nothing_learned = f"expected {expected}"
        if self.on_failure == "raise":
            raise CheckFailed(f"cross-check failed: {self.nothing_learned}")

    @staticmethod
    def _parameters(pl_module: LightningModule) -> dict[str, Array]:
        return {name: _array(p) for name, p in pl_module.named_parameters()}

    def _untouched_parameters(self, pl_module: LightningModule) -> dict[str, Array]:
        """Return the parameters, after checking that they are bit by bit what the step left."""
        parameters = self._parameters(pl_module)
        for name, value in parameters.items():
            if value.tobytes() != self._last[name].tobytes():
                zero = np.zeros_like(value)
                moved = Quantity(f"{name} since the last step", value, self._last[name], zero)
                self._compare([moved], lambda _: "not the optimizer but something else changed it")
        return parameters

    def _compare(self, quantities: list[Quantity], cause: Callable[[str], str | None]) -> None:
        """Keep the worst deviation, and act on the first one out of its bound."""
        worst = worst_ratio(quantities)
        worst = np.inf if np.isnan(worst) else worst
        self.worst_ratio = max(self.worst_ratio, worst)
        self._worst_since_log = max(self._worst_since_log, worst)
        if worst <= 1 or self.first_failure is not None:
            return
        failure = first_failure(self.steps_checked + 1, quantities)
        self.first_failure = failure._replace(cause=cause(failure.quantity))
        if self.on_failure == "raise":
            raise CheckFailed(f"cross-check failed: {self.first_failure}")
        rank_zero_warn(f"cross-check failed: {self.first_failure}")


def _from_hyperparameters(cls: type[T], hyperparameters: Mapping[str, Any]) -> T:
    """Build `cls` from the hyperparameters that bear the names of its fields."""
    names = [field.name for field in fields(cls)]
    return cls(**{name: hyperparameters[name] for name in names if name in hyperparameters})


def _array(tensor: torch.Tensor) -> Array:
    """Copy a tensor into a float64 array, which holds every narrower number exactly."""
    array: Array = tensor.detach().to("cpu", torch.float64, copy=True).numpy()
    return array


def _as_arrays(batch: Any, dtype: str) -> Any:
    """Turn the tensors of a batch into arrays with the values that training computes with."""
    if isinstance(batch, torch.Tensor):
        return batch.detach().to(getattr(torch, dtype)).to("cpu", torch.float64, copy=True).numpy()
    if isinstance(batch, Mapping):
        return {key: _as_arrays(value, dtype) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(_as_arrays(value, dtype) for value in batch)
    return batch


def _momentum_buffer(
    optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter
) -> Array | None:
    """Return the momentum buffer that torch keeps for a parameter, if any."""
    buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
    return None if buffer is None else _array(buffer)
