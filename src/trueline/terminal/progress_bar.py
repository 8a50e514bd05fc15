"""One bar for the whole training, in epochs; for an evaluation, in batches."""

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from trueline.data import RegressionData
from trueline.data.datamodule import line_of
from trueline.hooks import FewHooks
from trueline.planning.closed_form import ClosedForm, closed_form, is_cheap
from trueline.terminal.display import Display
from trueline.unchanged import is_least_squares

SHORT_SECONDS = 0.5
"""An evaluation that takes no longer has no bar."""


class TrainingBar(FewHooks, ProgressBar):
    """Shows epochs, steps per second, loss, distance to the closed form and time left.

    The distance is that of predictions, in root mean square, as a fraction of the spread of y.
    Drawing costs nothing per step: the bar looks at the clock, and at the loss only when it draws.
    What is validated, tested or predicted without a training is shown in batches.
    """

    knows_executions = True

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._display: Display | None = None
        self._loss: Any = None
        self._closed_form: ClosedForm | None = None
        self._asked: tuple[Any, Any] | None = None

    def disable(self) -> None:
        """Show nothing, as on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the empty bar."""
        if not self._enabled:
            return
        self._first_step, self._closed_form = trainer.global_step, None
        self._validating = 0.0
        batches = trainer.num_training_batches / trainer.accumulate_grad_batches
        self._per_epoch = math.ceil(batches) if math.isfinite(batches) else None
        ends = [trainer.max_epochs or -1, _epochs(trainer.max_steps, self._per_epoch)]
        total = min((end for end in ends if end > 0), default=None)
        data: Any = getattr(trainer, "datamodule", None)
        # Rows that are not factored yet are only where that takes no time.
        known = isinstance(data, RegressionData) and is_cheap(data)
        self._asked = (data, pl_module.hparams) if known and "l1" in pl_module.hparams else None
        self._display = Display("epoch", total, self._done(trainer))

    def tell(self, text: str) -> None:
        """Show what the training is waiting for."""
        if self._display is not None:
            self._display.show(self._done(self.trainer), [text])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraw when it is time to."""
        if self._display is not None:
            self._loss = outputs["loss"]
            if self._display.is_due():
                self._draw(self._display, trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock by which steps are counted, or start that of an evaluation."""
        self._evaluation_began = time.monotonic()

    on_test_start = on_predict_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show how many batches are done; of a validation, in the bar of the training."""
        of = {"test": trainer.num_test_batches, "predict": trainer.num_predict_batches}
        total = of.get(trainer.state.fn or "", trainer.num_val_batches)[dataloader_idx]
        if trainer.state.fn != "fit":
            self._evaluated(batch_idx + 1, total)
        elif self._display is not None and self._display.is_due():
            validated = f"validating, batch {batch_idx + 1:,}/{total:,}"
            self._display.show(self._done(trainer), [validated])

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again, or leave the bar of an evaluation standing."""
        if trainer.state.fn != "fit":
            self._close()
        elif self._display is not None:
            self._validating += time.monotonic() - self._evaluation_began

    on_test_end = on_predict_end = on_validation_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar a last time and leave it standing."""
        if self._display is not None and self._display.is_live and self._loss is not None:
            self._draw(self._display, trainer, pl_module)
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        self._close()

    def _draw(self, display: "Display", trainer: Trainer, pl_module: LightningModule) -> None:
        taken = trainer.global_step - self._first_step
        rate = taken / max(display.seconds - self._validating, 1e-9)
        facts = [f"loss {self._loss.item():.6g}"]
        if (to_go := self._to_go(pl_module)) is not None:
            facts.append(f"{to_go:.2g} to go")
        display.show(self._done(trainer), facts, f"{rate:,.0f} steps/s")

    def _evaluated(self, done: int, total: int | float) -> None:
        """Show how many batches of an evaluation are done, once it is seen to take a while."""
        if not self._enabled:
            return
        seconds = time.monotonic() - self._evaluation_began
        if self._display is None and seconds >= SHORT_SECONDS and done < total:
            self._display = Display("batch", total if math.isfinite(total) else None, done)
        display = self._display
        if display is not None and (display.is_due() or (display.is_live and done == total)):
            display.show(done, [], f"{done / seconds:,.1f} batches/s")

    def _done(self, trainer: Trainer) -> float:
        """Return how many epochs are done, with what is done of the one at hand."""
        if self._per_epoch is None:
            return trainer.current_epoch
        return trainer.global_step / self._per_epoch

    def _to_go(self, pl_module: LightningModule) -> float | None:
        """Return the distance to the closed form, None where it is not known."""
        if not is_least_squares(pl_module):
            return None
        if self._closed_form is None and self._asked is not None:
            self._closed_form = closed_form(*self._asked)
            self._asked = None
        if self._closed_form is None:
            return None
        return float(self._closed_form.distance(line_of(pl_module)).max())

    def _close(self) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None


def _epochs(steps: int, per_epoch: int | None) -> float:
    return steps / per_epoch if per_epoch and steps > 0 else -1
