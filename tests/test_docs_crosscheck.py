"""The numbers that docs/crosscheck.md gives."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trueline.module import LinearRegression
from trueline.reference.rounding import UNIT_ROUNDOFF, gamma

PAGE = (Path(__file__).parent.parent / "docs/crosscheck.md").read_text()


def test_page_shows_the_message_of_a_real_failure(cli: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(LinearRegression, "optimizer_zero_grad", lambda *_: None)
    # Validation would zero the gradients in passing.
    options = ["--model.init=zeros", "--trainer.max_epochs=3", "--trainer.limit_val_batches=0"]
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
    assert gamma(10**9, UNIT_ROUNDOFF["float64"]) < 3e-7
    assert gamma(100_000, UNIT_ROUNDOFF["float32"]) == pytest.approx(0.006, rel=0.01)
    assert gamma(16_700_000, UNIT_ROUNDOFF["float32"]) < np.inf
    assert gamma(16_800_000, UNIT_ROUNDOFF["float32"]) == np.inf
