"""Fit, predict, test and export agree with NumPy row by row, whatever options meet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from option_matrix import check, draw


@pytest.mark.parametrize("seed", range(20))
def test_options_that_meet_agree_with_numpy(
    seed: int, cli: Callable[..., Any], tmp_path: Path
) -> None:
    check(draw(seed), cli, tmp_path)
