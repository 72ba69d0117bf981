"""Triton sums of batch norm: moments of groups of rows, what is made of them, and what the backward pass makes of its sums.

x: (G, L, C) contiguous. A norm's `stats` is (4, G, C) float32: mean, 1 / deviation, scale, shift. Sums of parts are joined in a
fixed order, in float64, by the kernel that needs them: SP parts of GP groups at a time.
"""

import triton
import triton.language as tl


@triton.jit
def store_moments(place, mean, m2, count, ok, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Count, mean and sum of squared deviations (BLOCK,) of `count` rows at place, place + WIDTH, place + 2 WIDTH, from those of
    every slot (ROWS, BLOCK), of which slot r saw the rows r, r + ROWS, ..."""
    n = tl.maximum(0, (count - tl.arange(0, ROWS) + ROWS - 1) // ROWS).to(tl.float32)[:, None]  # rows of each slot
    joined = tl.sum(mean * n, 0) / tl.maximum(count, 1).to(tl.float32)
    apart = mean - joined[None, :]
    tl.store(place, tl.zeros_like(joined) + tl.maximum(count, 0), ok)
    tl.store(place + WIDTH, joined, ok)
    tl.store(place + 2 * WIDTH, tl.sum(m2 + n * apart * apart, 0), ok)


@triton.jit
def moments_kernel(x, part, L, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """part (G, S, 3, C): count, mean, sum of squared deviations of chunk s. Welford's update a cell of the tile, then Chan's."""
    s, g, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    size = tl.cdiv(tl.cdiv(L, splits), ROWS) * ROWS
    begin, end = s * size, tl.minimum(L, (s + 1) * size)
    base = x + g.to(tl.int64) * L * C
    mean = tl.zeros((ROWS, BLOCK), tl.float32)
    m2 = tl.zeros((ROWS, BLOCK), tl.float32)
    count = 0.0
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        ok = (row < end)[:, None] & (c < C)[None, :]
        v = tl.load(base + row.to(tl.int64)[:, None] * C + c[None, :], ok, other=0.0).to(tl.float32)
        count += 1.0
        delta = v - mean
        new = mean + delta / count
        m2 = tl.where(ok, m2 + delta * (v - new), m2)
        mean = tl.where(ok, new, mean)
    store_moments(part + (g * splits + s) * (3 * C) + c, mean, m2, end - begin, c < C, C, ROWS)


@triton.jit
def _moments(part, g, c, first, S, W, G: tl.constexpr, C: tl.constexpr, SP: tl.constexpr):
    """Count, mean and sum of squared deviations (GP, SP, BLOCK) float64 of parts `first` to first + SP - 1."""
    s = first + tl.arange(0, SP)
    ok = (g < G)[:, None, None] & (s < S)[None, :, None] & (c < C)[None, None, :]
    at = part + ((g[:, None, None] * S + s[None, :, None]) * (3 * W) + c[None, None, :])
    n = tl.load(at, ok, other=0.0).to(tl.float64)
    mean = tl.load(at + W, ok, other=0.0).to(tl.float64)
    return n, mean, tl.load(at + 2 * W, ok, other=0.0).to(tl.float64)


@triton.jit
def _joined(part, g, c, S, W, G: tl.constexpr, C: tl.constexpr, GP: tl.constexpr, SP: tl.constexpr, BLOCK: tl.constexpr):
    """Mean and biased variance (GP, BLOCK) float64 of moments (G, S, 3, W) of parts (Chan et al. 1979)."""
    total = tl.zeros((GP, BLOCK), tl.float64)
    count, m2 = total, total
    for first in range(0, S, SP):
        n, means, _ = _moments(part, g, c, first, S, W, G, C, SP)
        count += tl.sum(n, 1)
        total += tl.sum(n * means, 1)
    count = tl.maximum(count, 1.0)
    mean = total / count
    for first in range(0, S, SP):
        n, means, squares = _moments(part, g, c, first, S, W, G, C, SP)
        d = means - mean[:, None, :]
        m2 += tl.sum(squares + n * d * d, 1)
    return mean, m2 / count


@triton.jit
def join_kernel(
    part, out, S, W, G: tl.constexpr, C: tl.constexpr, GP: tl.constexpr, SP: tl.constexpr, BLOCK: tl.constexpr
):
    """out (2, G, C) float64: mean and mean square of every group, which may be averaged over processes."""
    g, c = tl.arange(0, GP), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mean, var = _joined(part, g, c, S, W, G, C, GP, SP, BLOCK)
    ok = (g < G)[:, None] & (c < C)[None, :]
    place = out + g[:, None] * C + c[None, :]
    tl.store(place, mean, ok)
    tl.store(place + G * C, var + mean * mean, ok)


@triton.jit
def _group(tile, g, i):
    return tl.sum(tl.where((g == i)[:, None], tile, 0.0), 0)


@triton.jit
def _run(running_mean, running_var, tracked, mean, var, g, c, inside, momentum, unbias, begin, end):
    """Running statistics, moved towards those of groups begin to end - 1 in turn."""
    rm, rv = tl.load(running_mean + c, inside, other=0.0), tl.load(running_var + c, inside, other=0.0)
    for i in range(begin, end):
        rm += momentum * (_group(mean, g, i) - rm)
        rv += momentum * (_group(var, g, i) * unbias - rv)
    tl.store(running_mean + c, rm, inside)
    tl.store(running_var + c, rv, inside)
    if tl.program_id(0) == 0:
        tl.store(tracked, tl.load(tracked) + (end - begin))


@triton.jit
def finish_kernel(
    part, weight, bias, running_mean, running_var, tracked, weight2, bias2, running_mean2, running_var2, tracked2, stats,
    S, W, eps, momentum, unbias, split, G: tl.constexpr, C: tl.constexpr, GP: tl.constexpr, SP: tl.constexpr,
    BLOCK: tl.constexpr, RAW: tl.constexpr, TWO: tl.constexpr,
):  # fmt: skip
    """Statistics of every group, and the running ones, updated group by group. Groups from `split` on are of the second set.

    part: (G, S, 3, W) moments of parts; with RAW (2, G, C) float64, what `join_kernel` wrote.
    """
    g, c = tl.arange(0, GP), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    if RAW:
        every = (g < G)[:, None] & inside[None, :]
        mean = tl.load(part + g[:, None] * C + c[None, :], every, other=0.0)
        var = tl.maximum(tl.load(part + (G + g)[:, None] * C + c[None, :], every, other=0.0) - mean * mean, 0.0)
    else:
        mean, var = _joined(part, g, c, S, W, G, C, GP, SP, BLOCK)
    mean, var = mean.to(tl.float32), var.to(tl.float32)
    w, b = tl.load(weight + c, inside, other=0.0)[None, :], tl.load(bias + c, inside, other=0.0)[None, :]
    if TWO:
        own = (g < split)[:, None]
        w = tl.where(own, w, tl.load(weight2 + c, inside, other=0.0)[None, :])
        b = tl.where(own, b, tl.load(bias2 + c, inside, other=0.0)[None, :])
    rstd = 1.0 / tl.sqrt(var + eps)
    scale = w * rstd
    ok = (g < G)[:, None] & inside[None, :]
    place = stats + g[:, None] * C + c[None, :]
    tl.store(place, mean, ok)
    tl.store(place + G * C, rstd, ok)
    tl.store(place + 2 * G * C, scale, ok)
    tl.store(place + 3 * G * C, b - mean * scale, ok)
    _run(running_mean, running_var, tracked, mean, var, g, c, inside, momentum, unbias, 0, split)
    if TWO:
        _run(running_mean2, running_var2, tracked2, mean, var, g, c, inside, momentum, unbias, split, G)


@triton.jit
def coefficients_kernel(
    part, shared, weight, stats, out, d_weight, d_bias, d_front, S, group_stride, part_stride, second, per, G_ALL,
    G: tl.constexpr, C: tl.constexpr, GP: tl.constexpr, SP: tl.constexpr, BLOCK: tl.constexpr, SHARED: tl.constexpr,
    FRONT: tl.constexpr,
):  # fmt: skip
    """out (3, G, C): dx = out0 * h + out1 * x + out2. d_front: of a bias in front of the norm, zero by algebra.

    part: sums of h and, `second` further, of h (x - mean), of S parts; shared (G, 2, C) float64: their mean over the processes,
    if SHARED.
    """
    g, c = tl.arange(0, GP), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    ok = (g < G)[:, None] & inside[None, :]
    total = tl.zeros((GP, BLOCK), tl.float64)
    product = total
    for first in range(0, S, SP):
        s = first + tl.arange(0, SP)
        every = ok[:, None, :] & (s < S)[None, :, None]
        at = part + (g[:, None, None] * group_stride + s[None, :, None] * part_stride + c[None, None, :])
        total += tl.sum(tl.load(at, every, other=0.0).to(tl.float64), 1)
        product += tl.sum(tl.load(at + second, every, other=0.0).to(tl.float64), 1)
    here = g[:, None] * C + c[None, :]
    mean, rstd = tl.load(stats + here, ok, other=0.0), tl.load(stats + G_ALL * C + here, ok, other=0.0)
    tl.store(d_weight + c, tl.sum(product * rstd, 0).to(tl.float32), inside)
    tl.store(d_bias + c, tl.sum(total, 0).to(tl.float32), inside)
    if FRONT:
        tl.store(d_front + c, tl.zeros((BLOCK,), tl.float32), inside)
    if SHARED:
        at = (2 * g)[:, None] * C + c[None, :]
        total, product = tl.load(shared + at, ok, other=0.0), tl.load(shared + at + C, ok, other=0.0)
    a = tl.load(weight + c, inside, other=0.0)[None, :] * rstd
    slope = -a * rstd * rstd * (product * per).to(tl.float32)
    tl.store(out + here, a, ok)
    tl.store(out + G * C + here, slope, ok)
    tl.store(out + 2 * G * C + here, -a * (total * per).to(tl.float32) - slope * mean, ok)
