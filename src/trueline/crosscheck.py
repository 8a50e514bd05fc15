"""The callback that runs the NumPy reference in lockstep with training.

At every optimizer step the reference takes the parameters before the step and the very batch that
was used, works out loss, gradient and the parameters after the step in float64, and compares. How
far the two may be apart is not a tolerance but a bound on rounding errors, so a deviation is told
as a fraction of its bound and 1.0 is the line. Between steps the parameters must not change by a
bit. Together that leaves no part of the trajectory unwatched.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from trueline.errors import CheckFailed, RequestError
from trueline.reference import SGD, Clipping, LeastSquares
from trueline.reference.rounding import UNIT_ROUNDOFF, step_bound

Array = NDArray[np.float64]
Parameters = Mapping[str, Array]
Quantity = tuple[str, Array, Array, Array]
"""A name, what training found, what the reference expected, and the bound on their difference."""
T = TypeVar("T", SGD, LeastSquares)

FOLLOWED = {"64-true": "float64", "32-true": "float32"}
"""The precisions that the reference can judge, with the dtype that each one computes in."""

TINY = float(np.finfo(np.float32).tiny)
"""The smallest normal float32: what is lost to underflow is less, in float32 and in float64."""


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


@dataclass(frozen=True)
class Failure:
    """The first comparison that failed.

    Args:
        step: Optimizer step, counted from 1.
        quantity: What was compared, such as "gradient of bias".
        found: In training, at the entry that is furthest off.
        expected: By the reference, at that entry.
        bound: On the difference of the two.
        ratio: Difference divided by bound; above 1, or not a number.
    """

    step: int
    quantity: str
    found: float
    expected: float
    bound: float
    ratio: float

    def __str__(self) -> str:
        return (
            f"{self.quantity} at step {self.step}: expected {self.expected:.17g} within "
            f"{self.bound:.2g}, found {self.found:.17g}, {self.ratio:.3g} times the bound"
        )


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
        self.reference = reference
        self.optimizer = optimizer
        self.on_failure = on_failure
        self._forget()

    def report(self) -> dict[str, Any]:
        """Return the verdict: `passed`, `steps_checked`, `worst_ratio` and `first_failure`."""
        failure: Any = asdict(self.first_failure) if self.first_failure else self.nothing_learned
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
        _refuse(_refused_settings(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the reference up, or refuse what it cannot follow."""
        model = _refused_in_model(trainer, self.reference, self.optimizer)
        _refuse(_refused_settings(trainer) + model)
        self._reference: Reference = self.reference or _from_hyperparameters(
            LeastSquares, pl_module.hparams
        )
        self._optimizer = self.optimizer or _from_hyperparameters(SGD, pl_module.hparams)
        limit, by_value = trainer.gradient_clip_val, trainer.gradient_clip_algorithm == "value"
        self._clipping = Clipping(limit, "value" if by_value else "norm") if limit else None
        self._dtype = FOLLOWED[str(trainer.precision)]
        self._named = list(pl_module.named_parameters())
        self._initial = self._last = self._parameters()
        self._buffers = {n: _momentum_buffer(trainer.optimizers[0], p) for n, p in self._named}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the parameters before the step, which must be those that the last step left."""
        self._before = self._parameters()
        for name, value in self._before.items():
            if value.tobytes() != self._last[name].tobytes():
                untouched = np.zeros_like(value)
                self._compare([(f"{name} since the last step", value, self._last[name], untouched)])

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note the gradients that the step will use."""
        self._gradients = {
            name: np.zeros(p.shape) if p.grad is None else _array(p.grad) for name, p in self._named
        }

    @np.errstate(all="ignore")  # a training that diverges is for StopWhenNotFinite to tell
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the step in NumPy and compare."""
        batch = _as_arrays(batch, self._dtype)
        u = UNIT_ROUNDOFF[self._dtype]
        loss, gradients = self._reference.loss_and_gradient(self._before, batch)
        loss_bound, gradient_bounds = self._reference.rounding_bound(self._before, batch, u)
        if not np.isfinite(loss_bound) and np.isfinite(loss):
            raise RequestError(
                "the cross-check expected a batch whose rounding errors can be bounded, found one "
                f"too long for {self._dtype}; lower --data.batch_size or set --trainer.precision "
                "64-true"
            )
        self._last = self._parameters()
        compared = [("loss", _array(outputs["loss"]), np.asarray(loss), np.asarray(loss_bound))]
        for name, before in self._before.items():
            if not before.shape == gradients[name].shape == gradient_bounds[name].shape:
                raise RequestError(
                    f"reference: expected a gradient of {name} and a bound on it of shape "
                    f"{before.shape}, found shapes {gradients[name].shape} and "
                    f"{gradient_bounds[name].shape}; mend the reference given to CrossCheck"
                )
            found = self._gradients[name]
            compared.append((f"gradient of {name}", found, gradients[name], gradient_bounds[name]))
        if self._clipping:
            gradient_bounds = self._clipping.rounding_bound(gradients, gradient_bounds, u)
            gradients = self._clipping.clip(gradients)
        for name, parameter in self._named:
            state = self._before[name], gradients[name]
            buffer = self._buffers[name]
            after, momentum = self._optimizer.step(*state, buffer)
            bounds = step_bound(self._optimizer, *state, gradient_bounds[name], buffer, u)
            compared.append((name, self._last[name], after, bounds[0]))
            if momentum is not None:
                kept = _momentum_buffer(trainer.optimizers[0], parameter)
                kept = np.full(after.shape, np.nan) if kept is None else kept
                self._buffers[name] = kept
                compared.append((f"momentum of {name}", kept, momentum, bounds[1]))
        self._compare(compared)
        self.steps_checked += 1
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.steps_checked % every == 0 and trainer.logger:
            metrics = {"crosscheck/worst_ratio": self._worst_since_log}
            trainer.logger.log_metrics(metrics, trainer.global_step)
            self._worst_since_log = 0.0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail a training in which nothing was compared or nothing moved."""
        unmoved = all(np.array_equal(value, self._initial[n]) for n, value in self._last.items())
        if self.steps_checked and unmoved:
            self._fail_empty(f"some parameter to move in {self.steps_checked} steps, found none")
        self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail also a training that ended before it began, as one that has no epochs left does."""
        if not self.steps_checked:
            self._fail_empty("an optimizer step to compare, found none; train for more epochs")

    def _fail_empty(self, expected: str) -> None:
        self.nothing_learned = f"expected {expected}"
        if self.on_failure == "raise":
            raise CheckFailed(f"cross-check failed: {self.nothing_learned}")

    def _parameters(self) -> dict[str, Array]:
        return {name: _array(p) for name, p in self._named}

    def _compare(self, quantities: list[Quantity]) -> None:
        """Divide each deviation by its bound; keep the worst, and act on the first above 1."""
        found = np.concatenate([quantity[1].ravel() for quantity in quantities])
        expected = np.concatenate([quantity[2].ravel() for quantity in quantities])
        bound = np.concatenate([quantity[3].ravel() for quantity in quantities])
        # The smallest normal number keeps 0/0 a 0 and takes underflow in.
        ratios = np.abs(found - expected) / (bound + TINY)
        worst = float(ratios.max())  # nan where there is one
        self.worst_ratio = max(self.worst_ratio, worst)
        self._worst_since_log = max(self._worst_since_log, worst)
        if worst <= 1:
            return
        self.worst_ratio = np.inf if np.isnan(worst) else self.worst_ratio
        if self.first_failure is None:
            self.first_failure = _first_failure(self.steps_checked + 1, quantities)
            if self.on_failure == "raise":
                raise CheckFailed(f"cross-check failed: {self.first_failure}")
            rank_zero_warn(f"cross-check failed: {self.first_failure}")


def _first_failure(step: int, quantities: list[Quantity]) -> Failure:
    """Return the first quantity out of its bound, at its entry that is furthest out."""
    for name, found, expected, bound in quantities:
        ratios = np.atleast_1d(np.abs(found - expected) / (bound + TINY)).ravel()
        if not (ratios <= 1).all():
            i = int(np.argmax(ratios))  # nan counts as the largest
            at = [float(array.ravel()[i]) for array in (found, expected, bound)]
            return Failure(step, name, at[0], at[1], at[2], float(ratios[i]))
    raise AssertionError("unreachable: called with a quantity out of its bound")


def _refuse(refused: list[str]) -> None:
    if refused:
        raise RequestError(
            f"the cross-check cannot follow {'; '.join(refused)}; change that, or train without "
            "the cross-check (--crosscheck off)"
        )


def _refused_settings(trainer: Trainer) -> list[str]:
    """Name the Trainer's settings that change the numbers and have no counterpart in NumPy yet."""
    refused = []
    if str(trainer.precision) not in FOLLOWED:
        refused.append(f"precision {trainer.precision} (it follows {' and '.join(FOLLOWED)})")
    if trainer.world_size > 1:
        refused.append(f"{trainer.world_size} processes (it follows 1)")
    if trainer.accumulate_grad_batches > 1:
        refused.append(f"accumulate_grad_batches {trainer.accumulate_grad_batches}")
    return refused


def _refused_in_model(
    trainer: Trainer, reference: Reference | None, optimizer: SGD | None
) -> list[str]:
    """Name what the model and its optimizer do that has no counterpart in NumPy yet."""
    refused = ["learning rate schedulers"] if trainer.lr_scheduler_configs else []
    optimizers = trainer.optimizers
    if len(optimizers) != 1 or type(optimizers[0]) is not torch.optim.SGD:
        found = ", ".join(type(o).__name__ for o in optimizers) or "none"
        refused.append(f"optimizers other than one torch.optim.SGD (found {found})")
    elif len(optimizers[0].param_groups) != 1:
        refused.append(f"{len(optimizers[0].param_groups)} parameter groups")
    elif optimizers[0].defaults["maximize"]:
        refused.append("maximize")
    names = [name for name, _ in trainer.lightning_module.named_parameters()]
    if reference is None and sorted(names) != ["bias", "weight"]:
        refused.append(
            f"{type(trainer.lightning_module).__name__} with parameters {', '.join(names)} "
            "(give CrossCheck(reference=...) its loss and gradient in NumPy)"
        )
    if optimizer is None and "lr" not in trainer.lightning_module.hparams:
        refused.append("a module without the hyperparameter lr (give CrossCheck(optimizer=...))")
    return refused


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
        return batch.detach().cpu().to(getattr(torch, dtype)).numpy().astype(np.float64, copy=False)
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
