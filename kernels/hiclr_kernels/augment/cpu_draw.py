"""The draws of `augment.draw` in numba: the same counters, the same bits."""

import math

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from hiclr_kernels.augment.draw import (
    BATCH_ID,
    BLUR,
    BLUR_TAPS,
    FLIP,
    MASK_BLOCK,
    MATRIX,
    NOISE,
    REVERSE,
    ROW,
    SHIFT,
    TAPS,
    UNIFORMS,
    Draws,
    ViewStrength,
    strength_table,
    switches,
)
from hiclr_kernels.jit import compiled
from hiclr_kernels.philox.cpu import FLAGS, F, uniforms

HALF = BLUR_TAPS // 2
MASK32 = 0xFFFFFFFF


@compiled(**FLAGS)
def _row(u, table, row):
    """One row of `augment.draw.draw_rows`. u: (20,); table: (14,); row: (32,) of zeros."""
    row[SHIFT] = math.floor(u[0] * table[0]) - (table[0] - F(1)) / F(2)
    off = (u[1:7] * F(2) - F(1)) * table[1]
    main = int(u[8] * F(3))
    c, s = np.empty(3, np.float32), np.empty(3, np.float32)
    for a in range(3):
        angle = u[9 + a] * (table[3] if a == main else table[4])
        c[a], s[a] = math.cos(angle), math.sin(angle)
    # R_z R_y R_x written out, signs of the official feeder
    rotation = (
        (c[2] * c[1], s[2] * c[0] + c[2] * s[1] * s[0], s[2] * s[0] - c[2] * s[1] * c[0]),
        (-s[2] * c[1], c[2] * c[0] - s[2] * s[1] * s[0], c[2] * s[0] + s[2] * s[1] * c[0]),
        (s[1], -c[1] * s[0], c[1] * c[0]),
    )
    hidden = int(u[16] * F(3)) if u[15] < table[10] else -1
    for i in range(3):
        if i != hidden:
            a, b, d = rotation[i]
            row[MATRIX + 3 * i] = a + b * off[2] + d * off[4]
            row[MATRIX + 3 * i + 1] = a * off[0] + b + d * off[5]
            row[MATRIX + 3 * i + 2] = a * off[1] + b * off[3] + d
            row[NOISE + i] = table[5] if u[12] < table[6] else F(0)
    row[TAPS + HALF] = 1
    if u[14] < table[9]:
        sigma, total = table[7] + u[13] * table[8], F(0)
        for k in range(BLUR_TAPS):
            row[TAPS + k] = math.exp(-F((k - HALF) ** 2) / (F(2) * sigma * sigma))
            total += row[TAPS + k]
        if table[12] > 0:
            row[TAPS:SHIFT] /= total
        row[BLUR] = 1
    row[FLIP], row[REVERSE] = u[7] < table[2], u[17] < table[11]


@compiled(parallel=True, **FLAGS)
def _draw_rows(table, sample, step, k0, k1, rows):
    for n in prange(len(sample)):
        u = np.empty(UNIFORMS, np.float32)
        for w in range(len(table)):
            uniforms(k0, k1, 0, np.uint32(w), np.uint32(sample[n]), step, u)
            _row(u, table[w], rows[n, w])


@compiled(parallel=True, **FLAGS)
def _draw_keep(masked, ids, step, k0, k1, keep):
    """keep: (W, K, T, V) of ones; 0 at the `masked[w]` smallest uniforms of each frame, ties by index."""
    frames, joints = keep.shape[2:]
    for k in prange(len(ids)):
        u = np.empty(frames * joints, np.float32)
        for w in range(len(masked)):
            if masked[w] == 0:
                continue
            uniforms(k0, k1, MASK_BLOCK, np.uint32(w), np.uint32(ids[k]), step, u)
            for t in range(frames):
                row = u[t * joints : (t + 1) * joints]
                for _ in range(masked[w]):
                    smallest = np.argmin(row)
                    keep[w, k, t, smallest] = 0
                    row[smallest] = 2


def threads() -> int:
    """torch's number of threads, as far as numba has them."""
    wanted = torch.get_num_threads()
    count = min(wanted, numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(count)
    if torch.get_num_threads() != wanted:  # numba's first start sets OpenMP's number, which is torch's too
        torch.set_num_threads(wanted)
    return count


def key_words(seed: int) -> tuple[np.uint32, np.uint32]:
    return np.uint32(seed & MASK32), np.uint32((seed >> 32) & MASK32)


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
    threads()
    n, views, word = len(sample), len(strengths), np.uint32(int(step) & MASK32)
    rows = np.zeros((n, views, ROW), np.float32)
    table = np.array(strength_table(strengths), np.float32)
    _draw_rows(table, sample.numpy(), word, *key_words(seed), rows)
    (masked, noisy), keep = switches(strengths), None
    if any(masked):
        ids = sample.numpy() if mask_per_sample else np.array([BATCH_ID])
        keep = np.ones((views, len(ids), frames, joints), np.uint8)
        _draw_keep(np.array([s.masked_joints for s in strengths]), ids, word, *key_words(seed), keep)
        keep = torch.from_numpy(keep)
    return Draws(torch.from_numpy(rows), masked, noisy, keep, None, seed, step, sample)
