"""The cross-check: every step of a training, held against the NumPy reference.

Read `callback` first: what Lightning shows of a training, and when. `recorder` makes a `record` of
it, a stack of steps, and `step_queue` keeps steps until `judge` takes them in NumPy. `verdict` says
what counts as out of bounds, `diagnosis` what probably went wrong. `expected` is what should have
happened, `unsupported` what the reference cannot follow. Rows are counted by `row_count`, and those
of the loop fetched by `dataset_rows`.
"""

from trueline.crosscheck.callback import CrossCheck
from trueline.crosscheck.record import Reference

__all__ = ["CrossCheck", "Reference"]
