"""The cross-check: every step of a training, held against the NumPy reference.

Read `callback` first: what Lightning shows of a training, and when. `ledger` keeps the steps until
`judge` takes them in NumPy; `verdict` says what counts as out of bounds, `diagnosis` what probably
went wrong, `outcome` who is told; `refusals` names what the reference cannot follow. `matrix` is
`trueline crosscheck`.
"""

from trueline.crosscheck.callback import CrossCheck
from trueline.crosscheck.step import Reference

__all__ = ["CrossCheck", "Reference"]
