"""Trueline: linear regression, `w*X + b`, trained by Lightning, judged by NumPy at every step.

Reading order:

1. `trueline.reference`   the judge: the same training in NumPy, with rounding-error bounds
2. `trueline.loop`        the compiled loop: many steps of SGD in one call
3. `trueline.module`      `LinearRegression`, the LightningModule
4. `trueline.crosscheck`  the callback that runs the reference in lockstep
5. `trueline.data`        the article's 15 points, and batches as a function of (seed, epoch)
6. `trueline.cli`         the command `trueline`

The rest, file by file, is in docs/source.md.
Importing this package imports neither torch nor Lightning.
"""

__version__ = "0.1.0"
