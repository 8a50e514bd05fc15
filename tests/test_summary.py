"""`summary`, `independent` and `intervals`, held against statsmodels, NIST and exact arithmetic."""

import json
import math
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.datasets import load_diabetes

from certified import DATA, certified, digits
from trueline.reference.triangle import merged, triangle
from trueline.statistics.independent import independent
from trueline.statistics.intervals import ROWS_AT_ONCE, intervals
from trueline.statistics.summary import Summary, summarise

FIGURES = {
    "n_samples": "nobs",
    "degrees_of_freedom": "df_resid",
    "r2": "rsquared",
    "adj_r2": "rsquared_adj",
    "f": "fvalue",
    "f_p": "f_pvalue",
    "log_likelihood": "llf",
    "aic": "aic",
    "bic": "bic",
}
"""What a summary has, by what statsmodels calls it."""


def problem(n: int, p: int, targets: int = 1) -> tuple[Any, Any, Any]:
    """Return rows with weights over three orders of magnitude."""
    rng = np.random.default_rng(100 * n + p)
    X = rng.normal(1.0, 2.0, (n, p))
    y = X @ rng.normal(size=(p, targets)) + 3.0 + rng.normal(size=(n, targets))
    return X, y, 10 ** rng.uniform(-2, 1, n)


def summary_of(X: Any, y: Any, w: Any = None, level: float = 0.95) -> Summary:
    names = [f"x{j}" for j in range(X.shape[1])]
    (found,) = summarise(triangle(X, y, w), names, ["y"], level)
    return found


def column(summary: Summary, entry: str) -> list[Any]:
    return [getattr(c, entry) for c in summary.coefficients]


def peer_of(X: Any, y: Any, w: Any = None) -> Any:
    A = sm.add_constant(X, has_constant="add")
    return (sm.OLS(y, A) if w is None else sm.WLS(y, A, weights=w)).fit()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "p", "targets"), [(4, 1, 1), (60, 1, 1), (60, 5, 3), (5000, 40, 2)])
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_figures_are_those_of_statsmodels(
    n: int, p: int, targets: int, weighted: bool, level: float
) -> None:
    X, y, w = problem(n, p, targets)
    weights = w if weighted else None
    names = [f"x{j}" for j in range(p)]
    found = summarise(triangle(X, y, weights), names, [f"y{t}" for t in range(targets)], level)
    assert [s.target for s in found] == [f"y{t}" for t in range(targets)]
    for t, summary in enumerate(found):
        peer = peer_of(X, y[:, t], weights)
        for ours, theirs in FIGURES.items():
            expected = getattr(peer, theirs)
            assert getattr(summary, ours) == pytest.approx(expected, rel=1e-10), ours
        assert summary.residual_std_error == pytest.approx(math.sqrt(peer.scale), rel=1e-10)
        assert summary.f_df == (peer.df_model, peer.df_resid)
        assert column(summary, "name") == ["(intercept)", *names]
        low, high = peer.conf_int(1 - level).T
        entries = {"value": peer.params, "std_error": peer.bse, "t": peer.tvalues}
        for entry, expected in (entries | {"p": peer.pvalues, "low": low, "high": high}).items():
            np.testing.assert_allclose(column(summary, entry), expected, rtol=1e-10)
        assert (summary.rank, summary.aliased, summary.notes) == (p + 1, [], [])
    if weighted:
        apart = summarise(triangle(X, y), names, [s.target for s in found], level)[0]
        assert apart.coefficients[1].value != pytest.approx(
            found[0].coefficients[1].value, rel=1e-3
        )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_intervals_are_those_of_statsmodels(weighted: bool, targets: int, level: float) -> None:
    X, y, w = problem(40, 3, targets)
    weights = w if weighted else None
    new = np.random.default_rng(0).normal(5, 30, (ROWS_AT_ONCE + 3, 3))
    found = intervals(triangle(X, y, weights), new, level)
    for t in range(targets):
        peer = peer_of(X, y[:, t], weights)
        frame = peer.get_prediction(sm.add_constant(new)).summary_frame(alpha=1 - level)
        names = ["mean", "mean_ci_lower", "mean_ci_upper", "obs_ci_lower", "obs_ci_upper"]
        for ours, name in zip(found, names, strict=True):
            np.testing.assert_allclose(ours[:, t], frame[name], rtol=1e-10, atol=1e-10)
    single = intervals(triangle(X, y[:, 0], weights), new, level)
    np.testing.assert_allclose(single.high, found.high[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "values", "errors"),
    [  # 13.3 and 14.0 digits seen, 13.2 and 14.0, 13.9 and 14.9, 7.7 and 8.3
        ("norris", 12.0, 12.0),
        ("pontius", 12.5, 12.5),
        ("longley", 10.5, 10.5),
        ("filip", 7.0, 7.0),
    ],
)
def test_figures_reach_those_certified(name: str, values: float, errors: float) -> None:
    X, y, contents = certified(name)
    summary = summary_of(X, y)
    assert digits(column(summary, "value"), contents["certified_params"]) > values
    assert digits(column(summary, "std_error"), contents["certified_std_errors"]) > errors
    assert digits(summary.residual_std_error, contents["certified_residual_sd"]) > values - 1
    assert digits(summary.r2, contents["certified_r2"]) > values
    assert digits(summary.f, contents["certified_f"]) > values - 1
    assert (summary.rank, summary.aliased, summary.notes) == (X.shape[1] + 1, [], [])


def test_certified_perfect_fit_is_called_one() -> None:
    X, y, contents = certified("wampler1")
    summary = summary_of(X, y)
    assert digits(column(summary, "value"), contents["certified_params"]) > 9
    assert max(column(summary, "std_error")) < 1e-8
    assert summary.r2 == pytest.approx(1, abs=1e-15)
    assert [note[:23] for note in summary.notes] == ["essentially perfect fit"]
    assert summary_of(X, y + np.random.default_rng(0).normal(size=21) * 1e-4).notes == []


@pytest.mark.parametrize("name", ["diabetes", "engel"])
def test_tables_have_the_figures_of_exact_arithmetic(name: str) -> None:
    exact = json.loads((DATA / "exact_summaries.json").read_text("utf-8"))[name]["exact"]
    if name == "diabetes":
        X, y = load_diabetes(return_X_y=True, scaled=False)
    else:
        X, y = sm.datasets.engel.load().data.to_numpy().T
        X = X[:, None]
    summary = summary_of(X, y)
    for entry, key in (("value", "coefficients"), ("std_error", "std_errors")):
        np.testing.assert_allclose(
            column(summary, entry), [float(v) for v in exact[key]], rtol=1e-12
        )
    assert summary.r2 == pytest.approx(float(exact["r2"]), rel=1e-14)
    assert summary.residual_std_error == pytest.approx(float(exact["residual_sd"]), rel=1e-14)


@pytest.mark.parametrize("scale", [1e6, 1e-6, 1e100])
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_units_and_offsets_change_nothing_but_themselves(scale: float, offset: float) -> None:
    X, y, _ = problem(300, 3)
    X, y = X.round(4), y[:, 0]  # 1e9 more, and they keep their digits to 1e-7
    expected, moved = summary_of(X, y), np.array([1.0, scale, 1.0])
    found = summary_of((X + offset) * moved, y)
    rel = 1e-5 if offset else 1e-12
    for name in ("t", "value", "std_error", "p"):
        units = np.array(column(found, name)[1:]) * (moved if name in ("value", "std_error") else 1)
        np.testing.assert_allclose(units, column(expected, name)[1:], rtol=rel)
    assert found.r2 == pytest.approx(expected.r2, rel=rel)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=rel)
    if not offset:
        assert found.condition_number == pytest.approx(expected.condition_number, rel=1e-9)


def test_condition_number_is_of_columns_of_length_one() -> None:
    X, y, w = problem(50, 4)
    for weights in (None, w):
        A = np.column_stack([np.ones(50), X]) * (1 if weights is None else np.sqrt(w)[:, None])
        expected = np.linalg.cond(A / np.linalg.norm(A, axis=0))
        assert summary_of(X, y[:, 0], weights).condition_number == pytest.approx(expected)
    far = summary_of(np.arange(1e3)[:, None] + 1e12, np.sin(np.arange(1e3)))
    # Of [1, x] of length 1, at angle α: √((1 + cos α)/(1 − cos α)) = 2/α, and α is std(x)/mean(x).
    assert far.condition_number == pytest.approx(2 * 1e12 / np.arange(1e3).std(), rel=1e-6)


@pytest.mark.parametrize("n", [30, 5_000])
@pytest.mark.parametrize("weighted", [False, True])
def test_dependent_columns_have_no_coefficients_and_change_nothing_else(
    n: int, weighted: bool
) -> None:
    X, y, w = problem(n, 4)
    weights, y = (w if weighted else None), y[:, 0]
    a, b, c, d = X.T
    columns = [
        a,
        np.full(n, 0.1),
        b,
        0.1 * a - 0.7 * b + 1e3,
        c,
        np.full(n, 1e9 / 3),
        1e9 + c,
        3 * b,
        d,
    ]
    found = summary_of(np.column_stack(columns), y, weights)
    expected = summary_of(X, y, weights)
    assert found.aliased == ["x1", "x3", "x5", "x6", "x7"]
    assert found.undetermined == ["(intercept)", *(f"x{j}" for j in range(8))]
    assert "(intercept), x0, x1, x2, x3, x4 and 3 more; " in found.notes[0]
    assert "in every training row x1 = 0.1" in found.notes[0]
    np.testing.assert_allclose(
        found.coefficients[9][1:], expected.coefficients[4][1:], rtol=1e-9, atol=1e-13
    )
    for c in found.coefficients[:9]:
        assert set(c[1:]) == {None}
    for figure in (*FIGURES, "residual_std_error", "condition_number", "rank"):
        assert getattr(found, figure) == pytest.approx(getattr(expected, figure), rel=1e-9), figure
    # The same line, but not for rows in which the columns depend on each other otherwise.
    rows = triangle(np.column_stack(columns), y, weights)
    new = np.column_stack(columns)[:6]
    new[range(1, 6), [1, 3, 5, 6, 7]] += 1e-3
    new[3, 5] += 1
    for ours, theirs in zip(
        intervals(rows, new), intervals(triangle(X, y, weights), X[:6]), strict=True
    ):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9)
        assert np.isnan(ours[1:]).all()


def test_one_of_each_kind_depends_on_the_intercept_and_the_others() -> None:
    kinds = np.eye(4)[np.arange(9_999) % 4]
    found = summary_of(kinds, np.random.default_rng(0).normal(size=9_999))
    assert found.aliased == ["x3"]
    assert found.undetermined == ["(intercept)", "x0", "x1", "x2", "x3"]
    assert "in every training row x0 + x1 + x2 + x3 = 1" in found.notes[0]


@pytest.mark.parametrize("share", [1e-7, 1e-9])
def test_columns_that_are_nearly_the_same_are_both_kept(share: float) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 10_000))
    rows = triangle(np.column_stack([a, a + share * b]), b)
    assert independent(rows).kept == [0, 1, 2]
    assert independent(merged(rows, rows)).kept == [0, 1, 2]


def test_no_more_rows_than_parameters_leave_no_errors() -> None:
    X = np.array([[1.0, 5.0, 2.0], [2.0, 3.0, 8.0]])
    for rows, kept, r2 in ((1, 1, None), (2, 2, 1.0)):
        found = summary_of(X[:rows], np.array([3.0, 4.0])[:rows])
        assert (found.rank, found.degrees_of_freedom) == (kept, 0)
        assert found.r2 == r2
        assert found.aliased == ["x0", "x1", "x2"][kept - 1 :]
        # Of as few rows as these, many lines are perfect.
        assert column(found, "value") == [None] * 4
        undefined = [found.adj_r2, found.residual_std_error, found.f, found.f_df, found.f_p]
        undefined += [found.log_likelihood, found.aic, found.bic, *column(found, "std_error")]
        assert set(undefined) == {None}
        assert any("nothing is left to estimate errors" in note for note in found.notes)
        json.dumps(found.to_dict(), allow_nan=False)
        assert "nothing is left" in "\n".join(found.table())
    with pytest.raises(ValueError, match="more rows than parameters; found 2 for 2"):
        intervals(triangle(X, np.array([3.0, 4.0])), X)


def test_a_target_that_is_the_same_in_all_rows_has_no_r2() -> None:
    X, _, _ = problem(30, 2)
    found = summary_of(X, np.full(30, 0.1))
    assert (found.r2, found.adj_r2, found.f, found.f_p, found.log_likelihood) == (None,) * 5
    assert column(found, "value") == [0.1, 0.0, 0.0]
    assert column(found, "t") == [None] * 3
    assert "same in all rows" in found.notes[0]
    json.dumps(found.to_dict(), allow_nan=False)


def test_without_features_it_is_the_mean() -> None:
    y = np.array([1.0, 2.0, 6.0])
    found = summary_of(np.zeros((3, 0)), y)
    assert column(found, "value") == pytest.approx([3.0])
    assert column(found, "std_error") == pytest.approx([y.std(ddof=1) / math.sqrt(3)])
    assert (found.r2, found.f, found.f_df) == (0.0, None, None)


def test_p_values_far_in_the_tail_keep_their_digits() -> None:
    """Against the leading terms of the tail of t, whose next one is of order ν/t² = 1e-12."""
    x = np.arange(50.0)
    y = x + 1e-5 * np.sin(7 * x)
    found = summary_of(x[:, None], y).coefficients[1]
    assert found.p is not None
    assert found.t is not None
    v = 48
    log_tail = (
        math.lgamma((v + 1) / 2) - math.lgamma(v / 2) - math.log(math.pi * v) / 2
        + (v + 1) / 2 * math.log(v) - v * math.log(found.t) - math.log(v)
    )  # fmt: skip
    assert 0 < found.p < 1e-250
    assert math.log(found.p) == pytest.approx(math.log(2) + log_tail, abs=1e-9)
    assert "< 2e-16" in summary_of(x[:, None], y).table()[2]


def test_table_fits_a_terminal_and_markdown_has_everything() -> None:
    X, y, _ = problem(100, 40)
    X[:, 7:20] = X[:, :1]
    names = [f"x{j}|" * (20 if j == 1 else 1) for j in range(40)]
    (found,) = summarise(triangle(X * 1e-7, -1e8 * y[:, 0]), names, ["a | target"], 0.999)
    lines = found.table()
    assert max(map(len, lines)) <= 100
    assert lines[13] == "… and 29 more in result.json"
    assert len({len(line) for line in lines[:13]} - {len(lines[0])}) == 0
    assert [line.split()[0] for line in lines[1:4]] == [
        "(intercept)",
        "x0|",
        "x1|x1|x1|x1|x1|x1|x1|…",
    ]
    assert lines[2].split()[1] == "undetermined"
    assert float(lines[3].split()[1]) == pytest.approx(found.coefficients[2].value, rel=1e-5)
    rows = [line for line in found.markdown().splitlines() if line.startswith("|")]
    assert len(rows) == 43
    assert {row.replace(r"\|", "").count("|") for row in rows} == {8}
    assert "and 8 more" in found.markdown()


def test_to_dict_goes_through_json_whole() -> None:
    X, y, _ = problem(20, 2)
    found = summary_of(X, y[:, 0])
    entries = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert entries["coefficients"][1] == found.coefficients[1]._asdict()
    assert entries["f_df"] == [2, 17]
    assert entries["bic"] == found.bic


@pytest.mark.parametrize(
    ("features", "targets", "level", "message"),
    [
        (["a"], ["y"], 0.95, "names of 2 features and 1 targets; found 1 and 1"),
        (["a", "b"], ["y", "z"], 0.95, "found 2 and 2"),
        (["a", "b"], ["y"], 1.0, "level: expected a number between 0 and 1; found 1.0"),
        (["a", "b"], ["y"], math.nan, "level: expected a number between 0 and 1; found nan"),
    ],
)
def test_requests_that_do_not_fit_are_refused(
    features: list[str], targets: list[str], level: float, message: str
) -> None:
    X, y, _ = problem(20, 2)
    with pytest.raises(ValueError, match=message):
        summarise(triangle(X, y[:, 0]), features, targets, level)


def test_rows_that_are_not_finite_or_not_of_the_fit_are_refused() -> None:
    X, y, _ = problem(20, 2)
    rows = triangle(X, y[:, 0])
    with pytest.raises(
        ValueError, match=r"expected new rows of shape \(n_rows, 2\), found \(3, 1\)"
    ):
        intervals(rows, np.ones((3, 1)))
    with pytest.raises(ValueError, match="level"):
        intervals(rows, X, 95)
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="expected finite rows; found nan or inf"):
        summary_of(X, y[:, 0])
