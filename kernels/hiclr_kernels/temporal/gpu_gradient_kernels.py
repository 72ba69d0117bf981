"""Triton kernels of the temporal convolution, backward: gradient to the inputs with its sums, gradient to the weights.

Tiles and band matrix as in `gpu_kernels.py`. A tile of g (F frames of z1) needs the NF frames of d loss / d z2 from t0 / STRIDE -
LEAD on. The gradient of the weights multiplies the forward pass's two matrices the other way round: a band matrix again, whose
diagonals add up to the taps.
"""

import triton
import triton.language as tl

from hiclr_kernels.bits import unpack
from hiclr_kernels.temporal.gpu_kernels import act, by_frames, by_pairs, weight_set


@triton.jit
def upstream(
    h_ptr, z2_ptr, marks_ptr, start, place, ok, a, b, c, O: tl.constexpr, OB: tl.constexpr, FOLD: tl.constexpr,
    MARKED: tl.constexpr,
):  # fmt: skip
    """d loss / d z2 (frames, M, OB) of the O values from start + place (frames, M, 1) on, where ok, else zero."""
    o = tl.arange(0, OB)[None, None, :]
    every = ok & (o < O)
    h = tl.load(h_ptr + start + (place + o), every, other=0.0)
    if FOLD:
        h = h.to(tl.float32)
        if MARKED:
            o8 = 8 * tl.arange(0, OB // 8)[None, None, :]
            packed = tl.load(marks_ptr + (start >> 3) + ((place + o8) >> 3), ok & (o8 < O), other=0)
            passed = unpack(tl.reshape(packed, (h.shape[0] * h.shape[1], OB // 8)), h.shape[0] * h.shape[1], OB)
            h = tl.where(tl.reshape(passed, (h.shape[0], h.shape[1], OB)), h, 0.0)
        z2 = tl.load(z2_ptr + start + (place + o), every, other=0.0).to(tl.float32)
        h = tl.where(every, h * a + (z2 * b + c), 0.0).to(h_ptr.dtype.element_ty)
    return h


@triton.jit
def coefficients(a_ptr, b_ptr, c_ptr, inverse, at, ok, FOLD: tl.constexpr, MARKED: tl.constexpr):
    """(1, 1, channels) each; with marks a for what they let through of h."""
    a, b, c = 1.0, 0.0, 0.0
    if FOLD:
        a = tl.load(a_ptr + at, ok, other=0.0)[None, None, :]
        b = tl.load(b_ptr + at, ok, other=0.0)[None, None, :]
        c = tl.load(c_ptr + at, ok, other=0.0)[None, None, :]
        if MARKED:
            a *= inverse
    return a, b, c


@triton.jit(do_not_specialize=["sets", "rows", "T", "TO", "tiles"])
def inputs_kernel(
    h_ptr,  # (R, TO, V, O)
    z2_ptr,  # (R, TO, V, O), with the coefficients (G, O), where FOLD
    a_ptr,
    b_ptr,
    c_ptr,
    marks_ptr,  # (R * TO * V * O / 8,): the bits of what of h passes, `inverse` times, where MARKED
    z1_ptr,  # (R, T, V, C)
    scale_ptr,  # (G, C)
    shift_ptr,  # (G, C)
    center_ptr,  # (G, C)
    band_ptr,  # (S, STEPS * BI, F * OB), of the gradient
    g_ptr,  # (R, T, V, C)
    part_ptr,  # (G, tiles, 2 * OB): sums of g and of g * (z1 - center) of a tile
    inverse,
    sets,
    rows,  # of one group
    T,
    TO,
    tiles,  # of one group
    V: tl.constexpr,
    C: tl.constexpr,
    OB: tl.constexpr,  # C, padded
    O: tl.constexpr,
    CP: tl.constexpr,  # O, padded
    F: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    LEAD: tl.constexpr,
    M: tl.constexpr,
    BI: tl.constexpr,
    STEPS: tl.constexpr,
    SLOPE: tl.constexpr,
    FOLD: tl.constexpr,
    MARKED: tl.constexpr,
):
    N: tl.constexpr = F * OB
    BF: tl.constexpr = BI // CP
    NF: tl.constexpr = (F - 1 + K // 2) // STRIDE + LEAD + 1
    group, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    ftiles = tl.cdiv(T, F)
    first, t0 = tile // ftiles * M, tile % ftiles * F
    m, c, o = first + tl.arange(0, M), tl.arange(0, OB), tl.arange(0, CP)
    row, v = (group * rows + m // V).to(tl.int64), m % V
    inside = (m < rows * V)[None, :, None]
    a, b, e = coefficients(a_ptr, b_ptr, c_ptr, inverse, group * O + o, o < O, FOLD, MARKED)
    band = band_ptr + weight_set(sets, group) * (STEPS * BI * N)
    band = band + tl.arange(0, BI)[:, None] * N + tl.arange(0, N)[None, :]
    source = (row * TO * (V * O) + v * O)[None, :, None]
    acc = tl.zeros((M, N), tl.float32)
    for step in range(STEPS):
        j = step * BF + tl.arange(0, BF)
        frame = (t0 // STRIDE - LEAD + j)[:, None, None]
        ok = inside & (frame >= 0) & (frame < TO) & (j < NF)[:, None, None]
        place = source + frame * (V * O)
        d = upstream(h_ptr, z2_ptr, marks_ptr, 0, place, ok, a, b, e, O, CP, FOLD, MARKED)
        acc = tl.dot(by_pairs(d), tl.load(band + step * (BI * N)), acc, input_precision="ieee")
    t = (t0 + tl.arange(0, F))[:, None, None]
    at = (row * T * (V * C) + v * C)[None, :, None] + c[None, None, :] + t * (V * C)
    ok = inside & (t < T)
    z1 = tl.load(z1_ptr + at, ok & (c < C)[None, None, :], other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + group * C + c, c < C, other=0.0)[None, None, :]
    shift = tl.load(shift_ptr + group * C + c, c < C, other=0.0)[None, None, :]
    g = by_frames(acc, F)
    g = tl.where(z1 * scale + shift > 0, g, g * SLOPE).to(g_ptr.dtype.element_ty)
    tl.store(g_ptr + at, g, ok & (c < C)[None, None, :])
    g = tl.where(ok, g.to(tl.float32), 0.0)
    center = tl.load(center_ptr + group * C + c, c < C, other=0.0)[None, None, :]
    place = part_ptr + tl.program_id(0).to(tl.int64) * (2 * OB) + c
    tl.store(place, tl.sum(tl.sum(g, 0), 0))
    tl.store(place + OB, tl.sum(tl.sum(g * (z1 - center), 0), 0))


@triton.jit(do_not_specialize=["rows", "T", "TO", "lanes"])
def weights_kernel(
    h_ptr,  # (R, TO, V, O)
    z2_ptr,  # (R, TO, V, O), with the coefficients (G, O), where FOLD
    a_ptr,
    b_ptr,
    c_ptr,
    marks_ptr,  # (R * TO * V * O / 8,): the bits of what of h passes, `inverse` times, where MARKED
    z1_ptr,  # (R, T, V, C)
    scale_ptr,  # (G, C)
    shift_ptr,  # (G, C)
    part_ptr,  # (G, lanes, STEPS * BI, F * OB)
    inverse,
    rows,  # of one group
    T,
    TO,
    lanes,  # programs of one group; consecutive tiles of one are consecutive frames, whose common inputs are then in cache
    V: tl.constexpr,
    C: tl.constexpr,
    CP: tl.constexpr,
    O: tl.constexpr,
    OB: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    M: tl.constexpr,
    BI: tl.constexpr,
    STEPS: tl.constexpr,
    HELD: tl.constexpr,  # steps whose sums a program holds
    SLOPE: tl.constexpr,
    FOLD: tl.constexpr,
    MARKED: tl.constexpr,
):
    N: tl.constexpr = F * OB
    BF: tl.constexpr = BI // CP
    dtype = z1_ptr.dtype.element_ty
    group, lane = tl.program_id(0) // lanes, tl.program_id(0) % lanes
    held = tl.program_id(1) * HELD
    c, f, o = tl.arange(0, CP), tl.arange(0, F), tl.arange(0, OB)
    scale = tl.load(scale_ptr + group * C + c, c < C, other=0.0)[None, None, :]
    shift = tl.load(shift_ptr + group * C + c, c < C, other=0.0)[None, None, :]
    a, b, e = coefficients(a_ptr, b_ptr, c_ptr, inverse, group * O + o, o < O, FOLD, MARKED)
    ftiles = tl.cdiv(TO, F)
    tiles = tl.cdiv(rows * V, M) * ftiles
    begin, end = (lane.to(tl.int64) * tiles // lanes).to(tl.int32), ((lane + 1).to(tl.int64) * tiles // lanes).to(tl.int32)
    d0 = tl.zeros((BI, N), tl.float32)
    d1 = tl.zeros((BI, N), tl.float32)
    d2 = tl.zeros((BI, N), tl.float32)
    for tile in range(begin, end):
        m, t0 = tile // ftiles * M + tl.arange(0, M), tile % ftiles * F
        row, v = (group * rows + m // V).to(tl.int64), m % V
        inside = (m < rows * V)[None, :, None]
        t = (t0 + f)[:, None, None]
        place, ok = (row * TO * (V * O) + v * O)[None, :, None] + t * (V * O), inside & (t < TO)
        d = by_pairs(upstream(h_ptr, z2_ptr, marks_ptr, 0, place, ok, a, b, e, O, OB, FOLD, MARKED))
        source = (row * T * (V * C) + v * C)[None, :, None] + c[None, None, :]
        for step in tl.static_range(HELD):
            j = (held + step) * BF + tl.arange(0, BF)
            frame = (t0 * STRIDE - K // 2 + j)[:, None, None]
            real = (frame >= 0) & (frame < T) & (j < STRIDE * (F - 1) + K)[:, None, None]
            x = tl.load(z1_ptr + source + frame * (V * C), inside & real & (c < C)[None, None, :], other=0.0)
            x = x.to(tl.float32) * tl.where(real, scale, 0.0) + tl.where(real, shift, 0.0)
            u = tl.trans(by_pairs(act(x, SLOPE).to(dtype)))
            if step == 0:
                d0 = tl.dot(u, d, d0, input_precision="ieee")
            elif step == 1:
                d1 = tl.dot(u, d, d1, input_precision="ieee")
            else:
                d2 = tl.dot(u, d, d2, input_precision="ieee")
    place = part_ptr + (tl.program_id(0).to(tl.int64) * STEPS + held) * (BI * N)
    place = place + tl.arange(0, BI)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(place, d0)
    if HELD > 1:
        tl.store(place + BI * N, d1)
    if HELD > 2:
        tl.store(place + 2 * BI * N, d2)


@triton.jit(do_not_specialize=["sets", "programs", "lanes", "size", "to_set", "to_out", "to_in", "to_tap"])
def diagonals_kernel(
    part_ptr,  # (programs, I, F * OB)
    dw_ptr,  # (S, O, C, K)
    sets,
    programs,
    lanes,  # programs of one group
    size,  # of dw
    to_set,  # its strides
    to_out,
    to_in,
    to_tap,
    C: tl.constexpr,
    CP: tl.constexpr,
    O: tl.constexpr,
    OB: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    I: tl.constexpr,
    BLOCK: tl.constexpr,  # weights a program
    PARTS: tl.constexpr,  # parts at a time
):
    """dw[o, c, k] = sum over programs of its weight set and over f of part[(k + STRIDE f, c), (f, o)], in fixed order."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (s, k, c, o), as the parts lie
    o, c, k, which = e % O, e // O % C, e // (O * C) % K, e // (O * C * K)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, programs, PARTS):
        part = start + tl.arange(0, PARTS)
        mine = (weight_set(sets, part // lanes)[:, None] == which[None, :]) & (part < programs)[:, None] & (e < size)[None, :]
        at = part_ptr + part.to(tl.int64)[:, None] * (I * F * OB)
        for f in tl.static_range(F):
            inner = ((k + STRIDE * f) * CP + c) * (F * OB) + f * OB + o
            total += tl.sum(tl.load(at + inner[None, :], mine, other=0.0), 0)
    tl.store(dw_ptr + which * to_set + o * to_out + c * to_in + k * to_tap, total, e < size)
