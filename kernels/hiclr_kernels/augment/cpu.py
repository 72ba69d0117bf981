"""The augmentation kernel on CPU: one read of a sample, all its views, in the encoder's layout; noise never in memory.

Samples run in parallel. Inside, a sample is (M, 3, frames * V), continued by reflection at both ends, so that a crop is a slice
and every loop a long contiguous one that LLVM vectorises: rows are taken from arrays that numba knows to be contiguous, which a
slice of a slice is not. A view without noise, blur and stream goes from there to the output in one pass.
"""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from hiclr_kernels.augment.cpu_draw import HALF, MASK32, draw, key_words, threads
from hiclr_kernels.augment.draw import BLUR, BLUR_TAPS, FLIP, MATRIX, NOISE, NOISE_BLOCK, REVERSE, SHIFT, TAPS, Draws
from hiclr_kernels.augment.reference import Stream
from hiclr_kernels.jit import compiled
from hiclr_kernels.memory import Reused
from hiclr_kernels.philox.cpu import FLAGS, F, normals

__all__ = ["apply", "draw", "fill_gradient"]
STREAMS = ("joint", "bone", "motion")
OUTPUT = Reused()


@compiled(**FLAGS)
def _transform(a, b, c, m, y0, y1, y2):
    """The first n of y = m (a, b, c) for n joints; m: (9,)."""
    m0, m1, m2, m3, m4, m5, m6, m7, m8 = m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8]
    for i in range(len(a)):
        y0[i] = m0 * a[i] + m1 * b[i] + m2 * c[i]
        y1[i] = m3 * a[i] + m4 * b[i] + m5 * c[i]
        y2[i] = m6 * a[i] + m7 * b[i] + m8 * c[i]


@compiled(**FLAGS)
def _transform_interleaved(a, b, c, m, out):
    """out (n * 3,) = m (a, b, c), joint after joint."""
    m0, m1, m2, m3, m4, m5, m6, m7, m8 = m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8]
    for i in range(len(a)):
        out[3 * i] = m0 * a[i] + m1 * b[i] + m2 * c[i]
        out[3 * i + 1] = m3 * a[i] + m4 * b[i] + m5 * c[i]
        out[3 * i + 2] = m6 * a[i] + m7 * b[i] + m8 * c[i]


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
def _to_stream(z, start, reverse, stream, parents, out):
    """out (T, V, 3) <- z (3, n) from `start` on, frames reversed, as bones or motion."""
    frames, joints = out.shape[:2]
    for t in range(frames):
        first = start + (frames - 1 - t if reverse else t) * joints
        after = first if t == frames - 1 else first - joints if reverse else first + joints
        for c in range(3):
            here, following = z[c, first : first + joints], z[c, after : after + joints]
            for v in range(joints):
                if stream == 1:
                    out[t, v, c] = here[v] - here[parents[v]]
                elif stream == 2:
                    out[t, v, c] = following[v] - here[v]  # 0 in the last frame
                else:
                    out[t, v, c] = here[v]


@compiled(**FLAGS)
def _load(source, bodies, raw):
    """The middle third of raw (M, 3, 3 * n) <- source (3, n * M)."""
    n = raw.shape[2] // 3
    for c in range(3):
        if bodies == 2:  # the usual case, with a stride that the compiler knows
            a, b = raw[0, c, n : 2 * n], raw[1, c, n : 2 * n]
            for i in range(n):
                a[i], b[i] = source[c, 2 * i], source[c, 2 * i + 1]
        else:
            for m in range(bodies):
                for i in range(n):
                    raw[m, c, n + i] = source[c, i * bodies + m]


@compiled(**FLAGS)
def _mirror(raw, where, mirrored):
    """The middle third of mirrored (M, 3, 3 * n) <- raw, joint i from place where[i]. where: (n,) of an unsigned type."""
    n = len(where)
    for m in range(len(raw)):
        for c in range(3):
            source, target = raw[m, c, n : 2 * n], mirrored[m, c, n : 2 * n]
            for i in range(n):
                target[i] = source[where[i]]


@compiled(**FLAGS)
def _reflect(x, joints, pad):
    """Continues the middle third of x (M, 3, 3 * T * V) by `pad` frames at both ends, edge frame included."""
    first, last = x.shape[2] // 3, x.shape[2] // 3 * 2
    for m in range(len(x)):
        for c in range(3):
            for k in range(pad):
                at = k * joints
                x[m, c, first - at - joints : first - at] = x[m, c, first + at : first + at + joints]
                x[m, c, last + at : last + at + joints] = x[m, c, last - at - joints : last - at]


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
def _apply(x, index, rows, keep, masked, noise, given, sample, step, k0, k1, where, parents, stream, fill, chunks, out):
    """x: (S, 3, T * V * M). out: (W, N, M, T, V, 3). noise: (N, W, 3, M, T * V), used where `given`."""
    views, n, bodies, frames, joints, _ = out.shape
    size, quarter, half = frames * joints, -(-bodies * frames * joints // 4), HALF * joints
    for chunk in prange(chunks):
        raw = np.empty((bodies, 3, 3 * size), np.float32)
        mirrored = np.empty((bodies, 3, 3 * size), np.float32)
        y = np.zeros((bodies, 3, size + 2 * half), np.float32)  # zero ends for the blur
        z = np.empty((3, size), np.float32)
        words = np.empty((4, quarter), np.uint32)
        value = np.empty(quarter, np.float32)
        normal = np.empty(4 * quarter, np.float32)
        for i in range(chunk * n // chunks, (chunk + 1) * n // chunks):
            pad = int(np.abs(rows[i, :, SHIFT]).max())
            _load(x[index[i]], bodies, raw)
            if rows[i, :, FLIP].max() > 0:
                _mirror(raw, where, mirrored)
                _reflect(mirrored, joints, pad)
            _reflect(raw, joints, pad)
            for w in range(views):
                row = rows[i, w]
                matrix, first = row[MATRIX:NOISE], size + int(row[SHIFT]) * joints
                noisy, blurred, reverse = np.abs(row[NOISE:TAPS]).max() > 0, row[BLUR] > 0, row[REVERSE] > 0
                direct = stream == 0 and not (noisy or blurred or reverse)
                for m in range(bodies):
                    body = mirrored[m] if row[FLIP] > 0 else raw[m]
                    a, b, c = body[0, first : first + size], body[1, first : first + size], body[2, first : first + size]
                    if direct:
                        _transform_interleaved(a, b, c, matrix, out[w, i, m].reshape(3 * size))
                    else:
                        _transform(a, b, c, matrix, y[m, 0, half:], y[m, 1, half:], y[m, 2, half:])
                for c in range(3):
                    std = row[NOISE + c]
                    if std != 0 and not given:
                        block, id_word = NOISE_BLOCK + c * quarter, np.uint32(sample[i])
                        normals(k0, k1, block, np.uint32(w), id_word, step, words, value, value.view(np.int32), normal)
                    for m in range(bodies):
                        if std != 0:
                            add = noise[i, w, c, m] if given else normal[m * size : (m + 1) * size]
                            _add(std, add, y[m, c, half : half + size])
                for m in range(bodies):
                    target, ready, start = out[w, i, m], y[m], half
                    if blurred:
                        for c in range(3):
                            _blur(y[m, c], joints, row[TAPS:SHIFT], z[c])
                        ready, start = z, 0
                    if stream != 0 or reverse:
                        _to_stream(ready, start, reverse, stream, parents, target)
                    elif not direct:
                        a, b, c = ready[0, start:], ready[1, start:], ready[2, start:]
                        _interleave(a[:size], b[:size], c[:size], target.reshape(3 * size))
                    if masked[w]:
                        _mask(keep[w, i % keep.shape[1]], fill, target)


def apply(
    x: Tensor, index: Tensor, draws: Draws, mirror, parents, stream: Stream, fill: Tensor, out_dtype: torch.dtype
) -> Tensor:
    """(W, N, M, T, V, 3), contiguous."""
    n, views, (c, frames, joints, bodies) = len(index), len(draws.masked), x.shape[1:]
    out = OUTPUT.empty(views, n, bodies, frames, joints, c)
    given = draws.noise is not None
    noise = draws.noise.permute(0, 1, 2, 5, 3, 4).flatten(4).contiguous() if given else torch.empty(0, 0, 0, 0, 0)
    keep = torch.empty(0, 1, 0, 0, dtype=torch.uint8) if draws.keep is None else draws.keep
    sample, step = (index, 0) if given else (draws.sample, int(draws.step))
    where = (np.arange(frames)[:, None] * joints + np.array(mirror)).reshape(-1).astype(np.uint32)
    tables = where, np.array(parents)
    _apply(
        x.numpy().reshape(len(x), c, -1), index.numpy(), draws.rows.numpy(), keep.numpy(), np.array(draws.masked),
        noise.numpy(), given, sample.numpy(), np.uint32(step & MASK32), *key_words(draws.seed), *tables,
        STREAMS.index(stream), F(fill.item()), min(n, 4 * threads()), out.numpy(),
    )  # fmt: skip
    return out.to(out_dtype)


def fill_gradient(grad: Tensor, keep: Tensor) -> Tensor:
    """(1,) float32 sum of grad (N, 3, T, V, M) over the joints that keep (K, T, V) masks."""
    hidden = (keep == 0)[:, None, :, :, None]
    return torch.where(hidden, grad, 0).sum(dtype=torch.float32)[None]
