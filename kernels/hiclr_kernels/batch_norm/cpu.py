"""The four passes of batch norm with activation on CPU: each reads and writes memory once, float32 and bfloat16.

Channels are last, so that the inner loops run over contiguous channels and vectorise; few channels are taken several rows
at a time. Sums are float64: one pass gives mean and variance. Signatures: `batch_norm.reference`.

Threads are Python's, with the lock released: numba's own start all of theirs even when one is asked for, and wait for each
other actively, which takes milliseconds a call on a machine that is busy with other work.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from hiclr_kernels.jit import compiled
from hiclr_kernels.philox.cpu import FLAGS, F

WIDTH = 64  # values of an inner loop at least, where the number of rows allows it
BLOCKS = 64  # parts of the rows of a group, shared out among the threads
_INT16, _INT32, _FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()


@intrinsic
def _wide(typing, value):
    """float32 of a float32 or of the uint16 bits of a bfloat16."""

    def generate(context, builder, signature, args):
        if value == types.float32:
            return args[0]
        return builder.bitcast(builder.shl(builder.zext(args[0], _INT32), _INT32(16)), _FLOAT)

    return types.float32(value), generate


@intrinsic
def _narrow(typing, value, like):
    """A float32 as the dtype of `like`: itself, or the bits of the nearest bfloat16, ties to even."""

    def generate(context, builder, signature, args):
        if like == types.float32:
            return args[0]
        bits = builder.bitcast(args[0], _INT32)
        odd = builder.and_(builder.lshr(bits, _INT32(16)), _INT32(1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, _INT32(0x7FFF))), _INT32(16))
        number = builder.fcmp_ordered("ord", args[0], args[0])
        return builder.trunc(builder.select(number, rounded, _INT32(0x7FC0)), _INT16)

    return like(types.float32, like), generate


@compiled(nogil=True, **FLAGS)
def _moments(first, last, x, parts):
    rows, width, blocks = x.shape[1], x.shape[2], parts.shape[1]
    for item in range(first, last):
        g, k = item // blocks, item % blocks
        total, squares = parts[g, k, 0], parts[g, k, 1]
        for i in range(rows * k // blocks, rows * (k + 1) // blocks):
            for j in range(width):
                v = np.float64(_wide(x[g, i, j]))
                total[j] += v
                squares[j] += v * v


@compiled(nogil=True, **FLAGS)
def _apply(first, last, x, mean, scale, bias, slope, residual, bits, dropped, boost, out):
    rows, width = x.shape[1:]
    for item in range(first, last):
        g, k = item // BLOCKS, item % BLOCKS
        m, s = mean[g], scale[g]
        for i in range(rows * k // BLOCKS, rows * (k + 1) // BLOCKS):
            for j in range(width):
                v = (_wide(x[g, i, j]) - m[j]) * s[j] + bias[j]
                if bits is not None:
                    v = v * boost if bits[g, i, j] >= dropped else F(0)
                if residual is not None:
                    v += _wide(residual[g, i, j])
                out[g, i, j] = _narrow(v if v > F(0) else v * slope, x[g, i, j])


@compiled(nogil=True, **FLAGS)
def _reduce(first, last, grad, out, slope, x, mean, bits, dropped, boost, before, parts):
    rows, width, blocks = x.shape[1], x.shape[2], parts.shape[1]
    for item in range(first, last):
        b, k = item // blocks, item % blocks
        m, total, products = mean[b], parts[b, k, 0], parts[b, k, 1]
        for i in range(rows * k // blocks, rows * (k + 1) // blocks):
            for j in range(width):
                g = _wide(grad[b, i, j])
                g = g if _wide(out[b, i, j]) > F(0) else g * slope
                if before is not None:
                    before[b, i, j] = _narrow(g, x[b, i, j])
                if bits is not None:
                    g = g * boost if bits[b, i, j] >= dropped else F(0)
                total[j] += np.float64(g)
                products[j] += np.float64(g * (_wide(x[b, i, j]) - m[j]))


@compiled(nogil=True, **FLAGS)
def _spread(first, last, grad, out, slope, x, mean, bits, dropped, boost, a, b, c, dx):
    rows, width = x.shape[1:]
    for item in range(first, last):
        q, k = item // BLOCKS, item % BLOCKS
        m, a_, b_, c_ = mean[q], a[q], b[q], c[q]
        for i in range(rows * k // BLOCKS, rows * (k + 1) // BLOCKS):
            for j in range(width):
                g = _wide(grad[q, i, j])
                if out is not None:
                    g = g if _wide(out[q, i, j]) > F(0) else g * slope
                if bits is not None:
                    g = g * boost if bits[q, i, j] >= dropped else F(0)
                dx[q, i, j] = _narrow(a_[j] * g + b_[j] * (_wide(x[q, i, j]) - m[j]) + c_[j], x[q, i, j])


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)


def _shared(kernel: Callable, groups: int, *arguments) -> None:
    """kernel(first, last, ...) over the blocks of all groups, by as many threads as torch has."""
    count, items = torch.get_num_threads(), groups * BLOCKS
    if count == 1:
        kernel(0, items, *arguments)
        return
    bounds = [items * i // count for i in range(count + 1)]
    for done in [_pool(count).submit(kernel, *ends, *arguments) for ends in pairwise(bounds)]:
        done.result()


def _fold(x: Tensor) -> int:
    """How many rows an inner loop takes: a power of two that divides them."""
    _, rows, channels = x.shape
    fold = 1
    while fold * channels < WIDTH and rows % (2 * fold) == 0:
        fold *= 2
    return fold


def _array(x: Tensor | None, fold: int) -> np.ndarray | None:
    """(G, L, C) -> (G, L / fold, fold * C), bfloat16 as its bits; shares memory."""
    if x is None:
        return None
    x = x.detach().view(x.shape[0], -1, fold * x.shape[2])
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def _wider(x: Tensor, fold: int) -> np.ndarray:
    """(G, C) or (C,) -> float32, every channel `fold` times, as the rows of an inner loop have them."""
    return x.detach().float().repeat(*(1,) * (x.dim() - 1), fold).numpy()


def _dropout(dropped: int) -> tuple[np.int16, np.float32]:
    """Smallest 16 bits that are kept, and the factor of what is kept."""
    return np.int16(dropped - 32768), F(65536 / (65536 - dropped))


def _sums(parts: np.ndarray, channels: int) -> tuple[Tensor, Tensor]:
    """(G, BLOCKS, 2, fold * C) -> two of (G, C)."""
    total = torch.from_numpy(parts.sum(1)).unflatten(-1, (-1, channels)).sum(-2)
    return total[:, 0], total[:, 1]


def _parts(x: Tensor, fold: int) -> np.ndarray:
    return np.zeros((len(x), BLOCKS, 2, fold * x.shape[2]))


def moments(x):
    fold = _fold(x)
    parts = _parts(x, fold)
    _shared(_moments, len(x), _array(x, fold), parts)
    total, squares = _sums(parts, x.shape[2])
    mean = total / x.shape[1]
    return mean, (squares / x.shape[1] - mean.square()).clamp_(min=0)


def apply(x, mean, scale, bias, slope, residual, bits, dropped):
    fold, out = _fold(x), torch.empty_like(x)
    _shared(
        _apply, len(x), _array(x, fold), _wider(mean, fold), _wider(scale, fold), _wider(bias, fold), F(slope),
        _array(residual, fold), _array(bits, fold), *_dropout(dropped), _array(out, fold),
    )  # fmt: skip
    return out


def reduce(grad, out, slope, x, mean, bits, dropped, split):
    fold, before = _fold(x), torch.empty_like(x) if split else None
    parts = _parts(x, fold)
    _shared(
        _reduce, len(x), _array(grad, fold), _array(out, fold), F(slope), _array(x, fold), _wider(mean, fold), _array(bits, fold),
        *_dropout(dropped), _array(before, fold), parts,
    )  # fmt: skip
    return *_sums(parts, x.shape[2]), before


def spread(grad, out, slope, x, mean, bits, dropped, a, b, c):
    fold, dx = _fold(x), torch.empty_like(x)
    _shared(
        _spread, len(x), _array(grad, fold), _array(out, fold), F(slope), _array(x, fold), _wider(mean, fold), _array(bits, fold),
        *_dropout(dropped), *(_wider(t, fold) for t in (a, b, c)), _array(dx, fold),
    )  # fmt: skip
    return dx
