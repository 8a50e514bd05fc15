"""What changes the numbers and has no counterpart in NumPy yet: it is refused by name."""

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)

from trueline.errors import RequestError

FOLLOWED = {"64-true": "float64", "32-true": "float32"}
"""The precisions that the reference can judge, with the dtype that each one computes in."""


def refuse(refused: list[str]) -> None:
    """Raise a RequestError that names all of `refused`; do nothing where there is none."""
    if refused:
        raise RequestError(
            f"the cross-check cannot follow {'; '.join(refused)}; change that, or train without "
            "the cross-check (--crosscheck off)"
        )


def refused_settings(trainer: Trainer) -> list[str]:
    """Name the Trainer's settings that change the numbers and have no counterpart in NumPy yet."""
    refused = []
    if str(trainer.precision) not in FOLLOWED:
        refused.append(f"precision {trainer.precision} (it follows {' and '.join(FOLLOWED)})")
    if trainer.world_size > 1:
        refused.append(f"{trainer.world_size} processes (it follows 1)")
    if trainer.accumulate_grad_batches > 1:
        refused.append(f"accumulate_grad_batches {trainer.accumulate_grad_batches}")
    changing = (GradientAccumulationScheduler, StochasticWeightAveraging)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, changing):
            refused.append(type(callback).__name__)
    return refused


def refused_in_model(
    trainer: Trainer, reference: object | None, optimizer: object | None
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
