"""Triton kernels of a block's end whose shortcut is projected, backward. Formulas, tiles and names: `shortcut_kernels`."""

import triton
import triton.language as tl

from hiclr_kernels.batch_norm.gpu_kernels import _coefficients, _kept, _operand
from hiclr_kernels.stgcn_block.shortcut_kernels import _inputs, _sources, _weights


@triton.jit
def _gradients(
    grad, z2, stats2, z3, stats3, b, seed, threshold, inverse, slope, first, end, d0, L, g, G, pooled, D: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, DROP: tl.constexpr, POOL: tl.constexpr,
):  # fmt: skip
    """z2, h2, h3 of a tile from row `first` on whose z3 - b is given; with POOL both gradients times `pooled`, for their size."""
    slot, d = tl.arange(0, ROWS), d0 + tl.arange(0, BLOCK)
    row, inside = first + slot, d < D
    ok = (row < end)[:, None] & inside[None, :]
    start, at = (g.to(tl.int64) * L + first) * D, slot[:, None] * D + d[None, :]  # within a tile 32 bits are enough
    if POOL:
        h = _operand(grad, (g * (L // pooled) + row // pooled)[:, None] * D + d[None, :], ok)
    else:
        h = _operand(grad + start, at, ok)
    a = _operand(z2 + start, at, ok)
    v = a * _coefficients(stats2, 2, g, d, inside, G, D) + _coefficients(stats2, 3, g, d, inside, G, D)
    if DROP:
        kept = _kept(seed, start, slot, d0, threshold, D, ROWS, BLOCK)
        v = tl.where(kept, v * inverse, 0.0)
    scale = _coefficients(stats3, 2, g, d, inside, G, D)
    v += z3 * scale + (b * scale + _coefficients(stats3, 3, g, d, inside, G, D))
    h = tl.where(v > 0, h, h * slope)
    own = h
    if DROP:
        own = tl.where(kept, h * inverse, 0.0)
    return a, own, h


@triton.jit
def _through(h, z, back, g, d, per, GQ, D: tl.constexpr):
    """Gradient through a batch norm, of `per` times h: back is (3, GQ, D) of `coefficients_kernel`."""
    inside = d < D
    out = h * (per * _coefficients(back, 0, g, d, inside, GQ, D)) + z * _coefficients(back, 1, g, d, inside, GQ, D)
    return out + _coefficients(back, 2, g, d, inside, GQ, D)


@triton.jit
def reduce_kernel(
    grad, z2, stats2, x, stats3, weight, bias, part, seed, threshold, inverse, slope, L, T, TO, G, pooled, V: tl.constexpr,
    C: tl.constexpr, CP: tl.constexpr, D: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    DROP: tl.constexpr, POOL: tl.constexpr,
):  # fmt: skip
    """part (GQ, S, 4, D): sums of h2, h2 (z2 - mean), h3, h3 (z3 - mean) of chunk s."""
    s, g, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    d0 = tl.program_id(2) * BLOCK
    d = d0 + tl.arange(0, BLOCK)
    w, b = _weights(weight, bias, d, x.dtype.element_ty, C, CP, D)
    size = tl.cdiv(tl.cdiv(L, splits), ROWS) * ROWS
    begin, end = s * size, tl.minimum(L, (s + 1) * size)
    sum2 = tl.zeros((BLOCK,), tl.float32)
    sum3, product2, product3 = sum2, sum2, sum2
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        tile = _inputs(x, _sources(g, row, L, T, TO, V, STRIDE), row < end, C, CP)
        z3 = tl.dot(tile, w, input_precision="ieee")
        a, h2, h3 = _gradients(
            grad, z2, stats2, z3, stats3, b, seed, threshold, inverse, slope, first, end, d0, L, g, G, pooled, D, ROWS, BLOCK,
            DROP, POOL,
        )  # fmt: skip
        sum2 += tl.sum(h2, 0)
        product2 += tl.sum(h2 * (a - _coefficients(stats2, 0, g, d, d < D, G, D)), 0)
        sum3 += tl.sum(h3, 0)
        product3 += tl.sum(h3 * (z3 + (b - _coefficients(stats3, 0, g, d, d < D, G, D))), 0)
    per = 1.0 / pooled
    place = part + (g * splits + s) * (4 * D) + d
    tl.store(place, sum2 * per, d < D)
    tl.store(place + D, product2 * per, d < D)
    tl.store(place + 2 * D, sum3 * per, d < D)
    tl.store(place + 3 * D, product3 * per, d < D)


@triton.jit
def spread_kernel(
    grad, z2, stats2, x, stats3, weight, bias, back2, back3, dz2, dx, seed, threshold, inverse, slope, L, T, TO, G, GQ, pooled,
    V: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, D: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, DROP: tl.constexpr, POOL: tl.constexpr,
):  # fmt: skip
    """dz2 like z2, dx like x: zero in the frames that the stride leaves out."""
    g = tl.program_id(1)
    first, c = tl.program_id(0) * ROWS, tl.arange(0, CP)
    row = first + tl.arange(0, ROWS)
    inside = row < L
    source = _sources(g, row, L, T, TO, V, STRIDE)
    tile = _inputs(x, source, inside, C, CP)
    per = 1.0 / pooled
    onto = tl.zeros((ROWS, CP), tl.float32)
    for d0 in range(0, D, BLOCK):
        d = d0 + tl.arange(0, BLOCK)
        ok = inside[:, None] & (d < D)[None, :]
        w, b = _weights(weight, bias, d, x.dtype.element_ty, C, CP, D)
        z3 = tl.dot(tile, w, input_precision="ieee")
        a, h2, h3 = _gradients(
            grad, z2, stats2, z3, stats3, b, seed, threshold, inverse, slope, first, L, d0, L, g, G, pooled, D, ROWS, BLOCK,
            DROP, POOL,
        )  # fmt: skip
        h2 = _through(h2, a, back2, g, d, per, GQ, D)
        at = (g.to(tl.int64) * L + first) * D + (tl.arange(0, ROWS)[:, None] * D + d[None, :])
        tl.store(dz2 + at, h2.to(dz2.dtype.element_ty), ok)
        h3 = tl.where(ok, _through(h3, z3 + b, back3, g, d, per, GQ, D), 0.0)
        onto = tl.dot(h3.to(tile.dtype), tl.trans(w), onto, input_precision="ieee")
    ok = inside[:, None] & (c < C)[None, :]
    at = source[:, None] * C + c[None, :]
    tl.store(dx + at, onto.to(dx.dtype.element_ty), ok)
    if STRIDE == 2:
        later = (row // V % TO * STRIDE + 1 < T)[:, None]
        tl.store(dx + at + V * C, tl.zeros((ROWS, CP), dx.dtype.element_ty), ok & later)


@triton.jit
def weights_kernel(
    grad, z2, stats2, x, stats3, weight, bias, back3, part, seed, threshold, inverse, slope, L, T, TO, G, GQ, pooled,
    V: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, D: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, DROP: tl.constexpr, POOL: tl.constexpr,
):  # fmt: skip
    """part (GQ, S, D, C): sums of dz3 x^T of chunk s."""
    s, g, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    d0 = tl.program_id(2) * BLOCK
    d, c = d0 + tl.arange(0, BLOCK), tl.arange(0, CP)
    w, b = _weights(weight, bias, d, x.dtype.element_ty, C, CP, D)
    size = tl.cdiv(tl.cdiv(L, splits), ROWS) * ROWS
    begin, end = s * size, tl.minimum(L, (s + 1) * size)
    total = tl.zeros((BLOCK, CP), tl.float32)
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        tile = _inputs(x, _sources(g, row, L, T, TO, V, STRIDE), row < end, C, CP)
        z3 = tl.dot(tile, w, input_precision="ieee")
        _, _, h3 = _gradients(
            grad, z2, stats2, z3, stats3, b, seed, threshold, inverse, slope, first, end, d0, L, g, G, pooled, D, ROWS, BLOCK,
            DROP, POOL,
        )  # fmt: skip
        dz3 = _through(h3, z3 + b, back3, g, d, 1.0 / pooled, GQ, D)  # where there is no row, x is zero
        total = tl.dot(tl.trans(dz3.to(tile.dtype)), tile, total, input_precision="ieee")
    place = part + ((g * splits + s) * D + d).to(tl.int64)[:, None] * C + c[None, :]
    tl.store(place, total, (d < D)[:, None] & (c < C)[None, :])


@triton.jit
def join_kernel(part, out, S, N, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """out (N,): sums of part (S, N), in fixed order."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, S, PARTS):
        s = first + tl.arange(0, PARTS)
        ok = (s < S)[:, None] & (e < N)[None, :]
        total += tl.sum(tl.load(part + s.to(tl.int64)[:, None] * N + e[None, :], ok, other=0.0), 0)
    tl.store(out + e, total, e < N)
