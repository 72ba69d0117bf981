"""The augmentation kernel on GPU: every view of a sample is written by one program, and its raw data read from cache.

A program walks over (sample, view) pairs, the views of a sample side by side, so that DRAM sees one read and W writes:
the floor is (1 + W) * 3 T V M values. Positions are one-dimensional tiles in (M, T, V) order, 12 values a thread, so that
nothing spills. Phase 1 makes A x + noise; where neither blur nor stream follows it writes the view. Otherwise it goes
to the program's own scratch (it stays in L2, as the programs are few), and after a barrier phase 2 reads it 15 times,
shifted by frames: coalesced, any T, no halo, no T x T matrix.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from hiclr_kernels.augment import draw as rules
from hiclr_kernels.augment.draw import Draws
from hiclr_kernels.augment.gpu_draw import (
    BLUR,
    FLIP,
    HALF,
    MATRIX,
    NOISE,
    NUM_TAPS,
    REVERSE,
    ROW,
    SHIFT,
    TAPS,
    draw,
    normals,
)
from hiclr_kernels.augment.reference import Stream

if triton.knobs.runtime.interpret:
    from hiclr_kernels.interpreter import correct_bfloat16

    correct_bfloat16()

__all__ = ["apply", "draw", "fill_gradient"]
STREAMS = ("joint", "bone", "motion")
BLOCK = 128  # positions of one load; a thread has 4 positions x 3 coordinates
PROGRAMS_PER_SM = 5  # as many as fit at once with up to 102 registers: one wave
NOISE_BLOCK = tl.constexpr(rules.NOISE_BLOCK)


@triton.jit
def _store_view(target, keep, fill, y0, y1, y2, body, t, v, ok, masked, T, V):
    """One tile of a view, (M, T, V, 3) in memory, masked joints replaced. keep: (T, V) of this view and sample."""
    hidden = tl.load(keep + t * V + v, tl.where(masked, ok, False), other=1) == 0
    place = target + ((body * T + t) * V + v) * 3
    tl.store(place, tl.where(hidden, fill, y0).to(target.dtype.element_ty), ok)
    tl.store(place + 1, tl.where(hidden, fill, y1).to(target.dtype.element_ty), ok)
    tl.store(place + 2, tl.where(hidden, fill, y2).to(target.dtype.element_ty), ok)


@triton.jit
def _filtered(scratch, taps, first, last, body, t, v, ok, T, V, P):
    """sum_k taps[k] y[t + k - 7] for the three coordinates; frames outside are 0. scratch: y (3, M, T, V)."""
    y0 = tl.zeros(t.shape, tl.float32)
    y1 = tl.zeros(t.shape, tl.float32)
    y2 = tl.zeros(t.shape, tl.float32)
    for k in range(first, last):
        frame = t + k - HALF
        inside = ok & (frame >= 0) & (frame < T)
        place = scratch + (body * T + frame) * V + v
        tap = tl.load(taps + k)
        y0 += tap * tl.load(place, inside, other=0)
        y1 += tap * tl.load(place + P, inside, other=0)
        y2 += tap * tl.load(place + 2 * P, inside, other=0)
    return y0, y1, y2


@triton.jit(do_not_specialize=["seed"])
def _views_kernel(
    x, index, rows, keep, noise, sample, step, fill, mirror, parents, out, scratch, n, masks, seed,
    T: tl.constexpr, V: tl.constexpr, M: tl.constexpr, W: tl.constexpr,
    STREAM: tl.constexpr, MASKED: tl.constexpr, GIVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out (W, n, M, T, V, 3) <- views of x (S, 3, T, V, M)[index]. MASKED: bit w set where view w has masked joints."""
    P: tl.constexpr = M * T * V
    QUARTER: tl.constexpr = (P + 3) // 4
    scratch += tl.program_id(0).to(tl.int64) * (3 * P)
    fill_value = tl.load(fill).to(tl.float32)
    for turn in range(0, tl.cdiv(n * W - tl.program_id(0), tl.num_programs(0))):
        item = tl.program_id(0) + turn * tl.num_programs(0)
        i, w = item // W, item % W
        row = rows + item.to(tl.int64) * ROW
        source = x + tl.load(index + i).to(tl.int64) * (3 * P)
        target = out + (w * n + i).to(tl.int64) * (3 * P)
        keep_row = keep + (w * masks + i % masks).to(tl.int64) * (T * V)
        masked = ((tl.full([], MASKED, tl.int32) >> w) & 1) != 0
        shift = tl.load(row + SHIFT).to(tl.int32)
        flip, reverse = tl.load(row + FLIP) > 0, tl.load(row + REVERSE) > 0
        blur = tl.load(row + BLUR) > 0
        s0, s1, s2 = tl.load(row + NOISE), tl.load(row + NOISE + 1), tl.load(row + NOISE + 2)
        noisy = s0 + s1 + s2 > 0
        staged = blur | (STREAM != 0)
        for first in range(0, QUARTER, BLOCK):
            lane = first + tl.arange(0, BLOCK)
            z = tl.zeros([BLOCK], tl.float32)
            n00, n01, n02, n03, n10, n11, n12, n13, n20, n21, n22, n23 = z, z, z, z, z, z, z, z, z, z, z, z
            if noisy & (not GIVEN):
                ids, word = tl.load(sample + i).to(tl.uint32), tl.load(step).to(tl.uint32)
                view, block = w.to(tl.uint32), lane + NOISE_BLOCK
                n00, n01, n02, n03 = normals(seed, block, view, ids, word)
                n10, n11, n12, n13 = normals(seed, block + QUARTER, view, ids, word)
                n20, n21, n22, n23 = normals(seed, block + 2 * QUARTER, view, ids, word)
            for j in tl.static_range(4):
                q = j * QUARTER + lane
                ok = (lane < QUARTER) & (q < P)
                body, t, v = q // (T * V), (q // V) % T, q % V
                frame = t + shift
                frame = tl.where(frame < 0, -frame - 1, frame)
                frame = tl.where(frame >= T, 2 * T - 1 - frame, frame)
                joint = tl.load(mirror + v, tl.where(flip, ok, False), other=0)
                place = source + (frame * V + tl.where(flip, joint, v)) * M + body
                a, b, c = tl.load(place, ok, other=0), tl.load(place + P, ok, other=0), tl.load(place + 2 * P, ok, other=0)
                e0, e1, e2 = (
                    (n00, n10, n20) if j == 0 else (n01, n11, n21) if j == 1 else (n02, n12, n22) if j == 2 else (n03, n13, n23)
                )
                if GIVEN:
                    given, wanted = noise + item.to(tl.int64) * (3 * P) + q, tl.where(noisy, ok, False)
                    e0, e1 = tl.load(given, wanted, other=0), tl.load(given + P, wanted, other=0)
                    e2 = tl.load(given + 2 * P, wanted, other=0)
                m = row + MATRIX
                y0 = tl.load(m) * a + tl.load(m + 1) * b + tl.load(m + 2) * c + s0 * e0
                y1 = tl.load(m + 3) * a + tl.load(m + 4) * b + tl.load(m + 5) * c + s1 * e1
                y2 = tl.load(m + 6) * a + tl.load(m + 7) * b + tl.load(m + 8) * c + s2 * e2
                stage = tl.where(staged, ok, False)
                tl.store(scratch + q, y0, stage)
                tl.store(scratch + P + q, y1, stage)
                tl.store(scratch + 2 * P + q, y2, stage)
                done = tl.where(staged, False, ok)
                t = tl.where(reverse, T - 1 - t, t)
                _store_view(target, keep_row, fill_value, y0, y1, y2, body, t, v, done, masked, T, V)
        if staged:
            tl.debug_barrier()  # phase 2 reads what other threads of this program wrote
            first_tap, last_tap = tl.where(blur, 0, HALF), tl.where(blur, NUM_TAPS, HALF + 1)
            for first in range(0, P, 4 * BLOCK):
                q = first + tl.arange(0, 4 * BLOCK)
                ok = q < P
                body, t, v = q // (T * V), (q // V) % T, q % V
                here = tl.where(reverse, T - 1 - t, t)
                y0, y1, y2 = _filtered(scratch, row + TAPS, first_tap, last_tap, body, here, v, ok, T, V, P)
                if STREAM == 1:
                    parent = tl.load(parents + v, ok, other=0)
                    p0, p1, p2 = _filtered(scratch, row + TAPS, first_tap, last_tap, body, here, parent, ok, T, V, P)
                    y0, y1, y2 = y0 - p0, y1 - p1, y2 - p2
                if STREAM == 2:
                    following = here + tl.where(reverse, -1, 1)
                    f0, f1, f2 = _filtered(scratch, row + TAPS, first_tap, last_tap, body, following, v, ok, T, V, P)
                    last = t == T - 1
                    y0, y1, y2 = tl.where(last, 0, f0 - y0), tl.where(last, 0, f1 - y1), tl.where(last, 0, f2 - y2)
                _store_view(target, keep_row, fill_value, y0, y1, y2, body, t, v, ok, masked, T, V)
            tl.debug_barrier()  # the next pair overwrites the scratch


@triton.jit
def _fill_kernel(
    grad, keep, partial, masks, sn, sc, st, sv, sm, T: tl.constexpr, V: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr
):
    """partial (n,): sum of one sample's gradient over masked joints. grad: (n, 3, T, V, M), any strides."""
    i = tl.program_id(0).to(tl.int64)
    keep += (i % masks) * (T * V)
    grad += i * sn
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, T * V, BLOCK):
        q = first + tl.arange(0, BLOCK)
        hidden = tl.load(keep + q, q < T * V, other=1) == 0
        place = grad + (q // V).to(tl.int64) * st + (q % V).to(tl.int64) * sv
        for m in tl.static_range(M):
            for c in tl.static_range(3):
                total += tl.load(place + m * sm + c * sc, hidden, other=0).to(tl.float32)
    tl.store(partial + i, tl.sum(total, axis=0))


@lru_cache(maxsize=16)
def _tables(mirror: tuple[int, ...], parents: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(V,) int32 each, copied to the device once (before a capture)."""
    return tuple(torch.tensor(table, dtype=torch.int32, device=device) for table in (mirror, parents))


def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return 2  # the interpreter: each takes several turns, so that the scratch is used again
    return PROGRAMS_PER_SM * torch.cuda.get_device_properties(device).multi_processor_count


def apply(
    x: Tensor, index: Tensor, draws: Draws, mirror, parents, stream: Stream, fill: Tensor, out_dtype: torch.dtype
) -> Tensor:
    """(W, N, M, T, V, 3) in `out_dtype`, contiguous."""
    n, views, (c, frames, joints, bodies) = len(index), len(draws.masked), x.shape[1:]
    out = torch.empty(views, n, bodies, frames, joints, c, dtype=out_dtype, device=x.device)
    programs = min(n * views, _programs(x.device))
    scratch = torch.empty(programs, c * bodies * frames * joints, device=x.device)
    given = draws.noise is not None
    noise = draws.noise.permute(0, 1, 2, 5, 3, 4).contiguous() if given else draws.rows
    keep = draws.rows if draws.keep is None else draws.keep
    sample, step = (index, index) if given else (draws.sample, draws.step)
    masked = sum(1 << w for w, m in enumerate(draws.masked) if m)
    _views_kernel[(programs,)](
        x, index, draws.rows, keep, noise, sample, step, fill.detach(), *_tables(mirror, parents, x.device), out, scratch,
        n, keep.shape[1] if masked else 1, draws.seed,
        frames, joints, bodies, views, STREAMS.index(stream), masked, given, BLOCK,
    )  # fmt: skip
    return out


def fill_gradient(grad: Tensor, keep: Tensor) -> Tensor:
    """(1,) float32 sum of grad (N, 3, T, V, M) over the joints that keep (K, T, V) masks."""
    n, _, frames, joints, bodies = grad.shape
    partial = torch.empty(n, device=grad.device)
    _fill_kernel[(n,)](grad, keep, partial, len(keep), *grad.stride(), frames, joints, bodies, 256)
    return partial.sum(dim=0, keepdim=True)
