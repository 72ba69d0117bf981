"""Launches the graph convolution: one product with the folded weights, or the Triton kernels of wide inputs.

Rows of the groups from `split` on use the second of two sets of weights, and have no gradient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from hiclr_kernels.batch_norm.gpu import Back, power_of_2, splits
from hiclr_kernels.graph_conv import gpu_kernels as kernels
from hiclr_kernels.graph_conv import wide_kernels as wide
from hiclr_kernels.graph_conv.product_kernels import product_kernel

FOLDED = 32  # input channels up to which the folded product has few zeros enough: at 64 it costs six times the operations
SUBSETS = 3  # of the Triton kernels
TILE = 4096  # values a program of the folded weights holds
SPREAD = 2048
TILED_DTYPES = (torch.bfloat16, torch.float16)  # float32 without tensor cores gains nothing from the tiles, and spills
PRODUCT_WARPS = 8
JOINED, UNFOLDED = 1024, 512  # values of partial sums that a program reads at a time
WEIGHTS_BLOCK = 1024
BLOCKS = 32, 64  # input and output channels of a tile of the wide kernels
FRAMES, INPUT_FRAMES = 2, 1  # of a tile; in the gradient to the input, which holds the gradients of all edges besides
SHARES = 132  # programs of a sum over frames
WARPS, FORWARD_WARPS, INPUT_WARPS = 4, 8, 8


class Weights(NamedTuple):
    """One graph convolution: importance (K, V, V), weight (K * D, C), bias (K * D,), all float32, channel k * D + d."""

    importance: Tensor
    weight: Tensor
    bias: Tensor


class Folded(NamedTuple):
    """matrix (sets, V * D, V * C) and column (sets, V * D): z = x matrix^T + column, for x (frames, V * C)."""

    matrix: Tensor
    column: Tensor


def folds(channels: int, subsets: int, dtype: torch.dtype) -> bool:
    """Whether the product with folded weights is the way."""
    return channels <= FOLDED or subsets > SUBSETS or dtype not in TILED_DTYPES


def fold_tile(subsets: int, joints: int, c: int, d: int) -> dict[str, int]:
    vp, cp = power_of_2(joints), power_of_2(c)
    return dict(K=subsets, V=joints, C=c, D=d, VP=vp, CP=cp, BLOCK=max(1, min(power_of_2(max(d, joints)), TILE // (vp * cp))))


def unfold_tile(subsets: int, joints: int, c: int, d: int) -> dict[str, int]:
    cut = fold_tile(subsets, joints, c, d)
    return dict(cut, PARTS=max(1, UNFOLDED // cut["BLOCK"]))


def product_tile(joints: int, c: int, d: int) -> tuple[dict[str, int], int]:
    """Constants and stages. Rows that begin anywhere, the first block's, are loaded value by value: fewer of them at a time."""
    width = joints * c
    rows, depth, stages = (128, 64, 3) if width % 8 == 0 else (64, 32, 1)
    return dict(V=joints, W=width, D=d, DP=max(16, power_of_2(d)), BM=rows, BN=128, BK=depth), stages


def finish_tile(subsets: int, joints: int, c: int, d: int) -> dict[str, int]:
    j, block = max(16, power_of_2(joints)), min(max(16, power_of_2(d)), 64)
    sizes = dict(J=j, DB=block, EB=max(1, JOINED // j), PARTS=JOINED // block, BLOCK=WEIGHTS_BLOCK)
    return dict(K=subsets, V=joints, C=c, D=d, **sizes)


def wide_tile(subsets: int, joints: int, c: int, d: int, frames: int = FRAMES) -> dict[str, int]:
    sizes = {name: min(max(16, power_of_2(n)), most) for name, n, most in zip(("CB", "DB"), (c, d), BLOCKS, strict=True)}
    if frames == INPUT_FRAMES:
        sizes["DB"] = min(sizes["DB"], 32)  # registers: a loop of one turn would be unrolled
    return dict(K=subsets, V=joints, C=c, D=d, J=max(16, power_of_2(joints)), F=frames, **sizes)


def spread_tile(joints: int, channels: int) -> dict[str, int]:
    width = joints * channels
    block = min(power_of_2(width), 512)
    return dict(C=channels, W=width, ROWS=SPREAD // block, BLOCK=block)


def fold(adjacency: Tensor, sets: Sequence[Weights], dtype: torch.dtype) -> Folded:
    (subsets, joints, _), (out, channels) = adjacency.shape, sets[0].weight.shape
    cut = fold_tile(subsets, joints, channels, out // subsets)
    width = joints * cut["D"]
    matrix = torch.empty(len(sets), width, joints * channels, dtype=dtype, device=adjacency.device)
    column = torch.empty(len(sets), width, dtype=dtype, device=adjacency.device)
    with torch.cuda.device_of(adjacency):
        grid = (joints, triton.cdiv(cut["D"], cut["BLOCK"]), len(sets))
        kernels.fold_kernel[grid](adjacency, *sets[0], *sets[-1], matrix, column, **cut, num_warps=WARPS)
    return Folded(matrix, column)


def forward(
    x: Tensor, adjacency: Tensor, sets: Sequence[Weights], split: int, folded: Folded | None = None, moments: bool = True
) -> tuple[Tensor, Folded | None, Tensor | None]:
    """z (G, L, V, D) of x (G, L, V, C); the folded weights where they were made, or given; and the moments of its parts.

    moments: (G, S, 3, W >= D) as `batch_norm.gpu.statistics` takes them, where they are wanted and the kernels have them.
    """
    groups, frames, joints, channels = x.shape
    subsets, out = len(adjacency), sets[0].weight.shape[0] // len(adjacency)
    z, tiled = torch.empty(groups, frames, joints, out, dtype=x.dtype, device=x.device), x.dtype in TILED_DTYPES
    part = None
    if folds(channels, subsets, x.dtype):
        folded = fold(adjacency, sets, x.dtype) if folded is None else folded
        cut, stages = product_tile(joints, channels, out)
        if tiled and cut["DP"] <= cut["BN"]:
            tiles = triton.cdiv(frames, cut["BM"]), triton.cdiv(joints * cut["DP"], cut["BN"])
            part = torch.empty(groups, tiles[0] * tiles[1], 3, cut["DP"], device=x.device) if moments else None
            with torch.cuda.device_of(x):
                product_kernel[groups * tiles[0] * tiles[1],](
                    x, *folded, z, z if part is None else part, frames, split, **cut, MOMENTS=moments, num_warps=PRODUCT_WARPS,
                    num_stages=stages,
                )  # fmt: skip
            return z, folded, part
        for number, group in enumerate((slice(split), slice(split, None))[: len(sets)]):
            rows, to = (t[group].view(-1, joints * t.shape[-1]) for t in (x, z))
            torch.addmm(folded.column[number], rows, folded.matrix[number].T, out=to)
        return z, folded, None
    part = torch.empty(groups, triton.cdiv(frames, FRAMES), 3, out, device=x.device) if moments else None
    _wide(x, adjacency, sets, z, split, part, None, None)
    return z, None, part


def _wide(x, adjacency, sets, z, split, part: Tensor | None, stats: Tensor | None, active: Tensor | None) -> None:
    """z by the kernels of wide inputs; the moments of its parts; what a batch norm with stats and ReLU make of it."""
    (groups, frames, joints, channels), out = x.shape, z.shape[-1]
    cut = wide_tile(len(adjacency), joints, channels, out)
    unused = z if stats is None else stats
    with torch.cuda.device_of(x):
        wide.forward_kernel[triton.cdiv(frames, FRAMES), triton.cdiv(out, cut["DB"]), groups](
            x, adjacency, *sets[0], *sets[-1], z, z if part is None else part, unused, z if active is None else active, frames,
            split, unused.shape[1], **cut, MOMENTS=part is not None, ACT=active is not None, num_warps=FORWARD_WARPS,
            num_stages=1,
        )  # fmt: skip


def again(
    x: Tensor, adjacency: Tensor, own: Weights, folded: Folded | None, stats: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """z of x (GQ, L, V, C) once more, and relu(n(z)) by stats of the batch norm behind, where given and made in passing."""
    groups, frames, joints, channels = x.shape
    subsets, out = len(adjacency), len(own.bias) // len(adjacency)
    if folds(channels, subsets, x.dtype):
        return forward(x, adjacency, (own,), groups, folded, moments=False)[0], None
    z = torch.empty(groups, frames, joints, out, dtype=x.dtype, device=x.device)
    active = None if stats is None else torch.empty_like(z)
    _wide(x, adjacency, (own,), z, groups, None, stats, active)
    return z, active


def spread(grad: Tensor, z: Tensor, stats: Tensor, back: Back, slope: float) -> tuple[Tensor, Tensor]:
    """Gradient of z (GQ, L, V, D) through its batch norm and activation, and (P, V * D) float32, its sums over parts of frames.

    grad: behind the activation, or with slope 1 before it.
    """
    groups, frames, joints, channels = grad.shape
    width, cut = joints * channels, spread_tile(joints, channels)
    blocks = triton.cdiv(width, cut["BLOCK"])
    count, _ = splits(groups * blocks, frames, cut["ROWS"])
    dz = torch.empty_like(grad)
    part = torch.empty(groups, count, width, dtype=torch.float32, device=grad.device)
    with torch.cuda.device_of(grad):
        kernels.spread_kernel[count, groups, blocks](
            grad, z, stats, back.coefficients, dz, part, slope, frames, stats.shape[1], groups, **cut, ACT=slope != 1,
            num_warps=WARPS,
        )  # fmt: skip
    return dz, part.view(-1, width)


def backward(
    dz: Tensor, part: Tensor, x: Tensor, adjacency: Tensor, own: Weights, folded: Folded | None, before: Tensor | None
) -> tuple[Tensor, Weights]:
    """Gradients of x, with `before` added to it, and of the weights. dz: (G, L, V, D), part its (P, V * D), x: (G, L, V, C)."""
    joints, channels = x.shape[2:]
    subsets, out = len(adjacency), dz.shape[-1]
    frames = dz.shape[0] * dz.shape[1]
    d = Weights(*(torch.empty_like(t, dtype=torch.float32) for t in own))
    if folded is not None:
        rows, given = dz.view(frames, -1), x.view(frames, -1)
        matrix = folded.matrix[0]
        dx = rows @ matrix if before is None else torch.addmm(before.view(frames, -1), rows, matrix)
        cut = unfold_tile(subsets, joints, channels, out)
        with torch.cuda.device_of(x):
            kernels.unfold_kernel[subsets * (joints + out),](
                adjacency, *own, rows.T @ given, part, *d, len(part), **cut, num_warps=WARPS
            )  # fmt: skip
        return dx.view(x.shape), d
    cut, narrow = (wide_tile(subsets, joints, channels, out, f) for f in (FRAMES, INPUT_FRAMES))
    tiles, j = triton.cdiv(frames, FRAMES), cut["J"]
    shares, blocks = min(SHARES, tiles), (triton.cdiv(channels, cut["CB"]), triton.cdiv(out, cut["DB"]))
    dx = torch.empty_like(x)
    edges = torch.empty(subsets, shares * blocks[0], j, j, dtype=torch.float32, device=x.device)
    weights = torch.empty(max(1, shares // subsets), subsets * out, channels, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        wide.input_kernel[shares, blocks[0]](
            dz, x, adjacency, own.importance, own.weight, dx if before is None else before, dx, edges, frames,
            triton.cdiv(frames, INPUT_FRAMES), **narrow, ADD=before is not None, num_warps=INPUT_WARPS, num_stages=1,
        )  # fmt: skip
        wide.weight_kernel[len(weights), subsets, blocks[0] * blocks[1]](
            dz, x, adjacency, own.importance, weights, frames, tiles, **cut, num_warps=WARPS, num_stages=1
        )  # fmt: skip
        last = finish_tile(subsets, joints, channels, out)
        grid = subsets * (joints + triton.cdiv(out, last["DB"])) + triton.cdiv(d.weight.numel(), last["BLOCK"])
        wide.finish_kernel[grid,](
            adjacency, own.importance, own.bias, edges, weights, part, *d, edges.shape[1], len(weights), len(part), **last,
            num_warps=WARPS,
        )  # fmt: skip
    return dx, d
