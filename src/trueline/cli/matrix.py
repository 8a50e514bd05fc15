"""`trueline crosscheck`: one training under every setting that this machine has.

Each setting is a `trueline fit` of its own, in a process of its own, held against the reference. So
what is judged is what a user runs, and no setting leaves anything behind for the next.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trueline.errors import CheckFailed, RequestError
from trueline.results.json_files import write_json
from trueline.terminal.printing import visible

PRECISIONS = {
    "cpu": ("64-true", "32-true", "bf16-mixed", "bf16-true"),
    "cuda": ("64-true", "32-true", "32-true+tf32", "bf16-mixed", "bf16-true", "16-mixed"),
    # Apple's GPU has no float64.
    "mps": ("32-true", "bf16-mixed"),
}
"""What each accelerator can be asked for. `+tf32` lets it round the factors of products."""
ALLOW_TF32 = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
"""How torch is told so from outside a process."""
EPOCHS = 200
"""Unless said otherwise; an error in the loop shows in the first few steps."""
SECONDS = 1800
"""After which a setting that has not ended counts as failed: processes that wait for each other."""


@dataclass(frozen=True)
class Setting:
    """One way to run the training.

    Args:
        accelerator: `cpu`, `cuda` or `mps`.
        precision: As Lightning names it, or `32-true+tf32`.
        devices: Number of them; a process each.
    """

    accelerator: str
    precision: str
    devices: int

    def __str__(self) -> str:
        return f"{self.accelerator} {self.precision} x{self.devices}"

    @property
    def folder(self) -> str:
        """The name of its TensorBoard run."""
        return str(self).replace(" ", "-")

    def options(self) -> list[str]:
        """Return the options of `trueline fit` for it."""
        strategy = ["--trainer.strategy=ddp"] if self.devices > 1 else []
        return [
            f"--trainer.accelerator={'gpu' if self.accelerator == 'cuda' else self.accelerator}",
            f"--trainer.precision={self.precision.removesuffix('+tf32')}",
            f"--trainer.devices={self.devices}",
            *strategy,
        ]

    def environment(self) -> dict[str, str]:
        """Return what its process needs in its environment."""
        return ALLOW_TF32 if self.precision.endswith("+tf32") else {}


def available_settings(
    accelerators: Sequence[str] = (),
    precisions: Sequence[str] = (),
    devices: Sequence[int] = (),
) -> list[Setting]:
    """List the settings that this machine has, or those of them that are asked for.

    Raises:
        RequestError: When one that is asked for is not there.
    """
    there = {"cpu": 2}  # processes: two show whether sharing the rows changes anything
    if torch.cuda.is_available():
        there["cuda"] = torch.cuda.device_count()
    if torch.backends.mps.is_available():
        there["mps"] = 1
    if missing := [a for a in accelerators if a not in there]:
        raise RequestError(
            f"--accelerators: expected some of {', '.join(there)}, which this machine has; found "
            f"{', '.join(missing)}"
        )
    settings = list(_combinations(there, accelerators, precisions, devices))
    known = {p for a in accelerators or there for p in PRECISIONS[a]}
    if unknown := [p for p in precisions if p not in known]:
        raise RequestError(
            f"--precisions: expected some of {', '.join(sorted(known))}; found {', '.join(unknown)}"
        )
    if not settings:
        raise RequestError("expected a setting to check, found none: ask for fewer --devices")
    return settings


def _combinations(
    there: dict[str, int],
    accelerators: Sequence[str],
    precisions: Sequence[str],
    devices: Sequence[int],
) -> Iterator[Setting]:
    for accelerator in accelerators or there:
        most = there[accelerator]
        for count in devices or sorted({1, min(2, most), most}):
            for precision in PRECISIONS[accelerator]:
                fits = count <= most or accelerator == "cpu"
                if fits and (not precisions or precision in precisions):
                    yield Setting(accelerator, precision, count)


def run_matrix(settings: list[Setting], options: list[str], folder: Path) -> dict[str, Any]:
    """Train under each setting, print the table, and leave it as `crosscheck.json`.

    Args:
        settings: What to try.
        options: Of `trueline fit`, for all of them.
        folder: A new one, for a run of each setting and the table.

    Returns:
        The table, as written.

    Raises:
        CheckFailed: When a setting fails; after all have run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) // 2)) as pool:
        rows: list[dict[str, Any]] = []
        print_head(str(settings[0]))
        for row in pool.map(lambda setting: _train(setting, options, folder), settings):
            rows.append(row)
            print_row(row, rows[0])
    table = {"rows": rows, "distances": _distances(rows), "log_dir": os.path.normpath(folder)}
    write_json(folder / "crosscheck.json", table)
    print_notes(table)
    failed = [row["setting"] for row in rows if not row["passed"]]
    if failed:
        raise CheckFailed(f"cross-check failed, or did not run, under {', '.join(failed)}")
    return table


def _train(setting: Setting, options: list[str], folder: Path) -> dict[str, Any]:
    """Run one setting; say what its cross-check came to."""
    logger = "--trainer.logger"
    command = [sys.executable, "-m", "trueline", "fit"]
    command += [f"{logger}=TensorBoardLogger", f"{logger}.save_dir={folder.parent}"]
    command += [f"{logger}.name={folder.name}", f"{logger}.version={setting.folder}"]
    command += ["--crosscheck=warn", "--trainer.enable_progress_bar=false"]
    command += [*options, *setting.options()]
    row: dict[str, Any] = {"setting": str(setting), "passed": False, "reason": None}
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **setting.environment()},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return row | {"reason": f"did not end within {SECONDS} s"}
    path = folder / setting.folder / "result.json"
    if not path.exists():
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return row | {"reason": said[-1].removeprefix("trueline: error: ")}
    result = json.loads(path.read_text("utf-8"))
    check = result["crosscheck"]
    failure = check["first_failure"]
    if isinstance(failure, dict):
        cause = f" ({failure['cause']})" if failure["cause"] else ""
        failure = f"{failure['quantity']} at step {failure['step']}{cause}"
    return row | {
        "passed": check["passed"] and done.returncode == 0,
        "reason": failure or result["error"],
        "steps_checked": check["steps_checked"],
        "worst_ratios": check["worst_ratios"],
        "parameters": [*np.ravel(result["weight"]), *np.ravel(result["bias"])],
        "loss": result["loss"],
        "seconds": result["seconds"],
    }


def _distances(rows: list[dict[str, Any]]) -> list[list[float | None]]:
    """Return how far the final parameters of each two settings are apart."""
    return [[_distance(a, b) for b in rows] for a in rows]


def _distance(a: dict[str, Any], b: dict[str, Any]) -> float | None:
    """Return the Euclidean distance of the parameters, divided by the larger of the two norms.

    Those that the training rows do not determine are left out.
    """
    if not a.get("parameters") or not b.get("parameters"):
        return None
    one, two = (np.array(row["parameters"], dtype=np.float64) for row in (a, b))
    known = np.isfinite(one) & np.isfinite(two)
    one, two = one[known], two[known]
    size = max(float(np.linalg.norm(one)), float(np.linalg.norm(two)))
    return float(np.linalg.norm(one - two)) / size if size else 0.0


def print_head(base: str) -> None:
    """Print the head of the table; rows follow as their trainings end."""
    cells = "".join(f"{head:>{_width(head)}}" for head in _heads(base))
    print(f"\n{'setting':<24}{cells}  verdict", flush=True)


def print_row(row: dict[str, Any], first: dict[str, Any]) -> None:
    """Print the line of one setting."""
    heads = _heads(first["setting"])
    cells = [""] * len(heads)
    if "steps_checked" in row:
        apart = _distance(row, first)
        cells = [f"{row['steps_checked']:,}"]
        # JSON has no infinity: the ratio of what must not move by a bit, and did, is null.
        ratios = row["worst_ratios"].values()
        cells += ["inf" if ratio is None else f"{ratio:.3g}" for ratio in ratios]
        cells.append("-" if apart is None else f"{apart:.1e}")
    line = "".join(f"{cell:>{_width(head)}}" for cell, head in zip(cells, heads, strict=True))
    verdict = "passed" if row["passed"] else "FAILED"
    print(f"{row['setting']:<24}{line}  {verdict}", flush=True)


def print_notes(table: dict[str, Any]) -> None:
    """Print what failed, and what the columns are."""
    rows = table["rows"]
    for row in rows:
        if row["reason"]:
            print(f"\n{row['setting']}: {visible(row['reason'])}")
    print(
        "\nloss, gradient, parameters: largest deviation of any step from NumPy, as a fraction of "
        "its rounding bound"
        f"\nfrom {rows[0]['setting']}: relative distance of the trained parameters"
        f"\nlog directory   {visible(table['log_dir'])}"
    )


def _heads(base: str) -> tuple[str, ...]:
    return "steps", "loss", "gradient", "parameters", f"from {base}"


def _width(head: str) -> int:
    return max(11, len(head) + 2)
