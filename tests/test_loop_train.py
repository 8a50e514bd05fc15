"""`trueline.loop.train`: the loop by itself, held against the article's loop and closed forms."""

import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, LinearRegression, Ridge

from trueline.data.order import RowOrder
from trueline.errors import CheckFailed, RequestError
from trueline.loop import train, training
from trueline.reference import LeastSquares, article
from trueline.reference import train as train_by_numpy
from trueline.reference.clipping import Clipping
from trueline.reference.sgd import SGD


def test_line_of_the_article_is_that_of_its_loop() -> None:
    trace = train_by_numpy(article.X, article.y, [0.5], -1.0, SGD(lr=0.001), epochs=2_000)
    line = train(
        article.X, article.y, lr=0.001, epochs=2_000, weight=0.5, bias=-1.0, states=range(2_000)
    )
    # Differences come from the order of sums alone, and the steps shrink those before.
    assert np.allclose(line.weights, trace.weight[:-1], rtol=1e-11, atol=0)
    assert np.allclose(line.biases, trace.bias[:-1], rtol=1e-11, atol=1e-11)
    assert np.allclose(line.losses, trace.loss[:-1], rtol=1e-11, atol=0)
    assert line.weight == pytest.approx(trace.weight[-1], rel=1e-11)
    assert line.bias == pytest.approx(trace.bias[-1], rel=1e-11)
    assert line.bias.shape == ()
    assert np.array_equal(line.lrs, np.full(2_000, 0.001))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 99),
    batch_size=st.sampled_from([None, 1, 3, 7]),
    shuffle=st.booleans(),
    rule=st.sampled_from(
        [
            {},
            {"momentum": 0.9, "dampening": 0.3},
            {"momentum": 0.9, "nesterov": True},
            {"weight_decay": 0.1},
        ]
    ),
    objective=st.sampled_from([{}, {"l2": 0.1}, {"l1": 0.05}]),
    in_parts=st.booleans(),
)
def test_steps_are_those_of_the_articles_loop(
    seed: int,
    batch_size: int | None,
    shuffle: bool,
    rule: dict[str, Any],
    objective: dict[str, float],
    in_parts: bool,
) -> None:
    generator = np.random.default_rng(seed)
    X, y = generator.standard_normal((7, 2)), generator.standard_normal(7)
    size, order = batch_size or 7, RowOrder(7, shuffle, seed)
    trace = train_by_numpy(
        X,
        y,
        [0.1, 0.2],
        0.3,
        SGD(lr=0.05, **rule),
        epochs=3,
        objective=LeastSquares(**objective),
        batches=lambda epoch: [order.rows(epoch)[k : k + size] for k in range(0, 7, size)],
    )
    n_steps = len(trace.loss) - 1
    with pytest.MonkeyPatch.context() as patch:
        if in_parts:
            patch.setattr(training, "AT_ONCE", 2)
        line = train(
            X, y, lr=0.05, epochs=3, batch_size=batch_size, shuffle=shuffle, seed=seed,
            weight=[0.1, 0.2], bias=0.3, states=range(n_steps), **rule, **objective,
        )  # fmt: skip
    assert line.weights.shape == (n_steps, 2)
    # The judge's loss includes penalties; the loop's is the mean squared error alone.
    penalty = LeastSquares(**objective).l2 * (line.weights**2).sum(1)
    penalty += LeastSquares(**objective).l1 * np.abs(line.weights).sum(1)
    assert np.allclose(line.losses + penalty, trace.loss[:-1], rtol=1e-12, atol=1e-12)
    found = np.column_stack([[*line.weights, line.weight], [*line.biases, line.bias]])
    right = np.column_stack([trace.weight, trace.bias])
    assert np.allclose(found, right, rtol=1e-12, atol=1e-12)
    assert (found[0] != found[-1]).all()


@pytest.fixture(scope="module")
def rows() -> tuple[Any, Any, Any]:
    generator = np.random.default_rng(0)
    X = generator.standard_normal((200, 3))
    y = X @ [[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]] + [4.0, -1.0]
    y += 0.3 * generator.standard_normal(y.shape)
    return X, y, generator.uniform(0.1, 2, 200)


@pytest.mark.parametrize(
    ("options", "peer"),
    [
        ({}, LinearRegression()),
        ({"fit_intercept": False}, LinearRegression(fit_intercept=False)),
        # scikit-learn's penalty stands beside a sum over rows and targets, not its mean.
        ({"l2": 0.1}, Ridge(alpha=0.1 * 200 * 2, tol=1e-12)),
        ({"momentum": 0.5, "nesterov": True}, LinearRegression()),
    ],
)
def test_full_batch_ends_at_the_closed_form(rows: Any, options: Any, peer: Any) -> None:
    X, y, _ = rows
    line = train(X, y, lr=0.2, epochs=500, **options)
    peer.fit(X, y)
    assert line.weight == pytest.approx(peer.coef_.T, rel=1e-9)
    assert line.bias == pytest.approx(np.broadcast_to(peer.intercept_, 2), rel=1e-9)
    assert np.square(X @ line.weight + line.bias - y).mean() == pytest.approx(line.losses[-1])


def test_lasso_ends_at_that_of_scikit_learn(rows: Any) -> None:
    X, y, _ = rows
    line = train(X, y[:, 1], lr=0.2, epochs=500, l1=1.0)
    peer = Lasso(alpha=0.5, tol=1e-14).fit(X, y[:, 1])  # which halves the squares
    assert line.weight == pytest.approx(peer.coef_, rel=1e-9)
    assert (line.weight == 0).any()
    assert line.bias == pytest.approx(peer.intercept_)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_sample_weights_count_by_their_proportions(rows: Any, scale: float) -> None:
    X, y, weights = rows
    line = train(X, y, lr=0.2, epochs=500, sample_weight=scale * weights)
    peer = LinearRegression().fit(X, y, sample_weight=weights)
    assert line.weight == pytest.approx(peer.coef_.T, rel=1e-9)
    assert line.bias == pytest.approx(peer.intercept_, rel=1e-9)


def test_gradients_are_clipped(rows: Any) -> None:
    X, y, _ = rows
    weight, bias = np.zeros((3, 2)), np.zeros(2)
    _, gradient = LeastSquares().loss_and_gradient({"weight": weight, "bias": bias}, (X, y))
    for name, algorithm in (("clip_norm", "norm"), ("clip_value", "value")):
        clipped = Clipping(0.1, algorithm).clip(gradient)
        line = train(X, y, lr=0.2, epochs=1, **{name: 0.1})
        assert line.weight == pytest.approx(-0.2 * clipped["weight"], rel=1e-5)
        assert line.bias == pytest.approx(-0.2 * clipped["bias"], rel=1e-5)


def test_shapes_and_dtypes_are_those_of_the_arrays(rows: Any) -> None:
    X, y, _ = rows
    single = X.astype(np.float32)
    for features, dtype, right in (
        (X, None, np.float64),
        (single, None, np.float32),
        (X, "float32", np.float32),
        (single, np.float64, np.float64),
        ((10 * X).astype(int), None, np.float64),
    ):
        line = train(features, y, lr=1e-3, epochs=3, states=[2, 0], dtype=dtype)
        assert {a.dtype for a in (line.weight, line.bias, line.weights, line.biases)} == {
            np.dtype(right)
        }
        assert (line.weight.shape, line.bias.shape) == ((3, 2), (2,))
        assert (line.weights.shape, line.biases.shape) == ((2, 3, 2), (2, 2))
    assert train(X[:, 0], y[:, 0], lr=1e-3, epochs=1).weight.shape == (1,)
    assert train(X, y[:, :1], lr=1e-3, epochs=1).weight.shape == (3, 1)
    assert train(X.tolist(), y.tolist(), lr=1e-3, epochs=3).weight == pytest.approx(
        train(np.asfortranarray(X), y, lr=1e-3, epochs=3).weight, rel=1e-14
    )


def test_learning_rate_may_be_one_for_each_step(rows: Any) -> None:
    X, y, _ = rows
    lrs = [0.1, 0.0, 0.01]
    line = train(X, y, lr=lrs, epochs=3, states=[1, 2])
    assert np.array_equal(line.lrs, lrs)
    assert np.array_equal(line.weights[0], line.weights[1])
    assert not np.array_equal(line.weight, line.weights[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr: expected a finite number of 0 or more; found -1.0"),
        ({"lr": [0.1, np.nan]}, "lr: expected a finite number of 0 or more; found nan"),
        ({"lr": [0.1] * 3}, r"lr: expected one number or shape \(2,\); found \(3,\)"),
        ({"epochs": 0}, "epochs: expected 1 or more; found 0"),
        ({"momentum": 1.0, "l1": -1.0}, "momentum: .* found 1.0; l1: .* found -1.0"),
        ({"dampening": 1.5}, "dampening: expected 0 to 1; found 1.5"),
        ({"nesterov": True}, "nesterov: expected momentum above 0"),
        ({"batch_size": 16}, "batch_size: expected 1 to 15"),
        ({"seed": -1}, "seed: expected 0 or more"),
        ({"weight": [1.0, 2.0]}, r"weight: expected one number or shape \(1,\); found \(2,\)"),
        ({"bias": [1.0]}, r"bias: expected one number or shape \(\); found \(1,\)"),
        ({"dtype": "float16"}, "dtype: expected float32 or float64; found float16"),
        ({"states": [2]}, "states: expected steps from 0 to 1; found 2"),
        ({"sample_weight": [1.0]}, r"sample_weight: expected shape \(15,\)"),
    ],
)
def test_options_out_of_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        train(article.X, article.y, **({"lr": 0.001, "epochs": 2} | options))


def test_rows_with_holes_are_refused() -> None:
    X = article.X.astype(float)
    X[3] = np.nan
    with pytest.raises(RequestError, match="X: expected finite numbers; found nan or inf"):
        train(X, article.y, lr=0.001, epochs=1)
    with pytest.raises(RequestError, match=r"found \(15, 1\) and \(14,\)"):
        train(article.X, article.y[1:], lr=0.001, epochs=1)


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_that_diverges_says_at_which_step(batch_size: int | None, dtype: str) -> None:
    lrs = np.r_[np.full(5, 1e-3), 1e300 if dtype == "float64" else 1e38, np.full(10, 1e-3)]
    epochs = 16 if batch_size is None else 4
    with pytest.raises(CheckFailed, match=r"found inf at step 7, in epoch .; lower lr 0.001"):
        train(article.X, article.y, lr=lrs, epochs=epochs, batch_size=batch_size, dtype=dtype)
    with pytest.raises(CheckFailed, match="expected finite parameters, found others after"):
        train(article.X, article.y, lr=1e308, epochs=1)


def test_rows_are_copied_once() -> None:
    X = np.ones((200_000, 10), np.float32)
    X[:] = np.random.default_rng(0).standard_normal(X.shape, np.float32)
    y = X @ np.arange(10, dtype=np.float32)
    for options in ({}, {"batch_size": 1024}, {"batch_size": 1024, "shuffle": True}):
        train(X[:100], y[:100], lr=0.01, epochs=1)
        tracemalloc.start()
        train(X, y, lr=0.01, epochs=1, **options)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # Pools and chunks are of constant size: at most six of 2**16 rows.
        assert peak < 1.1 * (X.nbytes + y.nbytes) + 6 * 2**16 * 48


def test_neither_torch_nor_lightning_is_imported() -> None:
    code = """
import sys
import trueline.loop.state, trueline.loop
assert "numba" not in sys.modules
print(trueline.loop.train([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], lr=0.1, epochs=2000).weight.round(6))
print({name.partition(".")[0] for name in sys.modules} & {"torch", "lightning", "pyarrow"})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[2.]\nset()\n"
