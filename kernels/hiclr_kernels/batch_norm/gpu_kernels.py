"""Triton passes of batch norm with what follows it, on one or two operands.

    v = keep * n1(x1) + n2(x2)      n(x) = x * scale_g + shift_g, or x itself       out = v for v > 0, else slope * v

x: (G, L, C) contiguous: G groups of L rows. KIND1 is PLAIN or NORM, KIND2 NONE, PLAIN or NORM. stats: see `gpu_sums`.
"""

import triton
import triton.language as tl

from hiclr_kernels.philox.gpu import keep

NONE, PLAIN, NORM = (tl.constexpr(i) for i in range(3))


@triton.jit
def _coefficients(stats, which, g, channel, inside, G, C):
    """Row `which` of a norm's statistics (0 mean, 2 scale, 3 shift), for the columns of a tile."""
    return tl.load(stats + (which * G + g) * C + channel, inside, other=0.0)[None, :]


@triton.jit
def _kept(seed, base, row, c0, threshold, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Dropout's mask of a tile of these rows and BLOCK columns from c0 on; base: position of row 0."""
    at = base + row.to(tl.int64)[:, None] * C + c0
    if C % 8 == 0:
        kept = keep(tl.load(seed), at + 8 * tl.arange(0, BLOCK // 8)[None, :], threshold, ROWS, BLOCK, True)
    else:
        kept = keep(tl.load(seed), at + tl.arange(0, BLOCK)[None, :], threshold, ROWS, BLOCK, False)
    return kept


@triton.jit
def _operand(x, at, ok):
    return tl.load(x + at, ok, other=0.0).to(tl.float32)


@triton.jit
def apply_kernel(
    x1, stats1, x2, stats2, out, seed, threshold, inverse, slope, L, G, C: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, KIND1: tl.constexpr, KIND2: tl.constexpr, DROP: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    g = tl.program_id(1)
    c0 = tl.program_id(2) * BLOCK
    c = c0 + tl.arange(0, BLOCK)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < L)[:, None] & (c < C)[None, :]
    base = g.to(tl.int64) * L * C
    at = base + row.to(tl.int64)[:, None] * C + c[None, :]
    v = _operand(x1, at, ok)
    if KIND1 == NORM:
        v = v * _coefficients(stats1, 2, g, c, c < C, G, C) + _coefficients(stats1, 3, g, c, c < C, G, C)
    if DROP:
        v = tl.where(_kept(seed, base, row, c0, threshold, C, ROWS, BLOCK), v * inverse, 0.0)
    if KIND2 != NONE:
        r = _operand(x2, at, ok)
        if KIND2 == NORM:
            r = r * _coefficients(stats2, 2, g, c, c < C, G, C) + _coefficients(stats2, 3, g, c, c < C, G, C)
        v += r
    if ACT:
        v = tl.where(v > 0, v, v * slope)
    tl.store(out + at, v.to(out.dtype.element_ty), ok)


@triton.jit
def pool_kernel(
    x1, stats1, x2, stats2, out, seed, threshold, inverse, slope, pooled, per_group, G, C: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, KIND1: tl.constexpr, KIND2: tl.constexpr, DROP: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """out (G * per_group, C): the mean of what `apply_kernel` would write, over every `pooled` rows."""
    n = tl.program_id(0)
    g = n // per_group
    c0 = tl.program_id(1) * BLOCK
    c = c0 + tl.arange(0, BLOCK)
    base = n.to(tl.int64) * pooled * C
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(0, pooled, ROWS):
        row = first + tl.arange(0, ROWS)
        ok = (row < pooled)[:, None] & (c < C)[None, :]
        at = base + row.to(tl.int64)[:, None] * C + c[None, :]
        v = _operand(x1, at, ok)
        if KIND1 == NORM:
            v = v * _coefficients(stats1, 2, g, c, c < C, G, C) + _coefficients(stats1, 3, g, c, c < C, G, C)
        if DROP:
            v = tl.where(_kept(seed, base, row, c0, threshold, C, ROWS, BLOCK), v * inverse, 0.0)
        if KIND2 != NONE:
            r = _operand(x2, at, ok)
            if KIND2 == NORM:
                r = r * _coefficients(stats2, 2, g, c, c < C, G, C) + _coefficients(stats2, 3, g, c, c < C, G, C)
            v += r
        if ACT:
            v = tl.where(v > 0, v, v * slope)
        total += tl.where(ok, v, 0.0)
    tl.store(out + n.to(tl.int64) * C + c, (tl.sum(total, 0) / pooled).to(out.dtype.element_ty), c < C)


@triton.jit
def _before(
    grad, x1, stats1, x2, stats2, seed, threshold, inverse, slope, base, row, c0, c, ok, L, g, G, pooled, C: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, KIND1: tl.constexpr, KIND2: tl.constexpr, DROP: tl.constexpr, ACT: tl.constexpr,
    POOL: tl.constexpr,
):  # fmt: skip
    """x1, x2 of a tile, the gradient before the activation, and that behind the dropout: that of the first operand."""
    inside = c < C
    at = base + row.to(tl.int64)[:, None] * C + c[None, :]
    if POOL:
        n = (g.to(tl.int64) * L + row) // pooled
        h = tl.load(grad + n[:, None] * C + c[None, :], ok, other=0.0).to(tl.float32) / pooled
    else:
        h = _operand(grad, at, ok)
    a = _operand(x1, at, ok) if KIND1 == NORM or ACT else h
    r = _operand(x2, at, ok) if KIND2 == NORM or (ACT and KIND2 == PLAIN) else h
    if DROP:
        kept = _kept(seed, base, row, c0, threshold, C, ROWS, BLOCK)
    if ACT:
        v = a
        if KIND1 == NORM:
            v = v * _coefficients(stats1, 2, g, c, inside, G, C) + _coefficients(stats1, 3, g, c, inside, G, C)
        if DROP:
            v = tl.where(kept, v * inverse, 0.0)
        if KIND2 == NORM:
            v += r * _coefficients(stats2, 2, g, c, inside, G, C) + _coefficients(stats2, 3, g, c, inside, G, C)
        elif KIND2 == PLAIN:
            v += r
        h = tl.where(v > 0, h, h * slope)
    h1 = h
    if DROP:
        h1 = tl.where(kept, h * inverse, 0.0)
    return a, r, h, h1


@triton.jit
def reduce_kernel(
    grad, x1, stats1, x2, stats2, own, before, part, seed, threshold, inverse, slope, L, G, pooled, C: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, KIND1: tl.constexpr, KIND2: tl.constexpr, DROP: tl.constexpr, ACT: tl.constexpr,
    POOL: tl.constexpr, OWN: tl.constexpr, WRITE: tl.constexpr,
):  # fmt: skip
    """part (groups, S, 4, C): sums of h and h (x - mean) of each normalised operand. own, before: h of either, if OWN, WRITE."""
    s, g, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    c0 = tl.program_id(2) * BLOCK
    c = c0 + tl.arange(0, BLOCK)
    size = tl.cdiv(tl.cdiv(L, splits), ROWS) * ROWS
    begin, end = s * size, tl.minimum(L, (s + 1) * size)
    base = g.to(tl.int64) * L * C
    sum1 = tl.zeros((ROWS, BLOCK), tl.float32)
    sum2, product1, product2 = sum1, sum1, sum1
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        ok = (row < end)[:, None] & (c < C)[None, :]
        a, r, h, h1 = _before(
            grad, x1, stats1, x2, stats2, seed, threshold, inverse, slope, base, row, c0, c, ok, L, g, G, pooled, C, ROWS,
            BLOCK, KIND1, KIND2, DROP, ACT, POOL,
        )  # fmt: skip
        at = base + row.to(tl.int64)[:, None] * C + c[None, :]
        if OWN:
            tl.store(own + at, h1.to(own.dtype.element_ty), ok)
        if WRITE:
            tl.store(before + at, h.to(before.dtype.element_ty), ok)
        if KIND1 == NORM:
            sum1 += h1
            product1 += h1 * (a - _coefficients(stats1, 0, g, c, c < C, G, C))
        if KIND2 == NORM:
            sum2 += h
            product2 += h * (r - _coefficients(stats2, 0, g, c, c < C, G, C))
    place = part + (g * splits + s) * (4 * C) + c
    if KIND1 == NORM:
        tl.store(place, tl.sum(sum1, 0), c < C)
        tl.store(place + C, tl.sum(product1, 0), c < C)
    if KIND2 == NORM:
        tl.store(place + 2 * C, tl.sum(sum2, 0), c < C)
        tl.store(place + 3 * C, tl.sum(product2, 0), c < C)


@triton.jit
def spread_kernel(
    grad, x1, stats1, x2, stats2, back1, back2, dx1, dx2, seed, threshold, inverse, slope, L, G, GQ, pooled, C: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, KIND1: tl.constexpr, KIND2: tl.constexpr, DROP: tl.constexpr, ACT: tl.constexpr,
    POOL: tl.constexpr,
):  # fmt: skip
    """Gradients of the operands; back: (3, GQ, C) of `coefficients_kernel`."""
    g = tl.program_id(1)
    c0 = tl.program_id(2) * BLOCK
    c = c0 + tl.arange(0, BLOCK)
    inside = c < C
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < L)[:, None] & inside[None, :]
    base = g.to(tl.int64) * L * C
    a, r, h, h1 = _before(
        grad, x1, stats1, x2, stats2, seed, threshold, inverse, slope, base, row, c0, c, ok, L, g, G, pooled, C, ROWS, BLOCK,
        KIND1, KIND2, DROP, ACT, POOL,
    )  # fmt: skip
    at = base + row.to(tl.int64)[:, None] * C + c[None, :]
    if KIND1 == NORM:
        h1 = h1 * _coefficients(back1, 0, g, c, inside, GQ, C) + a * _coefficients(back1, 1, g, c, inside, GQ, C)
        h1 += _coefficients(back1, 2, g, c, inside, GQ, C)
    tl.store(dx1 + at, h1.to(dx1.dtype.element_ty), ok)
    if KIND2 == NORM:
        h = h * _coefficients(back2, 0, g, c, inside, GQ, C) + r * _coefficients(back2, 1, g, c, inside, GQ, C)
        h += _coefficients(back2, 2, g, c, inside, GQ, C)
        tl.store(dx2 + at, h.to(dx2.dtype.element_ty), ok)
