"""The options that a checkpoint keeps: a training goes on as it began unless told otherwise.

Numbers and a few words, never a class: what a checkpoint holds is data, and is not imported. Which
devices it runs on is not kept either, for that changes from machine to machine and the numbers do
not depend on it.
"""

from collections.abc import Mapping
from typing import Any

PRECISION = "precision"
TRAINER = (
    "max_epochs",
    "max_steps",
    "min_epochs",
    "min_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
    "log_every_n_steps",
)
OWN = ("seed_everything", "crosscheck")
MISSING = "data.missing"
WORDS = (PRECISION, "gradient_clip_algorithm", "crosscheck", MISSING, "data.dtype")
"""Options of which a word may be kept; of all others only a number, true, false or null."""


def keep(options: Any) -> dict[str, Any]:
    """Return the options of a run that its checkpoints keep.

    Args:
        options: Of `trueline fit`, as parsed.

    Returns:
        By their names, such as `trainer.max_epochs` or `data.batch_size`.
    """
    given = {name: options[name] for name in OWN}
    given |= {f"trainer.{name}": options.trainer[name] for name in (PRECISION, *TRAINER)}
    given |= {
        f"data.{name}": value for name, value in dict(options.data.get("init_args") or {}).items()
    }
    return {name: value for name, value in given.items() if _is_plain(name, value)}


def recall(checkpoint: Mapping[str, Any], resume: bool) -> dict[str, Any]:
    """Return the options that a checkpoint has kept, without what no option would be.

    Args:
        checkpoint: As loaded.
        resume: Whether a training is to go on. For anything else only the precision matters, and
            what to do about missing values.
    """
    saved = checkpoint.get("options")
    known = {*OWN, *(f"trainer.{name}" for name in TRAINER)} if resume else set()
    known |= {f"trainer.{PRECISION}", MISSING}
    return {
        name: value
        for name, value in (saved.items() if isinstance(saved, Mapping) else ())
        if (name in known or (resume and str(name).startswith("data."))) and _is_plain(name, value)
    }


def _is_plain(name: str, value: Any) -> bool:
    words = name.removeprefix("trainer.") in WORDS and isinstance(value, str)
    return value is None or words or isinstance(value, bool | int | float)
