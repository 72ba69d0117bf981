"""Launches the end of a block whose shortcut is projected, y = act(keep * n2(z2) + n3(W x + b)): W x + b is never stored.

x is read in its stead, which has a quarter to half as many values: to take moments, to make y, and twice on the way back.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from hiclr_kernels.batch_norm import gpu as norm
from hiclr_kernels.batch_norm.gpu import Back, power_of_2, splits
from hiclr_kernels.stgcn_block import shortcut_gradient_kernels as gradients
from hiclr_kernels.stgcn_block import shortcut_kernels as kernels

DTYPES = (torch.bfloat16, torch.float16)  # float32 without tensor cores is slow and spills
WIDEST = 64  # channels of x
ROWS, BLOCK, BACK_BLOCK = 64, 64, 32  # of a tile; of the gradients', which take more registers
CHUNK = 4 * ROWS  # rows of a program that writes what it makes
SHARES = 256  # programs that share the weights' gradient, whose parts are large
JOINED = 32  # parts and weights of a tile of the join of the weights' gradients
SPREAD = 1024  # channels of x by channels of a tile
OPTIONS, FEW_WARPS = dict(num_warps=8, num_stages=1), dict(num_warps=4, num_stages=1)


class Gradients(NamedTuple):
    """z2 like z2, x like x, weight (D, C) float32; back2, back3: of both norms."""

    z2: Tensor
    x: Tensor
    weight: Tensor
    back2: Back
    back3: Back


def covers(channels: int, dtype: torch.dtype) -> bool:
    """Whether these kernels take a shortcut from so many channels."""
    return channels <= WIDEST and dtype in DTYPES


def tile(joints: int, channels: int, width: int, stride: int, most: int) -> dict[str, int]:
    """Compile-time arguments, with blocks of up to `most` channels; tests compile exactly these."""
    cp, block = (max(16, power_of_2(n)) for n in (channels, width))
    return dict(V=joints, C=channels, CP=cp, D=width, STRIDE=stride, ROWS=ROWS, BLOCK=min(most, block))


def spread_block(cut: dict[str, int]) -> int:
    """Channels of a tile of the gradients of z2 and x, which holds all channels of x besides."""
    return min(cut["BLOCK"], SPREAD // cut["CP"])


def _cut(x: Tensor, width: int, stride: int, groups: int, most: int) -> tuple[Tensor, dict[str, int], int, tuple[int, int, int]]:
    """The frames of x that are read; constants; blocks of channels; rows of a group of z2, frames of x, frames of z2."""
    rows, frames, joints, channels = x.shape
    read, cut = x[:, ::stride], tile(joints, channels, width, stride, most)
    later = read.shape[1]
    return read, cut, triton.cdiv(width, cut["BLOCK"]), (rows // groups * later * joints, frames, later)


def _projections(blocks: Sequence) -> list[Tensor]:
    return [t for b in (blocks[0], blocks[-1]) for t in (b.project_weight, b.project_bias)]


def statistics(x: Tensor, z2: Tensor, blocks: Sequence, plan, split: int) -> Tensor:
    """(4, G, D) of W x + b. x: (R, T, V, C), z2: (G, L, D), for its shape; groups from `split` on by the last of blocks."""
    groups, _, width = z2.shape
    read, cut, across, sizes = _cut(x, width, plan.stride, groups, BLOCK)
    count, _ = splits(groups * across, sizes[0], ROWS)
    part = torch.empty(groups, count, 3, width, device=x.device)
    with torch.cuda.device_of(x):
        kernels.moments_kernel[count, groups, across](
            read, *_projections(blocks), part, *sizes, split, **cut, **FEW_WARPS
        )  # fmt: skip
    return norm.statistics(z2, [b.norm3 for b in blocks], plan.rule, split, part)


def _after(after, like: Tensor) -> tuple[Tensor, int, float, float]:
    """Seed, threshold, inverse of the share that is kept, slope."""
    return like if after.seed is None else after.seed, after.dropped, 65536 / (65536 - after.dropped), after.slope


def end(z2: Tensor, x: Tensor, stats2: Tensor, stats3: Tensor, blocks: Sequence, plan, split: int) -> Tensor:
    """y (G, L, D) of z2 (G, L, D), or pooled (G * L / pooled, D) float32."""
    groups, rows, width = z2.shape
    read, cut, across, sizes = _cut(x, width, plan.stride, groups, BLOCK)
    chunk = plan.pooled or CHUNK
    count = triton.cdiv(rows, chunk)
    y = torch.empty(groups * count, width, device=x.device) if plan.pooled else torch.empty_like(z2)
    with torch.cuda.device_of(x):
        kernels.end_kernel[count, groups, across](
            z2, stats2, read, stats3, *_projections(blocks), y, *_after(plan.after, z2), *sizes, stats2.shape[1], split, chunk,
            **cut, DROP=plan.after.dropped > 0, POOL=plan.pooled > 0, **OPTIONS,
        )  # fmt: skip
    return y


def backward(grad: Tensor, z2: Tensor, x: Tensor, stats2: Tensor, stats3: Tensor, block, plan) -> Gradients:
    """grad: like y of `end`; z2 (G, L, D) and x of the first encoder's groups, statistics of all."""
    groups, rows, width = z2.shape
    read, cut, across, sizes = _cut(x, width, plan.stride, groups, BACK_BLOCK)
    count, _ = splits(groups * across, rows, ROWS)
    shares = max(1, min(SHARES // (groups * across), triton.cdiv(rows, ROWS)))
    part = torch.empty(groups, count, 4, width, device=x.device)
    products = torch.empty(groups * shares, width, cut["C"], device=x.device)
    dz2, dx, d_weight = torch.empty_like(z2), torch.empty_like(x), torch.empty_like(block.project_weight)
    given = grad, z2, stats2, read, stats3, block.project_weight, block.project_bias
    numbers, pooled = (*_after(plan.after, z2), *sizes, stats2.shape[1]), max(1, plan.pooled)
    constants = cut | dict(DROP=plan.after.dropped > 0, POOL=plan.pooled > 0)
    sums, spread = constants | OPTIONS, constants | dict(BLOCK=spread_block(cut)) | FEW_WARPS
    with torch.cuda.device_of(x):
        gradients.reduce_kernel[count, groups, across](*given, part, *numbers, pooled, **sums)
        back2, back3 = (
            norm.coefficients(part[:, :, i : i + 2], n.weight, stats, rows, plan.rule.mean_of, front=True)
            for n, stats, i in ((block.norm2, stats2, 0), (block.norm3, stats3, 2))
        )
        ways = back2.coefficients, back3.coefficients
        gradients.spread_kernel[triton.cdiv(rows, ROWS), groups](*given, *ways, dz2, dx, *numbers, groups, pooled, **spread)
        gradients.weights_kernel[shares, groups, across](*given, ways[1], products, *numbers, groups, pooled, **sums)
        gradients.join_kernel[triton.cdiv(d_weight.numel(), JOINED),](
            products, d_weight, len(products), d_weight.numel(), JOINED, JOINED, **OPTIONS
        )  # fmt: skip
    return Gradients(dz2, dx, d_weight, back2, back3)
