"""Triton sums of batch norm: moments of groups of rows, what is made of them, and what the backward pass makes of its sums.

x: (G, L, C) contiguous. A norm's `stats` is (4, G, C) float32: mean, 1 / deviation, scale, shift. Sums of chunks are joined in a
fixed order, in float64.
"""

import triton
import triton.language as tl


@triton.jit
def moments_kernel(x, part, L, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """part (G, S, 2, C): mean and sum of squared deviations of chunk s. Welford's update a cell of the tile, then Chan's."""
    s, g, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    size = tl.cdiv(tl.cdiv(L, splits), ROWS) * ROWS
    begin, end = s * size, tl.minimum(L, (s + 1) * size)
    base = x + g.to(tl.int64) * L * C
    mean = tl.zeros((ROWS, BLOCK), tl.float32)
    m2 = tl.zeros((ROWS, BLOCK), tl.float32)
    count = 0.0
    slot = tl.arange(0, ROWS)
    for first in range(begin, end, ROWS):
        row = first + slot
        ok = (row < end)[:, None] & (c < C)[None, :]
        v = tl.load(base + row.to(tl.int64)[:, None] * C + c[None, :], ok, other=0.0).to(tl.float32)
        count += 1.0
        delta = v - mean
        new = mean + delta / count
        m2 = tl.where(ok, m2 + delta * (v - new), m2)
        mean = tl.where(ok, new, mean)
    n = tl.maximum(0, (end - begin - slot + ROWS - 1) // ROWS).to(tl.float32)[:, None]  # rows of each slot
    total = tl.maximum(end - begin, 1).to(tl.float32)
    joined = tl.sum(mean * n, 0) / total
    d = mean - joined[None, :]
    place = part + (g * splits + s) * (2 * C) + c
    tl.store(place, joined, c < C)
    tl.store(place + C, tl.sum(m2 + n * d * d, 0), c < C)


@triton.jit
def _joined(first, second, group_stride, chunk_stride, L, size, unit, g, s, c, S, G, C, RAW: tl.constexpr):
    """Mean and biased variance (GP, BLOCK) float64, from means and unit * second of chunks of `size` rows; RAW: mean of x^2."""
    ok = (g < G)[:, None, None] & (s < S)[None, :, None] & (c < C)[None, None, :]
    at = g[:, None, None] * group_stride + s[None, :, None] * chunk_stride + c[None, None, :]
    means = tl.load(first + at, ok, other=0.0).to(tl.float64)
    squares = tl.load(second + at, ok, other=0.0).to(tl.float64)
    if RAW:
        mean = tl.sum(means, 1)
        return mean, tl.maximum(tl.sum(squares, 1) - mean * mean, 0.0)
    n = tl.maximum(0, tl.minimum(size, L - s * size)).to(tl.float64)[None, :, None]
    mean = tl.sum(means * n, 1) / L
    d = tl.where(ok, means - mean[:, None, :], 0.0)
    return mean, tl.sum(squares * unit + n * d * d, 1) / L


@triton.jit
def join_kernel(
    first, second, out, group_stride, chunk_stride, L, size, unit, G: tl.constexpr, C: tl.constexpr, S: tl.constexpr,
    GP: tl.constexpr, SP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out (2, G, C) float64: mean and mean square of every group, which may be averaged over processes."""
    g, s, c = tl.arange(0, GP), tl.arange(0, SP), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mean, var = _joined(first, second, group_stride, chunk_stride, L, size, unit, g, s, c, S, G, C, False)
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
    first, second, weight, bias, running_mean, running_var, tracked, weight2, bias2, running_mean2, running_var2, tracked2,
    stats, group_stride, chunk_stride, L, size, unit, eps, momentum, unbias, split, G: tl.constexpr, C: tl.constexpr,
    S: tl.constexpr, GP: tl.constexpr, SP: tl.constexpr, BLOCK: tl.constexpr, RAW: tl.constexpr, TWO: tl.constexpr,
):  # fmt: skip
    """Statistics of every group, and the running ones, updated group by group. Groups from `split` on are of the second set."""
    g, s, c = tl.arange(0, GP), tl.arange(0, SP), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    mean, var = _joined(first, second, group_stride, chunk_stride, L, size, unit, g, s, c, S, G, C, RAW)
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
    part, shared, weight, stats, out, d_weight, d_bias, d_front, group_stride, chunk_stride, per, G_ALL, G: tl.constexpr,
    C: tl.constexpr, S: tl.constexpr, GP: tl.constexpr, SP: tl.constexpr, BLOCK: tl.constexpr, SHARED: tl.constexpr,
    FRONT: tl.constexpr,
):  # fmt: skip
    """out (3, G, C): dx = out0 * h + out1 * x + out2. d_front: of a bias in front of the norm, zero by algebra.

    part: sums of h and h (x - mean) of chunks; shared (G, 2, C) float64: their mean over the processes, if SHARED.
    """
    g, s, c = tl.arange(0, GP), tl.arange(0, SP), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    ok = (g < G)[:, None] & inside[None, :]
    every = ok[:, None, :] & (s < S)[None, :, None]
    at = g[:, None, None] * group_stride + s[None, :, None] * chunk_stride + c[None, None, :]
    total = tl.sum(tl.load(part + at, every, other=0.0).to(tl.float64), 1)
    product = tl.sum(tl.load(part + at + C, every, other=0.0).to(tl.float64), 1)
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
