"""The draws of `augment.draw` on the GPU: one small kernel for the rows, one for the masks, and normals for the views.

The step is read from a device tensor: a captured graph draws afresh at every replay.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from hiclr_kernels.augment import draw as rules
from hiclr_kernels.augment.draw import Draws, ViewStrength, strength_table, switches

COLUMNS = 14  # of strength_table
ROW, MATRIX, NOISE, TAPS, SHIFT, FLIP, BLUR, REVERSE = (
    tl.constexpr(getattr(rules, name)) for name in "ROW MATRIX NOISE TAPS SHIFT FLIP BLUR REVERSE".split()
)
HALF, NUM_TAPS = tl.constexpr(rules.BLUR_TAPS // 2), tl.constexpr(rules.BLUR_TAPS)
MASK_BLOCK, BATCH_ID = tl.constexpr(rules.MASK_BLOCK), tl.constexpr(rules.BATCH_ID)


@triton.jit
def unit(word):
    """24 bits of a word as a float32 in [0, 1)."""
    return (word >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-8


@triton.jit
def _turned(quarter, t):
    """cos and sin of quarter * pi/2 + t, |t| <= pi/4; a library call would put its slow path's stack into local memory."""
    t2 = t * t
    s = ((-1.9515295891e-4 * t2 + 8.3321608736e-3) * t2 - 1.6666654611e-1) * t2 * t + t
    c = ((2.443315711809948e-5 * t2 - 1.388731625493765e-3) * t2 + 4.166664568298827e-2) * t2 * t2 - 0.5 * t2 + 1.0
    odd = (quarter & 1) != 0
    cos, sin = tl.where(odd, s, c), tl.where(odd, c, s)
    return tl.where(((quarter + 1) & 2) != 0, -cos, cos), tl.where((quarter & 2) != 0, -sin, sin)


@triton.jit
def _cos_sin(angle):
    quarter = tl.floor(angle * 0.6366197723675814 + 0.5)
    return _turned(quarter.to(tl.int32), angle - quarter * 1.5707963267948966)


@triton.jit
def _box_muller(wa, wb):
    """Two normals from two words: the polynomials and exact range reductions of `philox.cpu`, no library call."""
    value = (16777216 - (wa >> 8).to(tl.int32)).to(tl.float32) * 5.9604644775390625e-8
    shifted = value.to(tl.int32, bitcast=True) - 0x3F3504F3
    e = (shifted >> 23).to(tl.float32)
    m = ((shifted & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    p = m * 7.0376836292e-2 - 1.1514610310e-1
    p = p * m + 1.1676998740e-1
    p = p * m - 1.2420140846e-1
    p = p * m + 1.4249322787e-1
    p = p * m - 1.6668057665e-1
    p = p * m + 2.0000714765e-1
    p = p * m - 2.4999993993e-1
    p = p * m + 3.3333331174e-1
    log = (m + (p * m * (m * m) - 2.12194440e-4 * e - 0.5 * (m * m))) + 0.693359375 * e
    radius = tl.sqrt(-2.0 * log)
    k = (wb >> 8).to(tl.int32)
    quarter = (k + 2097152) >> 22
    cos, sin = _turned(quarter, (k - (quarter << 22)).to(tl.float32) * 3.7450702829239286e-7)  # 2 pi / 2^24
    return radius * cos, radius * sin


@triton.jit
def normals(seed, block, view, sample, step):
    """Four standard normals for every block: values i, i + Q, i + 2Q, i + 3Q of `philox.reference.normal`."""
    a, b, c, d = tl.philox(seed, block.to(tl.uint32), view, sample, step)
    z0, z1 = _box_muller(a, b)
    z2, z3 = _box_muller(c, d)
    return z0, z1, z2, z3


@triton.jit(do_not_specialize=["seed"])
def _rows_kernel(table, sample, step, rows, total, seed, W: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """rows (N * W, 32), one lane each: `augment.draw.draw_rows`."""
    item = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = item < total
    view = (item % W).to(tl.uint32)
    ids = tl.load(sample + item // W, ok, other=0).to(tl.uint32)
    word = tl.load(step).to(tl.uint32)
    zero = tl.zeros([BLOCK], tl.uint32)
    setting = table + (item % W) * COLUMNS
    row = rows + item * ROW
    a, b, c, d = tl.philox(seed, zero, view, ids, word)
    starts = tl.load(setting, ok, other=1)
    tl.store(row + SHIFT, tl.floor(unit(a) * starts) - (starts - 1) * 0.5, ok)
    shear = tl.load(setting + 1, ok, other=0)
    o0, o1, o2 = (unit(b) * 2 - 1) * shear, (unit(c) * 2 - 1) * shear, (unit(d) * 2 - 1) * shear
    a, b, c, d = tl.philox(seed, zero + 1, view, ids, word)
    o3, o4, o5 = (unit(a) * 2 - 1) * shear, (unit(b) * 2 - 1) * shear, (unit(c) * 2 - 1) * shear
    tl.store(row + FLIP, (unit(d) < tl.load(setting + 2, ok, other=0)).to(tl.float32), ok)
    a, b, c, d = tl.philox(seed, zero + 2, view, ids, word)
    main = (unit(a) * 3).to(tl.int32)
    large, small = tl.load(setting + 3, ok, other=0), tl.load(setting + 4, ok, other=0)
    rx, ry = unit(b) * tl.where(main == 0, large, small), unit(c) * tl.where(main == 1, large, small)
    rz = unit(d) * tl.where(main == 2, large, small)
    a, b, c, d = tl.philox(seed, zero + 3, view, ids, word)
    std = tl.where(unit(a) < tl.load(setting + 6, ok, other=0), tl.load(setting + 5, ok, other=0), 0.0)
    sigma = tl.load(setting + 7, ok, other=1) + unit(b) * tl.load(setting + 8, ok, other=0)
    blurred = unit(c) < tl.load(setting + 9, ok, other=0)
    axis_on = unit(d) < tl.load(setting + 10, ok, other=0)
    a, b, c, d = tl.philox(seed, zero + 4, view, ids, word)
    hidden = tl.where(axis_on, (unit(a) * 3).to(tl.int32), -1)
    tl.store(row + BLUR, blurred.to(tl.float32), ok)
    tl.store(row + REVERSE, (unit(b) < tl.load(setting + 11, ok, other=0)).to(tl.float32), ok)
    tl.store(row + REVERSE + 1, tl.zeros([BLOCK], tl.float32), ok)
    cx, sx = _cos_sin(rx)
    cy, sy = _cos_sin(ry)
    cz, sz = _cos_sin(rz)
    for i in tl.static_range(3):  # rows of R_z R_y R_x, signs of the official feeder
        if i == 0:
            r0, r1, r2 = cz * cy, sz * cx + cz * sy * sx, sz * sx - cz * sy * cx
        elif i == 1:
            r0, r1, r2 = -sz * cy, cz * cx - sz * sy * sx, cz * sx + sz * sy * cx
        else:
            r0, r1, r2 = sy, -cy * sx, cy * cx
        keep = tl.where(hidden == i, 0.0, 1.0)
        tl.store(row + MATRIX + 3 * i, (r0 + r1 * o2 + r2 * o4) * keep, ok)
        tl.store(row + MATRIX + 3 * i + 1, (r0 * o0 + r1 + r2 * o5) * keep, ok)
        tl.store(row + MATRIX + 3 * i + 2, (r0 * o1 + r1 * o3 + r2) * keep, ok)
        tl.store(row + NOISE + i, std * keep, ok)
    half_inverse = -0.5 / (sigma * sigma)
    total_taps = tl.full([BLOCK], 1.0, tl.float32)
    for k in tl.static_range(1, HALF + 1):
        total_taps += 2 * tl.exp(half_inverse * (k * k))
    scale = tl.where(tl.load(setting + 12, ok, other=0) > 0, 1 / total_taps, 1.0)
    for k in tl.static_range(NUM_TAPS):
        tap = tl.exp(half_inverse * ((k - HALF) * (k - HALF))) * scale
        tl.store(row + TAPS + k, tl.where(blurred, tap, 1.0 if k == HALF else 0.0), ok)


@triton.jit(do_not_specialize=["seed"])
def _keep_kernel(
    table, sample, step, keep, masks, seed, T, V, PER_SAMPLE: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):
    """One frame of keep (W, masks, T, V) a program: a joint is hidden when fewer than `masked` uniforms come before its own."""
    item = tl.program_id(0)
    t, k, w = item % T, (item // T) % masks, item // T // masks
    masked = tl.load(table + w * COLUMNS + 13).to(tl.int32)
    ids = tl.load(sample + k).to(tl.uint32) if PER_SAMPLE else tl.full([], BATCH_ID, tl.uint32)
    word = tl.load(step).to(tl.uint32)
    v = tl.arange(0, BLOCK)
    number = t * V + v
    a, b, c, d = tl.philox(seed, (number // 4 + MASK_BLOCK).to(tl.uint32), w.to(tl.uint32), ids, word)
    lane = number % 4
    u = tl.where(lane < 2, tl.where(lane == 0, a, b), tl.where(lane == 2, c, d)) >> 8
    u = tl.where(v < V, u.to(tl.int32), 1 << 24)
    before = (u[None, :] < u[:, None]) | ((u[None, :] == u[:, None]) & (v[None, :] < v[:, None]))
    rank = tl.sum(before.to(tl.int32), axis=1)
    tl.store(keep + item.to(tl.int64) * V + v, (rank >= masked).to(tl.uint8), v < V)


@lru_cache(maxsize=64)
def _table(strengths: tuple[ViewStrength, ...], device: torch.device) -> Tensor:
    return torch.tensor(strength_table(strengths), dtype=torch.float32, device=device)


def draw(
    strengths: tuple[ViewStrength, ...],
    sample: Tensor,
    step: Tensor,
    *,
    seed: int,
    frames: int,
    joints: int,
    mask_per_sample: bool,
) -> Draws:
    """`augment.draw.Draws`; the first call with new strengths copies them to the device (do it before a capture)."""
    n, views, block = len(sample), len(strengths), 128
    table = _table(strengths, sample.device)
    rows = torch.empty(n, views, rules.ROW, device=sample.device)
    _rows_kernel[(triton.cdiv(n * views, block),)](table, sample, step, rows, n * views, seed, views, COLUMNS, block)
    (masked, noisy), keep = switches(strengths), None
    if any(masked):
        masks = n if mask_per_sample else 1
        keep = torch.empty(views, masks, frames, joints, dtype=torch.uint8, device=sample.device)
        width = triton.next_power_of_2(joints)
        _keep_kernel[(views * masks * frames,)](
            table, sample, step, keep, masks, seed, frames, joints, mask_per_sample, COLUMNS, width, num_warps=1
        )
    return Draws(rows, masked, noisy, keep, None, seed, step, sample)
