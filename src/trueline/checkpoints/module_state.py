"""What a LinearRegression adds to its checkpoints, so that a training can go on to the bit."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule

from trueline.checkpoints.reading import PREPROCESSING
from trueline.errors import RequestError
from trueline.evaluation import is_table
from trueline.progress import at_step_end, hide_max_steps, restore_max_steps
from trueline.schedule import Schedule, check_same_schedule

CHECKPOINT_FORMAT = 1
"""Version of what checkpoints hold; a higher one is from a later version of Trueline."""


class SavedState(LightningModule):
    """The hooks that save and load a checkpoint."""

    schedule: Schedule | None
    preprocessing: Mapping[str, Any] | None
    _metrics: Mapping[str, float] = {}
    _max_steps: int | None = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to go on that neither parameters nor optimizer hold."""
        checkpoint["trueline_format"] = CHECKPOINT_FORMAT
        # Lightning's counters say whether; what the gradients were, no checkpoint of it holds.
        if self.preprocessing:
            checkpoint[PREPROCESSING] = self.preprocessing
        checkpoint["inside_step"] = not at_step_end(self.trainer)
        # An epoch that ends after a checkpoint is loaded has no metric of its own.
        checkpoint["metrics"] = {n: float(v) for n, v in self.trainer.callback_metrics.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what `on_save_checkpoint` has added; hyperparameters stay those of this module.

        Raises:
            ValueError: When the schedule is another than that of the checkpoint, or lr under one.
        """
        h: Any = self.hparams
        preprocessing = checkpoint.get(PREPROCESSING)
        self.preprocessing = preprocessing if isinstance(preprocessing, Mapping) else {}
        states = checkpoint.get("optimizer_states", ())
        metrics = checkpoint.get("metrics")
        metrics = metrics if isinstance(metrics, Mapping) else {}
        self._metrics = {str(n): v for n, v in metrics.items() if isinstance(v, float)}
        if self._trainer is None:  # load_from_checkpoint, which keeps all digits
            self.to(checkpoint["state_dict"]["weight"].dtype)
        elif self.trainer.state.fn == "fit":
            self._max_steps = hide_max_steps(self.trainer)
        if states:
            check_same_schedule(checkpoint.get("hyper_parameters", {}), h)
        options = inspect.signature(torch.optim.SGD).parameters.keys() & h.keys()
        if self.schedule:
            options -= {"lr", "momentum"} if self.schedule.cycles_momentum else {"lr"}
        for state in states:
            for group in state["param_groups"]:
                group.update({n: h[n] for n in options})
                group["maximize"] = False
                group.pop("l1", None)  # of a training with an L1 penalty

    def take_up(self) -> None:
        """Bring back what a checkpoint had, once the Trainer has taken up its own part.

        Raises:
            RequestError: When a training on a table whose columns were scaled is to go on without.
        """
        if (self.preprocessing or {}).get("scaling") and not is_table(self.trainer):
            raise RequestError(
                "data: expected a TableData, as the checkpoint was trained on one whose columns "
                "are scaled, found other data; give the table, or train anew"
            )
        if self._max_steps is not None:
            restore_max_steps(self.trainer, self._max_steps)
            self._max_steps = None
        for name, value in self._metrics.items():
            self.trainer.callback_metrics[name] = torch.tensor(value, dtype=torch.float64)
        self._metrics = {}
