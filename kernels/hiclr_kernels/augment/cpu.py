"""The augmentation kernel on CPU: one read of a sample, all its views, in the encoder's layout; noise never in memory.

Samples run in parallel. Inside, a sample is (M, 3, T * V), so that every loop is a long contiguous one that LLVM
vectorises: a crop is a contiguous window with reflected rows at its ends, the blur 15 shifted reads.
"""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from hiclr_kernels.augment.cpu_draw import HALF, MASK32, draw, key_words, threads
from hiclr_kernels.augment.draw import BLUR, BLUR_TAPS, FLIP, MATRIX, NOISE, NOISE_BLOCK, REVERSE, SHIFT, TAPS, Draws
from hiclr_kernels.augment.reference import Stream
from hiclr_kernels.jit import compiled
from hiclr_kernels.philox.cpu import FLAGS, F, normals

__all__ = ["apply", "draw", "fill_gradient"]
STREAMS = ("joint", "bone", "motion")


@compiled(**FLAGS)
def _transform(a, b, c, m, y0, y1, y2):
    """y = m (a, b, c) for n joints; m: (9,)."""
    m0, m1, m2, m3, m4, m5, m6, m7, m8 = m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8]
    for i in range(len(y0)):
        y0[i] = m0 * a[i] + m1 * b[i] + m2 * c[i]
        y1[i] = m3 * a[i] + m4 * b[i] + m5 * c[i]
        y2[i] = m6 * a[i] + m7 * b[i] + m8 * c[i]


@compiled(**FLAGS)
def _window(x, joints, shift, m, y):
    """y = m x over the window from frame `shift` on, reflected at both ends. x: (3, T * V); y: (3, T * V)."""
    frames = x.shape[1] // joints
    first, last = max(0, -shift), min(frames, frames - shift)  # frames [first, last) of y lie inside the sequence
    s, e, to, end = (first + shift) * joints, (last + shift) * joints, first * joints, last * joints
    _transform(x[0, s:e], x[1, s:e], x[2, s:e], m, y[0, to:end], y[1, to:end], y[2, to:end])
    for t in range(frames):
        if t < first or t >= last:
            source = -(t + shift) - 1 if t < first else 2 * frames - 1 - (t + shift)
            s, e, to, end = source * joints, (source + 1) * joints, t * joints, (t + 1) * joints
            _transform(x[0, s:e], x[1, s:e], x[2, s:e], m, y[0, to:end], y[1, to:end], y[2, to:end])


@compiled(**FLAGS)
def _blur(y, joints, taps, z):
    """z[p] = sum_k taps[k] y[p + k * joints] for one coordinate. y: (7 + T + 7) * V with zero ends; z: (T * V,)."""
    n = len(z)
    for first in range(0, BLUR_TAPS, 5):  # five shifted reads a pass: as many as registers hold
        a, b, c = y[first * joints :], y[(first + 1) * joints :], y[(first + 2) * joints :]
        d, e = y[(first + 3) * joints :], y[(first + 4) * joints :]
        t0, t1, t2, t3, t4 = taps[first], taps[first + 1], taps[first + 2], taps[first + 3], taps[first + 4]
        if first == 0:
            for p in range(n):
                z[p] = t0 * a[p] + t1 * b[p] + t2 * c[p] + t3 * d[p] + t4 * e[p]
        else:
            for p in range(n):
                z[p] += t0 * a[p] + t1 * b[p] + t2 * c[p] + t3 * d[p] + t4 * e[p]


@compiled(**FLAGS)
def _interleave(a, b, c, out):
    """out (n * 3,): a, b and c (n,) in turn."""
    for p in range(len(a)):
        out[3 * p], out[3 * p + 1], out[3 * p + 2] = a[p], b[p], c[p]


@compiled(**FLAGS)
def _to_stream(z, reverse, stream, parents, out):
    """out (T, V, 3) <- z (3, T * V), frames reversed, as bones or motion."""
    frames, joints = out.shape[:2]
    for t in range(frames):
        here = (frames - 1 - t if reverse else t) * joints
        following = here - joints if reverse else here + joints
        for c in range(3):
            for v in range(joints):
                value = z[c, here + v]
                if stream == 1:
                    value -= z[c, here + parents[v]]
                elif stream == 2:
                    value = F(0) if t == frames - 1 else z[c, following + v] - value
                out[t, v, c] = value


@compiled(**FLAGS)
def _load(source, joint, raw):
    """raw (M, 3, T * V) <- source (3, T, V, M), joint v from joint[v]."""
    channels, frames, joints, bodies = source.shape
    for m in range(bodies):
        for c in range(channels):
            for t in range(frames):
                for v in range(joints):
                    raw[m, c, t * joints + v] = source[c, t, joint[v], m]


@compiled(**FLAGS)
def _add(std, noise, y):
    for p in range(len(y)):
        y[p] += std * noise[p]


@compiled(**FLAGS)
def _mask(keep, fill, out):
    """out (T, V, 3) becomes `fill` where keep (T, V) is 0."""
    for t in range(keep.shape[0]):
        for v in range(keep.shape[1]):
            if keep[t, v] == 0:
                out[t, v] = fill


@compiled(parallel=True, **FLAGS)
def _apply(x, index, rows, keep, masked, noise, given, sample, step, k0, k1, mirror, parents, stream, fill, chunks, out):
    """out: (W, N, M, T, V, 3). noise: (N, W, 3, M, T * V), used where `given`."""
    views, n, bodies, frames, joints, _ = out.shape
    size, quarter = frames * joints, -(-bodies * frames * joints // 4)
    same = np.arange(joints)
    for chunk in prange(chunks):
        raw = np.empty((bodies, 3, size), np.float32)
        mirrored = np.empty((bodies, 3, size), np.float32)
        y = np.zeros((bodies, 3, size + 2 * HALF * joints), np.float32)  # zero ends for the blur
        inside = y[:, :, HALF * joints : HALF * joints + size]
        z = np.empty((3, size), np.float32)
        words = np.empty((4, quarter), np.uint32)
        value = np.empty(quarter, np.float32)
        normal = np.empty(4 * quarter, np.float32)
        for i in range(chunk * n // chunks, (chunk + 1) * n // chunks):
            _load(x[index[i]], same, raw)
            if rows[i, :, FLIP].max() > 0:
                _load(x[index[i]], mirror, mirrored)
            for w in range(views):
                row = rows[i, w]
                for m in range(bodies):
                    _window(mirrored[m] if row[FLIP] > 0 else raw[m], joints, int(row[SHIFT]), row[MATRIX:NOISE], inside[m])
                for c in range(3):
                    std = row[NOISE + c]
                    if std != 0 and not given:
                        first, id_word = NOISE_BLOCK + c * quarter, np.uint32(sample[i])
                        normals(k0, k1, first, np.uint32(w), id_word, step, words, value, value.view(np.int32), normal)
                    for m in range(bodies):
                        if std != 0:
                            _add(std, noise[i, w, c, m] if given else normal[m * size : (m + 1) * size], inside[m, c])
                for m in range(bodies):
                    target = out[w, i, m]
                    ready = inside[m]
                    if row[BLUR] > 0:
                        for c in range(3):
                            _blur(y[m, c], joints, row[TAPS:SHIFT], z[c])
                        ready = z[:, :size]
                    if stream == 0 and row[REVERSE] == 0:
                        _interleave(ready[0], ready[1], ready[2], target.reshape(3 * size))
                    else:
                        _to_stream(ready, row[REVERSE] > 0, stream, parents, target)
                    if masked[w]:
                        _mask(keep[w, i % keep.shape[1]], fill, target)


def apply(
    x: Tensor, index: Tensor, draws: Draws, mirror, parents, stream: Stream, fill: Tensor, out_dtype: torch.dtype
) -> Tensor:
    """(W, N, M, T, V, 3), contiguous."""
    n, views, (c, frames, joints, bodies) = len(index), len(draws.masked), x.shape[1:]
    out = torch.empty(views, n, bodies, frames, joints, c)
    given = draws.noise is not None
    noise = draws.noise.permute(0, 1, 2, 5, 3, 4).flatten(4).contiguous() if given else torch.empty(0, 0, 0, 0, 0)
    keep = torch.empty(0, 1, 0, 0, dtype=torch.uint8) if draws.keep is None else draws.keep
    sample, step = (index, 0) if given else (draws.sample, int(draws.step))
    tables = np.array(mirror), np.array(parents)
    _apply(
        x.numpy(), index.numpy(), draws.rows.numpy(), keep.numpy(), np.array(draws.masked), noise.numpy(), given,
        sample.numpy(), np.uint32(step & MASK32), *key_words(draws.seed), *tables, STREAMS.index(stream), F(fill.item()),
        min(n, 4 * threads()), out.numpy(),
    )  # fmt: skip
    return out.to(out_dtype)


def fill_gradient(grad: Tensor, keep: Tensor) -> Tensor:
    """(1,) float32 sum of grad (N, 3, T, V, M) over the joints that keep (K, T, V) masks."""
    hidden = (keep == 0)[:, None, :, :, None]
    return torch.where(hidden, grad, 0).sum(dtype=torch.float32)[None]
