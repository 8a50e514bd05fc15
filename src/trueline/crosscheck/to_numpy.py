"""Reads what torch and Lightning hold, as float64 arrays, which hold every narrower number."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from trueline.crosscheck.parameter_vector import ParameterVector
from trueline.reference.loss_scale import LossScale

Array = NDArray[np.float64]


def as_array(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a tensor as an array, which on a CPU shares its memory."""
    if tensor.is_cpu and not tensor.requires_grad and tensor.dtype is not torch.bfloat16:
        return tensor.numpy()  # the quick way, of which each step needs half a dozen
    if tensor.dtype is torch.bfloat16:  # NumPy has no such type
        tensor = tensor.float()
    return tensor.numpy(force=True)


def batch_arrays(batch: Any) -> Any:
    """Copy the tensors of a batch into arrays: floating ones in float64, others as they are."""
    if isinstance(batch, torch.Tensor):
        array = as_array(batch)
        return np.array(array, np.float64 if array.dtype.kind == "f" else None)
    if isinstance(batch, Mapping):
        return {key: batch_arrays(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return tuple([batch_arrays(value) for value in batch])
    return batch


class ModuleState:
    """Reads parameters, gradients and the optimizer's state of a module as vectors.

    Args:
        module: Module with the parameters.
        optimizer: Optimizer that updates them.
    """

    def __init__(self, module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        named = dict(module.named_parameters())
        self.layout = ParameterVector({name: tuple(p.shape) for name, p in named.items()})
        self._parameters = list(named.values())
        self._views: list[tuple[int, NDArray[Any]]] = [(-1, np.empty(0))] * len(named)
        self._sizes = [p.numel() for p in self._parameters]
        self._optimizer = optimizer
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        self._groups = [groups.get(id(p), {"lr": np.nan}) for p in self._parameters]

    def parameters(self) -> Array:
        """Return the parameters."""
        flat = [self._flat(i) for i in range(len(self._parameters))]
        return np.concatenate(flat, dtype=np.float64)

    def _flat(self, i: int) -> NDArray[Any]:
        """Return a parameter as a flat array, on a CPU without asking torch for it every time."""
        parameter, (address, view) = self._parameters[i], self._views[i]
        if parameter.data_ptr() != address:
            view = as_array(parameter).reshape(-1)
            if parameter.is_cpu and view.ctypes.data == parameter.data_ptr():
                self._views[i] = parameter.data_ptr(), view
        return view

    def frozen(self) -> tuple[str, ...]:
        """Return the names of the parameters that require no gradient."""
        pairs = zip(self.layout.shapes, self._parameters, strict=True)
        return tuple(name for name, p in pairs if not p.requires_grad)

    def gradients(self) -> Array:
        """Return the gradients; 0 where there is none."""
        return self._vector([p.grad for p in self._parameters], 0.0)

    def lrs(self) -> Array:
        """Return the learning rate of each entry; nan where no parameter group has it."""
        return np.repeat([float(group["lr"]) for group in self._groups], self._sizes)

    def buffers(self) -> Array:
        """Return the momentum buffers; nan where there is none."""
        state: Any = self._optimizer.state
        found = [state.get(p, {}).get("momentum_buffer") for p in self._parameters]
        return self._vector(found, np.nan)

    def _vector(self, tensors: list[torch.Tensor | None], missing: float) -> Array:
        flat = [
            np.full(size, missing) if tensor is None else as_array(tensor).reshape(-1)
            for tensor, size in zip(tensors, self._sizes, strict=True)
        ]
        return np.concatenate(flat, dtype=np.float64)


def gather(trainer: Trainer, mine: Any) -> list[Any]:
    """Return what each process has to say, in the order of their ranks."""
    if trainer.world_size == 1:
        return [mine]
    everyone: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def training_rows(trainer: Trainer) -> Any:
    """Return the rows of the training data as one batch; None where they are not to be had.

    They are to be had from a loader whose `dataset` is a `TensorDataset`. The precision that
    converts a batch before the model sees it converts them too.
    """
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    if not isinstance(dataset, torch.utils.data.TensorDataset):
        return None
    return batch_arrays(trainer.precision_plugin.convert_input(dataset.tensors))


def is_epoch_whole(trainer: Trainer) -> bool:
    """Return whether an epoch at its end was asked for all its rows.

    A loader that ends before its length says is not cut short: it leaves rows out.
    """
    stopped = trainer.should_stop or trainer.global_step == trainer.max_steps
    cut = stopped and not trainer.is_last_batch
    limit: Any = trainer.limit_train_batches  # 1.0 is all of an epoch, and 1 one batch
    return not cut and isinstance(limit, float) and limit == 1.0


def loss_scale(trainer: Trainer) -> LossScale | None:
    """Return the loss scale as it stands; None for a precision that has none."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None:
        return None
    state = scaler.state_dict()
    return LossScale(
        scale=float(state["scale"]),
        growth_factor=state["growth_factor"],
        backoff_factor=state["backoff_factor"],
        growth_interval=state["growth_interval"],
        good_steps=state["_growth_tracker"],
    )
