"""`trueline export` of what it cannot export: one line that says why, and nothing is written."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from exported_lines import RUN, Cli, fit, fit_houses


@pytest.fixture
def houses(cli: Cli, tmp_path: Path) -> Path:
    """Train on a number and a category."""
    fit_houses(cli, tmp_path)
    return tmp_path


REQUESTS: dict[str, tuple[list[str], str]] = {
    "no such checkpoint": (["--ckpt_path=none.ckpt"], "ckpt_path: expected a checkpoint file"),
    "no checkpoint": (["--ckpt_path=t.csv"], "ckpt_path: expected a checkpoint"),
    "unknown ending": (["--path=m.xml"], "ends in .json or .onnx; found m.xml"),
    "unknown format": (["--format=xml"], "expected json or onnx; found xml"),
    "two formats": (["--format=json", "--path=m.onnx"], "expected onnx, as --path ends"),
    "existing file": (["--path=there.json"], "expected no file there.json yet"),
    "existing folder": (["--path=lightning_logs", "--format=json"], "expected no file"),
    "unwritable": (["--path=t.csv/m.json"], "--path: expected a folder t.csv, found a file"),
    "unknown option": (["--pth=m.json"], "did you mean --path?"),
    "abbreviation": (["--form=json"], "did you mean --format?"),
    "no value": (["--path"], "--path"),
    "no table": (["--data.path=gone.csv"], "gone.csv: expected a table"),
    "another table": (["--data.path=other.csv"], "expected a column 'heating'"),
    "another level": (["--data.path=solar.csv"], "expected one of the levels"),
}


@pytest.mark.parametrize("request_", REQUESTS)
def test_bad_requests_end_in_one_line(cli: Cli, houses: Path, request_: str) -> None:
    options, words = REQUESTS[request_]
    (houses / "there.json").write_text("kept")
    (houses / "other.csv").write_text("area\n1\n")
    (houses / "solar.csv").write_text("area,heating\n1,solar\n")
    before = sorted(houses.rglob("*"))
    run = cli("export", *options)
    assert run.status == 2
    assert words in run.stderr
    assert run.stderr.count("\n") == 1
    assert sorted(houses.rglob("*")) == before
    assert (houses / "there.json").read_text() == "kept"


def test_help_has_all_options(cli: Cli) -> None:
    run = cli("export", "--help")
    assert run.status == 0
    options = {"--ckpt_path", "--format", "--path", "--data.path", "--unchecked"}
    assert options <= set(run.stdout.split())
    assert "trueline export [OPTIONS]" in run.stdout


def test_no_run_no_table_and_no_config_are_said(cli: Cli, tmp_path: Path) -> None:
    run = cli("export")
    assert (run.status, "train first with trueline fit" in run.stderr) == (2, True)
    fit(cli, tmp_path, "t.csv", ["--data.features=area"])
    (tmp_path / "t.csv").rename(tmp_path / "moved.csv")
    run = cli("export")
    assert (run.status, "expected the table of the training at t.csv" in run.stderr) == (2, True)
    for text in ("", "data: [1", "data: 3", "data: {class_path: 3}"):
        (tmp_path / RUN / "config.yaml").write_text(text)
        run = cli("export")
        assert run.status == 2, text
        assert "to say what was trained on" in run.stderr
    assert cli("export", "--data.path=moved.csv").status == 0
    run = cli("export", "--unchecked", "--path=m.json")
    assert (run.status, "not checked" in run.stdout) == (0, True)


def test_data_of_other_classes_and_sizes_is_not_checked_on(cli: Cli, tmp_path: Path) -> None:
    options = ["--data=SyntheticData", "--data.n_features=2", "--data.n_samples=50"]
    assert cli("fit", *options, "--trainer.max_epochs=2").status == 0
    path = tmp_path / RUN / "config.yaml"
    good = path.read_text()
    for old, new in (
        ("SyntheticData", "OtherData"),
        ("n_features: 2", "n_features: 9000000000"),
        ("n_targets: 1", "n_targets: 2"),
        ("n_samples: 50", "n_samples: many"),
        ("noise: 0.1", "noise: loud"),
        ("SyntheticData", "DummyData"),
    ):
        assert old in good
        path.write_text(good.replace(old, new))
        run = cli("export")
        assert (run.status, run.stderr.count("\n")) == (2, 1), run.stderr
        assert "--unchecked" in run.stderr
    path.write_text(good)
    run = cli("export", "--data.path=t.csv")
    assert (run.status, "--data.path: expected it of a training on a table" in run.stderr) == (
        2,
        True,
    )
    assert cli("export").status == 0


def test_column_named_as_the_output_is_refused_for_onnx_alone(cli: Cli, tmp_path: Path) -> None:
    lines = ["prediction,_0,y", *(f"{i},{i * i},{i + 1}" for i in range(9))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    given = ["fit", "--data=TableData", "--data.path=t.csv", "--data.target=y"]
    assert cli(*given, "--trainer.max_epochs=9").status == 0
    run = cli("export", "--path=m.onnx")
    assert run.status == 2
    assert "other than 'prediction'" in run.stderr
    assert cli("export").status == 0
    assert cli(*given, "--data.features=_0").status == 0
    assert cli("export", "--path=m.onnx").status == 0


@pytest.mark.usefixtures("houses")
def test_missing_package_is_named_with_its_remedy(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    run = cli("export", "--format=onnx")
    assert run.status == 2
    assert "pip install onnx" in run.stderr
    assert cli("export").status == 0


HOSTILE: list[tuple[str, Any]] = [
    ("state_dict.weight", torch.ones(3, dtype=torch.float64, device="meta")),
    ("state_dict.weight", torch.ones(1, dtype=torch.float64).expand(3)),
    ("state_dict.weight", torch.full((3,), torch.nan, dtype=torch.float64)),
    ("state_dict.weight", torch.ones(4, dtype=torch.float64)),
    ("state_dict.weight", "x"),
    ("state_dict.bias", torch.ones(2, dtype=torch.float64)),
    ("state_dict", [1]),
    ("hyper_parameters", {"_class_path": "os.system"}),
    ("trueline_format", 2),
    ("TableData", 3),
    ("TableData.columns", {"targets": ["price"]}),
    ("TableData.scaling", [torch.zeros(3), -torch.ones(3)]),
    ("TableData.scaling", [torch.zeros(3), torch.full((3,), 1e-320, dtype=torch.float64)]),
    ("TableData.rows", []),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_checkpoints_are_refused(cli: Cli, houses: Path, number: int) -> None:
    place, value = HOSTILE[number]
    checkpoint = torch.load(houses / RUN / "checkpoints/last.ckpt", weights_only=True)
    at, (*way, last) = checkpoint, place.split(".")
    for part in way:
        at = at[part]
    at[last] = value
    torch.save(checkpoint, houses / "hostile.ckpt")
    for kind in ("json", "onnx"):
        run = cli("export", "--ckpt_path=hostile.ckpt", f"--path=m.{kind}", "--unchecked")
        assert run.status == 2, run.stderr
        assert "expected" in run.stderr
        assert run.stderr.count("\n") == 1
        assert not list(houses.glob("m.*"))


def test_newest_run_is_found_where_fit_was_told_to_leave_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n1,2\n2,5\n3,6\n")
    root = "--trainer.default_root_dir=elsewhere"
    assert cli("fit", "--data=TableData", "--data.path=t.csv", "--data.target=y", root).status == 0
    lost = cli("export")
    assert lost.status == 2
    assert "give the --trainer.default_root_dir that it had" in lost.stderr
    assert cli("export", root).status == 0
    assert (tmp_path / "elsewhere/lightning_logs/version_0/model.json").exists()
