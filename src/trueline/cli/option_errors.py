"""Refuses wrong options, in one line that names the remedy."""

import contextlib
import difflib
import inspect
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from trueline.cli import plain_yaml
from trueline.data import DummyData, SyntheticData, TableData
from trueline.errors import RequestError

COUNTS = {
    "max_epochs": "1 or more, or -1 for no limit",
    "max_steps": "1 or more, or -1 for no limit",
    "log_every_n_steps": "1 or more",
    "check_val_every_n_epoch": "1 or more",
    "accumulate_grad_batches": "1 or more",
}
"""Options of the Trainer that count something; it takes 0 for some, and stumbles later."""

_NOISE = re.compile(
    r"Does not (validate|implement protocol)|Subtypes:|Errors:|Given value type:|"
    r"Given value: (\[|NestedArg|Namespace)|Problem with given class_path|"
    r"Expected a <class 'NoneType'>|Expected a path|Not a valid subclass|Subclass types expect|"
    r"a (class path \(str\)|dict with(out)? )"
)
_PLACE = re.compile(r"Parser key|Given value")
_TYPE = re.compile(r"Expected a (?!.*Got value)")
"""One of several types that would do; it says nothing where a class of one of them was given."""
_PACKAGE = re.compile(r"(?:class_path '(?:\w+\.)*(\w+)':\s+)?[^\n]*HINT: Try running `(pip [^`]+)`")


def one_line(message: str) -> str:
    r"""Put an option parser's report of many lines into one, without what only its authors need.

    Example:
        >>> one_line('Parser key "model.lr":\n Expected a <class \'float\'>. Got value: abc')
        '--model.lr: expected float; found abc'
    """
    if missing := _PACKAGE.search(message):
        asked, command = missing[1] or "the option", missing[2]
        package = command.split()[-1].strip("'")
        return f"{asked}: expected the package {package}, found none that will do; run {command}"
    lines = [line.strip().removeprefix("- ").rstrip(".") for line in message.strip().splitlines()]
    lines = list(dict.fromkeys(line for line in lines if line and not _NOISE.match(line)))
    reasons = [line for line in lines if not _PLACE.match(line) and not _TYPE.match(line)]
    if reasons:
        end = lines.index(reasons[0])
        given = [line for line in lines[end:] if line.startswith("Given value")]
        lines = [line for line in lines[:end] if _PLACE.match(line)] + reasons[:1] + given
    elif any("dot import path" in line for line in lines):
        lines = [line for line in lines if not re.search(r"\b(Iterable|list)\b", line)]
    text = "; ".join(lines)
    for pattern, plain in (
        (r'Parser key "([^"]+)":; Parser key "([^"]+)":', r'Parser key "\1.\2":'),
        (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),  # a class by its name
        (r"typing\.Literal\[(.*?)\]", r"\1"),  # choices by themselves
        (r"dot import path string: [^;]*", "class (by name or import path)"),
        (r"(^|[:;] )Expected an? ", r"\1expected "),
        (r"; expected ", " or "),
        (r"[.;] (?:Got value|Given value): ", "; found "),
        (r'Parser key "([^"]+)":(?:; | or )? ?(?:expected )?(.*)', r"--\1: expected \2"),
        (r": expected (Option|File|No module|Import path)", r": \1"),
        (r"^--crosscheck: expected bool", "--crosscheck: expected raise, warn or off"),
        (
            r"^When passing string value for the `(\w+)` .* one of \[(.*)\]$",
            r"--trainer.\1: expected \2, or a class by its import path",
        ),
        (
            r"^`Trainer\(barebones=True, (\w+)=.*\)` was passed\. (.*)$",
            r"--trainer.\1: expected none with --trainer.barebones true (\2); leave one out",
        ),
        (
            r"^--(\S+): expected the following arguments are required: (.*)$",
            r"--\1.\2: expected a value; found none",
        ),
    ):
        text = re.sub(pattern, plain, text)
    return text


def with_remedy(message: str, known: Collection[str], command: str) -> str:
    """Add what to do about an option error: the option that was meant, or where to look.

    Args:
        message: On one line.
        known: Names of the options that there are, without dashes; those of data are added.
        command: Whose options they are.

    Example:
        >>> with_remedy("unrecognized arguments: --model.lrr 1", ["model.lr"], "fit")
        'unrecognized arguments: --model.lrr 1; did you mean --model.lr?'
    """
    classes = DummyData, SyntheticData, TableData
    data = {f"data.{name}" for kind in classes for name in inspect.signature(kind).parameters}
    typed = re.search(r"arguments: --([\w.]+)|option '([\w.]+)'|Option '(\w+)'", message)
    of_data = message.startswith("--data")
    if typed and (of_data or not typed[3]):
        if taking := [c.__name__ for c in classes if typed[3] in inspect.signature(c).parameters]:
            return f"{message}; give --data {' or '.join(taking)}, which has it"
        name = typed[1] or typed[2] or f"data.{typed[3]}"
        if close := difflib.get_close_matches(name, [*known, *data], n=1):
            return f"{message}; did you mean --{close[0]}?"
    if message.startswith("--data:"):
        return f"{message}; give the name of a data class, such as DummyData, or its import path"
    return f"{message}; see trueline {command} --help"


def check_counts(options: Any) -> None:
    """Refuse what Lightning takes and stumbles over later: counts below 1, a seed out of range.

    Args:
        options: As parsed, with `trainer` and `seed_everything`.

    Raises:
        RequestError: Naming every such option.
    """
    if options.trainer is None:
        raise RequestError("trainer: expected options, found null; leave it out of the config")
    wrong = [
        f"--trainer.{name}: expected {what}; found {options.trainer[name]}"
        for name, what in COUNTS.items()
        if (found := options.trainer[name]) is not None
        and found < 1
        and not (found == -1 and "-1" in what)
    ]
    if (options.trainer.gradient_clip_val or 0) < 0:
        wrong.append(
            "--trainer.gradient_clip_val: expected 0 or more; found "
            f"{options.trainer.gradient_clip_val}"
        )
    for name in ("limit_train_batches", "val_check_interval"):
        if options.trainer[name] == 0:
            wrong.append(f"--trainer.{name}: expected more than 0; found 0")
    if not 0 <= int(options.seed_everything) < 2**32:
        wrong.append(
            f"--seed_everything: expected 0 to {2**32 - 1}; found {options.seed_everything}"
        )
    if wrong:
        raise RequestError("; ".join(wrong))


def read_configs(arguments: list[str]) -> list[dict[str, Any]]:
    """Read config files; of those that hold no options the parser does not say which one it was.

    Args:
        arguments: As typed.

    Returns:
        What each of them holds.

    Raises:
        RequestError: When a config is missing, is not YAML, or is not a mapping of options; and
            when it or the value of an option is too large to follow.
    """
    configs = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, _, path = argument.partition("=")
        if not path or not option.startswith("-"):
            option, path = before, argument
        plain_yaml.check(path, option)
        if option not in ("-c", "--config"):
            if path.endswith((".yaml", ".yml", ".json")) and Path(path).is_file():
                with contextlib.suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
                    plain_yaml.read(Path(path), f"{option} {path}")
            continue
        try:
            found = plain_yaml.read(Path(path), f"--config {path}")
        except FileNotFoundError:
            raise RequestError(f"--config: expected a file, but {path} does not exist") from None
        except IsADirectoryError:
            raise RequestError(f"--config: {path} is a directory, not a file") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise RequestError(f"--config {path}: expected YAML, found: {reason}") from error
        if not isinstance(found, dict):
            raise RequestError(
                f"--config {path}: expected options such as `model: {{lr: 0.001}}`, found {found!r}"
            )
        configs.append(found)
    return configs
