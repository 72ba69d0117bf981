"""The temporal convolution inside a block: normalise, ReLU, (taps, 1) convolution with stride, and its gradients.

By `temporal`, which stores nothing in between, where it covers the width; else torch's convolution between passes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hiclr_kernels.batch_norm import gpu as norm
from hiclr_kernels.batch_norm.gpu import Operand
from hiclr_kernels.batch_norm.parts import After
from hiclr_kernels.temporal import Fold, covers, gpu, tiles

RELU = After(slope=0.0)


class Gradients(NamedTuple):
    """h (R, T, V, D): gradient behind (slope 0) or in front of (slope 1) the ReLU; part: sums, as `coefficients` takes them.
    weight: of the convolution, in its strides."""

    h: Tensor
    slope: float
    part: Tensor
    weight: Tensor


def fuses(width: int, dtype: torch.dtype) -> bool:
    return covers(width, width, dtype) and covers(width, width, dtype, backward=True)


def takes_marks(z2: Tensor) -> bool:
    """Whether the gradients of this convolution take its end's marks as they read."""
    return tiles.takes_marks(z2.shape[-1], z2.shape[-1], z2.dtype, gpu.major_of(z2.device))


def _operand(z1: Tensor, stats1: Tensor, groups: int) -> Operand:
    return Operand(z1.view(groups, -1, z1.shape[-1]), stats1)


def _activation(z1: Tensor, stats1: Tensor, groups: int) -> Tensor:
    """relu(n1(z1)), logically (R, D, T, V), channels last."""
    return norm.apply(_operand(z1, stats1, groups), None, RELU).view(z1.shape).permute(0, 3, 1, 2)


def _sets(blocks: Sequence) -> gpu.Sets:
    """Both encoders' weights, where they lie."""
    weights = [b.conv_weight[..., 0] for b in (blocks[0], blocks[-1])]
    if weights[0].stride() != weights[1].stride():
        weights = [w.contiguous() for w in weights]
    return gpu.Sets(*weights, blocks[0].conv_bias, blocks[-1].conv_bias, len(blocks))


def forward(z1: Tensor, stats1: Tensor, blocks: Sequence, plan) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """z2 (R, T', V, D), of all rows or each encoder's apart; moments of its parts, as `statistics` takes them, where they are
    known; and what `backward` multiplies with, where it is made here."""
    if fuses(z1.shape[-1], z1.dtype):
        sets = _sets(blocks)
        shape = *z1.shape[2:], *sets.weight.shape[::2], plan.stride
        band, gradient = gpu.bands(sets, shape, z1.dtype, len(blocks), 1)
        which = [int(group >= plan.split) for group in range(plan.groups)]
        given = dict(groups=plan.groups, stride=plan.stride, slope=0.0, sets=which)
        z2, part = gpu.forward(z1, stats1[2], stats1[3], sets, band, **given)
        return [z2], part, gradient
    u, dtype = _activation(z1, stats1, plan.groups), z1.dtype
    cut = len(u) * plan.split // plan.groups
    parts = []
    for rows, block in zip((u[:cut], u[cut:]), blocks, strict=False):
        weight, bias = block.conv_weight.to(dtype), block.conv_bias.to(dtype)
        parts.append(F.conv2d(rows, weight, bias, (plan.stride, 1), (weight.shape[2] // 2, 0)).permute(0, 2, 3, 1))
    return [part.contiguous() for part in parts], None, None


def backward(
    dz2: Tensor, fold: Fold | None, z1: Tensor, active: Tensor | None, stats1: Tensor, block, plan, band: Tensor | None
) -> Gradients:
    """dz2: gradient of z2, or with `fold` what it is made from. z1: of the first encoder's groups, statistics of all. active:
    relu(n1(z1)), where it was made with z1."""
    if fuses(z1.shape[-1], z1.dtype):
        mean, _, scale, shift = (s[: plan.split] for s in stats1)
        given = dict(stride=plan.stride, slope=0.0, sets=[0] * plan.split, center=mean, fold=fold)
        g, d_weight, part = gpu.backward(dz2, z1, scale, shift, block.conv_weight[None, ..., 0], band, **given)
        return Gradients(g, 1.0, part[..., : z1.shape[-1]], d_weight[0, ..., None])
    u = _activation(z1, stats1, plan.split) if active is None else active.view(z1.shape).permute(0, 3, 1, 2)
    weight = block.conv_weight.to(z1.dtype)
    half = weight.shape[2] // 2
    du, d_weight, _ = torch.ops.aten.convolution_backward(
        dz2.permute(0, 3, 1, 2), u, weight, None, (plan.stride, 1), (half, 0), (1, 1), False, (0, 0), 1, (True, True, False)
    )
    du = du.permute(0, 2, 3, 1).contiguous()
    part, _, _ = norm.reduce(du.view(plan.split, -1, du.shape[-1]), _operand(z1, stats1, plan.split), None, RELU)
    return Gradients(du, 0.0, part[:, :, :2], d_weight)
