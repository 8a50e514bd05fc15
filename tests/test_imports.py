"""The import arrows of the package, read from its source, and what a short command loads.

The judge, `trueline.reference`, is worth something only while it shares no code with the judged.
"""

import ast
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import trueline

SOURCE = Path(trueline.__file__).parent.parent

JUDGE = "trueline.reference"
JUDGED = ("trueline.module", "trueline.steps", "trueline.data.blocks", "trueline.loop.loop")
ALONE = {
    JUDGE: {"numpy"},
    # What it takes of the data is NumPy alone: an order of rows, and what is wrong with arrays.
    "trueline.loop": {
        *("numpy", "numba", "trueline.errors"),
        *("trueline.data.order", "trueline.data.problems"),
    },
}
"""Packages that import these, themselves and Python's library alone."""
IMPORTERS = {
    "trueline.cli.entry": {"trueline.__main__"},
    "trueline.cli.commands": {"trueline.cli.entry"},
    "trueline.cli.lightning_cli": {"trueline.cli.commands", "trueline.sweep.trial"},
    "trueline.cli.options": {"trueline.cli.lightning_cli"},
}
"""What nothing imports but these."""
HEAVY = {"torch", "lightning"}


def read_modules(source: Path) -> dict[str, ast.Module]:
    """Parse every file under `source`; a package goes by its own name, without `__init__`."""
    modules = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = ast.parse(path.read_text("utf-8"), str(path))
        modules[name].is_package = parts[-1] == "__init__"  # type: ignore[attr-defined]
    return modules


def imported_names(tree: ast.Module, name: str, modules: Iterable[str]) -> Iterable[str]:
    """Name what a file imports, anywhere in it: at its top, in functions, for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = name.split(".")[: None if tree.is_package else -1]  # type: ignore[attr-defined]
                up = up[: len(up) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in modules else base
        elif isinstance(node, ast.Call):
            function = node.func
            called = getattr(function, "attr", None) or getattr(function, "id", None)
            if called in ("import_module", "__import__"):
                argument = node.args[0] if node.args else None
                known = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                yield argument.value if known else "a name worked out at run time"


def read_arrows(source: Path) -> dict[str, set[str]]:
    """Return what each module imports, by its full name."""
    modules = read_modules(source)
    return {name: set(imported_names(tree, name, modules)) for name, tree in modules.items()}


def reached(arrows: dict[str, set[str]], start: str) -> set[str]:
    """Return what a module imports, directly or through others of the package."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = arrows.get(waiting.pop(), set()) - found
        found |= new
        waiting.extend(new)
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def broken_arrows(source: Path) -> list[str]:
    """List each import that the design forbids."""
    arrows = read_arrows(source)
    broken = []
    for name, imports in arrows.items():
        for other in sorted(imports):
            for package, allowed in ALONE.items():
                if within(name, package) and not any(
                    within(other, known) for known in (package, *allowed, *sys.stdlib_module_names)
                ):
                    broken.append(f"{name} imports {other}")
            for guarded, importers in IMPORTERS.items():
                if within(other, guarded) and name not in importers:
                    broken.append(f"{name} imports {other}")
    for name in JUDGED:
        broken += [f"{name} reaches {o}" for o in sorted(reached(arrows, name)) if within(o, JUDGE)]
    broken += [
        f"trueline reaches {other}"
        for other in sorted(reached(arrows, "trueline"))
        if other.partition(".")[0] in HEAVY
    ]
    return broken


def test_imports_of_the_package_follow_the_arrows() -> None:
    arrows = read_arrows(SOURCE)
    # The files that the rules are about are there, and their imports were read.
    assert "trueline.reference.sgd" in arrows["trueline.reference.rounding"]
    assert "torch" in arrows["trueline.module"]
    assert "lightning.pytorch" in arrows["trueline.steps"]
    assert "torch" in arrows["trueline.data.blocks"]
    assert "trueline.cli.entry" in arrows["trueline.__main__"]
    assert "trueline.cli.commands" in arrows["trueline.cli.entry"]
    assert "trueline.cli.lightning_cli" in arrows["trueline.cli.commands"]
    assert "trueline.cli.options" in arrows["trueline.cli.lightning_cli"]
    assert broken_arrows(SOURCE) == []


SOUND = {
    "__init__.py": "import json\n",
    "__main__.py": "from trueline.cli.entry import main\n",
    "cli/__init__.py": "",
    "cli/entry.py": "def main():\n    from trueline.cli import commands\n",
    "cli/commands.py": "from trueline.cli.lightning_cli import TruelineCLI\n",
    "cli/lightning_cli.py": "import lightning.pytorch\nfrom .. import crosscheck, module\n",
    "crosscheck.py": "import torch\nfrom trueline.reference import linear\n",
    "module.py": "import torch\nfrom trueline.errors import Wrong\n",
    "errors.py": "import re\n",
    "data/__init__.py": "from trueline.data.blocks import Order\n",
    "data/blocks.py": "import numpy as np\nimport torch\n",
    "reference/__init__.py": "import numpy as np\nfrom .linear import predict\n",
    "reference/linear.py": "import math\nimport numpy.typing\nfrom trueline.reference import sgd\n",
    "reference/sgd.py": "",
    "loop/__init__.py": "",
    "loop/loop.py": "import numpy as np\nfrom trueline import errors\nfrom . import kernels\n",
    "loop/kernels.py": "import math\nfrom numba import njit\n",
}


def plant(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "trueline" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def test_arrow_checker_accepts_a_sound_tree(tmp_path: Path) -> None:
    assert broken_arrows(plant(tmp_path, SOUND)) == []


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("reference/sgd.py", "import torch\n", f"{JUDGE}.sgd imports torch"),
        ("reference/sgd.py", "from scipy import linalg\n", f"{JUDGE}.sgd imports scipy"),
        (
            "reference/sgd.py",
            "from trueline import errors\n",
            f"{JUDGE}.sgd imports trueline.errors",
        ),
        ("reference/sgd.py", "from ..errors import E\n", f"{JUDGE}.sgd imports trueline.errors"),
        ("reference/sgd.py", "from .. import errors\n", f"{JUDGE}.sgd imports trueline.errors"),
        ("reference/__init__.py", "from ..module import M\n", f"{JUDGE} imports trueline.module"),
        (
            "reference/sgd.py",
            "def f():\n    import torch.optim\n",
            f"{JUDGE}.sgd imports torch.optim",
        ),
        ("reference/sgd.py", "__import__('torch')\n", f"{JUDGE}.sgd imports torch"),
        (
            "reference/sgd.py",
            "import importlib\nimportlib.import_module('tor' + 'ch')\n",
            f"{JUDGE}.sgd imports a name worked out at run time",
        ),
        ("module.py", "from trueline.reference import SGD\n", f"trueline.module reaches {JUDGE}"),
        ("module.py", "import trueline.reference.sgd\n", f"trueline.module reaches {JUDGE}.sgd"),
        (
            "module.py",
            "if 0:\n    from .reference import sgd\n",
            f"trueline.module reaches {JUDGE}.sgd",
        ),
        (
            "errors.py",
            "from trueline.reference import sgd\n",
            f"trueline.module reaches {JUDGE}.sgd",
        ),
        ("data/blocks.py", "from .. import reference\n", f"trueline.data.blocks reaches {JUDGE}"),
        (
            "module.py",
            "from trueline.cli.entry import main\n",
            "trueline.module imports trueline.cli.entry",
        ),
        ("errors.py", "import trueline.cli.entry\n", "trueline.errors imports trueline.cli.entry"),
        (
            "errors.py",
            "from trueline.cli import lightning_cli\n",
            "trueline.errors imports trueline.cli.lightning_cli",
        ),
        ("loop/kernels.py", "import torch\n", "trueline.loop.kernels imports torch"),
        (
            "loop/kernels.py",
            "from trueline.reference import sgd\n",
            f"trueline.loop.loop reaches {JUDGE}.sgd",
        ),
        (
            "loop/loop.py",
            "from trueline import module\n",
            "trueline.loop.loop imports trueline.module",
        ),
        ("__init__.py", "import torch\n", "trueline reaches torch"),
        ("__init__.py", "from trueline.module import M\n", "trueline reaches torch"),
        ("__init__.py", "import lightning.pytorch as pl\n", "trueline reaches lightning.pytorch"),
    ],
)
def test_arrow_checker_finds_a_planted_import(
    tmp_path: Path, file: str, text: str, expected: str
) -> None:
    assert expected in broken_arrows(plant(tmp_path, SOUND | {file: text}))


@pytest.fixture
def imports_of(
    python: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, set[str]]]:
    """Return a runner of `python -X importtime -m MODULE ...`: what it printed and loaded."""

    def run(module: str, *arguments: str) -> tuple[str, set[str]]:
        monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # what -X importtime sets
        done = python("-m", module, *arguments)
        assert done.status == 0, done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
        return done.stdout, {line.rpartition("|")[2].strip() for line in lines}

    return run


def test_reference_runs_without_torch_and_prints_the_line(
    imports_of: Callable[..., tuple[str, set[str]]],
) -> None:
    printed, imported = imports_of("trueline.reference")
    assert {"numpy", "trueline.reference.sgd"} <= imported
    assert not HEAVY & {name.partition(".")[0] for name in imported}
    rows = [line.split() for line in printed.splitlines()]
    for name in ("50,000", "form"):  # the end of the training, and the closed form
        (row,) = [row for row in rows if name in row]
        assert row[-3:] == ["3.464666", "1.818788", "36.647026"]


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_short_answers_load_neither_torch_nor_lightning(
    imports_of: Callable[..., tuple[str, set[str]]], option: str
) -> None:
    printed, imported = imports_of("trueline", option)
    assert "trueline" in printed
    assert "trueline.cli.entry" in imported
    assert not HEAVY & {name.partition(".")[0] for name in imported}


def test_modules_that_the_arrows_speak_of_exist() -> None:
    # A name misspelt above, or a file moved, would be watched by nobody.
    modules = read_modules(SOURCE)
    assert {JUDGE, *JUDGED, *IMPORTERS} <= modules.keys()
