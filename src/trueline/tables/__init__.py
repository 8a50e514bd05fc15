"""Tables as numbers: CSV, Parquet, Arrow and NumPy files, read some rows at a time.

`formats` opens files, `columns` says which of their columns are what, and `numbers` turns these
into arrays, or says what stands in the way: file, column, row and remedy. Nothing is guessed.
"""

from trueline.tables.columns import Columns, choose
from trueline.tables.formats import Table, open_table
from trueline.tables.numbers import Rows, read

__all__ = ["Columns", "Rows", "Table", "choose", "open_table", "read"]
