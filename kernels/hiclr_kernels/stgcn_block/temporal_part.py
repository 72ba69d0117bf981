"""The temporal convolution inside a block: normalise, ReLU, (taps, 1) convolution with stride, and its gradients."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hiclr_kernels.batch_norm import gpu as norm
from hiclr_kernels.batch_norm.gpu import Operand
from hiclr_kernels.batch_norm.parts import After


def _activation(z1: Tensor, stats1: Tensor, groups: int) -> Tensor:
    """relu(n1(z1)), logically (R, D, T, V), channels last."""
    rows = norm.apply(Operand(z1.view(groups, -1, z1.shape[-1]), stats1), None, After(slope=0.0))
    return rows.view(z1.shape).permute(0, 3, 1, 2)


def forward(z1: Tensor, stats1: Tensor, blocks: Sequence, plan) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """z2 (R, T', V, D), and the mean and variance (G, D) of every group where they are known."""
    u, dtype = _activation(z1, stats1, plan.groups), z1.dtype
    cut = len(u) * plan.split // plan.groups
    parts = []
    for rows, block in zip((u[:cut], u[cut:]), blocks, strict=False):
        weight, bias = block.conv_weight.to(dtype), block.conv_bias.to(dtype)
        parts.append(F.conv2d(rows, weight, bias, (plan.stride, 1), (weight.shape[2] // 2, 0)).permute(0, 2, 3, 1))
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous(), None


def backward(dz2: Tensor, z1: Tensor, stats1: Tensor, block, plan) -> tuple[Tensor, Tensor]:
    """Gradients of relu(n1(z1)), (R, T, V, D), and of the weight."""
    u, weight = _activation(z1, stats1, plan.split), block.conv_weight.to(z1.dtype)
    half = weight.shape[2] // 2
    du, d_weight, _ = torch.ops.aten.convolution_backward(
        dz2.permute(0, 3, 1, 2), u, weight, None, (plan.stride, 1), (half, 0), (1, 1), False, (0, 0), 1, (True, True, False)
    )
    return du.permute(0, 2, 3, 1).contiguous(), d_weight
