"""Whether a LinearRegression still takes the step that its class describes.

The compiled loop takes many steps by that description. Whatever may replace a part of a step, such
as a hook, another loss or another optimizer, makes Lightning's loop take the steps one by one.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.modules import module as torch_modules
from torch.optim import optimizer as torch_optimizers

from trueline.proximal import ProximalSGD

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Attributes of a `torch.nn.Module` under which hooks are kept."""
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
GROUP = ("momentum", "dampening", "nesterov", "weight_decay")
"""Options of SGD that its parameter group shares with the hyperparameters."""
ELSE_IN_GROUP = ("maximize", "differentiable")
"""Options of SGD that change a step and are no hyperparameters."""


def frozen(module: torch.nn.Module) -> list[str]:
    """Return the names of the parameters that require no gradient."""
    return [name for name, p in module.named_parameters() if not p.requires_grad]


def refuse_all_frozen(module: torch.nn.Module) -> None:
    """Refuse to train a module of which no parameter requires a gradient.

    Raises:
        ValueError: Naming its parameters.
    """
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError(
            f"expected a parameter that requires a gradient, found {' and '.join(frozen(module))} "
            "frozen; call requires_grad_(True) on one"
        )


def loss_replaced(module: Any) -> str | None:
    """Say what has replaced the mean squared error; None where nothing has, or it has none."""
    mse = getattr(module, "mse", None)
    if mse is None:
        return None
    if type(mse) is not torch.nn.MSELoss:
        return f"mse is {type(mse).__name__} instead of MSELoss"
    if mse.reduction != "mean":
        return f"mse has the reduction {mse.reduction} instead of mean"
    return _hooked(mse, "mse") or _shadowed(mse, "mse")


def is_least_squares(module: torch.nn.Module) -> bool:
    """Return whether the closed form and the limits of least squares are those of a training."""
    return not frozen(module) and loss_replaced(module) is None


def definition(cls: type) -> dict[str, Any]:
    """Return what a class and its bases in this package define, to be compared later."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith(f"{__package__}.")]
    return {
        f"{base.__name__}.{name}": value
        for base in ours
        for name, value in vars(base).items()
        if not name.startswith("__")
    }


def changed(module: Any, defined: Mapping[str, Any]) -> str | None:
    """Say what makes the steps of a module others than those of its class.

    Args:
        module: A LinearRegression.
        defined: The `definition` of its class when it was made.

    Returns:
        The reason, or None.
    """
    h = module.hparams
    columns = () if h["n_targets"] == 1 else (h["n_targets"],)
    shapes = {"weight": (h["n_features"], *columns), "bias": columns}
    named = dict(module.named_parameters())
    now = definition(type(module))
    if now.keys() != defined.keys() or any(now[name] is not defined[name] for name in now):
        return f"methods of {type(module).__name__} have been replaced"
    if {name: tuple(p.shape) for name, p in named.items()} != shapes:
        return "the parameters are others than weight and bias"
    if len({p.dtype for p in named.values()}) > 1:
        return "weight and bias have different dtypes"
    if torch_modules._has_any_global_hook():
        return "torch calls a global hook of modules"
    hooked = (
        f"{name} has a hook"
        for name, p in named.items()
        if any(getattr(p, kind, None) for kind in TENSOR_HOOKS)
    )
    return (
        next(hooked, None)
        or _hooked(module, "the module")
        or _shadowed(module, "the module")
        or loss_replaced(module)
    )


def optimizer_changed(optimizer: Any, module: Any) -> str | None:
    """Say what makes an optimizer's steps others than those that the hyperparameters describe.

    Args:
        optimizer: Of the training, without Lightning's wrapper.
        module: A LinearRegression.

    Returns:
        The reason, or None.
    """
    if type(optimizer) is not (ProximalSGD if module.hparams["l1"] else torch.optim.SGD):
        return f"the optimizer is {type(optimizer).__name__}"
    step = vars(optimizer).get("step")  # a schedule wraps it, to count
    if step is not None and not hasattr(step, "_wrapped_by_lr_sched"):
        return "the optimizer's step has been replaced"
    if (
        any(getattr(optimizer, kind) for kind in OPTIMIZER_HOOKS)
        or torch_optimizers._global_optimizer_pre_hooks
        or torch_optimizers._global_optimizer_post_hooks
    ):
        return "the optimizer has a hook"
    [group, *others] = optimizer.param_groups
    if others or [*map(id, group["params"])] != [*map(id, (module.weight, module.bias))]:
        return "the optimizer has other parameter groups than one of weight and bias"
    h = module.hparams
    if group.get("l1", [h["l1"], 0.0]) != [h["l1"], 0.0]:
        return f"the optimizer has l1 {group['l1']}, and the module {h['l1']} on the weight"
    cycled = module.schedule is not None and module.schedule.cycles_momentum
    for name in GROUP[cycled:]:
        if group[name] != h[name]:
            return f"the optimizer has {name} {group[name]}, and the module {h[name]}"
    for name in ELSE_IN_GROUP:
        if group[name]:
            return f"the optimizer has {name} set"
    return None


def _hooked(module: torch.nn.Module, name: str) -> str | None:
    found = any(getattr(module, kind, None) for kind in HOOKS)
    return f"{name} has a hook" if found else None


def _shadowed(module: torch.nn.Module, name: str) -> str | None:
    """Say which method of its class an attribute of the module stands in the place of."""
    cls = type(module)
    for attribute, value in vars(module).items():
        method = getattr(cls, attribute, None)
        # Lightning puts a method back as an attribute after it has called it through DDP.
        if callable(method) and getattr(value, "__func__", value) is not method:
            return f"{attribute} of {name} has been replaced"
    return None


def ineffective(module: torch.nn.Module) -> list[str]:
    """Return the names of submodules and parameters that a method of the same name hides.

    torch keeps `model.loss = HuberLoss()` beside the method `loss`, and never calls it.
    """
    kept = [*module._modules, *module._parameters]
    return [name for name in kept if hasattr(type(module), name)]
