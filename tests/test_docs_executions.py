"""`docs/executions.md`: the example worked by hand, in fractions, beside the code that does it."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from page_blocks import blocks, run

PATH = Path(__file__).parent.parent / "docs/executions.md"
PAGE = PATH.read_text("utf-8")
WORDS = " ".join(PAGE.split())
POINTS = [tuple(map(Fraction, point)) for point in re.findall(r"\((\d), (\d)\)", PAGE)[:3]]
LR = Fraction(re.findall(r"full batch, lr ([\d.]+)\.", PAGE)[0])
NUMBER = r"(−?\d+(?:/\d+)?)"

State = tuple[Fraction, Fraction]


def step(w: Fraction, b: Fraction) -> State:
    """Take a step of gradient descent over the points, from their residuals alone."""
    residuals = [w * x + b - y for x, y in POINTS]
    by_w = 2 * sum(r * x for r, (x, _) in zip(residuals, POINTS, strict=True)) / len(POINTS)
    by_b = 2 * sum(residuals, Fraction(0)) / len(POINTS)
    return w - LR * by_w, b - LR * by_b


def fraction(text: str) -> Fraction:
    return Fraction(text.replace("−", "-"))


def shown_maps() -> list[list[list[Fraction]]]:
    """Return the maps of the page: rows of what w, b and 1 are multiplied by."""
    lines = re.findall(r"^    [wb] ← (.*)$", PAGE, re.M)
    rows = []
    for line in lines:
        joined = line.replace("− ", "+ −")
        terms = re.fullmatch(rf"{NUMBER}·w \+ {NUMBER}·b \+ {NUMBER}", joined)
        assert terms is not None, line
        rows.append([fraction(term) for term in terms.groups()])
    return [rows[i : i + 2] for i in range(0, len(rows), 2)]


def test_page_moments_are_those_of_the_points() -> None:
    rows = re.findall(r"^\| [x1] \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.M)
    Z = [(x, Fraction(1), y) for x, y in POINTS]
    moments = [[sum(z[i] * z[j] for z in Z) / 3 for j in range(3)] for i in range(2)]
    assert [[Fraction(cell) for cell in row] for row in rows] == moments


def test_page_maps_are_one_step_and_two() -> None:
    one, two = shown_maps()
    for start in [(0, 0), (1, 0), (0, 1), (3, -2)]:
        w, b = map(Fraction, start)
        once = step(w, b)
        assert [m[0] * w + m[1] * b + m[2] for m in one] == list(once)
        assert [m[0] * w + m[1] * b + m[2] for m in two] == list(step(*once))


def test_page_says_where_the_steps_lead() -> None:
    once = step(Fraction(0), Fraction(0))
    twice = step(*once)
    told = "From (0, 0) it leads to ({}, {}), and from there to ({}, {})"
    assert told.format(*once, *twice) in WORDS


def test_page_code_prints_what_it_says_and_has_the_maps_of_the_page() -> None:
    (block,) = blocks(PATH)
    names: dict[str, Any] = {}
    assert run(block.code, names, PATH) == block.expected
    assert names["Z"].tolist() == [[float(x), 1.0, float(y)] for x, y in POINTS]
    one, two = names["maps"]
    for found, expected in zip((one, two @ one), shown_maps(), strict=True):
        assert_allclose(found[:2], np.array(expected, float), rtol=1e-15, atol=1e-16)
