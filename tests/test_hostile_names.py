"""Names and levels from files may hold anything; what a terminal and TensorBoard show of them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import markdown
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import Run
from trueline.reference.triangle import triangle
from trueline.statistics.summary import summarise
from trueline.statistics.summary_text import escaped
from trueline.terminal.printing import cut, visible, width_of

Cli = Callable[..., Run]
HOSTILE = {
    "colour": "a\x1b[31mred",
    "bidi": "a\u202ecba",
    "zero width": "a\u200bb",
    "newline": "a\nb",
    "bell": "a\x07\x9b0m",
    "filler": "a\u3164b",
}


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def write(path: Path, name: str, level: str, target: str) -> None:
    rows = [f'"{level if i % 3 else "base"}",{i},{3 * i + i % 2}' for i in range(12)]
    path.write_text("\n".join([f'"{name}",x,"{target}"', *rows]) + "\n", newline="")


@pytest.mark.parametrize("kind", HOSTILE)
def test_terminal_gets_no_character_that_is_not_seen(kind: str, cli: Cli, tmp_path: Path) -> None:
    text = HOSTILE[kind]
    write(tmp_path / "t.csv", text, text, f"y{text}")
    table = [
        "--data=TableData", "--data.path=t.csv", f"--data.target=y{text}",
        f"--data.categorical={text}",
    ]  # fmt: skip
    requests = (
        ["plan", *table],
        ["fit", *table, "--trainer.max_epochs=3", "--data.missing=drop"],
        ["fit", *table[:-1]],
        ["fit", *table, f"--data.features={text},no{text}"],
        ["fit", *table, f"--data.path=no{text}.csv"],
        ["predict", "--data=TableData", "--data.path=t.csv", f"--predictions.path={text}.csv"],
        ["predict", "--data=TableData", "--data.path=t.csv", f"--predictions.keys=no{text}"],
        ["export", f"--path={text}.json"],
    )
    for request in requests:
        run = cli(*request)
        assert is_clean(run.stdout), (request, run.stdout)
        assert is_clean(run.stderr), (request, run.stderr)
        assert run.stderr.count("\n") <= 1, run.stderr
    result = (tmp_path / "lightning_logs/version_0/result.json").read_text()
    assert result.isascii()


def test_columns_stay_in_line_whatever_they_are_named() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 4))
    names = ["温度の平均", "x", "long " * 20, "\x1b[1m"]
    (found,) = summarise(triangle(X, X @ [1.0, 2, 3, 4] + rng.normal(size=20)), names, ["y\t"])
    lines = found.table()[:6]
    assert {width_of(line) for line in lines} == {width_of(lines[0])}
    assert "\\x1b[1m" in lines[5]
    assert width_of(cut("温度" * 40, 21)) <= 21
    for line in found.table():
        assert line.isprintable()


MARKUP = [
    "<script>alert(1)</script>", "a|b", "`code`", "[link](http://example.org)", "**bold**",
    "![picture](http://example.org/p.png)", "a_b_c", "&lt;", "\\", "# head", "~~no~~", "<b",
]  # fmt: skip


@pytest.mark.parametrize("text", MARKUP)
def test_markdown_shows_markup_as_text(text: str) -> None:
    x = np.arange(6.0)
    (found,) = summarise(triangle(x[:, None], x**2), [text], [text], categories={text: [text]})
    # As TensorBoard renders texts, but for the cleaning that it does after that.
    extensions = ["markdown.extensions.tables", "markdown.extensions.fenced_code"]
    page = markdown.markdown(found.markdown(), extensions=extensions)
    tags = {tag.strip("/").split()[0] for tag in re.findall(r"<([^>]*)>", page)}
    assert tags <= {"table", "thead", "tbody", "tr", "th", "td", "ul", "li"}, page
    shown = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", page)
    as_html = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert shown[0] == as_html
    assert shown[14] == as_html
    assert len(shown) == 21


def test_curves_and_texts_go_by_visible_names_of_columns(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", "kind", "le\x1bvel", "y")
    run = cli(
        "fit", "--data=TableData", "--data.path=t.csv", "--data.target=y,x",
        "--data.categorical=kind", "--trainer.max_epochs=3",
    )  # fmt: skip
    assert run.status == 0, run.stderr
    events = EventAccumulator(str(tmp_path / "lightning_logs/version_0"))
    events.Reload()
    tags: dict[str, Any] = events.Tags()
    of_weight = {f"weight/kind[le\\x1bvel] → {target}" for target in "yx"}
    named = of_weight | {"bias/y", "bias/x"}
    for group in ("parameters", "gradients", "closed_form"):
        found = {tag.partition("/")[2] for tag in tags["scalars"] if tag.startswith(group)}
        assert found - {"norm", "loss"} == named
    assert all(tag.isprintable() for tag in [*tags["scalars"], *tags["tensors"]])


@pytest.mark.parametrize("text", ["ordinary", "Größe", "温度", "a b", "😀"])
def test_what_is_seen_stays_as_it_is(text: str) -> None:
    assert visible(text) == text
    assert escaped(text) == text


def test_no_minus_zero_is_printed(cli: Cli, tmp_path: Path) -> None:
    rows = [f"{a},{b},{-0.0 if a else 0.0}" for a in (-1, 1) for b in (-2, 2)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,y", *rows, "0,0,0"]) + "\n")
    run = cli(
        "fit", "--data=TableData", "--data.path=t.csv", "--data.target=y", "--crosscheck=off",
        "--model.init=zeros",
        "--trainer.max_epochs=3",
    )  # fmt: skip
    assert run.status == 0, run.stderr
    assert cli("export").status == 0
    texts = [run.stdout, (tmp_path / "lightning_logs/version_0/result.json").read_text()]
    texts.append((tmp_path / "lightning_logs/version_0/model.json").read_text())
    for text in texts:
        assert not re.search(r"-0(\.0*)?(?![\d.e-])", text), text
