"""What comes of a cross-check: an exception or a warning, a curve of the ratios, and a report."""

from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from trueline.crosscheck.ledger import Ledger
from trueline.crosscheck.verdict import Failure, Tally
from trueline.errors import CheckFailed
from trueline.tensorboard import log_points


class Outcome:
    """Tells a user what the ledger of a training says.

    Args:
        on_failure: `raise` stops at the first failure; `warn` goes on.

    Attributes:
        ledger: None until there is a batch to ask the reference about.
        logged: The step of the last point of the curve.
    """

    def __init__(self, on_failure: Literal["raise", "warn"]) -> None:
        self.on_failure = on_failure
        self.ledger: Ledger | None = None
        self.logged = 0
        self._nothing_learned: str | None = None
        self._told = False

    @property
    def steps_checked(self) -> int:
        """Optimizer steps compared so far."""
        return self.ledger.steps_checked if self.ledger else 0

    def fail(self, *failures: Failure) -> None:
        """Note failures that it takes no reference to see."""
        assert self.ledger is not None
        for failure in failures:
            self.ledger.fail(failure)
        self.tell()

    def fail_empty(self, expected: str) -> None:
        """Note that there was nothing to learn from a training.

        Args:
            expected: What was expected and what was found, and what to change.
        """
        self._nothing_learned = f"expected {expected}"
        if self.on_failure == "raise":
            raise CheckFailed(f"cross-check failed: {self._nothing_learned}")

    def tell(self) -> None:
        """Raise or warn when there is a first failure."""
        failure = self.ledger.first_failure if self.ledger else None
        if failure is None or self._told:
            return
        self._told = True
        if self.on_failure == "raise":
            raise CheckFailed(f"cross-check failed: {failure}")
        rank_zero_warn(f"cross-check failed: {failure}")

    def log(self, trainer: Trainer, at_end: bool = False) -> None:
        """Log the worst ratio of the steps since the last point, every `log_every_n_steps` steps.

        Which steps a point takes in depends on their numbers alone, so that a training that goes on
        from a checkpoint has the same points.
        """
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        step = trainer.global_step
        due = [] if every < 1 else list(range((self.logged // every + 1) * every, step + 1, every))
        if at_end and step != (due or [self.logged])[-1]:
            due.append(step)
        if not trainer.loggers or not due:
            return
        assert self.ledger is not None
        self.ledger.settle()
        self.logged = due[-1]
        name, worst = "crosscheck/worst_ratio", self.ledger.tally.worst_up_to(due)
        log_points(trainer.loggers, [name], [[ratio] for ratio in worst], due)

    def report(self, epochs_in_order: int) -> dict[str, Any]:
        """Return the verdict, see `CrossCheck.report`.

        Args:
            epochs_in_order: Number of epochs whose order has each row once. It is told where the
                ledger counts no rows.
        """
        ledger = self.ledger
        failed = ledger.first_failure if ledger else None
        failure: Any = failed._asdict() if failed else self._nothing_learned
        tally = ledger.tally if ledger else Tally()
        counted = ledger.rows.epochs if ledger and ledger.rows else epochs_in_order
        return {
            "passed": failure is None and self.steps_checked > 0,
            "steps_checked": self.steps_checked,
            "steps_skipped": ledger.steps_skipped if ledger else 0,
            "epochs_counted": counted,
            "worst_ratio": tally.worst_ratio,
            "worst_ratios": dict(tally.worst),
            "first_failure": failure,
        }
