"""Numbers whose squares float64 does not hold are refused in one sentence that names them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trueline.data import RegressionData

x = np.linspace(-1, 1, 8)
z = np.cos(9 * x)
y = 2 * x + z + 1
ends = np.resize([1.7e308, -1.7e308], 8)
NUMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "features to the end of float64": ("x", {"x": ends, "z": z, "y": y}),
    "one of them": ("z", {"x": x, "z": [1.7e308, *z[1:]], "y": y}),
    "targets to the end": ("y", {"x": x, "z": z, "y": ends}),
    "targets of 1e200": ("y", {"x": x, "z": z, "y": 1e200 * y}),
    "a constant": ("c", {"x": x, "c": np.full(8, 1e300), "y": y}),
    "smallest weights": ("w", {"x": x, "y": y, "w": np.full(8, 5e-324)}),
    "largest weights": ("w", {"x": x, "y": y, "w": np.full(8, 1e308)}),
    "mixed weights": ("w", {"x": x, "y": y, "w": np.resize([1e-308, 1e308], 8)}),
    "large weights of large numbers": ("x", {"x": 1e150 * x, "y": y, "w": np.full(8, 1e100)}),
}


@pytest.mark.parametrize("standardize", ["true", "false"])
@pytest.mark.parametrize(("name", "columns"), NUMBERS.values(), ids=NUMBERS.keys())
def test_table_names_the_column_that_is_out_of_range(
    cli: Callable[..., Any],
    tmp_path: Path,
    name: str,
    columns: dict[str, Any],
    standardize: str,
) -> None:
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(repr(float(v)) for v in row) for row in rows)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    weight = ["--data.weight=w"] * ("w" in columns)
    data = ["--data=TableData", "--data.path=t.csv", "--data.target=y", *weight]
    for command in ("fit", "plan"):
        with warnings.catch_warnings(record=True) as beside:
            warnings.simplefilter("always")
            run = cli(command, *data, f"--data.standardize={standardize}")
        assert (run.status, run.stdout) == (2, "")
        assert run.stderr.startswith(f"trueline: error: t.csv, column '{name}': expected ")
        assert run.stderr.count("\n") == 1
        assert "nan" not in run.stderr
        assert not [w for w in beside if issubclass(w.category, RuntimeWarning)]


@pytest.mark.parametrize(("name", "columns"), NUMBERS.values(), ids=NUMBERS.keys())
def test_arrays_out_of_range_are_refused(name: str, columns: dict[str, Any]) -> None:
    columns = dict(columns)
    y, w = columns.pop("y"), columns.pop("w", None)
    word = {"y": "y", "w": "sample_weight"}.get(name, "X")
    with pytest.raises(ValueError, match=f"^{word}: expected .* scale them$"):
        RegressionData(np.column_stack([*columns.values()]), y, sample_weight=w)
