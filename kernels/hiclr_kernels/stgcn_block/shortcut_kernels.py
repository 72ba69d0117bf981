"""Triton kernels of a block's end whose shortcut is projected: made again where it is needed, never stored.

    z3[r, t, v] = W x[r, STRIDE t, v] + b      v = keep * n2(z2) + n3(z3)      y = v for v > 0, else slope * v

    h3 = act'(v) dy,   h2 = keep * h3,   dz2 = a2 h2 + b2 z2 + c2,   dz3 = a3 h3 + b3 z3 + c3,   dx = dz3 W,   dW = sum dz3 x^T

z2: (G, L, D), L rows (r, t, v) of a group; x: (R, T, V, C), all groups' rows; the coefficients a, b, c are known when the sums of
`reduce_kernel` are, so dx and dW come in passes after it. A tile is ROWS of L by BLOCK of D, CP is C padded.
Statistics, coefficients and what is dropped: as in `batch_norm`.
"""

import triton
import triton.language as tl

from hiclr_kernels.batch_norm.gpu_kernels import _coefficients, _kept, _operand
from hiclr_kernels.batch_norm.gpu_sums import store_moments


@triton.jit
def _sources(g, row, L, T, TO, V: tl.constexpr, STRIDE: tl.constexpr):
    """Where in x, in rows of C, lies what these rows of a group are projected from: int64 (ROWS,)."""
    frame = row // V
    place = (frame // TO * T + frame % TO * STRIDE) * V + row % V
    return g.to(tl.int64) * (L // TO * T) + place


@triton.jit
def _weights(weight, bias, d, dtype, C: tl.constexpr, CP: tl.constexpr, D: tl.constexpr):
    """W^T (CP, BLOCK) as a factor of a product, b (1, BLOCK)."""
    c = tl.arange(0, CP)
    w = tl.load(weight + d[None, :] * C + c[:, None], (c < C)[:, None] & (d < D)[None, :], other=0.0).to(dtype)
    return w, tl.load(bias + d, d < D, other=0.0)[None, :]


@triton.jit
def _inputs(x, source, inside, C: tl.constexpr, CP: tl.constexpr):
    """(ROWS, CP)."""
    c = tl.arange(0, CP)
    return tl.load(x + source[:, None] * C + c[None, :], inside[:, None] & (c < C)[None, :], other=0.0)


@triton.jit
def moments_kernel(
    x, weight, bias, weight2, bias2, part, L, T, TO, split, V: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, D: tl.constexpr,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """part (G, S, 3, D): count, mean and sum of squared deviations of z3 in chunk s, as `batch_norm`'s of what is stored."""
    s, g, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    d = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    if g >= split:
        weight, bias = weight2, bias2
    w, b = _weights(weight, bias, d, x.dtype.element_ty, C, CP, D)
    size = tl.cdiv(tl.cdiv(L, splits), ROWS) * ROWS
    begin, end = s * size, tl.minimum(L, (s + 1) * size)
    mean = tl.zeros((ROWS, BLOCK), tl.float32)
    m2 = tl.zeros((ROWS, BLOCK), tl.float32)
    count = 0.0
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        tile = _inputs(x, _sources(g, row, L, T, TO, V, STRIDE), row < end, C, CP)
        z3 = tl.dot(tile, w, input_precision="ieee") + b
        count += 1.0
        delta = z3 - mean
        new = mean + delta / count
        m2 = tl.where((row < end)[:, None], m2 + delta * (z3 - new), m2)
        mean = tl.where((row < end)[:, None], new, mean)
    store_moments(part + (g * splits + s) * (3 * D) + d, mean, m2, end - begin, d < D, D, ROWS)


@triton.jit
def end_kernel(
    z2, stats2, x, stats3, weight, bias, weight2, bias2, out, seed, threshold, inverse, slope, L, T, TO, G, split, chunk,
    V: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, D: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, DROP: tl.constexpr, POOL: tl.constexpr,
):  # fmt: skip
    """y (G, L, D), `chunk` rows a program; with POOL their mean, (G * L / chunk, D)."""
    s, g = tl.program_id(0), tl.program_id(1)
    d0 = tl.program_id(2) * BLOCK
    d = d0 + tl.arange(0, BLOCK)
    if g >= split:
        weight, bias = weight2, bias2
    w, b = _weights(weight, bias, d, x.dtype.element_ty, C, CP, D)
    base = g.to(tl.int64) * L * D
    begin, end = s * chunk, tl.minimum(L, (s + 1) * chunk)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        ok = (row < end)[:, None] & (d < D)[None, :]
        at = base + row.to(tl.int64)[:, None] * D + d[None, :]
        v = _operand(z2, at, ok) * _coefficients(stats2, 2, g, d, d < D, G, D) + _coefficients(stats2, 3, g, d, d < D, G, D)
        if DROP:
            v = tl.where(_kept(seed, base, row, d0, threshold, D, ROWS, BLOCK), v * inverse, 0.0)
        tile = _inputs(x, _sources(g, row, L, T, TO, V, STRIDE), row < end, C, CP)
        z3 = tl.dot(tile, w, input_precision="ieee") + b
        v += z3 * _coefficients(stats3, 2, g, d, d < D, G, D) + _coefficients(stats3, 3, g, d, d < D, G, D)
        v = tl.where(v > 0, v, v * slope)
        if POOL:
            total += tl.where(ok, v, 0.0)
        else:
            tl.store(out + at, v.to(out.dtype.element_ty), ok)
    if POOL:
        mean = tl.sum(total, 0) / chunk
        tl.store(out + (g.to(tl.int64) * tl.num_programs(0) + s) * D + d, mean.to(out.dtype.element_ty), d < D)
