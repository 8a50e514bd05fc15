"""Trainings with nothing wrong, of all kinds, for the cross-check to raise no alarm over."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision

from trueline.crosscheck import CrossCheck
from trueline.data import RegressionData
from trueline.module import LinearRegression
from trueline.reference import SGD
from trueline.tensorboard import Scalars

EXAMPLES = {"64-true": 100, "32-true": 100, "bf16-mixed": 40, "bf16-true": 40, "16-mixed": 40}
"""Drawn in the suite, by precision; the half precisions cost several times as much."""
PRECISIONS = tuple(EXAMPLES)
LARGEST_FOR_FLOAT16 = 3.0
"""The largest scale of features in float16, whose numbers end at 65,504: where a square may come
near that, there is no bound, and the cross-check refuses the training by name."""


class Grouped(LinearRegression):
    """Trains the bias in a parameter group of its own, twice as fast; descends, or climbs."""

    def __init__(self, maximize: bool, **options: Any) -> None:
        super().__init__(**options)
        self.maximize = maximize

    def configure_optimizers(self) -> Any:
        faster = {"params": [self.bias], "lr": 2 * self.hparams["lr"]}
        self.parameters = lambda: [{"params": [self.weight]}, faster]  # for a moment
        configured = super().configure_optimizers()
        del self.parameters
        optimizer = configured[0][0] if isinstance(configured, tuple | list) else configured
        for group in optimizer.param_groups:
            group["maximize"] = self.maximize
        return configured

    def rules(self) -> dict[str, SGD]:
        names = ("lr", "momentum", "dampening", "nesterov", "weight_decay")
        meant = SGD(**{name: self.hparams[name] for name in names}, maximize=self.maximize)
        return {"weight": meant, "bias": replace(meant, lr=2 * meant.lr)}


@dataclass
class Training:
    """One training: what `LinearRegression`, `RegressionData` and `Trainer` are given."""

    precision: str
    n_samples: int
    n_features: int
    n_targets: int
    scale: float
    weighted: bool
    batch_size: int
    shuffle: bool
    accumulate: int
    clip: tuple[float | None, str | None]
    options: dict[str, Any]
    epochs: int
    seed: int
    loss_scale: float
    grouped: bool
    maximize: bool

    @property
    def steps(self) -> int:
        batches = math.ceil(self.n_samples / self.batch_size)
        return self.epochs * math.ceil(batches / self.accumulate)

    def data(self) -> RegressionData:
        generator = np.random.default_rng(self.seed)
        X = generator.standard_normal((self.n_samples, self.n_features)) * self.scale
        shape = (self.n_samples,) if self.n_targets == 1 else (self.n_samples, self.n_targets)
        weight = generator.uniform(0.1, 5, self.n_samples) if self.weighted else None
        y = generator.standard_normal(shape) + 10
        return RegressionData(X, y, self.batch_size, self.shuffle, self.seed, weight)

    def run(self, make_trainer: Callable[..., Trainer]) -> dict[str, Any]:
        """Train; return the report of the cross-check."""
        torch.manual_seed(self.seed)
        shape = {"n_features": self.n_features, "n_targets": self.n_targets}
        if self.grouped:
            model: Any = Grouped(self.maximize, **shape, **self.options)
            check = CrossCheck(optimizer=model.rules())
        else:
            model, check = LinearRegression(**shape, **self.options), CrossCheck()
        half = self.precision == "16-mixed"
        # Lightning has no float16 on a CPU by name; torch has.
        scaler = torch.amp.GradScaler("cpu", init_scale=self.loss_scale)
        precision = {"plugins": MixedPrecision("16-mixed", "cpu", scaler)} if half else {}
        trainer = make_trainer(
            max_epochs=self.epochs,
            precision=None if half else self.precision,
            **precision,
            accumulate_grad_batches=self.accumulate,
            gradient_clip_val=self.clip[0],
            gradient_clip_algorithm=self.clip[1],
            callbacks=[check, Scalars()],
        )
        with warnings.catch_warnings():
            # torch's, where the loss scale was too large for the very first step.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            trainer.fit(model, self.data())
        return check.report()


def schedules(steps: int) -> st.SearchStrategy[dict[str, Any] | None]:
    """Draw a schedule that lasts for so many steps, or none."""
    by = {"interval": st.sampled_from(["epoch", "step"])}
    kinds = [
        {"name": "StepLR", "step_size": st.integers(1, 5), "gamma": st.floats(0.3, 1)},
        {"name": "MultiStepLR", "milestones": st.lists(st.integers(1, 20), max_size=3)},
        {"name": "ExponentialLR", "gamma": st.floats(0.5, 1)},
        {"name": "CosineAnnealingLR", "T_max": st.integers(1, 30)},
        {"name": "LinearLR", "total_iters": st.integers(1, 10)},
        {
            "name": "OneCycleLR",
            "max_lr": st.floats(1e-3, 1e-2),
            "total_steps": st.just(steps + 2),
            "pct_start": st.sampled_from([0.3, 0.45]),
        },
        {
            "name": "ReduceLROnPlateau",
            "patience": st.integers(0, 2),
            "threshold": st.sampled_from([1e-4, 0.5]),
        },
    ]
    drawn = [
        st.fixed_dictionaries(
            {k: st.just(v) if isinstance(v, str) else v for k, v in kind.items()} | by
        )
        for kind in kinds
    ]
    return st.none() | st.one_of(drawn)


@st.composite
def healthy_trainings(draw: st.DrawFn, precision: str) -> Training:
    """Draw a training of any size, scale and setting in one precision."""
    n_samples = draw(st.integers(1, 500))
    # At most about 20 batches an epoch, so that a draw takes milliseconds.
    batch_size = draw(st.integers(math.ceil(n_samples / 20), n_samples))
    accumulate = draw(st.sampled_from([1, 1, 2, 3]))
    epochs = draw(st.integers(2, 3)) + 6 * (precision == "16-mixed")
    scale = 10 ** draw(st.floats(-6, 6))
    clip = draw(st.sampled_from([(None, None), (None, None), (1.0, "norm"), (0.5, "value")]))
    if precision == "16-mixed":
        scale = min(scale, LARGEST_FOR_FLOAT16)
    steps = epochs * math.ceil(math.ceil(n_samples / batch_size) / accumulate)
    schedule = draw(schedules(steps))
    momentum = draw(st.sampled_from([0.0, 0.5, 0.9]))
    nesterov = momentum > 0 and draw(st.booleans())
    penalty = st.sampled_from([0.0, 0.0, 0.01, 1.0])
    n_features, grouped = draw(st.integers(1, 20)), draw(st.booleans())
    # A learning rate that keeps the training from diverging whatever the scale. Clipped gradients
    # are of size 1, where a smaller one would move nothing.
    lr = 0.05 / n_features if clip[0] else 0.05 / n_features / max(1.0, scale**2)
    if clip[0] and precision == "bf16-true":
        lr = 0.05  # or a step might be less than a rounding, and nothing move at all
    if schedule and schedule["name"] == "OneCycleLR":
        schedule |= {"max_lr": lr, "interval": "step"}  # by epoch, Lightning warns
    return Training(
        precision=precision,
        n_samples=n_samples,
        n_features=n_features,
        n_targets=draw(st.sampled_from([1, 1, 2, 3])),
        scale=scale,
        weighted=draw(st.booleans()),
        batch_size=batch_size,
        shuffle=draw(st.booleans()),
        accumulate=accumulate,
        clip=clip,
        options={
            "lr": lr,
            "momentum": momentum,
            "dampening": 0.0 if nesterov else draw(st.sampled_from([0.0, 0.3, 1.0])),
            "nesterov": nesterov,
            "weight_decay": draw(penalty),
            "l1": draw(penalty),
            "l2": draw(penalty),
            "schedule": schedule,
        },
        epochs=epochs,
        seed=draw(st.integers(0, 2**16)),
        # Small enough that a training is not over before the scale has come down to fit.
        loss_scale=2.0 ** draw(st.integers(0, 8)),
        grouped=grouped,
        # In float16 a training that climbs is soon over the top.
        maximize=grouped and precision != "16-mixed" and draw(st.booleans()),
    )
