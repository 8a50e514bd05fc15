"""A resumed training, and what else a checkpoint is used for: what is typed holds or is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

Cli = Callable[..., Any]
TABLE = ("--data=TableData", "--data.path=t.csv")
OPTIONS = ("--data.target=y", "--data.features=a,kind,b", "--data.categorical=kind")


@pytest.fixture(autouse=True)
def trained(cli: Cli, tmp_path: Path) -> None:
    """Train for two epochs on a table with numbers, a category, a weight and a hole."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.normal(9, 2, 40) for name in "aby"})
    frame["kind"] = rng.choice(["red", "blue"], 40)
    frame["w"] = rng.uniform(1, 2, 40)
    frame.loc[3, "a"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    given = (*OPTIONS, "--data.weight=w", "--data.missing=drop", "--data.standardize=false")
    run = cli(
        "fit", *TABLE, *given, "--data.dtype=float32", "--model.lr=1e-4", "--trainer.max_epochs=2"
    )
    assert run.status == 0, run.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("features=kind,a,b", "a, kind, b; found kind, a, b"),
        ("features=a,b", "a, kind, b; found a, b"),
        ("weight=nothing", "w; found nothing"),
        ("categorical=b", "kind; found b"),
        ("standardize=true", "false; found true"),
        ("target=b", "y; found b"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "predict", "test", "validate"])
def test_what_is_typed_is_refused_where_the_checkpoint_has_another(
    cli: Cli, tmp_path: Path, command: str, typed: str, said: str
) -> None:
    resume = ("--ckpt_path=last", "--trainer.max_epochs=4") if command == "fit" else ()
    run = cli(command, *TABLE, *resume, f"--data.{typed}")
    assert run.status == 2
    option = f"--data.{typed.partition('=')[0]}"
    expected = f"{option}: expected that of the checkpoint, {said}; leave it out, or train anew"
    assert run.stderr == f"trueline: error: {expected}\n"
    assert not (tmp_path / "lightning_logs/version_1").exists()


def test_what_is_typed_as_the_checkpoint_has_it_is_taken(cli: Cli) -> None:
    same = (*OPTIONS, "--data.weight=w", "--data.standardize=false", "--data.missing=drop")
    run = cli("fit", *TABLE, *same, "--ckpt_path=last", "--trainer.max_epochs=4")
    assert run.status == 0, run.stderr


def test_what_is_not_typed_is_that_of_the_checkpoint_and_is_written_down(
    cli: Cli, tmp_path: Path
) -> None:
    last = "--ckpt_path=lightning_logs/version_0/checkpoints/last.ckpt"
    run = cli("fit", *TABLE, last, "--trainer.max_epochs=4")
    assert run.status == 0, run.stderr
    for command in ("predict", "test", "validate"):
        run = cli(command, *TABLE, last)
        assert run.status == 0, run.stderr
    for version in range(1, 5):
        text = (tmp_path / f"lightning_logs/version_{version}/config.yaml").read_text()
        asked = yaml.safe_load(text)["data"]["init_args"]
        assert asked["target"] == "y"
        assert asked["features"] == "a,kind,b"
        assert (asked["weight"], asked["categorical"]) == ("w", "kind")
        assert (asked["standardize"], asked["missing"], asked["like"]) == (False, "drop", None)
    # The config of a resumed training says all of it: with it a new one trains alike.
    again = cli("fit", "--config=lightning_logs/version_1/config.yaml", "--seed_everything=0")
    assert again.status == 0, again.stderr
    one, other = again.result("version_1"), again.result("version_5")
    assert one["weight"] == other["weight"]
    assert one["features"] == other["features"]
