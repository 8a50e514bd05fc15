"""What stock Lightning makes of small trainings, each with a right result that is known.

`StockLine` is written as Lightning's own pages would write it. Run as a script, this file trains on
two processes, stock and ours, each of which writes what came out: `python stock_errors.py FOLDER`.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from trueline.data import DummyData
from trueline.module import LinearRegression
from trueline.reference.article import X, y

x = X[:, 0].astype(float)
# Every loss is "no better", so that each epoch but the first halves lr.
PLATEAU = {"patience": 0, "factor": 0.5, "threshold": 1e9, "threshold_mode": "abs"}
SAVED_AT = ("after_4", "end_6")
"""With 3 batches an epoch: inside the second epoch, after its last step, and at its end."""
BATCH_ROWS = 32


@dataclass
class Place:
    """What a row of the table may use to compute its numbers.

    Attributes:
        folder: An empty one of the row's own.
        cli: Our command line, which runs in that folder.
        ranks: Gives the results of the script below.
    """

    folder: Path
    cli: Callable[..., Any]
    ranks: Callable[[], dict[str, str]]


class StockLine(LightningModule):
    """`w*X + b` from zero."""

    def __init__(self, lr: float = 0.001, plateau: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.w = torch.nn.Parameter(torch.zeros(()))
        self.b = torch.nn.Parameter(torch.zeros(()))
        self.mse = torch.nn.MSELoss()

    def loss(self, batch: list[Tensor]) -> Tensor:
        X, y = batch
        loss: Tensor = self.mse(self.w * X[:, 0] + self.b, y)
        return loss

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), sync_dist=True)

    def train_dataloader(self) -> DataLoader[Any]:
        return points(15)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.hparams["lr"])
        if not self.hparams["plateau"]:
            return optimizer
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **PLATEAU)  # type: ignore[arg-type]
        schedule = {"scheduler": scheduler, "monitor": "train/loss"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def points(batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), batch_size, shuffle)


def trainer(**options: Any) -> Trainer:
    quiet = {
        "accelerator": "cpu",
        "precision": "64-true",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(quiet | options))


def line(w: float, b: float) -> str:
    return f"w {w:.4f}, b {b:.4f}"


def accumulation(_: Place) -> str:
    model = StockLine()
    trainer(max_epochs=1, accumulate_grad_batches=2).fit(model, points(5))
    return f"w {model.w.item():.4f}"


def shuffled(epochs: int, ckpt_path: Path | None = None) -> tuple[float, Trainer]:
    """Train as a new process would: with the seed set anew."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, trained = StockLine(), trainer(max_epochs=epochs)
        trained.fit(model, points(5, shuffle=True), ckpt_path=ckpt_path)
    return model.w.item(), trained


def resumed_shuffle(place: Place) -> str:
    whole, _ = shuffled(4)
    shuffled(2)[1].save_checkpoint(place.folder / "saved.ckpt")
    resumed, _ = shuffled(4, place.folder / "saved.ckpt")
    return f"w {resumed:.3f}, never stopped {whole:.3f}"


class Recorded(StockLine):
    """Keeps the loss of each step."""

    losses: tuple[float, ...] = ()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses += (loss.item(),)
        return loss


def too_large_lr(_: Place) -> str:
    model, trained = Recorded(lr=1.0), trainer(max_epochs=200)
    trained.fit(model, points(15))
    steps = next(k for k, loss in enumerate(model.losses) if not math.isfinite(loss))
    status = trained.state.status.value
    return f"loss {model.losses[steps]} after {steps} steps, {status}, w {model.w.item():g}"


def lr_of_step(before: dict[str, Any], after: dict[str, Any], weight: str, bias: str) -> str:
    """Tell from the parameters in two checkpoints, a full-batch step apart, which lr it took."""
    w, b = (before["state_dict"][name].item() for name in (weight, bias))
    moved = after["state_dict"][weight].item() - w
    return f"lr {-moved / np.mean(2 * (w * x + b - y) * x):.3g}"


def typed_lr(place: Place) -> str:
    def fit(*options: str) -> Path:
        quiet = ["progress_bar=false", "model_summary=false"]
        quiet = [f"--trainer.enable_{option}" for option in quiet]
        place_it = [f"--trainer.default_root_dir={place.folder}", "--trainer.logger=false"]
        alike = ["--trainer.accelerator=cpu", "--trainer.precision=64-true"]
        arguments = ["fit", *quiet, *place_it, *alike, *options]
        LightningCLI(
            StockLine, args=arguments, seed_everything_default=False, save_config_callback=None
        )
        return max(place.folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)

    first = fit("--trainer.max_epochs=2")
    second = fit("--trainer.max_epochs=3", f"--ckpt_path={first}", "--model.lr=0.0005")
    loaded = (torch.load(path, weights_only=True) for path in (first, second))
    return lr_of_step(*loaded, "w", "b")


def scalars(folder: Path) -> dict[str, list[Any]]:
    """Read a run's event files: the points of each curve."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def tensorboard(place: Place) -> str:
    trainer(max_epochs=20, logger=True, default_root_dir=place.folder).fit(StockLine(), points(15))
    found = scalars(place.folder / "lightning_logs/version_0")
    loss = len(found.get("train/loss", ()))
    return f"hp_metric {found['hp_metric'][-1].value:g}, {loss} points of the loss"


def batch_losses(n_batches: int) -> Iterator[np.ndarray]:
    """Draw float32 losses of batches whose residuals are normal with variance 0.1, in pieces."""
    draw, at_once = np.random.default_rng(0), 1 << 20
    for first in range(0, n_batches, at_once):
        squares = draw.chisquare(BATCH_ROWS, min(at_once, n_batches - first))
        yield (0.1 * squares / BATCH_ROWS).astype(np.float32)


def added(total: Any, losses: Any) -> Any:
    """Add batch losses times their rows to a total, one by one in its dtype."""
    addends = np.asarray(losses, total.dtype) * total.dtype.type(BATCH_ROWS)
    return np.cumsum(np.concatenate([[total], addends]), dtype=total.dtype)[-1]


@cache
def relative_errors() -> dict[type, float]:
    """Say how far the sum of a loss over 1e9 rows is off when added up in a dtype."""
    exact, totals = 0.0, {dtype: dtype(0) for dtype in (np.float32, np.float64)}
    for losses in batch_losses(10**9 // BATCH_ROWS):
        totals = {dtype: added(total, losses) for dtype, total in totals.items()}
        # Pairwise within a piece and over few pieces: exact enough to judge the other two.
        exact += BATCH_ROWS * losses.sum(dtype=np.float64)
    return {dtype: float(abs(total / exact - 1)) for dtype, total in totals.items()}


def sums_like(dtype: type, validated: Any) -> bool:
    """Say whether a mean over 3000 batches is, to the bit, that of adding up in a dtype.

    Args:
        dtype: Of the sum.
        validated: Gives the validation loss under a loader of those batches, in which the line
            y = 0 has the losses of `batch_losses`.
    """
    n_batches = 3000
    [losses] = batch_losses(n_batches)
    # Rows of equal residuals: the mean of a batch is its loss, but for what torch rounds.
    y = torch.from_numpy(losses).sqrt().repeat_interleave(BATCH_ROWS)
    loader = DataLoader(TensorDataset(torch.zeros(len(y), 1), y), BATCH_ROWS)
    mse = torch.nn.MSELoss()
    means = [mse(torch.zeros_like(part), part).item() for part in y.split(BATCH_ROWS)]
    return bool(validated(loader) == added(dtype(0), means) / dtype(len(y)))


def epoch_loss(_: Place) -> str:
    def validated(loader: Any) -> float:
        one = trainer(precision="32-true")
        one.validate(StockLine(), loader, verbose=False)
        return one.callback_metrics["val/loss"].item()

    if not sums_like(np.float32, validated):
        return "not summed in float32"
    return f"{100 * relative_errors()[np.float32]:.0f} % off"


def resumed_float64(place: Place) -> str:
    def fit(epochs: int, ckpt_path: Path | None = None) -> tuple[np.ndarray, Trainer]:
        model, trained = StockLine(), trainer(max_epochs=epochs)
        trained.fit(model, points(5), ckpt_path=ckpt_path)
        return np.array([model.w.item(), model.b.item()]), trained

    whole, _ = fit(4)
    fit(2)[1].save_checkpoint(place.folder / "saved.ckpt")
    resumed, _ = fit(4, place.folder / "saved.ckpt")
    return f"{np.abs(resumed / whole - 1).max():.0e} off"


def resumed_plateau(place: Place) -> str:
    def fit(callbacks: Any = None, ckpt_path: Path | None = None) -> str:
        one = trainer(max_epochs=4, callbacks=callbacks, enable_checkpointing=bool(callbacks))
        # In float64 from the start, so that the checkpoint is loaded without rounding.
        one.fit(StockLine(plateau=True).double(), points(5), ckpt_path=ckpt_path)
        return f"{one.optimizers[0].param_groups[0]['lr']:g}"

    options: dict[str, Any] = {"save_top_k": -1, "auto_insert_metric_name": False}
    steps = ModelCheckpoint(place.folder, "after_{step}", every_n_train_steps=1, **options)
    ends = ModelCheckpoint(place.folder, "end_{step}", **options)
    whole = fit([steps, ends])
    resumed = [fit(ckpt_path=place.folder / f"{name}.ckpt") for name in SAVED_AT]
    return f"lr {', '.join(resumed)}, never stopped {whole}"


def uneven(rank: int) -> DataLoader[Any]:
    """Serve 3 batches to process 0 and 2 to process 1, each with the loss 1.0 at zero."""
    rows = 3 - rank
    return DataLoader(TensorDataset(torch.zeros(rows, 1), torch.ones(rows)), batch_size=1)


def on_two_ranks(**options: Any) -> Trainer:
    return trainer(devices=2, strategy="ddp", max_epochs=1, **options)


def compare_on_two_ranks() -> dict[str, str]:
    """Do what the rows about two processes need, stock and ours, in one launch of them."""

    def validated(model: LightningModule, data: Any, **options: Any) -> float:
        one = on_two_ranks(**options)
        one.validate(model, data, verbose=False)
        return one.callback_metrics["val/loss"].item()

    stock, ours = StockLine(), LinearRegression(init="zeros")
    found = {
        "stock validation": f"{validated(stock, points(15)):.2f}",
        "our validation": f"{validated(ours, DummyData()):.2f}",
    }
    mine = uneven(on_two_ranks().global_rank)
    found["stock mean"] = str(validated(stock, mine, use_distributed_sampler=False))
    found["our mean"] = str(validated(ours, mine, use_distributed_sampler=False))
    on_two_ranks().fit(stock, points(15))
    on_two_ranks().fit(ours, DummyData())
    found["stock step"] = line(stock.w.item(), stock.b.item())
    found["our step"] = line(ours.weight.item(), ours.bias.item())
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = json.dumps(compare_on_two_ranks())
    Path(sys.argv[1], f"rank{on_two_ranks().global_rank}.json").write_text(results)
    # Otherwise gloo's threads may abort Python at its end.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
