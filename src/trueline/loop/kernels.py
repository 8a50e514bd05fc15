"""The loop of SGD, compiled: many steps in one call, over rows or over moments.

`over_rows` and `over_moments` differ in where loss and gradient come from. Both end each step with
`update`, the rule of `trueline.reference.sgd`. The two share no code: one is held against the other.

Parameters are one vector θ of T·p entries, p = n_features + 1: for each target its weights, then its
bias. Gradients and momentum buffers have the same layout. All arithmetic on θ is in the dtype of θ,
and a step depends on the state before it and on its rows alone. So the state after a step does not
depend on how steps are grouped into calls.

Three things here are for speed. Row numbers are unsigned, since the compiler would have to look at
each signed index for a negative one. Arrays become local names before a loop, since a field of a
tuple is counted as a reference each time. Functions within a step are inlined for the same reason.
"""

import math

import numpy as np

from trueline.loop.compiler import compiled, inlined

AHEAD = 256
"""Rows that are brought into the L1 cache before they are needed."""
FEW_ROWS = 8
"""Rows of a batch below which the processor would wait for each."""
CLIP_OFFSET = 1e-6
"""torch's `clip_grad_norm_` adds it to the norm that it divides by."""
LARGEST_UNIT = 126
"""Exponent of the largest power of two that float32 holds together with its inverse."""


@compiled
def over_rows(piece, shape, state, rule, course, record):
    """Take the steps of consecutive batches, each from its rows.

    Args:
        piece: Rows of the batches, see `rows.Piece`.
        shape: Columns of a row, see `state.Shape`.
        state: Parameters and what goes with them; they change in place.
        rule: The update rule.
        course: Learning rate and momentum of each step.
        record: Memory for losses and states.

    Returns:
        Number of batches done: all that end here, or those before the first whose loss is not
        finite.
    """
    Z, origin, numbers, bounds, opened, closed, first = piece
    n_features, n_targets, weighted, unit = shape
    theta, buffer, free, sums, totals = state
    lrs, momenta, plateau = course
    losses, used_lrs, at, before, after, gradients, buffers, buffers_after = record
    D, n_batches, p = theta.dtype.type, bounds.size - 1, n_features + 1
    gradient, j = np.empty_like(theta), np.searchsorted(at, first)
    # Rows of a larger batch are fetched at the same time anyhow.
    ahead, seen = 0 if n_batches > numbers.size // FEW_ROWS else numbers.size, np.zeros(1)
    for k in range(n_batches):
        if bounds[k + 1] > ahead:
            ahead = touch(Z, origin, numbers, ahead, min(bounds[k + 1] + AHEAD, numbers.size), seen)
        if k > 0 or not opened:
            sums[:] = 0
            totals[:] = 0
        start, stop = bounds[k], bounds[k + 1]
        if weighted:
            unit = unit_of(Z, origin, numbers, start, stop, sums, totals)
        add_rows(Z, origin, numbers, start, stop, n_features, n_targets, weighted, unit, theta, sums, totals)
        if k == n_batches - 1 and not closed:
            return k
        size = totals[1] * D(n_targets)
        loss = totals[0] / size
        step = first + k
        losses[step] = loss
        if not np.isfinite(loss):
            return k
        scale = D(2) / size
        for e in range(theta.size):
            gradient[e] = scale * sums[e]
        complete(gradient, theta, free, n_targets, p, rule.l2)
        asked = j < at.size and at[j] == step
        if asked:
            before[j], gradients[j], buffers[j] = theta, gradient, buffer
        clip(gradient, rule.clip_norm, rule.clip_value)
        used_lrs[step] = lr = plateau[0] if plateau.size else lrs[step]
        update(theta, buffer, gradient, n_targets, p, lr, momenta[step], rule, free)
        if plateau.size:
            advance_plateau(plateau, loss)
        if asked:
            after[j], buffers_after[j] = theta, buffer
            j += 1
    return n_batches


@compiled
def touch(Z, origin, numbers, start, stop, seen):
    """Bring rows into the cache of this processor, all at the same time, before they are added.

    They lie all over a pool, and another processor may have fetched it.
    """
    total = 0.0
    for k in range(start, stop):
        i = np.uint64(origin) + np.uint64(numbers[k])
        total += Z[i, 0] + Z[i, Z.shape[1] - 1]
    seen[0] = total  # else the compiler would leave this out
    return stop


@compiled
def unit_of(Z, origin, numbers, start, stop, sums, totals):
    """Return a power of two that brings the largest weight of a batch so far to about 1.

    Of weights only proportions count, and float32 could not hold the products of small or large
    ones. The sums of the batch so far are brought to the same unit.
    """
    top, last = 0.0, Z.shape[1] - 1
    for k in range(start, stop):
        top = max(top, Z[np.uint64(origin) + np.uint64(numbers[k]), last])
    unit = math.ldexp(1.0, min(-math.frexp(top)[1], LARGEST_UNIT))
    if totals[2] > 0:
        unit = min(unit, np.float64(totals[2]))
        smaller = totals.dtype.type(unit / totals[2])
        for e in range(sums.size):
            sums[e] *= smaller
        totals[0] *= smaller
        totals[1] *= smaller
    totals[2] = unit
    return unit


@compiled
def add_rows(Z, origin, numbers, start, stop, n_features, n_targets, weighted, unit, theta, sums, totals):
    """Add rows to the sums of a batch: residual·[x, 1] for the gradient, residual² and weights."""
    D, p = theta.dtype.type, n_features + 1
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
    totals[0] += squares
    totals[1] += size


@compiled
def over_moments(moments, anchor, first, steps, shape, state, rule, course, record):
    """Take steps from the moments of their rows.

    With the rows `z = [x, 1, r]`, r being the residuals at an anchor, and M the mean of `zᵀz`, the
    loss at the deviation d from the anchor is `dᵀ·M_xx·d + 2·dᵀ·M_xr + M_rr`. Near the anchor
    nothing large cancels in it, as it would in moments of y.

    Args:
        moments: M of each step, or one for all; float64, shape (steps or 1, p + T, p + T).
        anchor: Parameters at which the residuals are taken, float64, the vector θ.
        first: Number of the first step among those of `course`.
        steps: Number of steps.
        shape: See `over_rows`.
        state: See `over_rows`.
        rule: See `over_rows`.
        course: See `over_rows`.
        record: See `over_rows`.

    Returns:
        Number of steps taken: all, or those before the first whose loss is not finite.
    """
    n_features, n_targets, weighted, unit = shape
    theta, buffer, free, sums, totals = state
    lrs, momenta, plateau = course
    losses, used_lrs, at, before, after, gradients, buffers, buffers_after = record
    D, p, j = theta.dtype.type, n_features + 1, np.searchsorted(at, first)
    d, gradient = np.empty(theta.size), np.empty_like(theta)
    for k in range(steps):
        M = moments[k if moments.shape[0] > 1 else 0]
        squares = 0.0
        for e in range(theta.size):
            d[e] = np.float64(theta[e]) - anchor[e]
        for t in range(n_targets):
            own = t * p
            for row in range(p):
                slope = 0.0
                for i in range(p):
                    slope += M[row, i] * d[own + i]
                half = M[row, p + t]
                gradient[own + row] = D(2 * (slope + half))
                squares += d[own + row] * (slope + 2 * half)
            squares += M[p + t, p + t]
        loss = D(squares if not squares < 0 else 0.0)
        step = first + k
        losses[step] = loss
        if not np.isfinite(loss):
            return k
        complete(gradient, theta, free, n_targets, p, rule.l2)
        asked = j < at.size and at[j] == step
        if asked:
            before[j], gradients[j], buffers[j] = theta, gradient, buffer
        clip(gradient, rule.clip_norm, rule.clip_value)
        used_lrs[step] = lr = plateau[0] if plateau.size else lrs[step]
        update(theta, buffer, gradient, n_targets, p, lr, momenta[step], rule, free)
        if plateau.size:
            advance_plateau(plateau, loss)
        if asked:
            after[j], buffers_after[j] = theta, buffer
            j += 1
    return steps


@inlined
def complete(gradient, theta, free, n_targets, p, l2):
    """Add the gradient of the L2 penalty, which leaves the biases out; 0 where θ is frozen."""
    for e in range(theta.size):
        if not free[e]:
            gradient[e] = 0
    if l2 > 0:
        twice = theta.dtype.type(2 * l2)
        for t in range(n_targets):
            for e in range(t * p, t * p + p - 1):
                gradient[e] += twice * theta[e] if free[e] else 0


@compiled
def update(theta, buffer, gradient, n_targets, p, lr, momentum, rule, free):
    """Change θ and the momentum buffer by one step of the rule; a buffer of nan is none yet."""
    D = theta.dtype.type
    lr, momentum, nesterov = D(lr), D(momentum), rule.nesterov
    decay, entering, l1 = D(rule.weight_decay), D(1 - rule.dampening), D(rule.l1)
    if momentum == 0 and l1 == 0:  # the same in fewer branches: a third of the time of a step
        for e in range(theta.size):
            moved = theta[e] - lr * (gradient[e] + decay * theta[e])
            theta[e] = moved if free[e] else theta[e]
        return
    for t in range(n_targets):
        for j in range(p):
            e = t * p + j
            if not free[e]:
                continue
            start = theta[e]
            g = gradient[e] + decay * start
            v, kept, pull = g, D(0), l1 if j < p - 1 else D(0)
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
    """Reduce the learning rate where the loss has not improved, as torch's ReduceLROnPlateau does.

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
def sums_at(Z, shape, theta, sums, totals):
    """Add consecutive rows to the sums of the gradient at θ, see `add_rows`."""
    n_features, n_targets, weighted, unit = shape
    numbers = np.arange(Z.shape[0])
    add_rows(
        Z, 0, numbers, 0, Z.shape[0], n_features, n_targets, weighted, unit, theta, sums, totals
    )


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
    Z, origin, numbers, bounds, opened, closed, first = piece
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
