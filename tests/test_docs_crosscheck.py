"""The numbers that docs/crosscheck.md gives."""

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planted_bugs import PLANTED
from test_planted_in_loop import AROUND, KERNEL
from trueline.cli.matrix import print_head, print_notes, print_row
from trueline.crosscheck import CrossCheck
from trueline.crosscheck.unsupported import FOLLOWED
from trueline.data import DummyData
from trueline.module import LinearRegression
from trueline.reference import LeastSquares, article
from trueline.reference.rounding import DOUBLE, SINGLE, TF32, Arithmetic, gamma
from trueline.reference.schedule_options import BY_NAME

PAGE = (Path(__file__).parent.parent / "docs/crosscheck.md").read_text("utf-8")
WORDS = " ".join(PAGE.split())


def test_page_shows_the_message_of_a_real_failure(cli: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(LinearRegression, "optimizer_zero_grad", lambda *_: None)
    # Validation would zero the gradients in passing.
    options = ["--model.init=zeros", "--trainer.max_epochs=3", "--trainer.limit_val_batches=0"]
    options.append("--model.steps_per_execution=1")
    run = cli("fit", *options)
    assert run.status == 1
    (block,) = re.findall(r"```\n(trueline: error.*?)```", PAGE, re.DOTALL)
    shown, printed = " ".join(block.split()), run.stderr.strip()
    number = r"-?\d+\.\d+(?:e[+-]\d+)?"
    assert re.sub(number, "#", shown) == re.sub(number, "#", printed)
    # The last digits are the machine's.
    found = [float(n) for n in re.findall(number, printed)]
    assert found == pytest.approx([float(n) for n in re.findall(number, shown)], rel=1e-12)


def test_page_tells_how_wide_the_bound_is() -> None:
    assert gamma(10**9, DOUBLE) < 3e-7
    assert gamma(100_000, SINGLE) == pytest.approx(0.006, rel=0.01)
    assert gamma(16_700_000, SINGLE) < np.inf
    assert gamma(16_800_000, SINGLE) == np.inf


def test_page_counts_the_planted_bugs() -> None:
    assert re.findall(r"(\S+) planted errors", WORDS) == [str(len(PLANTED))]
    assert re.findall(r"(\S+) errors in the compiled loop", WORDS) == [
        str(len(KERNEL) + len(AROUND))
    ]


def power_of_two(cell: str) -> float:
    sign_and_digits = cell.removeprefix("2").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return 2.0 ** int(sign_and_digits)


def test_page_tells_how_each_precision_rounds() -> None:
    rows = re.findall(r"^\| (`\d+.*?) \| (2.*?) \| (2.*?) \| (2.*?) \| (2.*?) \|$", PAGE, re.M)
    rows += re.findall(r"^\| (`bf.*?) \| (2.*?) \| (2.*?) \| (2.*?) \| (2.*?) \|$", PAGE, re.M)
    meant = {f"`{name}`": arithmetic for name, arithmetic in FOLLOWED.items()}
    meant["`32-true`, TF32 allowed"] = TF32
    assert {name for name, *_ in rows} == set(meant)
    for name, *cells in rows:
        a = meant[name]
        assert list(map(power_of_two, cells)) == [a.stored, a.summed, a.parameters, a.products]


def test_page_tells_how_wide_the_half_precisions_are() -> None:
    batch, zeros = (article.X, article.y), {"weight": np.zeros(1), "bias": np.zeros(())}
    near = {"weight": np.array([1.8]), "bias": np.array(36.6)}
    reference = LeastSquares()

    def relative(arithmetic: Arithmetic, parameters: Any) -> float:
        loss, _ = reference.loss_and_gradient(parameters, batch)
        return reference.rounding_bound(parameters, batch, arithmetic)[0] / loss

    assert "6·10⁻¹⁵ of it in float64, 2·10⁻⁶ in float32, 0.6 % in `16-mixed` and 4.7 % in" in WORDS
    bounds = [relative(FOLLOWED[n], zeros) for n in ("64-true", "32-true", "16-mixed", "bf16-true")]
    assert [f"{b:.0e}" for b in bounds[:2]] == ["6e-15", "2e-06"]
    assert [f"{b:.1%}" for b in bounds[2:]] == ["0.6%", "4.7%"]
    assert relative(FOLLOWED["bf16-true"], near) > 1


@pytest.mark.parametrize(("factor", "seen"), [(0.5, True), (1.01, False)])
def test_page_tells_what_shows_in_bfloat16(make_trainer: Any, factor: float, seen: bool) -> None:
    class Scaled(LinearRegression):
        def on_after_backward(self) -> None:
            for parameter in self.parameters():
                parameter.grad *= factor

    check = CrossCheck(on_failure="warn")
    warns = pytest.warns(UserWarning, match="gradient of .* at step 1: .* is halved$")
    with warns if seen else contextlib.nullcontext():
        make_trainer(precision="bf16-mixed", callbacks=[check]).fit(
            Scaled(init="zeros"), DummyData()
        )
    assert check.report()["passed"] is not seen


def test_page_shows_the_table_as_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```\n\$ trueline crosscheck .*?\n(.*?)```", PAGE, re.DOTALL)
    rows: list[dict[str, Any]] = []
    for line in re.findall(r"^cpu .*$", block, re.M):
        setting, steps, *ratios, distance, verdict = re.split(r" {2,}", line)
        kinds = dict(zip(("loss", "gradient", "parameters"), map(float, ratios), strict=True))
        row = {"setting": setting, "steps_checked": int(steps), "worst_ratios": kinds}
        row |= {"passed": verdict == "passed", "reason": None}
        rows.append(row | {"parameters": [1.0 - float(distance)]})
    assert len(rows) == 4
    print_head(rows[0]["setting"])
    for row in rows:
        print_row(row, rows[0])
    print_notes({"rows": rows, "log_dir": "NAMED BY THE RUN"})
    printed = capsys.readouterr().out.split("log directory")[0]
    assert block.split() == printed.split()
    assert block.splitlines()[:6] == printed.splitlines()[:6]


def test_page_names_all_schedules() -> None:
    refused = WORDS.split("a schedule other than ")[1].split(". And at")[0]
    assert refused.split(" and, in Python, ")[0].split(", ") == list(BY_NAME)


def test_page_tells_the_cost_that_was_measured() -> None:
    reports = (Path(__file__).parent.parent / "benchmarks/results").glob("*-crosscheck-cost.md")
    costs = re.findall(r"\| (\d+\.\d) % \|", max(reports).read_text())
    assert len(costs) == 9
    told = WORDS.split("What it costs")[1]
    assert re.findall(r"(\d+\.\d) %", told) == costs
