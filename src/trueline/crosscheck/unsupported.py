"""What changes the numbers and has no counterpart in NumPy: it is refused by name."""

from dataclasses import replace

import torch
from lightning.pytorch import Trainer, callbacks
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from trueline.errors import RequestError
from trueline.module import LinearRegression
from trueline.proximal import ProximalSGD
from trueline.reference import rounding
from trueline.unchanged import loss_replaced

FOLLOWED = {
    "64-true": rounding.FLOAT64,
    "32-true": rounding.FLOAT32,
    "bf16-mixed": rounding.BFLOAT16_MIXED,
    "bf16-true": rounding.BFLOAT16,
    "16-mixed": rounding.FLOAT16_MIXED,
}
"""The precisions that the reference can judge, with how each one rounds."""
PRODUCTS = {"highest": None, "high": rounding.TENSOR_FLOAT, "medium": rounding.BRAIN}
"""What `torch.set_float32_matmul_precision` lets the factors of a product be rounded to."""


def arithmetic_of(trainer: Trainer) -> rounding.Arithmetic:
    """Return how the training is asked to round."""
    arithmetic = FOLLOWED[str(trainer.precision)]
    products = PRODUCTS[torch.get_float32_matmul_precision()]
    if arithmetic is not rounding.FLOAT32 or products is None:
        return arithmetic
    return replace(arithmetic, products=products)


def refuse(refused: list[str]) -> None:
    """Raise a RequestError that names all of `refused`; do nothing where there is none."""
    if refused:
        raise RequestError(
            f"the cross-check cannot follow {'; '.join(refused)}; change that, or train without "
            "the cross-check (--crosscheck off)"
        )


def unsupported_settings(trainer: Trainer) -> list[str]:
    """Name the Trainer's settings that change the numbers and have no counterpart in NumPy."""
    refused = []
    if str(trainer.precision) not in FOLLOWED:
        refused.append(f"precision {trainer.precision} (it follows {', '.join(FOLLOWED)})")
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        refused.append(f"{type(trainer.strategy).__name__} (it follows one device, and ddp)")
    changing = (
        callbacks.GradientAccumulationScheduler,
        callbacks.StochasticWeightAveraging,
        callbacks.WeightAveraging,
    )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, changing):
            refused.append(type(callback).__name__)
    return refused


def unsupported_model(
    trainer: Trainer, reference: object | None, optimizer: object | None, schedule: object | None
) -> list[str]:
    """Name what the model and its optimizer do that has no counterpart in NumPy."""
    module, optimizers, refused = trainer.lightning_module, trainer.optimizers, []
    names = [name for name, _ in module.named_parameters()]
    if reference is None and sorted(names) != ["bias", "weight"]:
        refused.append(
            f"{type(module).__name__} with parameters {', '.join(names)} "
            "(give CrossCheck(reference=...) its loss and gradient in NumPy)"
        )
    if reference is None and type(module) is LinearRegression and (other := loss_replaced(module)):
        refused.append(f"another loss: {other} (give CrossCheck(reference=...) it in NumPy)")
    if not module.automatic_optimization:
        refused.append("manual optimization")
    if len(optimizers) != 1 or type(optimizers[0]) not in (torch.optim.SGD, ProximalSGD):
        found = ", ".join(type(o).__name__ for o in optimizers) or "none"
        refused.append(f"optimizers other than one torch.optim.SGD (found {found})")
    elif optimizer is None:
        if "lr" not in module.hparams:
            refused.append(
                "a module without the hyperparameter lr (give CrossCheck(optimizer=...))"
            )
        if len(optimizers[0].param_groups) > 1:
            refused.append(
                f"{len(optimizers[0].param_groups)} parameter groups (give "
                "CrossCheck(optimizer={name: SGD(...)}))"
            )
    configs = trainer.lr_scheduler_configs
    if len(configs) > 1:
        refused.append(f"{len(configs)} learning rate schedulers at once")
    if configs and schedule is None:
        refused.append(
            f"{type(configs[0].scheduler).__name__} (give CrossCheck(schedule=...) the schedule "
            "that is meant)"
        )
    refused += [f"a scheduler's frequency {c.frequency}" for c in configs if c.frequency != 1]
    return refused
