"""The loop of SGD, compiled: many steps in one call, over rows or over moments.

`over_rows` and `over_moments` differ in where loss and gradient come from. Both go on with
`take_step`. Its `update` is the rule of `trueline.reference.sgd`, and shares no code with it.

Parameters are one vector θ of T·p entries, p = n_features + 1: for each target its weights and then
its bias. Gradients and momentum buffers have the same layout. All arithmetic on θ is in the dtype
of θ, and a step depends on the state before it and on its rows alone. So the state after a step
does not depend on how steps are grouped into calls.

For speed, row numbers are unsigned: the compiler would look at each signed index for a negative
one. Arrays become local names before a loop, and functions within a step take no tuple of arrays,
since each look into a tuple counts a reference. Tuples are plain ones, so that a cache of compiled
functions names no class of ours, which a later version may have renamed.
"""
# mypy: disallow-untyped-defs=False

import math

import numpy as np

from trueline.loop.compiler import compiled, inlined

AHEAD = 256
"""Rows that are brought into the L1 cache before they are needed."""
FEW_ROWS = 8
"""Rows of a batch below which the processor would wait for each of them."""
CLIP_OFFSET = 1e-6
"""torch's `clip_grad_norm_` adds it to the norm that it divides by."""
LARGEST_UNIT = 126
"""Exponent of the largest power of two whose inverse float32 holds too."""


@compiled
def over_rows(piece, shape, state, rule, steps):
    """Take the steps of consecutive batches, each from its rows.

    Args:
        piece: Rows of the batches, see `rows.Piece`.
        shape: Columns of a row, see `state.Shape`.
        state: Parameters and what goes with them, see `state.State`; they change in place.
        rule: The update rule, see `state.Rule`.
        steps: Options and results of each step, see `state.Steps`.

    Returns:
        Number of batches that end here, or before the first whose loss is not finite.
    """
    Z, origin, numbers, bounds, opened, closed, first = piece
    n_features, n_targets, weighted, unit = shape
    theta, buffer, free, sums = state
    lrs, momenta, plateau, losses, at, states = steps
    D, n_batches, P = theta.dtype.type, bounds.size - 1, theta.size
    gradient, j = np.empty_like(theta), np.searchsorted(at, first)
    # Rows of a larger batch are fetched at the same time anyhow.
    ahead, seen = 0 if n_batches > numbers.size // FEW_ROWS else numbers.size, np.zeros(1)
    for k in range(n_batches):
        start, stop = bounds[k], bounds[k + 1]
        if stop > ahead:
            ahead = touch(Z, origin, numbers, ahead, min(stop + AHEAD, numbers.size), seen)
        if k > 0 or not opened:
            sums[:] = 0
        if weighted:
            unit = unit_of(Z, origin, numbers, start, stop, sums)
        add_rows(
            Z, origin, numbers, start, stop, n_features, n_targets, weighted, unit, theta, sums
        )
        if k == n_batches - 1 and not closed:
            return k
        size = sums[P + 1] * D(n_targets)
        for e in range(P):
            gradient[e] = D(2) * sums[e] / size
        j = take_step(
            first + k, j, sums[P] / size, gradient, n_features, n_targets, rule,
            theta, buffer, free, lrs, momenta, plateau, losses, at, states,
        )  # fmt: skip
        if j < 0:
            return k
    return n_batches


@compiled
def touch(Z, origin, numbers, start, stop, seen):
    """Bring rows that lie all over a pool into the cache, all at the same time."""
    total = 0.0
    for k in range(start, stop):
        i = np.uint64(origin) + np.uint64(numbers[k])
        total += Z[i, 0] + Z[i, Z.shape[1] - 1]
    seen[0] = total  # else the compiler would leave this out
    return stop


@compiled
def unit_of(Z, origin, numbers, start, stop, sums):
    """Return a power of two that brings the largest weight of a batch so far to about 1.

    Only proportions of weights count, and float32 does not hold the products of extreme ones. The
    sums of the batch so far are brought to the same unit.
    """
    top, last, held = 0.0, Z.shape[1] - 1, np.float64(sums[-1])
    for k in range(start, stop):
        top = max(top, Z[np.uint64(origin) + np.uint64(numbers[k]), last])
    unit = math.ldexp(1.0, min(-math.frexp(top)[1], LARGEST_UNIT))
    if held > 0:
        unit = min(unit, held)
        for e in range(sums.size):
            sums[e] *= sums.dtype.type(unit / held)
    sums[-1] = unit
    return unit


@compiled
def add_rows(Z, origin, numbers, start, stop, n_features, n_targets, weighted, unit, theta, sums):
    """Add rows to the sums of a batch: residual·[x, 1] as in the gradient, residual², weight."""
    D, p, P = theta.dtype.type, n_features + 1, theta.size
    squares, size, w = D(0), D(0), D(1)
    for k in range(start, stop):
        i = np.uint64(origin) + np.uint64(numbers[k])
        if weighted:
            w = D(Z[i, n_features + n_targets]) * D(unit)
        size += w
        for t in range(n_targets):
            own = t * p
            r = theta[own + n_features] - D(Z[i, n_features + t])
            for j in range(n_features):
                r += D(Z[i, j]) * theta[own + j]
            share = w * r
            for j in range(n_features):
                sums[own + j] += share * D(Z[i, j])
            sums[own + n_features] += share
            squares += share * r
    sums[P] += squares
    sums[P + 1] += size


@compiled
def over_moments(moments, anchor, first, n_steps, shape, state, rule, steps):
    """Take steps from the moments of their rows.

    With the rows `z = [x, 1, r]`, r being the residuals at an anchor, and M the mean of `zᵀz`, the
    loss at the deviation d from the anchor is `dᵀ·M_xx·d + 2·dᵀ·M_xr + M_rr`. Near the anchor
    nothing large cancels in it, as it would in moments of y.

    Args:
        moments: M of each step, or one for all; float64, shape (n_steps or 1, p + T, p + T).
        anchor: Parameters at which the residuals are taken, float64, the vector θ.
        first: Number of the first step among those of `steps`.
        n_steps: Number of steps.
        shape: See `over_rows`.
        state: See `over_rows`.
        rule: See `over_rows`.
        steps: See `over_rows`.

    Returns:
        Number of steps before the first whose loss is not finite.
    """
    n_features, n_targets, _, _ = shape
    theta, buffer, free, _ = state
    lrs, momenta, plateau, losses, at, states = steps
    D, p, j = theta.dtype.type, n_features + 1, np.searchsorted(at, first)
    d, gradient = np.empty(theta.size), np.empty_like(theta)
    for k in range(n_steps):
        M = moments[k if moments.shape[0] > 1 else 0]
        loss = 0.0
        for e in range(theta.size):
            d[e] = np.float64(theta[e]) - anchor[e]
        for t in range(n_targets):
            own = t * p
            for row in range(p):
                slope, half = 0.0, M[row, p + t]
                for i in range(p):
                    slope += M[row, i] * d[own + i]
                gradient[own + row] = D(2 * (slope + half))
                loss += d[own + row] * (slope + 2 * half)
            loss += M[p + t, p + t]
        # Rounding may leave a little less than 0. Terms that are infinite may cancel.
        loss = max(loss, 0.0) if np.isfinite(loss) else np.inf
        j = take_step(
            first + k, j, D(loss), gradient, n_features, n_targets, rule,
            theta, buffer, free, lrs, momenta, plateau, losses, at, states,
        )  # fmt: skip
        if j < 0:
            return k
    return n_steps


@inlined
def take_step(
    k, j, loss, gradient, n_features, n_targets, rule,
    theta, buffer, free, lrs, momenta, plateau, losses, at, states,
):  # fmt: skip
    """Write step k down and take it, given loss and gradient of the mean squared error.

    Returns:
        Number of states written down so far, j or one more; -1 where the loss is not finite.
    """
    losses[k] = loss
    if not np.isfinite(loss):
        return -1
    dampening, nesterov, weight_decay, l1, l2, clip_norm, clip_value = rule
    complete(gradient, theta, free, n_features, n_targets, l2)
    asked = j < at.size and at[j] == k
    if asked:
        states[0, j], states[1, j], states[2, j] = theta, gradient, buffer
    clip(gradient, clip_norm, clip_value)
    if plateau.size:
        lrs[k] = plateau[0]
    update(
        theta, buffer, gradient, free, n_features, n_targets,
        lrs[k], momenta[k], dampening, nesterov, weight_decay, l1,
    )  # fmt: skip
    if plateau.size:
        advance_plateau(plateau, loss)
    if asked:
        states[3, j], states[4, j] = theta, buffer
    return j + asked


@inlined
def complete(gradient, theta, free, n_features, n_targets, l2):
    """Add the gradient of the L2 penalty, which leaves the biases out; 0 where θ is frozen."""
    if l2 > 0:
        twice = theta.dtype.type(2 * l2)
        for t in range(n_targets):
            for e in range(t * (n_features + 1), t * (n_features + 1) + n_features):
                gradient[e] += twice * theta[e]
    for e in range(theta.size):
        if not free[e]:
            gradient[e] = 0


@compiled
def update(
    theta, buffer, gradient, free, n_features, n_targets,
    lr, momentum, dampening, nesterov, weight_decay, l1,
):  # fmt: skip
    """Change θ and the momentum buffer by one step of the rule; a buffer of nan is none yet."""
    D = theta.dtype.type
    lr, momentum, l1 = D(lr), D(momentum), D(l1)
    decay, entering = D(weight_decay), D(1 - dampening)
    if momentum == 0 and l1 == 0:  # the same in fewer branches: a third of the time of a step
        for e in range(theta.size):
            moved = theta[e] - lr * (gradient[e] + decay * theta[e])
            theta[e] = moved if free[e] else theta[e]
        return
    for t in range(n_targets):
        for j in range(n_features + 1):
            e = t * (n_features + 1) + j
            if not free[e]:
                continue
            start = theta[e]
            g = gradient[e] + decay * start
            v, kept, pull = g, D(0), l1 if j < n_features else D(0)
            if momentum != 0 and buffer[e] == buffer[e]:
                kept, pull = momentum * buffer[e], entering * pull
                v = kept + entering * g
            if lr * pull == 0:
                theta[e] = start - lr * (g + momentum * v if nesterov else v)
            else:
                # The soft threshold. The buffer remembers its pull too, see ProximalSGD.
                z = start - lr * (g if nesterov else v)
                end = z - min(max(z, -lr * pull), lr * pull)
                if end > 0:
                    v += pull
                elif end < 0:
                    v -= pull
                else:
                    v = (start + lr * kept if nesterov else start) / lr
                theta[e] = end - lr * (momentum * v) if nesterov else end
            if momentum != 0:
                buffer[e] = v


@inlined
def clip(gradient, norm, value):
    """Clip a gradient as torch does: by the norm of its entries together, or each entry."""
    D = gradient.dtype.type
    if norm > 0:
        squares = 0.0  # float32 does not hold the squares of all its numbers
        for e in range(gradient.size):
            squares += np.float64(gradient[e]) * np.float64(gradient[e])
        scale = norm / (np.sqrt(squares) + CLIP_OFFSET)
        if scale < 1:
            for e in range(gradient.size):
                gradient[e] *= D(scale)
    if value > 0:
        for e in range(gradient.size):
            gradient[e] = min(max(gradient[e], -D(value)), D(value))


@compiled
def advance_plateau(plateau, loss):
    """Reduce the learning rate where the loss has not improved, as ReduceLROnPlateau does.

    Args:
        plateau: Learning rate, best loss, bad steps, steps of cooldown left; then the options:
            sign of the loss, factor, patience, share and margin by which a loss must be better,
            cooldown, smallest learning rate and smallest change; float64, shape (12,).
        loss: Loss of the step.
    """
    lr, best, bad, cooling = plateau[0], plateau[1], plateau[2], plateau[3]
    sign, factor, patience, share = plateau[4], plateau[5], plateau[6], plateau[7]
    margin, cooldown, lowest, least = plateau[8], plateau[9], plateau[10], plateau[11]
    if sign * loss < sign * (best * share) - margin:
        best, bad = np.float64(loss), 0.0
    else:
        bad += 1
    if cooling > 0:
        cooling, bad = cooling - 1, 0.0
    if bad > patience:
        reduced = max(lr * factor, lowest)
        if lr - reduced > least:
            lr = reduced
        cooling, bad = cooldown, 0.0
    plateau[0], plateau[1], plateau[2], plateau[3] = lr, best, bad, cooling


@compiled
def moments_of_rows(piece, shape, anchor, like, moments, sizes):
    """Add up `zᵀz` of the rows of each batch, `z = [x, 1, r]`, and their weights.

    Args:
        piece: Rows of the batches, see `rows.Piece`.
        shape: Columns of a row, see `state.Shape`.
        anchor: Parameters at which the residuals r are taken, the vector θ.
        like: Array of the dtype that rows are brought to first, that of the training.
        moments: Sums to add to, float64, shape (n_batches, p + T, p + T).
        sizes: Sums of the weights to add to, shape (n_batches,).
    """
    Z, origin, numbers, bounds, _, _, _ = piece
    n_features, n_targets, weighted, unit = shape
    p = n_features + 1
    D, z, w = like.dtype.type, np.ones(p + n_targets), 1.0
    for k in range(bounds.size - 1):
        M = moments[k]
        for at in range(bounds[k], bounds[k + 1]):
            i = np.uint64(origin) + np.uint64(numbers[at])
            for j in range(n_features):
                z[j] = D(Z[i, j])
            for t in range(n_targets):
                r = anchor[t * p + n_features] - D(Z[i, n_features + t])
                for j in range(n_features):
                    r += anchor[t * p + j] * z[j]
                z[p + t] = r
            if weighted:
                w = np.float64(D(Z[i, n_features + n_targets])) * unit
            sizes[k] += w
            for a in range(z.size):
                c = w * z[a]
                for b in range(z.size):
                    M[a, b] += c * z[b]
