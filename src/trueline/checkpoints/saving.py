"""Saves a training where it can go on from to the bit: now and then, and when it is told to stop.

Lightning saves wherever it is asked to, also between a step and the validation or the end of the
epoch that follow it, and leaves those out when training goes on. Here they come first.
"""

import shlex
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from trueline.checkpoints.reading import FOLDER, LAST_NAME
from trueline.errors import CheckFailed
from trueline.hooks import FewHooks
from trueline.progress import at_end, at_step_end, validation_follows
from trueline.results.whole_files import link_whole

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
if hasattr(signal, "SIGHUP"):  # Windows has none
    SIGNALS[signal.SIGHUP] = "SIGHUP"


def is_ignored(number: signal.Signals) -> bool:
    """Return whether this process was told to ignore a signal."""
    return signal.getsignal(number) is signal.SIG_IGN


class Checkpoints(FewHooks, Checkpoint):
    """Saves `step=K.ckpt`, the newest in place of the one before it, and the same as `last.ckpt`.

    They lie in the folder `checkpoints` of the run. It saves after a validation and at the end of
    an epoch, if `every_seconds` have passed since it last did; every `every_n_steps` steps where
    that is given; and at the end. On Ctrl-C, SIGTERM and SIGHUP it saves as soon as the step at
    hand is done, with the validation that follows it if one does, and ends the training; all
    processes do so at the same step. A second signal ends it at once.

    Args:
        every_n_steps: Optimizer steps between two savings, besides the others.
        every_seconds: Between two savings after validations and epochs; one takes about five
            milliseconds. What is saved when does not change a number of the training.
        options: Of the command line, to be kept in the checkpoints.
        named: Whether to save `step=K.ckpt` too; not where another callback may have such files.

    Raises:
        ValueError: When a number is out of range.
        CheckFailed: When told to stop, saying how to go on; and instead of saving parameters that
            are not finite.
    """

    knows_executions = True

    def __init__(
        self,
        every_n_steps: int | None = None,
        every_seconds: float = 1.0,
        options: Mapping[str, Any] | None = None,
        named: bool = True,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps: expected 1 or more; found {every_n_steps}")
        if not every_seconds >= 0:
            raise ValueError(f"every_seconds: expected 0 or more; found {every_seconds}")
        self.every_n_steps = every_n_steps
        self.every_seconds = every_seconds
        self.options = dict(options or {})
        self.named = named
        self.folder = Path()
        self._newest: Path | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._told: signal.Signals | None = None
        self._due = self._stop = False
        self._saved = time.monotonic()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew, in a folder that is the same for all processes."""
        self._newest, self._told, self._due, self._stop = None, None, False, False
        self.folder = Path(trainer.log_dir or trainer.default_root_dir) / FOLDER

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for the signals: Lightning has set its own handlers by now."""
        self._saved = time.monotonic()
        self._listen()

    on_train_start = on_sanity_check_start

    def _listen(self) -> None:
        if not self._handlers and threading.current_thread() is threading.main_thread():
            # nohup has a training go on when its terminal is gone.
            kept = {each for each in SIGNALS if each.name == "SIGHUP" and is_ignored(each)}
            heard = SIGNALS.keys() - kept
            self._handlers = {each: signal.signal(each, self._on_signal) for each in heard}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._told is None:
            self._told = signal.Signals(number)
        else:
            self._restore_handlers()
            raise KeyboardInterrupt

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due and nothing else follows the step."""
        every = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if trainer.world_size == 1 and not (self._told or self._due or every):
            return
        if not at_step_end(trainer):
            return
        # Not by the clock: not every loader can go on inside an epoch.
        self._due |= self._agreed(trainer, False)[0] or bool(every)
        if self._due and not trainer.is_last_batch and not validation_follows(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where it is due, unless the rest of the step or the end of the epoch follows."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._due |= any(self._agreed(trainer, self._late))
        if self._due and at_step_end(trainer) and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where it is due.

        Not at the end of the training, whose result has to come first: a training that is cut off
        between the two can go on from the checkpoint before.
        """
        self._due |= any(self._agreed(trainer, self._late))
        if self._due and trainer.is_last_batch and not at_end(trainer):
            self._save(trainer)

    @property
    def _late(self) -> bool:
        return time.monotonic() - self._saved >= self.every_seconds

    def _agreed(self, trainer: Trainer, late: bool) -> tuple[bool, bool]:
        """Return whether to stop, and whether it is late, the same in all processes.

        Any process may have been told to stop; the clock is that of the first one.
        """
        told = self._stop or self._told is not None
        if trainer.world_size > 1:
            flags = [told, late and trainer.is_global_zero]
            both = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
            told, late = trainer.strategy.reduce(both, reduce_op="sum").bool().tolist()
        self._stop = told
        return told, late

    def _save(self, trainer: Trainer) -> None:
        self._due = False
        self.save_last(trainer)
        self._saved = time.monotonic()
        if self._stop:
            last = str(self.folder / LAST_NAME)
            told = f" by {SIGNALS[self._told]}" if self._told else ""
            raise CheckFailed(
                f"interrupted{told} after step {trainer.global_step:,}, and saved; to go on, run "
                f"trueline fit with the same options and --ckpt_path {shlex.quote(last)}"
            )

    def save_end(self, trainer: Trainer) -> None:
        """Save the end of a training; a signal meanwhile has nothing left to stop."""
        self._told = None
        self._listen()
        try:
            self.save_last(trainer)
        finally:
            self._restore_handlers()

    def save_last(self, trainer: Trainer) -> None:
        """Save the training as it stands, in place of the checkpoints before it."""
        last, before = self.folder / LAST_NAME, self._newest
        trainer.save_checkpoint(last)
        if trainer.is_global_zero and self.named:
            self._newest = self.folder / f"step={trainer.global_step}.ckpt"
            link_whole(last, self._newest)
            if before and before != self._newest:
                before.unlink(missing_ok=True)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the options, and refuse to save what no training could go on from."""
        for name, value in pl_module.named_parameters():
            if not torch.isfinite(value).all():
                raise CheckFailed(
                    f"expected finite parameters to save, found {name} {value.tolist()} after step "
                    f"{trainer.global_step:,}; lower --model.lr"
                )
        checkpoint["options"] = self.options
        data = trainer.datamodule  # type: ignore[attr-defined]
        if digest := getattr(data, "digest", None):
            checkpoint["data"], checkpoint["rows"] = type(data).__name__, digest

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen no more."""
        self._restore_handlers()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Listen no more."""
        self._restore_handlers()
