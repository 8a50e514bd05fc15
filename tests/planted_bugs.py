"""Trainings with one error each: a module, an optimizer, a sampler or a setting that is wrong."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, TensorDataset

from trueline.data import RegressionData
from trueline.module import LinearRegression
from trueline.reference import SGD
from trueline.schedule import Schedule

X = torch.arange(1, 13).reshape(6, 2)
y = torch.tensor([3, 5, 6, 10, 9, 14])


class GradientHalved(LinearRegression):
    def on_after_backward(self) -> None:
        self.weight.grad *= 0.5


class LossHalved(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        return 0.5 * super().loss(batch)


class SumForMean(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(batch) * len(batch[1])


class LearningRateOff(LinearRegression):
    def off_by_a_thousandth(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"] * 1.001)

    configure_optimizers = off_by_a_thousandth


class BiasFrozen(LinearRegression):
    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__(**hyperparameters)
        self.bias.requires_grad_(False)


class BiasLeftOut(LinearRegression):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        defaults = super().configure_optimizers().defaults
        return torch.optim.SGD([self.weight], **defaults)


class GradientNotZeroed(LinearRegression):
    def optimizer_zero_grad(self, *_: Any) -> None:
        pass


class TargetsBroadcast(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        X, y = batch
        return ((self(X) - y[:, None]) ** 2).mean()


class TargetAltered(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        X, y = batch
        y = y.double()
        y[0] *= 1.01
        return super().loss((X, y))


class LastRowDropped(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss((batch[0][:-1], batch[1][:-1]))


class StaleBatch(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        self.stale, batch = batch, getattr(self, "stale", batch)
        return super().loss(batch)


class PenaltyOnBias(LinearRegression):
    def penalty(self) -> torch.Tensor:
        return super().penalty() + self.hparams["l2"] * self.bias**2


class PenaltyForgotten(LinearRegression):
    def penalty(self) -> torch.Tensor:
        return super().penalty() * 0


class SubgradientToo(LinearRegression):
    """Puts the L1 penalty into the gradient, which the threshold takes once more."""

    def penalty(self) -> torch.Tensor:
        return self.hparams["l1"] * self.weight.abs().sum()


class ThresholdLeftOut(LinearRegression):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), **Thresholded.options(self))


class Thresholded(LinearRegression):
    """Takes torch's step, and a soft threshold of another size after it."""

    @staticmethod
    def options(module: LinearRegression) -> dict[str, Any]:
        names = ("lr", "momentum", "dampening", "weight_decay", "nesterov")
        return {name: module.hparams[name] for name in names}

    def threshold(self) -> float:
        return self.hparams["lr"] * self.hparams["l1"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), **self.options(self))

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        t = self.threshold()
        with torch.no_grad():
            self.weight.sub_(self.weight.clamp(-t, t))


class ThresholdWithoutLr(Thresholded):
    def threshold(self) -> float:
        return self.hparams["l1"]


class ThresholdOnBias(LinearRegression):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        optimizer.param_groups[0]["l1"] = [self.hparams["l1"]] * 2
        return optimizer


class ThresholdDoubled(LinearRegression):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        optimizer.param_groups[0]["l1"] = [2 * self.hparams["l1"], 0.0]
        return optimizer


class BufferWithoutThreshold(LinearRegression):
    """Thresholds rightly, but remembers the gradients alone as momentum, as from a checkpoint."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        if self.hparams["momentum"]:
            optimizer.register_step_post_hook(lambda *_: self.forget_pull(optimizer))
        return optimizer

    def forget_pull(self, optimizer: Any) -> None:
        pull = self.hparams["l1"] * self.weight.detach().sign()
        buffer = optimizer.state[self.weight]["momentum_buffer"]
        optimizer.state[self.weight]["momentum_buffer"] = buffer - pull


class LowerPrecision(LinearRegression):
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        low = self.weight.bfloat16() if self.weight.dtype == torch.float32 else self.weight.float()
        return X.to(low.dtype) @ low + self.bias


class MomentumReset(LinearRegression):
    def on_train_batch_end(self, *_: Any) -> None:
        for state in self.trainer.optimizers[0].state.values():
            state["momentum_buffer"].zero_()


class OptimizerOption(LinearRegression):
    """Trains with another value of one option than its hyperparameters say."""

    option: tuple[str, Any]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = super().configure_optimizers()
        name, value = self.option
        optimizer.defaults[name] = optimizer.param_groups[0][name] = (
            value  # as if given at the start
        )
        return optimizer


class MomentumForgotten(OptimizerOption):
    option = ("momentum", 0.0)


class DampeningForgotten(OptimizerOption):
    option = ("dampening", 0.0)


class NesterovForgotten(OptimizerOption):
    option = ("nesterov", False)


class DecayTwice(OptimizerOption):
    option = ("weight_decay", 0.2)


class ClippedByValueForNorm(LinearRegression):
    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.clip_gradients(optimizer, 1.0, "value")


class NotClipped(LinearRegression):
    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        pass


class RowCountedTwice(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(tuple(torch.cat([part, part[:1]]) for part in batch))


class GradientNegated(LinearRegression):
    def on_after_backward(self) -> None:
        self.bias.grad.neg_()


class DampenedFirstStep(LinearRegression):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.global_step == 0:
            for parameter in self.parameters():
                state = optimizer.state[parameter]
                state["momentum_buffer"] = torch.zeros_like(parameter)


class BatchChangedInPlace(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        batch[0][0] += 1
        return super().loss(batch)


class NesterovUnasked(OptimizerOption):
    option = ("nesterov", True)


class DecayForgotten(OptimizerOption):
    option = ("weight_decay", 0.0)


class StepSkipped(LinearRegression):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        if self.trainer.current_epoch == 2:
            closure()
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)


class SteppedTwice(LinearRegression):
    def on_train_batch_end(self, *_: Any) -> None:
        self.trainer.optimizers[0].step()


class SlippedInto(LinearRegression):
    """Cuts numbers off after some bits, as fast products on a GPU do."""

    kept: int

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.cut(X) @ self.cut(self.weight) + self.bias

    def cut(self, tensor: torch.Tensor) -> torch.Tensor:
        mask = -1 << (24 - self.kept)
        kept = (tensor.detach().float().view(torch.int32) & mask).view(torch.float32)
        return tensor.to(self.weight.dtype) + (kept - tensor).detach()


class BFloat16SlippedIn(SlippedInto):
    kept = 8


class TF32SlippedIn(SlippedInto):
    kept = 11


class LearningRateOffByATenThousandth(LinearRegression):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"] * 1.0001)


class LearningRateOffInTheUpdate(LinearRegression):
    """The optimizer says the right lr and uses another."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        before = [p.detach().clone() for p in self.parameters()]
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        with torch.no_grad():
            for parameter, old in zip(self.parameters(), before, strict=True):
                parameter.copy_(old + 1.01 * (parameter - old))


class PenaltyDoubled(LinearRegression):
    def penalty(self) -> torch.Tensor:
        return 2 * super().penalty()


class Maximized(OptimizerOption):
    option = ("maximize", True)


class ScheduleForgotten(LinearRegression):
    def configure_optimizers(self) -> Any:
        return super().configure_optimizers()[0]


class Rescheduled(LinearRegression):
    """Trains by another schedule than its hyperparameters say."""

    changes: ClassVar[dict[str, Any]]

    def configure_optimizers(self) -> Any:
        self.schedule = Schedule({**self.hparams["schedule"], **self.changes})
        return super().configure_optimizers()


class ScheduleByStep(Rescheduled):
    changes: ClassVar = {"interval": "step"}


class ScheduleByEpoch(Rescheduled):
    changes: ClassVar = {"interval": "epoch"}


class ScheduleGammaWrong(Rescheduled):
    changes: ClassVar = {"gamma": 0.4}


class ScheduleHalfAsLong(Rescheduled):
    changes: ClassVar = {"T_max": 5}


class PlateauMorePatient(Rescheduled):
    changes: ClassVar = {"patience": 1}


class ScheduleAhead(LinearRegression):
    def on_train_start(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on just this
            self.lr_schedulers().step()


class ScheduleBehind(LinearRegression):
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.global_step > 2:
            super().lr_scheduler_step(scheduler, metric)


class MomentumCycled(LinearRegression):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()[0][0]
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.001, total_steps=11)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


class StockWindow(LinearRegression):
    """Accumulates as Lightning does by itself."""

    backward = LightningModule.backward


class GradientZeroedInsideWindow(LinearRegression):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.zero_grad()


class WindowSummed(LinearRegression):
    def backward(self, loss: torch.Tensor) -> None:
        (loss * self.trainer.accumulate_grad_batches).backward()


class WindowTooShort(LinearRegression):
    """Takes a step of its own within the window."""

    def on_train_batch_end(self, *_: Any) -> None:
        self.trainer.optimizers[0].step()


class SampleWeightsIgnored(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(batch[:2])


class SampleWeightsNotNormalised(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        X, y, sample_weight = batch
        return (sample_weight * (self(X) - y) ** 2).mean()


class TargetsSummed(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(batch) * self.hparams["n_targets"]


class TargetsSwapped(LinearRegression):
    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss((batch[0], batch[1].flip(1)))


class ClippedAtHalf(LinearRegression):
    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters(), 0.5)


class BiasGroupSlower(LinearRegression):
    def configure_optimizers(self) -> Any:
        slow = {"params": [self.bias], "lr": 0.1 * self.hparams["lr"]}
        return torch.optim.SGD([{"params": [self.weight]}, slow], lr=self.hparams["lr"])


class ListedBatches:
    """A batch sampler that serves the same lists of rows every epoch."""

    def __init__(self, *batches: list[int]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def listed(*batches: list[int], alter: Callable[[Any], Any] | None = None) -> DataLoader[Any]:
    """Serve the rows in these batches, altered on their way."""

    def collate(rows: list[Any]) -> Any:
        batch = torch.utils.data.default_collate(rows)
        return alter(batch) if alter else batch

    return DataLoader(
        TensorDataset(X, y), batch_sampler=ListedBatches(*batches), collate_fn=collate
    )


def one_target_more(batch: Any) -> Any:
    return batch[0], batch[1] + (batch[1] == 14)


def plain() -> Any:
    return RegressionData(X, y, batch_size=3)


def fine() -> Any:
    return RegressionData(X * 1.0039, y, batch_size=3)


def unequal() -> Any:
    return RegressionData(X, y, batch_size=4)


def weighted() -> Any:
    return RegressionData(X, y, batch_size=3, sample_weight=[1.0, 2.0, 4.0, 1.0, 2.0, 5.0])


def three_targets() -> Any:
    return RegressionData(X, torch.stack([y, 20 - y, 2 * y], dim=1), batch_size=2)


@dataclass
class Planted:
    """A training with one error, and what the cross-check must say of it.

    Args:
        model: With the error, where it is the module's.
        step: The first one that is wrong.
        quantity: The first one that is out of its bound.
        cause: Part of the likely cause; empty where none is expected.
        options: Hyperparameters.
        trainer: Of the Trainer.
        data: Healthy data.
        loader: A training loader with the error, where it is the loader's.
        rules: Update rules for the parameters one by one.
    """

    model: type[LinearRegression]
    step: int
    quantity: str
    cause: str
    options: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    data: Callable[[], Any] = plain
    loader: Callable[[], Any] | None = None
    rules: dict[str, SGD] | None = None
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.model.__name__


MOMENTUM = {"momentum": 0.9}
LASSO = {"l1": 0.3}
DAMPED = {"momentum": 0.9, "dampening": 0.5}
CLIPPED = {"gradient_clip_val": 1.0}
WINDOW = {"accumulate_grad_batches": 2}
STEP_LR = {"schedule": {"name": "StepLR", "step_size": 1, "gamma": 0.5}}
BY_STEP = {"schedule": {"name": "ExponentialLR", "gamma": 0.9, "interval": "step"}}
COSINE = {"schedule": {"name": "CosineAnnealingLR", "T_max": 8, "interval": "step"}}
PLATEAU = {"schedule": {"name": "ReduceLROnPlateau", "patience": 0, "threshold": 0.9}}
ONE_CYCLE = {
    "momentum": 0.9,
    "schedule": {"name": "OneCycleLR", "max_lr": 0.001, "total_steps": 11, "interval": "step"},
}
ROWS = "rows of epoch 0"
PLANTED = [
    Planted(GradientHalved, 1, "gradient of weight", "the gradient is halved"),
    Planted(LossHalved, 1, "loss", "the loss is halved"),
    Planted(SumForMean, 1, "loss", "a sum, not a mean"),
    Planted(LearningRateOff, 1, "lr", "lr was 0.001001 where 0.001 was meant"),
    Planted(LearningRateOffByATenThousandth, 1, "lr", "lr was 0.0010001 where 0.001 was meant"),
    Planted(LearningRateOffInTheUpdate, 1, "bias", "lr was 0.00101 where 0.001 was meant"),
    Planted(BiasFrozen, 1, "gradient of bias", "bias is frozen or detached"),
    Planted(BiasLeftOut, 1, "bias", "bias was not updated"),
    Planted(
        BiasGroupSlower,
        1,
        "lr",
        "lr was 0.0001 where 0.001 was meant",
        rules={"weight": SGD(lr=0.001), "bias": SGD(lr=0.001)},
    ),
    Planted(GradientNotZeroed, 2, "gradient of bias", "was not zeroed"),
    Planted(GradientNegated, 1, "gradient of bias", "the gradient is negated"),
    Planted(Maximized, 1, "bias", "the sign of the step is wrong"),
    Planted(TargetsBroadcast, 1, "loss", "broadcast"),
    Planted(TargetAltered, 1, "loss", "an input was altered"),
    Planted(LastRowDropped, 1, "loss", "row 2 of the batch was left out"),
    Planted(RowCountedTwice, 1, "loss", "row 0 of the batch was counted twice"),
    Planted(StaleBatch, 2, "loss", "the batch of the step before was used again"),
    Planted(BatchChangedInPlace, 1, "loss", ""),
    Planted(PenaltyOnBias, 1, "loss", "the penalty took in the bias", {"l2": 0.1}),
    Planted(PenaltyForgotten, 1, "loss", "the penalty was left out", {"l1": 0.1}),
    Planted(SubgradientToo, 1, "gradient of weight", "took in the L1 penalty", {"l1": 0.1}),
    Planted(ThresholdLeftOut, 1, "weight", "threshold of the L1 penalty was left out", LASSO),
    Planted(ThresholdWithoutLr, 1, "weight", "was not multiplied by lr", LASSO),
    Planted(ThresholdOnBias, 1, "bias", "took in bias", LASSO),
    Planted(ThresholdDoubled, 1, "weight", "l1 was 0.6 where 0.3 was meant", LASSO),
    Planted(
        Thresholded,
        1,
        "momentum of weight",
        "momentum does not know of the soft threshold",
        {**LASSO, "momentum": 0.9},
        name="threshold after the heavy ball",
    ),
    Planted(
        BufferWithoutThreshold,
        1,
        "momentum of weight",
        "momentum does not know of the soft threshold",
        {**LASSO, "momentum": 0.9, "dampening": 0.5},
    ),
    Planted(
        Thresholded,
        1,
        "momentum of weight",
        "momentum does not know of the soft threshold",
        {**LASSO, "momentum": 0.9, "nesterov": True},
        name="threshold after Nesterov's look ahead",
    ),
    Planted(
        ThresholdDoubled,
        1,
        "momentum of weight",
        "l1 was 0.6 where 0.3 was meant",
        {**LASSO, "momentum": 0.9, "nesterov": True},
        name="threshold doubled, with Nesterov",
    ),
    Planted(PenaltyDoubled, 1, "loss", "the penalty was applied twice", {"l2": 0.1}),
    Planted(LowerPrecision, 1, "loss", "the loss was computed in"),
    Planted(TF32SlippedIn, 1, "loss", "the loss was computed in TF32", data=fine),
    Planted(BFloat16SlippedIn, 1, "loss", "in bfloat16", data=fine),
    Planted(MomentumReset, 2, "momentum of bias", "or its buffer emptied", MOMENTUM),
    Planted(MomentumForgotten, 1, "momentum of weight", "momentum was left out", MOMENTUM),
    Planted(DampeningForgotten, 2, "momentum of weight", "dampening was left out", DAMPED),
    Planted(DampenedFirstStep, 1, "momentum of bias", "applied to the first step", DAMPED),
    Planted(
        NesterovForgotten,
        1,
        "bias",
        "Nesterov's momentum was left out",
        {"momentum": 0.9, "nesterov": True},
    ),
    Planted(NesterovUnasked, 1, "bias", "Nesterov's momentum was used", MOMENTUM),
    Planted(DecayTwice, 1, "weight", "weight decay was applied twice", {"weight_decay": 0.1}),
    Planted(DecayForgotten, 1, "weight", "weight decay was left out", {"weight_decay": 0.1}),
    Planted(ClippedByValueForNorm, 1, "bias", "clipped by value", trainer=CLIPPED),
    Planted(ClippedAtHalf, 1, "bias", "clipped at 0.5, not at 1", trainer=CLIPPED),
    Planted(NotClipped, 1, "bias", "not clipped", trainer=CLIPPED),
    Planted(StepSkipped, 5, "window", "expected an optimizer step after 1 batch, found none"),
    Planted(SteppedTwice, 2, "weight since the last step", "not the optimizer but something else"),
    Planted(ScheduleForgotten, 3, "lr", "the schedule was left out", STEP_LR),
    Planted(ScheduleByStep, 2, "lr", "one epoch ahead, or counts steps", STEP_LR),
    Planted(ScheduleByEpoch, 2, "lr", "the schedule was left out", BY_STEP),
    Planted(ScheduleAhead, 1, "lr", "the schedule is one step ahead", COSINE),
    Planted(ScheduleBehind, 2, "lr", "the schedule was left out", BY_STEP),
    Planted(ScheduleGammaWrong, 3, "lr", "lr was 0.0004 where 0.0005 was meant", STEP_LR),
    Planted(ScheduleHalfAsLong, 2, "lr", "lr was 0.000904508 where 0.00096194 was meant", COSINE),
    Planted(PlateauMorePatient, 5, "lr", "the schedule was left out", PLATEAU),
    Planted(MomentumCycled, 2, "momentum of bias", "momentum was 0.9", ONE_CYCLE),
    Planted(
        StockWindow,
        2,
        "gradient of weight",
        "the window of 1 batches was divided by 2",
        trainer=WINDOW,
        data=lambda: RegressionData(X, y, batch_size=2),
        name="ShortWindowHalved",
    ),
    Planted(
        StockWindow,
        1,
        "gradient of weight",
        "the mean of the batches' means was taken",
        trainer=WINDOW,
        data=unequal,
        name="MeanOfMeans",
    ),
    Planted(
        GradientZeroedInsideWindow,
        1,
        "gradient of bias",
        "the last batch of the window alone",
        trainer=WINDOW,
    ),
    Planted(WindowSummed, 1, "gradient of bias", "were summed, not averaged", trainer=WINDOW),
    Planted(
        WindowTooShort,
        1,
        "weight since the last step",
        "not the optimizer but something else",
        trainer=WINDOW,
    ),
    Planted(SampleWeightsIgnored, 1, "loss", "the sample weights were left out", data=weighted),
    Planted(SampleWeightsNotNormalised, 1, "loss", "were not divided by their sum", data=weighted),
    Planted(
        TargetsSummed,
        1,
        "loss",
        "summed over the targets",
        {"n_targets": 3},
        data=three_targets,
    ),
    Planted(TargetsSwapped, 1, "loss", "", {"n_targets": 3}, data=three_targets),
    Planted(
        LinearRegression,
        1,
        ROWS,
        "rows 3, 4, 5 never served",
        loader=lambda: listed([0, 1, 2]),
        name="LastBatchDropped",
    ),
    Planted(
        LinearRegression,
        2,
        ROWS,
        "row 3 served more than once; row 5 never served",
        loader=lambda: listed([0, 1, 2], [3, 4, 3]),
        name="RowDrawnTwice",
    ),
    Planted(
        LinearRegression,
        2,
        ROWS,
        "a row was served that is not in the data",
        loader=lambda: listed([0, 1, 2], [3, 4, 5], alter=one_target_more),
        name="TargetAlteredInTheLoader",
    ),
]
