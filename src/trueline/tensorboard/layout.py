"""Which curves belong in one chart: TensorBoard's custom scalars."""

import re
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from trueline.tensorboard.beside import rows_of
from trueline.tensorboard.names import (
    GRADIENT_NORM,
    LOSS_FLOOR,
    LR_LIMIT,
    RATIO_LIMIT,
    columns_of,
    names,
    shapes,
)

MOST_CHARTS = 12
"""Of parameters: a page of them."""
Charts = dict[str, list[Any]]


def layout(trainer: Trainer, module: LightningModule) -> dict[str, Charts]:
    """Return the charts of a training, as `SummaryWriter.add_custom_scalars` takes them."""
    from trueline.crosscheck import CrossCheck  # which logs by way of this package

    data = rows_of(trainer, module)
    best = data is not None
    checked = any(isinstance(callback, CrossCheck) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    training = {
        "loss beside that of the closed form": chart(
            "train/loss", "val/loss", *[LOSS_FLOOR] * best
        ),
        "gradient norm": chart(GRADIENT_NORM),
        "learning rate beside the largest stable one": chart(
            "lr", *[LR_LIMIT] * (data is not None)
        ),
    }
    if checked:
        training["deviation from NumPy as a fraction of its bound"] = chart(
            "crosscheck/worst_ratio", RATIO_LIMIT
        )
    scaled = " per standard deviation" if data is not None and data.scaling is not None else ""
    end = " beside the closed form" * best
    entries = names(shapes(dict(module.named_parameters())), columns_of(trainer))
    parameters = {
        f"{name}{scaled * name.startswith('weight')}{end}": chart(
            f"parameters/{name}", *[f"closed_form/{name}"] * best
        )
        for name in entries[:MOST_CHARTS]
    }
    return {"training": training, "parameters": parameters}


def chart(*tags: str) -> list[Any]:
    """Return a chart of some curves; their tags are patterns, of which a prefix would do."""
    return ["Multiline", [f"{re.escape(tag)}$" for tag in tags]]
