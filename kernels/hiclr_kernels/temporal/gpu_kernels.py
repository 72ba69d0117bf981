"""Triton kernels of the temporal convolution, forward: weights as band matrices, and the convolution with its moments.

A tile is M (row, joint) pairs by F frames. Its inputs, the NF = STRIDE (F - 1) + K frames that those F see, are read as one
matrix (M, NF * CP), normalised on the way, and multiplied with a band matrix (NF * CP, F * OB) whose blocks are the taps:

    band[(j, c), (f, o)] = weight[o, c, j - STRIDE * f], zero off the band

So a value is normalised NF / (STRIDE F) times, not K times, and needs neither a halo in memory nor shuffles of frames; the price
is products with zeros. CP, OB: input and output channels, padded to a power of two. m, n, i: axes of pairs, outputs and inputs.
"""

import triton
import triton.language as tl

SET_BITS = tl.constexpr(4)  # of a group in `sets`: which weight set it uses
SET_MASK = tl.constexpr(15)


@triton.jit
def weight_set(sets, group):
    return ((sets.to(tl.int64) >> (group * SET_BITS)) & SET_MASK).to(tl.int32)


@triton.jit
def act(x, SLOPE: tl.constexpr):
    return tl.maximum(x, x * SLOPE) if SLOPE <= 1 else tl.where(x > 0, x, x * SLOPE)


@triton.jit
def _band(
    weight_ptr, band_ptr, to_out, to_in, to_tap, C_OUT: tl.constexpr, C_IN: tl.constexpr, CP: tl.constexpr, OB: tl.constexpr,
    F: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, I: tl.constexpr, LEAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Forward: from C_in to C_out, as above. Gradient: from C_out to C_in, tap K // 2 + STRIDE (LEAD - j) + f."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    n, i = e % (F * OB), e // (F * OB)
    j, c, f, o = i // CP, i % CP, n // OB, n % OB
    if LEAD < 0:
        tap, c_in, c_out = j - STRIDE * f, c, o
    else:
        tap, c_in, c_out = K // 2 + STRIDE * (LEAD - j) + f, o, c
    inside = (i < I) & (tap >= 0) & (tap < K) & (c_in < C_IN) & (c_out < C_OUT)
    taps = tl.load(weight_ptr + c_out * to_out + c_in * to_in + tap * to_tap, inside, other=0.0)
    tl.store(band_ptr + e, taps.to(band_ptr.dtype.element_ty), i < I)


@triton.jit(do_not_specialize=["apart", "to_out", "to_in", "to_tap", "forwards"])
def band_kernel(
    weight_ptr,  # (C_out, C_in, K) of set 0
    weight2_ptr,  # of set 1; the others follow, `apart` values from one to the next
    band_ptr,  # (forwards, I, F * OB) in the dtype of the products
    gradient_ptr,  # (S, I2, F2 * OB2), of the gradient to the inputs
    apart,
    to_out,  # strides of a weight
    to_in,
    to_tap,
    forwards,
    C_OUT: tl.constexpr,
    C_IN: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    CP: tl.constexpr,
    OB: tl.constexpr,
    F: tl.constexpr,
    I: tl.constexpr,
    CP2: tl.constexpr,
    OB2: tl.constexpr,
    F2: tl.constexpr,
    I2: tl.constexpr,
    LEAD: tl.constexpr,  # of the gradient: its frames start LEAD before the tile's
    BLOCK: tl.constexpr,
):
    """All band matrices of a convolution: program (., i) has part of number i, those of the gradient behind the others."""
    forward = tl.program_id(1) < forwards
    which = tl.where(forward, tl.program_id(1), tl.program_id(1) - forwards)
    if which > 0:
        weight_ptr = weight2_ptr + (which - 1) * apart
    if forward:
        band_ptr += which * (I * F * OB)
        _band(weight_ptr, band_ptr, to_out, to_in, to_tap, C_OUT, C_IN, CP, OB, F, K, STRIDE, I, -1, BLOCK)
    else:
        gradient_ptr += which * (I2 * F2 * OB2)
        _band(weight_ptr, gradient_ptr, to_out, to_in, to_tap, C_OUT, C_IN, CP2, OB2, F2, K, STRIDE, I2, LEAD, BLOCK)


@triton.jit
def by_pairs(x):
    """(F, M, C) -> (M, F * C): a matrix of frames by pairs as a factor of a product."""
    return tl.reshape(tl.permute(x, (1, 0, 2)), (x.shape[1], x.shape[0] * x.shape[2]))


@triton.jit
def by_frames(x, F: tl.constexpr):
    """(M, F * C) -> (F, M, C), as it lies in memory: pairs of one frame side by side."""
    return tl.permute(tl.reshape(x, (x.shape[0], F, x.shape[1] // F)), (1, 0, 2))


@triton.jit(do_not_specialize=["sets", "rows", "T", "TO", "tiles"])
def forward_kernel(
    z1_ptr,  # (R, T, V, C)
    scale_ptr,  # (G, C)
    shift_ptr,  # (G, C)
    band_ptr,  # (S, STEPS * BI, F * OB)
    bias_ptr,  # (O,) of set 0
    bias2_ptr,  # (S - 1, O)
    z2_ptr,  # (R, TO, V, O)
    part_ptr,  # (G, tiles, 3, OB): count, mean, M2 of a tile
    sets,
    rows,  # of one group
    T,
    TO,
    tiles,  # of one group
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
    SLOPE: tl.constexpr,
):
    N: tl.constexpr = F * OB
    BF: tl.constexpr = BI // CP  # frames a step
    dtype = z1_ptr.dtype.element_ty
    group, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    ftiles = tl.cdiv(TO, F)
    first, t0 = tile // ftiles * M, tile % ftiles * F
    m, c, f, o = first + tl.arange(0, M), tl.arange(0, CP), t0 + tl.arange(0, F), tl.arange(0, OB)
    row, v = (group * rows + m // V).to(tl.int64), m % V
    inside = (m < rows * V)[None, :, None]
    s = tl.load(scale_ptr + group * C + c, c < C, other=0.0)[None, None, :]
    b = tl.load(shift_ptr + group * C + c, c < C, other=0.0)[None, None, :]
    which = weight_set(sets, group)
    band = band_ptr + which * (STEPS * BI * N)
    band = band + tl.arange(0, BI)[:, None] * N + tl.arange(0, N)[None, :]
    source = z1_ptr + (row * T * (V * C) + v * C)[None, :, None] + c[None, None, :]
    acc = tl.zeros((M, N), tl.float32)
    for step in range(STEPS):
        j = step * BF + tl.arange(0, BF)
        frame = (t0 * STRIDE - K // 2 + j)[:, None, None]
        real = (frame >= 0) & (frame < T) & (j < STRIDE * (F - 1) + K)[:, None, None]
        x = tl.load(source + frame * (V * C), inside & real & (c < C)[None, None, :], other=0.0).to(tl.float32)
        u = act(x * tl.where(real, s, 0.0) + tl.where(real, b, 0.0), SLOPE).to(dtype)  # zero in padded frames
        acc = tl.dot(by_pairs(u), tl.load(band + step * (BI * N)), acc, input_precision="ieee")
    if which > 0:
        bias_ptr = bias2_ptr + (which - 1) * O
    bias = tl.load(bias_ptr + o, o < O, other=0.0).to(tl.float32)
    out = (by_frames(acc, F) + bias[None, None, :]).to(dtype)
    later = f[:, None, None]
    ok = inside & (later < TO)
    target = z2_ptr + (row * TO * (V * O) + v * O)[None, :, None] + o[None, None, :]
    tl.store(target + later * (V * O), out, ok & (o < O)[None, None, :])
    count = (tl.minimum(M, rows * V - first) * tl.minimum(F, TO - t0)).to(tl.float32)
    values = out.to(tl.float32)
    mean = tl.sum(tl.sum(tl.where(ok, values, 0.0), 0), 0) / count
    apart = tl.where(ok, values - mean[None, None, :], 0.0)
    place = part_ptr + tl.program_id(0).to(tl.int64) * (3 * OB) + o
    tl.store(place, tl.zeros_like(mean) + count)
    tl.store(place + OB, mean)
    tl.store(place + 2 * OB, tl.sum(tl.sum(apart * apart, 0), 0))
