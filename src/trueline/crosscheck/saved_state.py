"""What a checkpoint keeps of the cross-check, and how a training is held against it once resumed.

It is no callback's own state, which Lightning would miss where the checkpoint is used without a
cross-check.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection

from trueline.crosscheck.ledger import Ledger
from trueline.crosscheck.recorder import Recorder
from trueline.errors import RequestError

SAVED_AS = "crosscheck"
"""The entry of a checkpoint."""


def save(checkpoint: dict[str, Any], recorder: Recorder, ledger: Ledger) -> None:
    """Put into a checkpoint where recorder and ledger stand; all entries must have been judged."""
    state = recorder.state_dict() | {"verdict": ledger.state_dict()}
    checkpoint[SAVED_AS] = apply_to_collection(state, np.ndarray, torch.tensor)


def saved_in(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state that a checkpoint holds; empty where it holds none."""
    state = checkpoint.get(SAVED_AS)
    state = state if isinstance(state, dict) else {}
    return apply_to_collection(state, torch.Tensor, torch.Tensor.numpy)  # type: ignore[no-any-return]


def restore(state: Mapping[str, Any], recorder: Recorder, ledger: Ledger) -> None:
    """Bring recorder and ledger to where a checkpoint was made.

    Raises:
        RequestError: When the state is not one that `save` has left.
    """
    try:
        recorder.load_state_dict(state)
        ledger.load_state_dict(state["verdict"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(
            "ckpt_path: expected what the cross-check has saved, found something else in the "
            f"checkpoint ({type(error).__name__}: {error}); use another, or --crosscheck off"
        ) from error
