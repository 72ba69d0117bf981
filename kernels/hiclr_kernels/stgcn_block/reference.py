"""A block of ST-GCN in plain torch, one encoder: what `stgcn_block` has to reproduce."""

import torch.nn.functional as F
from torch import Tensor

from hiclr_kernels.batch_norm.parts import After
from hiclr_kernels.batch_norm.reference import normalise
from hiclr_kernels.graph_conv.reference import graph_conv


def stgcn_block(x: Tensor, adjacency: Tensor, block, plan) -> Tensor:
    """y as `stgcn_block.stgcn_block` gives it, of rows of one encoder, with the autograd of torch."""

    def rows(t: Tensor) -> Tensor:
        return t.reshape(plan.groups, -1, t.shape[-1])

    def convolved(t: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        half = weight.shape[2] // 2
        t = F.conv2d(t.permute(0, 3, 1, 2), weight.to(t.dtype), bias.to(t.dtype), (plan.stride, 1), (half, 0))
        return t.permute(0, 2, 3, 1)

    z1 = graph_conv(x, adjacency, block.importance, block.gcn_weight, block.gcn_bias)
    u = normalise(rows(z1), None, block.norm1, None, rule=plan.rule, after=After(slope=0.0)).view(z1.shape)
    z2 = convolved(u, block.conv_weight, block.conv_bias)
    shortcut = x if plan.identity else None
    if block.norm3 is not None:
        shortcut = convolved(x, block.project_weight[..., None, None], block.project_bias)
    shortcut = None if shortcut is None else rows(shortcut)
    rest = dict(rule=plan.rule, after=plan.after, pooled=plan.pooled)
    y = normalise(rows(z2), shortcut, block.norm2, block.norm3, **rest)
    return y if plan.pooled else y.view(z2.shape)
