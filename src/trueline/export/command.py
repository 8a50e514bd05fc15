"""The command `trueline export`: its options, and what it does in which order."""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import yaml

from trueline.checkpoints.reading import LAST, find_last, run_of
from trueline.cli import plain_yaml
from trueline.cli.option_errors import with_remedy
from trueline.errors import RequestError, explain
from trueline.export import document, graph
from trueline.export.checking import Sample, Way, check, nameless_sample, table_sample
from trueline.export.trained import Trained, restore
from trueline.results.run_folder import RUNS
from trueline.results.whole_files import write_whole
from trueline.terminal.printing import visible

FORMATS = ("json", "onnx")
DESCRIPTION = """\
Write a trained line for use elsewhere: as JSON, coefficients by column in the units of the table,
or as ONNX, from the columns as they are to predictions. On rows of the training's table it must
predict what the model does, to rounding, before it is written."""


def export(arguments: list[str]) -> None:
    """Export a line.

    Args:
        arguments: The options.

    Raises:
        RequestError: When the request or the input is wrong.
        CheckFailed: When what would be written predicts something else than the model.
    """
    options = _parser().parse_args(arguments)
    kind = _format(options.format, options.path)
    path = options.ckpt_path
    if path == LAST:
        path = find_last(Path(options.root) / RUNS)
    run = run_of(path)
    out = Path(options.path or run / f"model.{kind}")
    if out.exists() or out.is_symlink():
        raise RequestError(
            f"--path: expected no file {out} yet, found one; move it, or give another --path"
        )
    trained = restore(path)
    sample = None if options.unchecked else _sample(trained, run, options.table)
    trained = trained._replace(whole=sample and sample.whole)
    if kind == "onnx":
        content = graph.graph(trained)
        ways: dict[Way, Any] = {"scaling": partial(graph.predict, content)}
    else:
        text = document.document(trained)
        content = text.encode()
        ways = {by: partial(document.predict, text, by=by) for by in ("means", "intercept")}
    said = "not checked"
    if sample:
        worst = max(check(trained, sample, predict, by) for by, predict in ways.items())
        said = (
            f"{len(sample.X):,} rows predicted as the model does, within bounds of rounding, at "
            f"most {worst:.2g} of them"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, lambda file: file.write(content))
    except OSError as error:
        raise RequestError(f"--path: {explain(error, '--path')}") from error
    print(f"line written to {visible(str(out))}; {said}")


class _Parser(argparse.ArgumentParser):
    """A parser that raises, where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """Refuse options as the other commands do.

        Raises:
            RequestError: Always.
        """
        known = [option.lstrip("-") for a in self._actions for option in a.option_strings]
        raise RequestError(with_remedy(message, known, "export"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "trueline export",
        "trueline export [OPTIONS]",
        DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--ckpt_path",
        default=LAST,
        metavar="FILE|last",
        help="The checkpoint; the newest run's last.ckpt unless given.",
    )
    parser.add_argument(
        "--trainer.default_root_dir",
        dest="root",
        default=".",
        metavar="FOLDER",
        help="Of fit; the newest run is looked for in its lightning_logs.",
    )
    parser.add_argument(
        "--format",
        metavar="json|onnx",
        help="By the end of --path unless given, json without either.",
    )
    parser.add_argument(
        "--path", help="Of the file; model.json or model.onnx in the run's folder unless given."
    )
    parser.add_argument(
        "--data.path",
        dest="table",
        metavar="TABLE",
        help="Where the table of the training is now; where its config.yaml says unless given.",
    )
    parser.add_argument(
        "--unchecked",
        action="store_true",
        help="Write without holding the line against the model's predictions.",
    )
    return parser


def _format(asked: str | None, path: str | None) -> str:
    """Return which format is asked for.

    Raises:
        RequestError: When that is none, or two.
    """
    ending = Path(path).suffix.lstrip(".") if path else None
    if asked is None and path is None:
        return FORMATS[0]
    found = ending if asked is None else asked
    if found not in FORMATS:
        option = (
            "--path: expected a name that ends in .json or .onnx"
            if asked is None
            else "--format: expected json or onnx"
        )
        raise RequestError(f"{option}; found {path if asked is None else asked}")
    if ending in FORMATS and ending != found:
        raise RequestError(f"--format: expected {ending}, as --path ends; found {found}; drop one")
    return found


def _sample(trained: Trained, run: Path, table: str | None) -> Sample:
    """Find rows to check on.

    Args:
        trained: The line.
        run: The folder of the run, whose config.yaml says what it was trained on.
        table: Where the table is, where that was said.

    Raises:
        RequestError: When there are none.
    """
    if trained.learned is None:
        if table is not None:
            raise RequestError(
                "--data.path: expected it of a training on a table, whose columns have names; this "
                "one was on other data; leave it out"
            )
        return nameless_sample(trained, *_data(run))
    if table is None:
        _, options = _data(run)
        table = str(options.get("path"))
        if not Path(table).exists():
            raise RequestError(
                f"--data.path: expected the table of the training at {table}, as {run}/config.yaml "
                "says, found nothing there; say where it is now, or add --unchecked"
            )
    return table_sample(trained, table)


def _data(run: Path) -> tuple[str, Mapping[str, Any]]:
    """Return the data of a run: the name of its class, and its options.

    Raises:
        RequestError: When there is no config.yaml, or it does not say.
    """
    path = run / "config.yaml"
    try:
        data = plain_yaml.read(path, str(path))["data"]
        name, options = data["class_path"].rpartition(".")[2], data.get("init_args") or {}
        if not isinstance(options, Mapping):
            raise TypeError("init_args")
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"expected {path} to say what was trained on, so that the export can be checked, found "
            "otherwise; give --data.path TABLE, or add --unchecked"
        ) from error
    return name, options
