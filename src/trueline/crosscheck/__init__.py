"""The cross-check: every step of a training, held against the NumPy reference.

Read `callback` first: what is compared, and when. `verdict` says what counts as out of bounds,
`refusals` what the reference cannot follow, `diagnosis` what probably went wrong.
"""

from trueline.crosscheck.callback import CrossCheck
from trueline.crosscheck.step import Reference

__all__ = ["CrossCheck", "Reference"]
