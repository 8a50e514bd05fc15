"""Tables in files, read as blocks of numbers: the right ones, or a refusal that says where.

`open_table` finds the columns, `choose` says what each one is for, `read` streams the numbers. It
knows pyarrow and NumPy; neither torch nor Lightning.
"""

from trueline.tables.blocks import Rows
from trueline.tables.columns import Columns, Feature, choose
from trueline.tables.numbers import Missing, count_missing, read, read_every_row
from trueline.tables.reading import open_table
from trueline.tables.table import Batch, Table

__all__ = [
    "Batch",
    "Columns",
    "Feature",
    "Missing",
    "Rows",
    "Table",
    "choose",
    "count_missing",
    "open_table",
    "read",
    "read_every_row",
]
