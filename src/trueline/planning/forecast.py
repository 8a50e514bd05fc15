"""The plan of a training, from the data and the model that it is to be of."""

import math
import time
from dataclasses import replace
from typing import Any

from trueline.data import RegressionData
from trueline.data.datamodule import line_of
from trueline.errors import RequestError
from trueline.module import LinearRegression
from trueline.planning.closed_form import is_known
from trueline.planning.convergence import CONVERGED_WITHIN, modes
from trueline.planning.plan import Plan, Training, as_asked, make_plan
from trueline.planning.plan_text import NEVER
from trueline.planning.rates import heavy_ball, settles
from trueline.planning.with_l1 import most_steps
from trueline.reference.triangle import Triangle

FINE = 1e-12
"""How near a training comes whose length the data decides, as a fraction of the spread of y: then
even coefficients that matter little have six digits or more, where columns nearly depend."""
ROOM = 1.02
"""How many times the epochs that are needed a training gets: rounding may cost it some."""
MOST_EPOCHS = 1_000_000
"""Of a training whose length the data decides; the plan advises what would be shorter."""
STEP, OPERATION, BYTE = 2e-6, 2e-10, 4e-10
"""Seconds for a step with its cross-check, for a product and a sum in it, and for a byte of the
rows in an epoch; measured on a machine with two cores."""
BATCHED_EPOCHS = 10
"""Of a training by mini-batches: it comes near the line in few passes, and then wanders."""


def forecast(data: Any, model: LinearRegression, accuracy: float = CONVERGED_WITHIN) -> Plan:
    """Plan the training of a model on data.

    Args:
        data: That is trained on.
        model: With its initial parameters, and numbers for hyperparameters.
        accuracy: That counts as converged, as a fraction of the spread of y.

    Raises:
        RequestError: When the data has no rows that can be read, or their squares are beyond
            float64.
    """
    known = isinstance(data, RegressionData) and is_known(data)
    begin = time.perf_counter()
    rows = _rows(data)
    seconds = None if known else time.perf_counter() - begin
    h: Any = model.hparams
    plan = make_plan(
        rows,
        line_of(model),
        h,
        data.batch_size,
        accuracy,
        names=data.feature_names or (),
        bytes_=data.held_bytes,
        seconds=seconds,
        raw=data.triangle,
    )
    epochs = plan.trainings["asked"].epochs
    if epochs is None:
        return plan
    return replace(plan, training_seconds=expected_seconds(data, epochs))


def _rows(data: Any) -> Triangle:
    """Return the rows as they are trained on.

    Raises:
        RequestError: When they cannot be read.
    """
    if not isinstance(data, RegressionData):
        raise RequestError(
            f"--data: expected a RegressionData, whose rows can be read; found "
            f"{type(data).__name__}; choose one such as DummyData"
        )
    return data.trained_on


def _as_asked(data: Any, model: LinearRegression, accuracy: float) -> Training:
    """Return how long a training takes as it is asked for, without the rest of its plan."""
    return as_asked(_rows(data), line_of(model), model.hparams, data.batch_size, accuracy)


def expected_seconds(data: RegressionData, epochs: int) -> float:
    """Return about how long a training takes: its operations, at the pace of an ordinary machine.

    Args:
        data: Data that is trained on.
        epochs: Number of epochs.

    Returns:
        Seconds.
    """
    loader = data.train_dataloader()
    full_batch, width = loader.batch_size >= data.n_samples, data.n_features + 1 + data.n_targets
    # Full batches are read once for all steps, which then take their moments.
    passes = 1 if full_batch else epochs
    each = STEP + OPERATION * width * (width if full_batch else 2 * loader.batch_size)
    return epochs * len(loader) * each + passes * data.n_samples * width * 8 * BYTE


def tune(data: Any, model: LinearRegression, epochs: int) -> None:
    """Put numbers in the place of auto, for a training of so many epochs.

    Where both are auto and the full batch needs more than twice as many, they are those that bring
    it to rest in time, as near as it then can come, instead of those that are best in the end.

    Args:
        data: That is trained on.
        model: With its initial parameters.
        epochs: That there will be.

    Raises:
        ValueError: When there is no number, or none can be worked out from such data.
    """
    h: Any = model.hparams
    both = h["lr"] == h["momentum"] == "auto"
    model.tune(data)
    if not (both and h["momentum"]):
        return
    found = modes(data.trained_on, h["l2"], h["weight_decay"])
    if settles(found, epochs):
        return
    asked = _as_asked(data, model, CONVERGED_WITHIN)
    if asked.note in ("", NEVER) and (asked.epochs is None or asked.epochs > 2 * epochs):
        lr, momentum = heavy_ball(found, h["dampening"], epochs)
        model.save_hyperparameters({"lr": lr, "momentum": momentum})


def planned_epochs(data: Any, model: LinearRegression) -> int:
    """Return how many epochs a training gets whose data decides it.

    Args:
        data: That is trained on.
        model: With its initial parameters, and numbers for hyperparameters.

    Returns:
        From 1 to a million.

    Raises:
        RequestError: When the data has no rows that can be read, or their squares are beyond
            float64.
    """
    asked = _as_asked(data, model, FINE)
    if asked.epochs is not None:
        return max(1, min(math.ceil(ROOM * asked.epochs) + 1, MOST_EPOCHS))
    if not data.full_batch:
        return BATCHED_EPOCHS
    return most_steps(data.trained_on) if model.hparams["l1"] else MOST_EPOCHS
