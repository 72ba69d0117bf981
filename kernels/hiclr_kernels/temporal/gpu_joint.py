"""The temporal convolution's backward pass with both gradients in one Triton kernel: h, z2 and z1 read once, g written once.

A tile is that of `inputs_kernel`: F frames of g and z1 need the NF frames of d loss / d z2 from t0 / STRIDE - LEAD on, and these
are all that the tile's activations meet in the gradient of the weights:

    S[(f, c), (j, o)] = sum a[t0 + f, c] d[t0 / STRIDE - LEAD + j, o],    a part of dW[o, c, K // 2 + f + STRIDE (LEAD - j)]

which a program adds up over its tiles in registers: F * OB by NF * CP values, one matrix a step.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hiclr_kernels.temporal.gpu_gradient_kernels import coefficients, upstream
from hiclr_kernels.temporal.gpu_kernels import act, by_frames, by_pairs, weight_set
from hiclr_kernels.temporal.tiles import Tile, cdiv, lane_count

TAPS_TILE = 1024  # weights by parts at a time
SLOTS = 2  # of `slots` that a program takes, for its registers


@triton.jit
def _normalised(z1, scale_ptr, shift_ptr, at, ok):
    """z1 * scale + shift, float32."""
    scale = tl.load(scale_ptr + at, ok, other=0.0)[None, None, :]
    return z1.to(tl.float32) * scale + tl.load(shift_ptr + at, ok, other=0.0)[None, None, :]


@triton.jit(do_not_specialize=["sets", "rows", "T", "TO", "lanes"])
def joint_kernel(
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
    band_ptr,  # (S, STEPS * BI, F * OB), of the gradient to the inputs
    g_ptr,  # (R, T, V, C)
    sum_ptr,  # (G, lanes, 2 * OB): sums of g and of g * (z1 - center)
    part_ptr,  # (G, lanes, STEPS, F * OB, BI): S
    inverse,
    sets,
    rows,  # of one group
    T,
    TO,
    lanes,  # programs of one group; consecutive tiles of one are consecutive frames, whose common inputs are then in cache
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
    dtype = z1_ptr.dtype.element_ty
    group, lane = tl.program_id(0) // lanes, tl.program_id(0) % lanes
    c, o = tl.arange(0, OB), tl.arange(0, CP)
    affine = group * C + c
    a, b, e = coefficients(a_ptr, b_ptr, c_ptr, inverse, group * O + o, o < O, FOLD, MARKED)
    band = band_ptr + weight_set(sets, group) * (STEPS * BI * N)
    band = band + tl.arange(0, BI)[:, None] * N + tl.arange(0, N)[None, :]
    ftiles = tl.cdiv(T, F)
    tiles = tl.cdiv(rows * V, M) * ftiles
    begin, end = (lane.to(tl.int64) * tiles // lanes).to(tl.int32), ((lane + 1).to(tl.int64) * tiles // lanes).to(tl.int32)
    total = tl.zeros((OB,), tl.float32)
    products = tl.zeros((OB,), tl.float32)
    held = (tl.zeros((N, BI), tl.float32),) * STEPS
    for tile in range(begin, end):
        first, t0 = tile // ftiles * M, tile % ftiles * F
        m = first + tl.arange(0, M)
        start = (group * rows + first // V).to(tl.int64)  # the tile's first row: within it 32 bits are enough
        row, v = m // V - first // V, m % V
        inside = (m < rows * V)[None, :, None]
        t = (t0 + tl.arange(0, F))[:, None, None]
        at = ((row[None, :, None] * T + t) * V + v[None, :, None]) * C + c[None, None, :]
        ok = inside & (t < T) & (c < C)[None, None, :]
        y = _normalised(tl.load(z1_ptr + start * T * (V * C) + at, ok, other=0.0), scale_ptr, shift_ptr, affine, c < C)
        u = tl.trans(by_pairs(tl.where(ok, act(y, SLOPE), 0.0).to(dtype)))
        g = tl.zeros((F, M, OB), tl.float32)
        added = ()
        for step in tl.static_range(STEPS):
            j = step * BF + tl.arange(0, BF)
            frame = (t0 // STRIDE - LEAD + j)[:, None, None]
            real = inside & (frame >= 0) & (frame < TO) & (j < NF)[:, None, None]
            place = ((row[None, :, None] * TO + frame) * V + v[None, :, None]) * O
            d = upstream(h_ptr, z2_ptr, marks_ptr, start * TO * (V * O), place, real, a, b, e, O, CP, FOLD, MARKED)
            d = by_pairs(d)
            part = tl.dot(d, tl.load(band + step * (BI * N)), input_precision="ieee")
            g += by_frames(part, F)  # not onto one another: chained products would share no warps
            added += (tl.dot(u, d, held[step], input_precision="ieee"),)
        held = added
        z1 = tl.load(z1_ptr + start * T * (V * C) + at, ok, other=0.0, eviction_policy="evict_first")  # again: registers are few
        y = _normalised(z1, scale_ptr, shift_ptr, affine, c < C)
        g = tl.where(y > 0, g, g * SLOPE).to(g_ptr.dtype.element_ty)
        tl.store(g_ptr + start * T * (V * C) + at, g, ok)
        g = tl.where(ok, g.to(tl.float32), 0.0)
        total += tl.sum(tl.sum(g, 0), 0)
        center = tl.load(center_ptr + affine, c < C, other=0.0)[None, None, :]
        products += tl.sum(tl.sum(g * (z1.to(tl.float32) - center), 0), 0)
    place = sum_ptr + tl.program_id(0) * (2 * OB) + c
    tl.store(place, total)
    tl.store(place + OB, products)
    place = part_ptr + tl.program_id(0).to(tl.int64) * (STEPS * N * BI)
    place = place + tl.arange(0, N)[:, None] * BI + tl.arange(0, BI)[None, :]
    for step in tl.static_range(STEPS):
        tl.store(place + step * (N * BI), held[step])


@triton.jit(do_not_specialize=["sets", "programs", "lanes", "size", "to_set", "to_out", "to_in", "to_tap"])
def taps_kernel(
    part_ptr,  # (programs, STEPS, F * OB, BI): S
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
    OB: tl.constexpr,
    O: tl.constexpr,
    CP: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    LEAD: tl.constexpr,
    BI: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,  # weights a program
    PARTS: tl.constexpr,  # parts at a time
):
    """dw[o, c, k] = sum over programs of its weight set and over f of S, of that j which is tap k from f, in fixed order."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (s, k, c, o), as the parts lie
    o, c, k, which = e % O, e // O % C, e // (O * C) % K, e // (O * C * K)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, programs, PARTS):
        part = start + tl.arange(0, PARTS)
        mine = (weight_set(sets, part // lanes)[:, None] == which[None, :]) & (part < programs)[:, None] & (e < size)[None, :]
        at = part_ptr + part.to(tl.int64)[:, None] * (STEPS * F * OB * BI)
        for f in tl.static_range(F):
            apart = K // 2 + f - k + STRIDE * LEAD
            i = apart // STRIDE * CP + o
            inner = (i // BI * (F * OB) + f * OB + c) * BI + i % BI
            total += tl.sum(tl.load(at + inner[None, :], mine & (apart % STRIDE == 0)[None, :], other=0.0), 0)
    tl.store(dw_ptr + which * to_set + o * to_out + c * to_in + k * to_tap, total, e < size)


def taps_constants(constants: dict) -> dict:
    shared = {name: constants[name] for name in ("C", "OB", "O", "CP", "F", "K", "STRIDE", "LEAD", "BI", "STEPS")}
    block = 32 if constants["C"] * constants["O"] <= 512 else 256  # few weights have many parts each
    return dict(shared, BLOCK=block, PARTS=TAPS_TILE // block)


def both_gradients(
    given: tuple[Tensor, ...], inverse: float, norm: tuple[Tensor, ...], weight: Tensor, band: Tensor, groups: int, sets: int,
    slots: int, tile: Tile, constants: dict,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As `gpu.backward`. given: h, z2, a, b, c, marks; norm: z1, scale, shift, center; sets: packed; slots: of `gpu.slots_of`."""
    h, z1 = given[0], norm[0]
    r, frames, v, _ = z1.shape
    tiles = cdiv(r // groups * v, tile.M) * cdiv(frames, tile.F)
    lanes, width = lane_count(groups, tiles, SLOTS, slots), tile.F * constants["OB"]
    g, sums = torch.empty_like(z1), torch.empty(groups, lanes, 2, constants["OB"], device=z1.device)
    parts = torch.empty(groups, lanes, constants["STEPS"], width, tile.BI, device=z1.device)
    joint_kernel[groups * lanes,](
        *given, *norm, band, g, sums, parts, inverse, sets, r // groups, frames, h.shape[1], lanes, **constants,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    d_weight, own = torch.empty_like(weight, dtype=torch.float32), taps_constants(constants)
    taps_kernel[cdiv(weight.numel(), own["BLOCK"]),](
        parts, d_weight, sets, groups * lanes, lanes, weight.numel(), *d_weight.stride(), **own
    )
    return g, d_weight, sums
