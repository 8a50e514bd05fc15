"""Tables that were made wrong on purpose, and some that only look so: what each must come to.

A case makes its input in a folder; beside it stand the words that the refusal must hold, or the
numbers that must come out.
"""

import gzip
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from table_makers import (
    CASES,
    LONG,
    arrow,
    bad,
    cut,
    damaged,
    device,
    folder_of,
    good,
    lengthened,
    listen,
    lock,
    npy,
    number,
    packed,
    renamed,
    rows,
    special,
    text,
)

XY = {"x": [1.0, 3.0], "y": [2.0, 4.0]}
NUMBERS = [[1], [3]]
LONG_XY = {"x": np.arange(LONG) / 7, "y": np.arange(LONG) / 3}

# What is not a file of a table.
bad("missing file", lambda f: (f / "t.csv", {}), "t.csv: expected a table", "no such file|check")
bad("misspelt file", lambda f: (text("x,y\n")(f)[0].with_name("tt.csv"), {}), "mean t.csv?")
bad("path through a file", lambda f: (text("x,y\n")(f)[0] / "a.csv", {}), "Not a directory|check")
bad("path with a zero byte", lambda f: (f / "a\0.csv", {}), "null byte|check the path")
bad("path too long", lambda f: (f / ("a" * 300 + ".csv"), {}), "name too long|check the path")
bad("empty file", text(""), "t.csv: expected a table, found an empty file")
bad("empty parquet", text("", "t.parquet"), "found an empty file|write it again")
bad("empty gzip", packed(""), "expected a row of names, found ''|first row")
bad("newlines only", text("\n\n\n"), "expected a row of names, found ''|first row")
bad("header only", text("x,y\n"), "expected rows, found none; add some")
bad("header without newline", text("x,y"), "expected rows, found none; add some")
bad("truncated gzip", cut(packed(rows(LONG))), "to its end|ended before|copy or pack it again")
bad("damaged gzip", damaged(packed(rows(LONG)), 0.5, 0.6), "to its end|copy or pack it again")
bad("truncated parquet", cut(arrow(LONG_XY)), "expected Parquet|write it again")
bad("truncated feather", cut(arrow(LONG_XY, "t.feather")), "expected Arrow|write it again")
bad("truncated npy", cut(npy(np.ones((LONG, 2)))), "t.npy: expected an array|whole")
bad(
    "npy with a shorter shape",
    lengthened(npy(np.ones((9, 2)))),
    "bytes for shape (9, 2), found|save",
)
bad("npy header alone", cut(npy(np.ones((9, 2))), 0.1), "t.npy: expected an array|whole")
bad("parquet named csv", renamed(arrow(XY), "t.csv"), "found Parquet|rename it to .parquet")
bad("feather named csv", renamed(arrow(XY, "t.feather"), "a.csv"), "found Arrow|to .feather")
bad("npy named csv", renamed(npy(np.ones((3, 2))), "a.csv"), "found NumPy|rename it to .npy")
bad("csv named parquet", text("x,y\n1,2\n", "t.parquet"), "expected Parquet|x,y|to .csv")
bad("csv named feather", text("x,y\n1,2\n", "t.feather"), "expected Arrow|x,y|to .csv")
bad("csv named npy", text("x,y\n1,2\n", "t.npy"), "expected NumPy|x,y|to .csv")
bad("csv named csv.gz", text("x,y\n1,2\n", "t.csv.gz"), "expected gzip|x,y|to .csv")
bad("gzip named csv", packed("x,y\n1,2\n", "t.csv"), "found gzip|rename it to .csv.gz")
bad("spreadsheet named csv", text(b"PK\x03\x04abc", "t.csv"), "spreadsheet|save it as CSV")
bad("spreadsheet", text(b"PK\x03\x04abc", "t.xlsx"), "ends in .csv|found '.xlsx'|save it")
bad("no ending", text("x,y\n1,2\n", "table"), "ends in .csv|found ''|rename it")
bad("feather version 1", text(b"FEA1 and so on", "t.feather"), "Feather version 1|save it as")
bad("unreadable", special(lock), "Permission denied|check its rights")
bad("pipe", special(os.mkfifo), "expected a file, found a pipe|save the table to a file")
bad("socket", special(listen), "expected a file, found a socket|save the table")
bad("endless device", device("zero"), "found a device|save the table")
bad("empty device", device("null"), "found a device|save the table")
bad("dangling link", special(lambda p: p.symlink_to("gone.csv")), "a link to gone.csv|correct it")
bad("link loop", special(lambda p: p.symlink_to(p.name)), "Too many levels of symbolic|links")
bad("link to device", special(lambda p: p.symlink_to("/dev/zero")), "found a device")
bad("folder without tables", folder_of(), "parts: expected Parquet files, found none|name a file")
bad("folder of csv", folder_of(text("x,y\n1,2\n")), "Parquet files alone|t.csv|move it away")
bad("folder of both", folder_of(arrow(XY), text("x", "a.txt")), "alone|a.txt|move it away")
bad("folder of folders", folder_of(folder_of(arrow(XY))), "found a folder: parts|name that")
bad(
    "folder of two schemas",
    folder_of(arrow(XY, "a.parquet"), arrow({"x": [1.0], "z": [2.0]}, "b.parquet")),
    "b.parquet: expected the columns ['x', 'y'] as in|a.parquet, found ['x', 'z']|the same",
)
bad(
    "folder of two types",
    folder_of(arrow(XY, "a.parquet"), arrow({"x": ["1"], "y": [2.0]}, "b.parquet")),
    "b.parquet: column 'x': expected double|found string|the same",
)
bad(
    "folder with a pipe",
    folder_of(arrow(XY), special(os.mkfifo, "u.parquet")),
    "u.parquet: expected a file, found a pipe",
)
bad(
    "folder with a bad number",
    folder_of(arrow(XY, "a.parquet"), arrow({"x": [1, np.inf], "y": [2.0, 4]}, "b.parquet")),
    "b.parquet, column 'x', row 2: expected a finite number, found inf",
)

# Columns.
bad("column missing", text("Price,y\n1,2\n", features=["price"]), "'price', found 'Price', 'y'")
bad("column near", text("prise,y\n1,2\n", features=["price"]), "did you mean 'prise'?")
bad("column padded", text("x, y\n1,2\n"), "a column 'y', found 'x', ' y'; did you mean ' y'?")
bad("target missing", text("a,b\n1,2\n", target="price"), "'price', found 'a', 'b'|name one")
bad("column twice", text("x,x,y\n1,2,3\n"), "one column 'x', found 2 of that name; rename")
bad("target twice", text("x,y,y\n1,2,3\n"), "one column 'y', found 2 of that name; rename")
bad("feature named twice", text("x,y\n1,2\n", features=["x", "x"]), "features: expected 'x' once")
bad("target named twice", text("x,y\n1,2\n", target=["y", "y"]), "target: expected 'y' once")
bad("target as feature", text("x,y\n1,2\n", features=["x", "y"]), "features: expected no target")
bad("weight as feature", text("x,y\n1,2\n", features=["x"], weight="x"), "expected no weight")
bad("weight as target", text("x,y\n1,2\n", weight="y"), "weight: expected no target, found 'y'")
bad("category unknown", text("x,y\n1,2\n", categorical=["z"]), "categorical: expected features")
bad("no features", text("y\n1\n"), "features: expected at least one column, found none; name one")
bad("no targets", text("x,y\n1,2\n", target=[]), "target: expected at least one column")
bad("all wrong at once", text("x,y\n1,2\n", target="a", features=["b"]), "column 'a'|column 'b'")
bad("name empty", text(",x,y\n0,1,2\n"), "t.csv, column 1: expected a name|index|name it")
bad("comma after header and rows", text("x,y,\n1,2,\n"), "column 3: expected a name|comma")
bad("comma after header", text("x,y,\n1,2\n", features=["x"]), "row 1: expected 3 fields|found 2")
bad("comma after rows", text("x,y\n1,2,\n"), "row 1: expected 2 fields|found 3 in '1,2,'")
bad("semicolons", text("x;y\n1,5;2\n"), "found semicolons in 'x;y'; save it with commas as .csv")
bad("tabs in csv", text("x\ty\n1\t2\n"), "found tabs in 'x\\ty'|with tabs as .tsv")
bad("commas in tsv", text("x,y\n1,2\n", "t.tsv"), "expected tabs|found commas|as .csv")
good("name empty and unused", text(",x,y\n0,1,2\n1,3,4\n", features=["x"]), NUMBERS)
good("other columns twice", text("a,a,x,y\n0,0,1,2\n0,0,3,4\n", features=["x"]), NUMBERS)
good("names odd", text('" é\nx",y\n1,2\n3,4\n'), NUMBERS)
good("names with spaces", text("my x,y\n1,2\n3,4\n", features=["my x"]), NUMBERS)
good("case tells names apart", text("x,X,y\n1,9,2\n3,9,4\n", features=["x"]), NUMBERS)

# Numbers in CSV.
for _written, _value in {
    "+3": 3, "-3": -3, ".5": 0.5, "5.": 5, "1e5": 1e5, "1E+5": 1e5, "-0": -0.0, "5e-324": 5e-324,
    "1e-400": 0, " 3": 3, "3 ": 3, "\t3": 3, '"3"': 3, '" 3 "': 3, "9007199254740992": 2.0**53,
    "18014398509481984": 2.0**54, "9007199254740993.5": 9007199254740994.0, "1e300": 1e300,
    "0.1000000000000000055511151231257827": 0.1, "1.7976931348623157e308": 1.7976931348623157e308,
    "007": 7, "2.2250738585072011e-308": 2.2250738585072011e-308,
}.items():  # fmt: skip
    CASES[f"number {_written!r}"] = number(_written, value=_value)
PLAIN = "a number", "write a plain number"
FINITE = "a finite number", "correct it"
EXACT = "an integer that float64 has exactly", "round it"
for _written, _words in {
    "abc": PLAIN, "1_000": PLAIN, "0x1F": PLAIN, '"1,000"': PLAIN, '"1,5"': PLAIN, "1.2%": PLAIN,
    "$5": PLAIN, "1e": PLAIN, "--1": PLAIN, "1 2": PLAIN, "１": PLAIN, "١": PLAIN, "True": PLAIN,
    "yes": PLAIN, ".": PLAIN, "-": PLAIN, "  ": PLAIN, "-nan": PLAIN, "NAN": PLAIN, " NA": PLAIN,
    "None": PLAIN, "1.5f": PLAIN, "1d5": PLAIN, "2020-01-01": PLAIN, "−3": PLAIN, "1\u00a0": PLAIN,
    "1e400": FINITE, "-1e400": FINITE, "inf": FINITE, "-Infinity": FINITE, "9" * 400: FINITE,
    "9007199254740993": EXACT, "-9007199254740993": EXACT, "12345678901234567890": EXACT,
}.items():  # fmt: skip
    CASES[f"number {_written[:20]!r}"] = number(
        _written, *_words, f"found {_written.strip(chr(34))[:40]!r}"
    )
for _written in ("", "NA", "N/A", "NaN", "nan", "NULL", "null", '""', '"NA"'):
    CASES[f"missing {_written!r}"] = number(
        _written, "a value, found none|1 of 2 rows|'x' 1|fill them in|missing=drop"
    )
    good(f"dropped {_written!r}", text(f"x,y\n1,2\n{_written},9\n3,4\n", missing="drop"), NUMBERS)
bad(
    "text after numbers",
    text(rows(LONG, {10_001: "n/a,1"})),
    "t.csv, column 'x', row 10,001: expected a number, found 'n/a'",
)
bad("big after numbers", text(rows(LONG, {65_537: f"{2**53 + 1},1"})), "row 65,537: expected an i")
bad("all empty", text("x,y\n,2\n,4\n"), "'x', row 1: expected a value|2 of 2 rows|'x' 2")
bad("all dropped", text("x,y\n,2\n,4\n", missing="drop"), "2 of 2 rows|'x' 2|leave out a column")
bad("y missing", text("x,y\n1,2\n3,\n"), "column 'y', row 2: expected a value|'y' 1")
good("constant", text("x,y\n3,2\n3,4\n"), [[3], [3]])
good("one row", text("x,y\n1,2"), [[1]], [2])
bad("float32 beyond", text("x,y\n1,2\n1e39,4\n", dtype="float32"), "row 2|range of float32|1e+39")
bad("weight negative", text("x,w,y\n1,1,2\n3,-1,4\n", weight="w"), "'w', row 2|above 0|found -1")
bad("weight zero", text("x,w,y\n1,1,2\n3,0,4\n", weight="w"), "'w', row 2|above 0|leave out rows")
bad("weight missing", text("x,w,y\n1,1,2\n3,NaN,4\n", weight="w"), "'w', row 2|found none|'w' 1")
bad("weight infinite", text("x,w,y\n1,1,2\n3,inf,4\n", weight="w"), "'w', row 2|finite|'inf'")

# Rows, quotes and encodings of CSV.
for _row in (1, LONG // 2, LONG):
    bad(f"field too many in {_row}", text(rows(LONG, {_row: "1,2,3"})), f"row {_row:,}: expected 2 "
        "fields as in the header, found 3 in '1,2,3'|quote")  # fmt: skip
    bad(f"field too few in {_row}", text(rows(LONG, {_row: "7"})), f"row {_row:,}: expected 2|1 in")
bad("zero byte", text("x,y\n1,2\n3\0,4\n"), "row 2: expected text, found a zero byte|remove")
bad("zero byte in header", text("x\0,y\n1,2\n"), "header: expected text, found a zero byte")
bad("utf-16", text("x,y\n1,2\n".encode("utf-16")), "header: expected UTF-8, found UTF-16; save")
bad("utf-16 without mark", text("x,y\n1,2\n".encode("utf-16-le")), "zero byte; save the file as")
bad("latin-1 name", text("é,y\n1,2\n".encode("latin-1")), "header: expected UTF-8|\\xe9|save")
bad(
    "latin-1 category",
    text("x,y\na,2\né,4\n".encode("latin-1"), categorical=["x"]),
    "column 'x', row 2: expected UTF-8, found '\\\\xe9'; save the file as UTF-8",
)
good("latin-1 elsewhere", text(b"x,\xc3\xa9,y\n1,\xe9,2\n3,,4\n", features=["x"]), NUMBERS)
good("byte order mark", text("\ufeffx,y\n1,2\n3,4\n", features=["x"]), NUMBERS)
good("crlf", text("x,y\r\n1,2\r\n3,4\r\n"), NUMBERS)
good("cr", text("x,y\r1,2\r3,4\r"), NUMBERS)
good("mixed newlines", text("x,y\r1,2\n3,4\r\n"), NUMBERS)
good("no last newline", text("x,y\n1,2\n3,4"), NUMBERS)
good("empty lines", text("\nx,y\n\n1,2\n\r\n3,4\n\n\n"), NUMBERS)
good("quoted commas", text('x,"a,b",y\n1,"p,q",2\n3,"r",4\n', features=["x"]), NUMBERS)
good("quoted newlines", text('x,a,y\n1,"p\n\nq",2\n3,"r\r\n",4\n', features=["x"]), NUMBERS)
good("quotes in quotes", text('x,a,y\n1,"p ""q"" ",2\n3,"""",4\n', features=["x"]), NUMBERS)
good("tsv", text("x\ty\n1\t2\n3\t4\n", "t.tsv"), NUMBERS)
good("gzip", packed("x,y\n1,2\n3,4\n"), NUMBERS)
MEMBERS = gzip.compress(b"x,y\n1,2\n") + gzip.compress(b"3,4\n")
good("gzip of two members", text(MEMBERS, "t.csv.gz"), NUMBERS)
good("name in capitals", text("x,y\n1,2\n3,4\n", "T.CSV"), NUMBERS)
good("link", special(lambda p: p.symlink_to(text("x,y\n1,2\n3,4\n", "u.csv")(p.parent)[0])),
     NUMBERS)  # fmt: skip
QUOTE = "expected quotes around whole fields"
bad(
    "quote never closed",
    text('x,c,y\n1,a,2\n3,"b,4\n5,c,6\n', features=["x"]),
    f"row 2: {QUOTE}|close it",
)
bad("quote never closed at the end", text('x,y\n1,2\n3,"4\n'), f"row 2: {QUOTE}|close it")
bad("quote closed by the next", text('x,c,y\n1,"a,2\n3,"b",4\n'), f"row 1: {QUOTE}|close it")
bad("text after a quote", text('x,y\n1,2\n"1"2,4\n'), f"row 2: {QUOTE}|close it|twice")
bad("quote within a field", text('x,c,y\n1,5" pipe,2\n'), f"row 1: {QUOTE}|twice")
bad("quote never closed in header", text('x,"y\n1,2\n'), f"header: {QUOTE}|close it")
bad("quote after many rows", text(rows(LONG, {LONG - 1: '1,"2'})), f"row 69,999: {QUOTE}|close")
bad(
    "row without end",
    text("x,y\n1,2\n" + "9" * (50 << 20)),
    "row 2: expected rows of 32 MiB",
)
good("field of 9 MiB", text(f"x,c,y\n1,{'a' * (9 << 20)},2\n3,b,4\n", features=["x"]), NUMBERS)
good("number after 2 MiB", text(f"x,y\n1,2\n{'0' * (2 << 20)}3,4\n"), NUMBERS)
bad("whitespace line", text("x,y\n1,2\n   \n3,4\n"), "row 2: expected 2 fields|found 1 in '   '")

# Categories.
good("categories", text("x,y\nb,2\na,4\nc,6\n", categorical=["x"]), [[1, 0], [0, 0], [0, 1]],
     (2, 4, 6))  # fmt: skip
good("categories of numbers", text("x,y\n1,2\n01,4\n", categorical=["x"]), [[1], [0]])
bad("category missing", text("x,y\nb,2\n,4\na,6\n", categorical=["x"]), "row 2: expected a value")
bad("category empty", text("x,y\n,2\n,4\n", categorical=["x"]), "at least one level|leave it out")
bad("category of 1,001 levels", text(rows(1001), categorical=["x"]), "'x': expected 1,000 levels")
LIKE_LEVEL = text("c,c[b],y\na,1,2\nb,3,4\n", categorical=["c"])
bad("column named like a level", LIKE_LEVEL, "found 'c[b]' as a column|rename the column")
bad("category of floats", arrow(XY, categorical=["x"]), "texts, integers or booleans, found double")
good(
    "category of booleans", arrow({"x": [True, False], "y": [2, 4]}, categorical=["x"]), [[1], [0]]
)
good("category of dictionary", arrow(
    {"x": pa.array(["b", "a"]).dictionary_encode(), "y": [2, 4]}, categorical=["x"]), [[1], [0]]
)  # fmt: skip

# Types of columns.
TYPED = {
    "text": (pa.array(["1", "3"]), "string; name it as categorical"),
    "dictionary of texts": (pa.array(["1", "3"]).dictionary_encode(), "dictionary|categorical"),
    "list": (pa.array([[1], [3]]), "list|convert it to numbers"),
    "struct": (pa.array([{"a": 1}, {"a": 3}]), "struct|convert it to numbers"),
    "timestamp": (pa.array([1, 3], pa.timestamp("s")), "timestamp|convert it to numbers"),
    "date": (pa.array([1, 3], pa.date32()), "date32|convert it to numbers"),
    "time": (pa.array([1, 3], pa.time32("s")), "time32|convert it to numbers"),
    "duration": (pa.array([1, 3], pa.duration("s")), "duration|convert it to numbers"),
    "binary": (pa.array([b"1", b"3"]), "binary|convert it to numbers"),
}
EDGE = 2**53 + 1
VALUES = {
    "int64 beyond": (pa.array([1, EDGE]), "'x', row 2: expected an integer|9007199254740993"),
    "int64 largest": (pa.array([1, 2**63 - 1]), "'x', row 2: expected an integer"),
    "uint64 beyond": (pa.array([1, 2**63 + 1], pa.uint64()), "row 2: expected an integer|round"),
    "int64 beyond with null": (pa.array([1, EDGE, None][1:]), "'x', row 1: expected an integer"),
    "null": (pa.array([1, None]), "'x', row 2: expected a value, found none|1 of 2 rows"),
    "nan": (pa.array([1, np.nan]), "'x', row 2: expected a value, found none|1 of 2 rows"),
    "null type": (pa.nulls(2), "'x', row 1: expected a value, found none|2 of 2 rows"),
    "infinite": (pa.array([1, -np.inf]), "'x', row 2: expected a finite number, found -inf"),
    "float16 infinite": (pa.array(np.array([1, np.inf], np.float16)), "'x', row 2: expected a fin"),
    "null boolean": (pa.array([None, True]), "'x', row 1: expected a value, found none"),
}
RIGHT = {
    "float16": (pa.array(np.array([1, 3], np.float16)), NUMBERS),
    "float32": (pa.array([0.1, 3], pa.float32()), [[float(np.float32(0.1))], [3]]),
    "int8": (pa.array([-1, 3], pa.int8()), [[-1], [3]]),
    "bool": (pa.array([False, True]), [[0], [1]]),
    "uint64 exact": (pa.array([2**63, 2**54], pa.uint64()), [[2.0**63], [2.0**54]]),
    "int64 least": (pa.array([-(2**63), -(2**53)]), [[-(2.0**63)], [-(2.0**53)]]),
    "decimal": (pa.array([Decimal("0.10"), Decimal("3.00")]), [[0.1], [3]]),
    "decimal rounded once": (
        pa.array([Decimal("123456789012345678.123456789"), Decimal("0.000000003")]),
        [[123456789012345678.123456789], [3e-9]],
    ),
    "dictionary of numbers": (pa.array([1.0, 3.0]).dictionary_encode(), NUMBERS),
}
for _name in ("t.parquet", "t.feather"):
    for _kind, (_column, _words) in TYPED.items():
        bad(
            f"{_kind} in {_name}",
            arrow({"x": _column, "y": [2, 4]}, _name),
            f"'x': expected n|{_words}",
        )
    for _kind, (_column, _words) in VALUES.items():
        bad(f"{_kind} in {_name}", arrow({"x": _column, "y": [2, 4]}, _name), _words)
    for _kind, (_column, _numbers) in RIGHT.items():
        good(f"{_kind} in {_name}", arrow({"x": _column, "y": [2, 4]}, _name), _numbers)
    _make = arrow(pa.table(XY).slice(0, 0), _name)
    bad(f"no rows in {_name}", _make, "expected rows, found none; add some")
    bad(f"no columns in {_name}", arrow({}, _name), "a column 'y', found no columns")
    bad(f"infinite late in {_name}", arrow(
        {"x": np.where(np.arange(LONG) == LONG - 2, np.inf, 1), "y": np.ones(LONG)}, _name),
        "column 'x', row 69,999: expected a finite number")  # fmt: skip
    bad(f"damaged end of {_name}", damaged(arrow(LONG_XY, _name), 0.995, 0.999), "that can be read")
DOUBLE = pa.table([[1.0], [3.0], [2.0]], names=["x", "x", "y"])
bad("twice in feather", arrow(DOUBLE, "t.feather"), "one column 'x', found 2|rename all but one")
bad("twice in parquet", arrow(DOUBLE), "one column 'x', found 2|rename all but one")
bad("encrypted parquet", text(b"PARE" + bytes(40) + b"PARE", "t.parquet"), "encrypted Parquet|save")
good("dots in names", arrow({"a.b": [1, 3], "a": [{"b": 7}, {"b": 8}], "y": [2, 4]},
     features=["a.b"]), NUMBERS)  # fmt: skip
good("folder", folder_of(arrow({"x": [3], "y": [4]}, "b.parquet"), arrow({"x": [1], "y": [2]},
     "a.parquet"), text("", "_SUCCESS"), text("?", ".a.crc")), NUMBERS)  # fmt: skip


def corrupt_page(folder: Path) -> Any:
    """Write checksums of pages, then change one byte in the middle of the numbers."""
    table = pa.table(LONG_XY)
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    parquet.write_table(table, folder / "t.parquet", **options)
    return damaged(lambda f: (f / "t.parquet", {}), 0.4, 0.4001)(folder)


bad("damaged page", corrupt_page, "t.parquet, after row|Parquet that can be|write it again")

# NumPy's files.
PAIRS = np.array([[1.0, 2], [3, 4]])
FIELDS = np.array([(1, 2.0), (3, 4.0)], [("x", "<i4"), ("y", ">f8")])
bad("npy of 1 axis", npy(np.ones(3)), "of shape (rows, columns)|found shape (3,); reshape it")
bad("npy of 3 axes", npy(np.ones((3, 2, 1))), "found shape (3, 2, 1); reshape it")
bad("npy of objects", npy(np.array([[1, 2], [3, "a"]], object)), "objects|save numbers, not obj")
bad("npy of complex", npy(PAIRS * 1j), "t.npy, column 'column_0'|found complex128; convert")
bad("npy of texts", npy(np.array([["1", "2"]])), "'column_0': expected numbers, found string")
bad("npy of dates", npy(np.array([[1, 2]], "M8[s]")), "'column_0': expected numbers, found times")
bad(
    "npy infinite",
    npy(np.array([[1, 2], [np.inf, 4]])),
    "'column_0', row 2: expected a finite number",
)
bad("npy column unknown", npy(PAIRS, target="y"), "'y', found 'column_0', 'column_1'")
bad("npy without rows", npy(np.ones((0, 2))), "expected rows, found none; add some")
bad("npy beyond", npy(np.array([[1, 2], [EDGE, 4]])), "'column_0', row 2: expected an integer")
good("npy", npy(PAIRS), NUMBERS)
good("npy big-endian", npy(PAIRS.astype(">f8")), NUMBERS)
good("npy by columns", npy(np.asfortranarray(PAIRS)), NUMBERS)
good("npy of booleans", npy(np.array([[True, False], [False, True]])), [[1], [0]], (0, 1))
good("npy with fields", npy(FIELDS, target="y"), NUMBERS)
good("npy of float16", npy(PAIRS.astype(np.float16)), NUMBERS)
