"""K steps of SGD on a linear model, composed into one: pure functions of tensors.

Under the mean squared error, the gradient is an affine function of the parameters, and so a step of
SGD is an affine map of parameters and momentum buffers. Affine maps compose, in any grouping: K of
them in pairs, log₂ K batched products deep, instead of one after another.

Read `step`, which turns batches into the maps of their steps; `scan`, which composes these; and
`in_turn`, which takes the same steps by themselves, where they are so wide that this is cheaper.

Notation: `z = [x, 1, y]` is a row, p = n_features + 1, T targets, and the parameters
`θ = [weight, bias]` are a matrix (p, T). A batch enters by `G = Zᵀ·diag(s)·Z` alone, with s the
share of a row in the mean of the squared residuals. The maps act on the deviation `δ = θ − origin`
from where the K steps begin, and on the momentum buffers v (p, T): near the minimum δ is small
beside θ, and so is what rounding does to it. A map is one matrix that acts on `[δ; v; 1]`, where 1
is the identity (T, T), so that its last T columns are what it adds. Maps and states are in float64.

References:
    Kogge & Stone, "A Parallel Algorithm for the Efficient Solution of a General Class of Recurrence
    Equations" (1973); Blelloch, "Prefix Sums and Their Applications" (1990): the scan.
    Devarakonda & Demmel, "Avoiding Communication in Logistic Regression" (2020): s-step SGD.
"""

from trueline.recurrence.in_turn import InTurn, one_by_one
from trueline.recurrence.scan import Composed, Repeated, polished
from trueline.recurrence.step import Rule, gradient_from_rows, gram, step_maps, summed_in

__all__ = [
    "Composed",
    "InTurn",
    "Repeated",
    "Rule",
    "gradient_from_rows",
    "gram",
    "one_by_one",
    "polished",
    "step_maps",
    "summed_in",
]
