"""The figures: their numbers against statsmodels and by hand, and the pictures themselves."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import Run
from trueline.cli.lightning_cli import TruelineCLI
from trueline.data import DummyData, RegressionData, SyntheticData, TableData
from trueline.reference import SGD, article, train
from trueline.reference.triangle import Line, triangle
from trueline.statistics.summary import summarise
from trueline.tensorboard.ending import scalars_of
from trueline.tensorboard.pictured import Surface, effects, fitted, sample, surface
from trueline.tensorboard.walk import MOST, Walk, landmarks, next_landmark

Cli = Callable[..., Run]
ENGEL = Path(__file__).parent / "data/engel.csv"
NO_PENALTY = {"l1": 0.0, "l2": 0.0, "weight_decay": 0.0}


def rows_with_three_features() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    draw = np.random.default_rng(5)
    X = draw.normal([3, -20, 0.5], [1, 10, 0.1], (40, 3))
    return X, X @ [2.0, -0.5, 30.0] + 7 + draw.normal(size=40)


def test_band_of_the_line_is_that_of_statsmodels() -> None:
    rows = triangle(article.X, article.y)
    x = article.X[:, 0].astype(float)
    found = fitted(rows, Line(np.array([2.0]), np.array(30.0)), x)
    fit = sm.OLS(article.y, sm.add_constant(x)).fit()
    of_line = fit.get_prediction(sm.add_constant(found.x)).conf_int(alpha=0.05)
    assert found.best is not None
    np.testing.assert_allclose(np.column_stack([found.best.low, found.best.high]), of_line)
    assert found.x[0] < x.min() < x.max() < found.x[-1]
    np.testing.assert_allclose(found.trained, 2 * found.x + 30)


def test_line_through_two_rows_has_no_band() -> None:
    rows = triangle([[1.0], [2.0]], [3.0, 4.0])
    assert fitted(rows, Line(np.ones(1), np.array(2.0)), np.array([1.0, 2.0])).best is None


@pytest.mark.parametrize("penalty", [{}, {"l2": 0.3}, {"weight_decay": 0.2}, {"l1": 0.4}], ids=str)
def test_surface_over_weight_and_bias_is_the_objective(penalty: dict[str, float]) -> None:
    options = NO_PENALTY | penalty
    rows, walked = triangle(article.X, article.y), np.array([[0.0, 0.0], [1.0, 5.0], [1.9, 35.0]])
    line = None if "l1" in penalty else rows.least_squares(options["l2"], options["weight_decay"])
    found = surface(rows, walked, line, **options)
    np.testing.assert_array_equal(found.path, walked)

    def objective(w: float, b: float) -> float:
        r = w * article.X[:, 0] + b - article.y
        penalties = options["l1"] * abs(w) + options["l2"] * w * w
        return float(np.mean(r * r) + penalties + options["weight_decay"] / 2 * (w * w + b * b))

    every = np.array([[objective(w, b) for w in found.a] for b in found.b])
    floor = every.min() if line is None else objective(float(line.weight[0]), float(line.bias))
    np.testing.assert_allclose(found.excess, every - floor, rtol=1e-9, atol=1e-9)
    assert found.excess.min() >= 0


def test_plane_of_several_features_is_that_of_the_stiffest_directions() -> None:
    X, y = rows_with_three_features()
    rows = triangle(X, y)
    line = rows.least_squares()
    walked = np.random.default_rng(1).normal(size=(9, 4))
    found = surface(rows, walked, line, **NO_PENALTY)
    A = np.column_stack([X, np.ones(40)])
    eigenvalues, eigenvectors = np.linalg.eigh(2 / 40 * A.T @ A)
    np.testing.assert_allclose(found.curvature, eigenvalues[:-3:-1], rtol=1e-9)
    for axis, expected in zip(found.axes, eigenvectors.T[:-3:-1], strict=True):
        assert abs(axis @ expected) == pytest.approx(1)
    best = np.append(line.weight, line.bias)
    np.testing.assert_allclose(found.path, (walked - best) @ found.axes.T, rtol=1e-9, atol=1e-9)
    # In eigenvectors about the minimum the loss is a sum of squares.
    quadratic = found.curvature[0] * found.a[None] ** 2 + found.curvature[1] * found.b[:, None] ** 2
    np.testing.assert_allclose(found.excess, quadratic / 2, rtol=1e-6, atol=1e-9)


def test_coefficients_and_their_intervals_are_those_of_statsmodels() -> None:
    X, y = rows_with_three_features()
    rows = triangle(X, y)
    (summary,) = summarise(rows, ["a", "b", "c"], ["y"])
    found = effects(rows, summary.to_dict(), np.array([1.0, 2.0, 3.0]))
    fit = sm.OLS(y, sm.add_constant(X)).fit()
    by_size = sorted(range(3), key=lambda j: -abs(fit.params[1 + j] * X[:, j].std()))
    assert found.names == ["abc"[j] for j in by_size]
    scale = X.std(axis=0)[by_size]
    np.testing.assert_allclose(found.value, fit.params[1:][by_size] * scale)
    ends = fit.conf_int()[1:][by_size] * scale[:, None]
    np.testing.assert_allclose(np.column_stack([found.low, found.high]), ends)
    np.testing.assert_allclose(found.trained, np.array([1.0, 2.0, 3.0])[by_size] * scale)
    assert found.labels[0].startswith(f"{fit.params[1 + by_size[0]]:.3g}".replace("-", "−"))


def test_sample_is_in_the_units_of_the_table_and_evenly_spaced() -> None:
    table = np.loadtxt(ENGEL, delimiter=",", skiprows=1)
    for in_memory in (2**28, 0):  # in memory, and in a file
        data = TableData(path=str(ENGEL), target="foodexp", in_memory=in_memory)
        assert (data.spooled is None) == (in_memory > 0)
        rows = sample(data)
        np.testing.assert_allclose(rows.X[:, 0], table[:, 0], rtol=1e-12)
        np.testing.assert_allclose(rows.y, table[:, 1], rtol=1e-12)
        some = sample(data, 47)
        np.testing.assert_allclose(some.y, table[::5, 1], rtol=1e-12)
        assert some.n_samples == 235


def test_walk_keeps_the_landmarks_however_points_come_and_few_of_the_others() -> None:
    one_by_one, at_once = Walk(), Walk()
    for step in range(5_000):
        one_by_one.add([step], [[float(step)]])
    at_once.add(np.arange(5_000), np.arange(5_000.0)[:, None])
    steps, values = at_once.taken()
    np.testing.assert_array_equal(one_by_one.taken()[0], steps)
    np.testing.assert_array_equal(values[:, 0], steps)
    assert set(landmarks(0, 5_000)) <= set(steps)
    assert MOST <= len(steps) <= 3 * MOST
    found, step = [], 0
    while (step := next_landmark(step)) < 5_000:
        found.append(step)
        step += 1
    assert found == landmarks(0, 5_000).tolist()


@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("options", ["", "--model.steps_per_execution 1", "--model.momentum 0.5"])
def test_path_is_the_one_that_training_took(options: str, tmp_path: Path) -> None:
    given = f"--trainer.max_epochs 300 --trainer.log_every_n_steps 50 {options}"
    args = ["fit", f"--trainer.default_root_dir={tmp_path}", "--figures=false", *given.split()]
    cli = TruelineCLI(args)
    scalars = scalars_of(cli.trainer)
    assert scalars is not None
    steps, walked = scalars.walk.taken()
    assert set(landmarks(0, 300)) | set(range(0, 300, 50)) == set(steps.tolist())
    momentum = 0.5 if "momentum" in options else 0.0
    sgd = SGD(0.001, momentum)
    trace = train(article.X, article.y, [walked[0, 0]], walked[0, 1], sgd, 300)
    expected = np.column_stack([trace.weight[steps, 0], trace.bias[steps]])
    np.testing.assert_allclose(walked, expected, rtol=1e-9)
    assert not np.allclose(walked[0], walked[-1])


def test_path_of_a_resumed_training_begins_with_the_curves_of_the_first(tmp_path: Path) -> None:
    root = f"--trainer.default_root_dir={tmp_path}"
    TruelineCLI(["fit", root, "--figures=false", "--trainer.max_epochs=30"])
    options = ["--ckpt_path=last", "--trainer.max_epochs=60", "--figures=false"]
    cli = TruelineCLI(["fit", root, *options])
    scalars = scalars_of(cli.trainer)
    assert scalars is not None
    steps, walked = scalars.walk.taken()
    assert steps.tolist() == list(range(60))
    trace = train(article.X, article.y, [walked[0, 0]], walked[0, 1], SGD(0.001), 60)
    expected = np.column_stack([trace.weight[:60, 0], trace.bias[:60]])
    np.testing.assert_allclose(walked, expected, rtol=1e-6)  # event files are in float32


def pictures(folder: Path) -> dict[str, tuple[int, Image.Image]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    found: dict[str, tuple[int, Image.Image]] = {}
    for tag in events.Tags()["images"]:
        (image,) = events.Images(tag)
        found[tag] = image.step, Image.open(io.BytesIO(image.encoded_image_string))
    return found


TABLE = f"--data TableData --data.path {ENGEL} --data.target foodexp"
ONE_FEATURE = {"line", "surface", "residuals"}


@pytest.mark.figures
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--trainer.max_epochs 30", ONE_FEATURE),
        ("--trainer.max_epochs 30 --model.l1 0.1", ONE_FEATURE),
        (TABLE, ONE_FEATURE | {"coefficients"}),
        ("--data SyntheticData --trainer.max_epochs 5", {"surface", "residuals"}),
        (
            "--data SyntheticData --data.n_targets 2 --trainer.max_epochs 5",
            {"surface_y0", "residuals_y0", "surface_y1", "residuals_y1"},
        ),
        ("--trainer.max_epochs 30 --figures false", set()),
    ],
)
def test_run_ends_with_its_figures(options: str, expected: set[str], cli: Cli) -> None:
    run = cli("fit", *options.split())
    assert run.status == 0, run.stderr
    folder = run.directory / "lightning_logs/version_0"
    assert len(list(folder.glob("events.out.tfevents*"))) == 1
    found = pictures(folder)
    assert set(found) == {f"figures/{name}" for name in expected}
    for step, picture in found.values():
        assert picture.format == "PNG"
        assert step == run.result()["steps"]
        pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
        assert 0.02 < np.mean(np.any(pixels < 250, axis=2)) < 0.98  # neither empty nor full


@pytest.mark.figures
@pytest.mark.parametrize("steps", ["1", "auto"])
def test_long_training_is_drawn_as_it_goes_on(
    steps: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trueline.cli.lightning_cli.DRAW_AFTER", 0.01)
    monkeypatch.setattr("trueline.tensorboard.scalars.DRAWN_SHARE", 0.1)
    options = ("--model.steps_per_execution", steps, "--trainer.max_epochs", "1000")
    run = cli("fit", *options, "--trainer.log_every_n_steps", "50", "--crosscheck", "off")
    assert run.status == 0, run.stderr
    folder = run.directory / "lightning_logs/version_0"
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    for name in ONE_FEATURE:
        drawn = [image.step for image in events.Images(f"figures/{name}")]
        assert drawn == sorted(set(drawn))
        assert drawn[-1] == 1000
        assert len(drawn) > 1
        assert len(drawn) < 12
    assert [point.step for point in events.Scalars("train/loss")] == [*range(0, 1001, 50)]


@pytest.mark.figures
def test_figure_that_cannot_be_drawn_ends_no_training(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("no room")

    monkeypatch.setattr("trueline.tensorboard.figures.draw_surface", fail)
    with pytest.warns(UserWarning, match="not all figures are drawn: ZeroDivisionError: no room"):
        run = cli("fit", "--trainer.max_epochs", "30")
    assert run.status == 0, run.stderr
    assert set(pictures(run.directory / "lightning_logs/version_0")) == {"figures/line"}


def test_figures_of_odd_data_are_drawn() -> None:
    # A constant feature, a perfect line, two rows: nothing to divide by, and nothing to raise.
    from trueline.tensorboard.drawing import draw_line, draw_residuals, draw_surface, png

    odd: dict[str, Any] = {
        "constant": ([[2.0], [2.0], [2.0]], [1.0, 2.0, 4.0]),
        "perfect": ([[1.0], [2.0], [3.0]], [1.0, 2.0, 3.0]),
        "two": ([[1.0], [2.0]], [1.0, 1.0]),
        "huge": ([[1e12], [2e12], [4e12]], [1e-9, 2e-9, 3e-9]),
    }
    for X, y in odd.values():
        data = RegressionData(X, y)
        rows, line = sample(data), Line(np.ones(1), np.array(0.5))
        walked = np.array([[1.0, 0.5], [1.0, 0.5]])
        found: Surface = surface(data.triangle, walked, None, **NO_PENALTY)
        for picture in (
            png(draw_line, rows, fitted(data.triangle, line, rows.X[:, 0]), "x", "y"),
            png(draw_residuals, rows, rows.X[:, 0], 0.0, "y"),
            png(draw_surface, found, "w", "b", "loss"),
        ):
            assert picture.startswith(b"\x89PNG")


def test_sample_of_many_rows_is_bounded() -> None:
    assert len(sample(SyntheticData(n_samples=10_001)).y) == 2_000
    assert len(sample(DummyData()).y) == 15
