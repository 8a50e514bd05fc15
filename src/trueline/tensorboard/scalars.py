"""The callback that logs the curves of a training, and notes the way that the parameters took."""

import math
import time
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray

from trueline.hooks import FewHooks
from trueline.loop.state import StepResult
from trueline.planning.closed_form import ClosedForm, closed_form, is_cheap
from trueline.tensorboard.beside import constants, limits, rows_of, too_far
from trueline.tensorboard.layout import layout
from trueline.tensorboard.logger import RunLogger, log_points
from trueline.tensorboard.names import (
    GRADIENT_NORM,
    RATIO_LIMIT,
    Columns,
    columns_of,
    entries,
    names,
    shapes,
)
from trueline.tensorboard.walk import Walk, landmarks, next_landmark

POINTS_A_CONSTANT = 10
"""Points of a curve for each one of a line that does not change; of fewer than a twentieth of the
points in a chart, TensorBoard takes them for outliers that need not be seen."""
DRAW_AFTER = 10.0
"""Seconds; the figures take a fortieth of them."""
DRAWN_SHARE = 30
"""Times as long as drawing took, at least, nothing is drawn again."""
MANY_PARAMETERS, ONE_POINT_IN = 100, 10
"""With more parameters than this, their curves and those of their gradients have one point in so
many: TensorBoard works out checksums in Python, a second for 100,000 numbers."""
AT_ONCE = 256
"""Steps of which the parameters are taken in together."""
OF_A_STEP = (GRADIENT_NORM, "lr", "train/loss")
"""Curves that have each point."""
SAVED_AS = "too_far_at"
"""The entry of a checkpoint with the latest step before which the line had not converged."""


class Scalars(FewHooks):
    """Logs loss, parameters, gradients and lr, every `log_every_n_steps` steps and at the end.

    Beside them come the lines that they are seen against, such as the loss of the closed form.

    Args:
        draw_after: Seconds of training after which figures are drawn for the first time, and then
            each time that it has taken twice as long; never unless given.

    Attributes:
        closed_form: In the units of the training; None where there is none, or as long as it would
            take a look at many rows.
    """

    knows_executions = True
    logs_losses = True

    def __init__(self, draw_after: float | None = None) -> None:
        self._draw_after = math.inf if draw_after is None else draw_after
        self._draw_at = math.inf
        self._row: dict[str, float] | None = None
        self._next_mark = 0
        self._begin()

    def _begin(self) -> None:
        self._walk = Walk()
        self._seen: list[tuple[int, list[float], bool]] = []
        self.closed_form: ClosedForm | None = None
        self._too_far_at: int | None = None
        self._constants: dict[str, float] = {}
        self._constants_to = 0
        self._columns: Columns | None = None

    @property
    def walk(self) -> Walk:
        """The parameters before some steps."""
        self._take_in()
        return self._walk

    @property
    def too_far_at(self) -> int | None:
        """The latest step with a point before which the line had not converged, where known."""
        self._take_in()
        return self._too_far_at

    def _take_in(self) -> None:
        """Take in what was seen step by step, at once: NumPy's time for a call counts once."""
        seen, self._seen = self._seen, []
        if seen:
            steps, rows = (
                np.array([step for step, *_ in seen]),
                np.array([row for _, row, _ in seen]),
            )
            self._walk.add(steps, rows)
            points = np.array([point for *_, point in seen])
            self._note(steps[points], rows[points])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier training."""
        self._begin()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note how far a training came before."""
        step = checkpoint.get(SAVED_AS)
        self._too_far_at = step if type(step) is int else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lay out the curves, and begin the lines that they are seen against."""
        self._columns = columns_of(trainer)
        self._next_mark = next_landmark(trainer.global_step)
        self._began = time.monotonic()
        self._draw_at = self._began + self._draw_after
        if not trainer.logger:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(layout(trainer, pl_module))
        if isinstance(trainer.logger, RunLogger):
            self._take_over(trainer.logger, pl_module)
        if _is_checked(trainer):
            self._constants[RATIO_LIMIT] = 1.0
        data = rows_of(trainer, pl_module)
        if data is not None and is_cheap(data):
            self._look_up(trainer, pl_module)
            self._log_constants(trainer)

    def _take_over(self, logger: RunLogger, pl_module: LightningModule) -> None:
        """Begin with the parameters of the curves that were carried on."""
        of_entries = names(shapes(dict(pl_module.named_parameters())), self._columns)
        tags = [f"parameters/{name}" for name in of_entries]
        curves = [logger.carried.get(tag, {}) for tag in tags]
        steps = [step for step in curves[0] if all(step in curve for curve in curves)]
        if steps:
            self._walk.add(steps, [[curve[step] for curve in curves] for step in steps])

    def _look_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Work out the closed form and the limits, for as many lines as there are parameters."""
        data = rows_of(trainer, pl_module)
        if data is None:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            found = closed_form(data, pl_module.hparams)
        self.closed_form = found if found and found.unique else None
        if self.closed_form is not None:
            self._constants |= constants(self.closed_form, self._columns)
        self._constants |= limits(data, pl_module)

    def _log_constants(self, trainer: Trainer) -> None:
        """Log the lines that do not change, as far as the training has come."""
        every = POINTS_A_CONSTANT * trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not self._constants or not every:
            return
        steps = list(range(self._constants_to, trainer.global_step, every))
        rows = [[*self._constants.values()]] * len(steps)
        log_points(trainer.loggers, [*self._constants], rows, steps)
        self._constants_to += every * len(steps)

    def log_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last point of the lines that do not change."""
        if self.closed_form is None:
            self._look_up(trainer, pl_module)
        self._log_constants(trainer)
        for logger in trainer.loggers if self._constants else ():
            logger.log_metrics(self._constants, trainer.global_step)

    def watched_steps(self, first: int, steps: int) -> NDArray[np.int64]:
        """Return the steps of the loop before which the parameters are to be known."""
        return landmarks(first, first + steps) - first

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Note parameters, gradients and lr before the step, when a point is due."""
        if getattr(pl_module, "execution", None) is not None:
            return
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        step = trainer.global_step
        is_due = every > 0 and step % every == 0
        if not is_due and step != self._next_mark:
            return
        named = dict(pl_module.named_parameters())
        row = entries("parameters", named, self._columns)
        if trainer.logger:
            self._seen.append((step, [*row.values()], is_due))
            if len(self._seen) == AT_ONCE:
                self._take_in()
        if step == self._next_mark:
            self._next_mark = next_landmark(step + 1)
        if is_due:
            gradients = {n: p.grad for n, p in named.items() if p.grad is not None}
            of_step = entries("gradients", gradients, self._columns)
            row = row | of_step if _has_entries(step // every, len(row)) else {}
            row[GRADIENT_NORM] = math.hypot(*of_step.values())
            row["lr"] = optimizer.param_groups[0]["lr"]
            self._row, self._step = row, step

    def _note(self, steps: NDArray[np.int64], parameters: NDArray[np.float64]) -> None:
        """Note up to which of the steps with a point the line has not converged."""
        if self.closed_form is not None:
            far = steps[too_far(self.closed_form, parameters)]
            if len(far):
                self._too_far_at = int(far[-1])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the loss and log the point, or all points among the steps of a call of the loop."""
        execution = getattr(pl_module, "execution", None)
        if execution is not None and trainer.loggers:
            self._log_points(trainer, pl_module, execution)
        if self._row is not None:
            self._row["train/loss"] = pl_module.step_loss.item()  # type: ignore[operator]
            log_points(trainer.loggers, [*self._row], [[*self._row.values()]], [self._step])
        self._row = None
        if trainer.loggers and self._constants and trainer.global_step > self._constants_to:
            self._log_constants(trainer)
        if time.monotonic() >= self._draw_at:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figures of the training so far, and say when to draw them next."""
        from trueline.tensorboard.figures import log_figures

        began = time.monotonic()
        log_figures(trainer, pl_module)
        ended = time.monotonic()
        self._draw_at = ended + max(began - self._began, DRAWN_SHARE * (ended - began))

    def _log_points(self, trainer: Trainer, pl_module: LightningModule, result: StepResult) -> None:
        """Log the points among the loop's steps that are due, and note where they led."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        first = trainer.global_step - result.steps
        of_entries = names(shapes(dict(pl_module.named_parameters())), self._columns)
        tags = [f"{group}/{name}" for group in ("parameters", "gradients") for name in of_entries]
        due = (first + result.at) % every == 0
        at, parameters, gradients = result.at[due], result.before[due], result.gradient[due]
        with np.errstate(over="ignore", invalid="ignore"):  # of a training that diverges
            norms = np.linalg.norm(gradients, axis=1)
        steps = first + at
        of_step = np.column_stack([norms, result.lrs[at], result.losses[at]])
        whole = _has_entries(steps // max(1, every), len(of_entries))
        for some, of_point, columns in (
            (whole, [*tags, *OF_A_STEP], (parameters, gradients, of_step)),
            (~whole, [*OF_A_STEP], (of_step,)),
        ):
            rows = np.column_stack(columns)[some].tolist()
            log_points(trainer.loggers, of_point, rows, steps[some].tolist())
        self._note(steps, parameters)
        self._walk.add(steps, parameters)
        marks = landmarks(first, trainer.global_step)
        self._walk.add(marks, result.before[result.select(marks - first)])

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put on disk what was logged, so that a training can go on from here with whole curves."""
        if self.too_far_at is not None:
            checkpoint[SAVED_AS] = self.too_far_at
        for logger in trainer.loggers:
            logger.save()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation loss at the number of steps taken."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if fitting and "val/loss" in trainer.callback_metrics:
            loss = trainer.callback_metrics["val/loss"].item()
            for logger in trainer.loggers:
                logger.log_metrics({"val/loss": loss}, trainer.global_step)


def _has_entries(point: Any, n_parameters: int) -> Any:
    """Return whether points have all parameters and gradients, given their numbers from 0."""
    return point % (ONE_POINT_IN if n_parameters > MANY_PARAMETERS else 1) == 0


def _is_checked(trainer: Trainer) -> bool:
    from trueline.crosscheck import CrossCheck  # which logs by way of this package

    return any(isinstance(callback, CrossCheck) for callback in trainer.callbacks)  # type: ignore[attr-defined]
