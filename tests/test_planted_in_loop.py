"""Errors planted in the compiled loop: the cross-check names the first wrong step, what, and why.

Those in a kernel are planted in its source, which then runs as plain Python.
"""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trueline.crosscheck import CrossCheck
from trueline.data import RegressionData
from trueline.data.order import SEGMENT, RowOrder, _Pools
from trueline.errors import CheckFailed
from trueline.loop import kernels, loop, moments
from trueline.loop.loop import Loop
from trueline.loop.rows import Rows
from trueline.module import LinearRegression

SOURCE = Path(kernels.__file__).read_text("utf-8")
Plant = Callable[[Any], None]


def edited(*edits: tuple[str, str]) -> Plant:
    """Return what puts other lines into the kernels."""

    def plant(patch: Any) -> None:
        source = SOURCE
        for right, wrong in edits:
            assert source.count(right) == 1, right
            source = source.replace(right, wrong)
        imported = "from trueline.loop.compiler import compiled, inlined\n"
        source = source.replace(imported, "compiled = inlined = lambda function: function\n")
        planted = types.ModuleType("planted")
        exec(compile(source, "planted", "exec"), planted.__dict__)
        for module in (loop, moments):
            patch.setattr(module, "kernels", planted)

    return plant


def rows(n: int = 23, targets: int = 1, **options: Any) -> RegressionData:
    rng = np.random.default_rng(1)
    X, noise = rng.standard_normal((n, 3)), rng.standard_normal((n, targets))
    y = X @ rng.standard_normal((3, targets)) + 3 + noise
    return RegressionData(X, y, **options)


def batches() -> RegressionData:
    return rows(batch_size=5, shuffle=True)


def full() -> RegressionData:
    return rows(n=40)


def weighted() -> RegressionData:
    return rows(batch_size=5, sample_weight=np.arange(1, 24))


MOMENTUM = {"momentum": 0.9}
DAMPED = {"momentum": 0.9, "dampening": 0.5}
NESTEROV = {"momentum": 0.9, "nesterov": True}
LASSO = {"l1": 0.5}
CLIPPED = {"gradient_clip_val": 0.5}
BY_VALUE = {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}
PLATEAU = {
    "schedule": {"name": "ReduceLROnPlateau", "patience": 0, "threshold": 0.5, "interval": "step"}
}
BY_STEP = {"schedule": {"name": "ExponentialLR", "gamma": 0.9, "interval": "step"}}
Data = Callable[[], RegressionData]
NEXT_ROW = "        i = np.uint64(origin) + np.uint64(numbers[k])\n"
KERNEL: dict[str, tuple[Plant, Data, dict[str, Any], dict[str, Any], int, str, str]] = {
    "gradient halved": (
        edited(("gradient[e] = D(2) * sums[e] / size", "gradient[e] = sums[e] / size")),
        *(batches, {}, {}, 1, "gradient of weight", "the gradient is halved"),
    ),
    "gradient from moments halved": (
        edited(("D(2 * (slope + half))", "D(slope + half)")),
        *(full, {}, {}, 1, "gradient of bias", "the gradient is halved"),
    ),
    "first row left out": (
        edited(
            (
                f"    for k in range(start, stop):\n{NEXT_ROW}        if weighted",
                f"    for k in range(start + 1, stop):\n{NEXT_ROW}        if weighted",
            )
        ),
        *(batches, {}, {}, 1, "loss", "row 0 of the batch was left out"),
    ),
    "the sums of the batch before stay": (
        edited(("            sums[:] = 0\n", "            sums[P:] = 0\n")),
        *(batches, {}, {}, 2, "gradient of weight", ""),
    ),
    "weights left out": (
        edited(("w = D(Z[i, n_features + n_targets]) * D(unit)", "w = D(1)")),
        *(weighted, {}, {}, 1, "loss", "the sample weights were left out"),
    ),
    "momentum forgotten": (
        edited(("v = kept + entering * g", "v = entering * g")),
        *(batches, MOMENTUM, {}, 2, "momentum of weight", "momentum was left out"),
    ),
    "dampening forgotten": (
        edited(("v = kept + entering * g", "v = kept + g")),
        *(batches, DAMPED, {}, 2, "momentum of bias", "dampening was left out"),
    ),
    "first gradient dampened": (
        edited(("v, kept, pull = g, D(0),", "v, kept, pull = entering * g, D(0),")),
        *(batches, DAMPED, {}, 1, "momentum of weight", "applied to the first step"),
    ),
    "no look ahead": (
        edited(("lr * (g + momentum * v if nesterov else v)", "lr * v")),
        *(batches, NESTEROV, {}, 1, "weight", "Nesterov's momentum was left out"),
    ),
    "sign of the step": (
        edited(("moved = theta[e] - lr *", "moved = theta[e] + lr *")),
        *(batches, {}, {}, 1, "bias", "the sign of the step is wrong"),
    ),
    "weight decay forgotten": (
        edited(("g = gradient[e] + decay * start", "g = gradient[e]")),
        *(
            batches,
            {"weight_decay": 0.1, **MOMENTUM},
            {},
            1,
            "momentum of weight",
            "decay was left",
        ),
    ),
    "lr a thousandth off": (
        edited(("lr, momentum, l1 = D(lr)", "lr, momentum, l1 = D(lr * 1.001)")),
        *(batches, {}, {}, 1, "bias", "lr was 0.05005 where 0.05 was meant"),
    ),
    "schedule stands still": (
        edited(("        lrs[k], momenta[k], dampening", "        lrs[0], momenta[k], dampening")),
        *(batches, BY_STEP, {}, 2, "bias", "lr was 0.05 where 0.045 was meant"),
    ),
    "plateau more patient": (
        edited(("if bad > patience:", "if bad > patience + 1:")),
        *(batches, PLATEAU, {}, 3, "lr", ""),
    ),
    "penalty on the bias": (
        edited(("t * (n_features + 1) + n_features):", "t * (n_features + 1) + n_features + 1):")),
        *(batches, {"l2": 0.1}, {}, 1, "gradient of bias", ""),
    ),
    "threshold on the bias": (
        edited(("l1 if j < n_features else D(0)", "l1")),
        *(batches, LASSO, {}, 1, "bias", "took in bias"),
    ),
    "threshold without lr": (
        edited(
            ("end = z - min(max(z, -lr * pull), lr * pull)", "end = z - min(max(z, -pull), pull)")
        ),
        *(batches, LASSO, {}, 1, "weight", "was not multiplied by lr"),
    ),
    "threshold the buffer forgets": (
        edited(("v += pull", "v += 0"), ("v -= pull", "v -= 0")),
        *(batches, {**LASSO, **MOMENTUM}, {}, 1, "momentum of weight", "does not know of the soft"),
    ),
    "not clipped": (
        edited(("    clip(gradient, clip_norm, clip_value)\n", "")),
        *(batches, {}, CLIPPED, 1, "bias", "the gradient was not clipped"),
    ),
    "clipped at half the limit": (
        edited(("norm / (np.sqrt(squares) + CLIP_OFFSET)", "0.5 * norm / np.sqrt(squares)")),
        *(batches, {}, CLIPPED, 1, "bias", "clipped at 0.25, not at 0.5"),
    ),
    "clipped before the mean": (
        edited(
            (
                "        size = sums[P + 1] * D(n_targets)\n",
                "        size = sums[P + 1] * D(n_targets)\n        clip(sums[:P], rule[5], 0.0)\n",
            )
        ),
        *(batches, {}, CLIPPED, 1, "gradient of weight", "times what it should be"),
    ),
    "clipped by value before the mean": (
        edited(
            (
                "        size = sums[P + 1] * D(n_targets)\n",
                "        size = sums[P + 1] * D(n_targets)\n        clip(sums[:P], 0.0, rule[6])\n",
            )
        ),
        *(batches, {}, BY_VALUE, 1, "gradient of weight", ""),
    ),
    "frozen and moved": (
        edited(("theta[e] = moved if free[e] else theta[e]", "theta[e] = moved + (not free[e])")),
        *(batches, {"frozen": "bias"}, {}, 1, "bias", "bias must stay: it is frozen"),
    ),
}


def train(
    make_trainer: Any, data: RegressionData, precision: str = "64-true", **options: Any
) -> dict[str, Any]:
    """Train some epochs under the cross-check; return its report."""
    torch.manual_seed(0)
    trainer = {k: options.pop(k) for k in [*options] if "grad" in k or k == "max_epochs"}
    frozen = options.pop("frozen", None)
    model = LinearRegression(data.n_features, data.n_targets, **{"lr": 0.05, **options})
    if frozen:
        getattr(model, frozen).requires_grad_(False)
    check = CrossCheck()
    trainer = {"max_epochs": 3, "precision": precision, **trainer}
    make_trainer(**trainer, callbacks=[check]).fit(model, data)
    assert model.execution is not None
    return check.report()


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize("name", KERNEL)
def test_crosscheck_catches_a_wrong_line_of_a_kernel(
    make_trainer: Any, monkeypatch: Any, name: str, precision: str
) -> None:
    plant, data, options, settings, step, quantity, cause = KERNEL[name]
    given = make_trainer, data(), precision
    with monkeypatch.context() as patch:
        edited()(patch)  # the right lines, as plain Python
        assert train(*given, **options, **settings)["passed"]
    plant(monkeypatch)
    with pytest.raises(CheckFailed) as failed:
        train(*given, **options, **settings)
    message = str(failed.value)
    assert f"cross-check failed: {quantity} at step {step}:" in message
    assert cause in message


def many() -> RegressionData:
    """Three pools."""
    rng = np.random.default_rng(0)
    X, noise = rng.standard_normal((150_000, 3)), rng.standard_normal(150_000)
    X, y = X.astype(np.float32), (X.sum(axis=1) + noise).astype(np.float32)
    return RegressionData(X, y, batch_size=32, shuffle=True)


def plant_row_again(patch: Any) -> None:
    """Read a row of each pool twice, and another not at all."""
    right = RowOrder.fetch

    def fetch(self: Any, *given: Any) -> Any:
        numbers = right(self, *given).copy()
        numbers[1] = numbers[0]
        return numbers

    patch.setattr(RowOrder, "fetch", fetch)


def plant_segment_again(patch: Any) -> None:
    """Fetch the first segment of each pool twice, and the second not at all."""
    right = _Pools.fetch

    def fetch(self: Any, rows: Any, pool: int, out: Any) -> Any:
        numbers = right(self, rows, pool, out)
        out[SEGMENT : 2 * SEGMENT] = out[:SEGMENT]
        return numbers

    patch.setattr(_Pools, "fetch", fetch)


def plant_stale_pool(patch: Any) -> None:
    """Train on the rows of the pool before, in the order of this one."""
    right = RowOrder.fetch

    def fetch(self: Any, rows: Any, epoch: int, start: int, out: Any) -> Any:
        numbers = right(self, rows, epoch, start, out)
        if start == self.pool:
            right(self, rows, epoch, 0, out)
        return numbers

    patch.setattr(RowOrder, "fetch", fetch)


def plant_overwritten_early(patch: Any) -> None:
    """Let the thread fetch the pool that comes next into the memory of the one at hand."""
    right = Rows._fetch_ahead

    def fetch_ahead(self: Any, parts: Any) -> Any:
        for k, found in enumerate(right(self, parts)):
            if k + 1 < len(parts):
                self._fetch(parts[k + 1], k % 2)
            yield found

    patch.setattr(Rows, "_fetch_ahead", fetch_ahead)


def plant_boundary(patch: Any) -> None:
    """Let each batch but the first begin a row too late."""
    right = Rows.bounds

    def bounds(self: Any, *given: Any) -> Any:
        found = right(self, *given)
        found[1:-1] += 1
        return found

    patch.setattr(Rows, "bounds", bounds)


def plant_last_batch_lost(patch: Any) -> None:
    """Leave out the last batch of an epoch, which is a short one, and go on with the next epoch."""
    right = Rows.__init__

    def init(self: Any, *given: Any) -> None:
        right(self, *given)
        self.steps_per_epoch = max(1, self.n_served // self.batch_rows)

    patch.setattr(Rows, "__init__", init)


def plant_batches_in_reverse(patch: Any) -> None:
    right = RowOrder.rows
    patch.setattr(RowOrder, "rows", lambda self, *given: right(self, *given)[::-1])


def plant_row_left_out(patch: Any) -> None:
    """Make moments of all rows but one."""
    right = Rows.chunks

    def chunks(self: Any, *given: Any) -> Any:
        for Z in right(self, *given):
            yield Z[1:]

    patch.setattr(Rows, "chunks", chunks)


def plant_end(change: Callable[[Any], None]) -> Plant:
    def plant(patch: Any) -> None:
        right = Loop.run

        def run(self: Any, *given: Any) -> Any:
            result = right(self, *given)
            change(result)
            return result

        patch.setattr(Loop, "run", run)

    return plant


def _moved(result: Any) -> None:
    result.end.theta[:] *= 1 + 1e-6


def _buffer_emptied(result: Any) -> None:
    result.end.buffer[:] = 0


def plant_start(patch: Any) -> None:
    """Take up parameters that are a rounding off."""
    right = Loop.run

    def run(self: Any, state: Any, *given: Any) -> Any:
        state.theta[:] = np.nextafter(state.theta, np.inf)
        return right(self, state, *given)

    patch.setattr(Loop, "run", run)


def plant_moved_inside(patch: Any) -> None:
    """Move a parameter by a rounding between two steps of a call."""
    right = Loop.run

    def run(self: Any, *given: Any) -> Any:
        result = right(self, *given)
        result.before[3:, -1] = np.nextafter(result.before[3:, -1], np.inf)
        return result

    patch.setattr(Loop, "run", run)


AROUND: dict[str, tuple[Plant, Data, dict[str, Any], str]] = {
    "row read twice from a pool": (plant_row_again, many, {}, "loss at step 1:"),
    "segment read twice from a pool": (plant_segment_again, many, {}, "loss at step "),
    "stale pool": (plant_stale_pool, many, {}, "loss at step 2049:"),
    "memory of a thread overwritten early": (
        *(plant_overwritten_early, many, {}),
        "loss at step 1:",
    ),
    "boundary of batches": (plant_boundary, batches, {}, "loss at step 1:"),
    "boundary of batches of pools": (plant_boundary, many, {}, "loss at step 1:"),
    "last batch lost": (plant_last_batch_lost, batches, {}, "loss at step 4:"),
    "last batch of many lost": (plant_last_batch_lost, many, {}, "loss at step 4688:"),
    "batches in reverse": (plant_batches_in_reverse, batches, {}, "loss at step 1:"),
    "row left out of moments": (plant_row_left_out, full, {}, "loss at step 1:"),
    "end moved": (plant_end(_moved), batches, {}, "since the last step at step 16:"),
    "end moved, many steps": (plant_end(_moved), many, {"max_epochs": 1}, "at step 4689:"),
    "momentum not handed on": (
        *(plant_end(_buffer_emptied), batches, {"momentum": 0.9, "steps_per_execution": 4}),
        "momentum of .* at step 4:",
    ),
    "start moved": (plant_start, batches, {}, "since the last step at step 1:"),
    "moved inside": (plant_moved_inside, batches, {}, "bias since the last step at step 4:"),
}


@pytest.mark.parametrize("name", AROUND)
def test_crosscheck_catches_what_goes_wrong_around_the_kernels(
    make_trainer: Any, monkeypatch: Any, name: str
) -> None:
    plant, data, options, message = AROUND[name]
    precision = "32-true" if data is many else "64-true"
    report = train(make_trainer, data(), precision, **options)
    assert report["passed"]
    assert report["epochs_counted"] == options.get("max_epochs", 3)
    plant(monkeypatch)
    with pytest.raises(CheckFailed, match=f"cross-check failed: .*({message})"):
        train(make_trainer, data(), precision, **options)


def test_enough_is_planted_in_the_loop() -> None:
    assert len(KERNEL) + len(AROUND) >= 12 + 8
    assert sum(bool(planted[-1]) for planted in KERNEL.values()) >= 15
