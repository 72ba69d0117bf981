"""A block of ST-GCN (Yan et al., AAAI 2018) in training as one operation, composed of the passes of the folders beside it.

    z1 = graph_conv(x)    z2 = conv(relu(n1(z1)))    y = relu(keep * n2(z2) + r)
    r: nothing, x, or n3 of the projection of every stride-th frame of x

Saved for the backward pass are x, z1, z2, the projection and statistics; everything else is made again, dropout's mask from its
seed, z1 too where the block widens. The last block's y may be pooled at once. Biases in front of a batch norm, those of the
convolution and of the projection, have no gradient: the mean takes them out.

Rows are `groups` equal parts (views) with statistics of their own. The last ones may be those of another encoder: with its
weights, its running statistics and no gradient (the key of momentum contrast). So both share every launch that can be shared.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hiclr_kernels.batch_norm.parts import After, Norm, Rule
from hiclr_kernels.stgcn_block import reference


class Block(NamedTuple):
    """Parameters of one block, float32. D output channels, C input channels, K subsets of edges; channel of the graph
    convolution: k * D + d."""

    importance: Tensor  # (K, V, V)
    gcn_weight: Tensor  # (K * D, C)
    gcn_bias: Tensor  # (K * D,)
    norm1: Norm
    conv_weight: Tensor  # (D, D, taps, 1)
    conv_bias: Tensor  # (D,)
    norm2: Norm
    project_weight: Tensor | None = None  # (D, C)
    project_bias: Tensor | None = None
    norm3: Norm | None = None

    def learned(self) -> tuple[Tensor | None, ...]:
        """What has a gradient, in a fixed order."""
        norms = ((None, None) if n is None else (n.weight, n.bias) for n in (self.norm1, self.norm2, self.norm3))
        (w1, b1), (w2, b2), (w3, b3) = norms
        head = self.importance, self.gcn_weight, self.gcn_bias, w1, b1, self.conv_weight, self.conv_bias, w2, b2
        return *head, self.project_weight, self.project_bias, w3, b3


class Plan(NamedTuple):
    """groups: of all rows; split: the first group of the second encoder, or groups; identity: whether x is added to the end,
    where there is no projection; after: dropout (and slope 0); pooled: rows (T' * V times bodies) of a mean, or 0."""

    groups: int
    split: int
    stride: int
    identity: bool
    rule: Rule
    after: After
    pooled: int = 0


class _StgcnBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rows, adjacency, blocks, plan, *learned):
        from hiclr_kernels.stgcn_block import gpu  # here: a machine without Triton imports the rest

        y, saved = gpu.forward(rows, adjacency, blocks, plan)
        own = len(y) * plan.split // plan.groups
        ctx.save_for_backward(x, adjacency, *saved, plan.after.seed)
        ctx.block, ctx.plan = blocks[0], plan._replace(after=plan.after._replace(seed=None))
        ctx.mark_non_differentiable(y)
        ctx.set_materialize_grads(False)
        return y[:own], y

    @staticmethod
    def backward(ctx, grad, _):
        from hiclr_kernels.stgcn_block import gpu

        x, adjacency, *saved, seed = ctx.saved_tensors
        plan = ctx.plan._replace(after=ctx.plan.after._replace(seed=seed))
        dx, learned = gpu.backward(grad.contiguous(), x, adjacency, saved, ctx.block, plan)
        return dx, None, None, None, None, *learned


def stgcn_block(x: Tensor, rows: Tensor, adjacency: Tensor, blocks: Sequence[Block], plan: Plan) -> tuple[Tensor, Tensor]:
    """y of the rows of x, and of all rows: (R, T', V, D) in the dtype of x, or pooled (R * T' * V / pooled, D) float32.

    rows: (R, T, V, C) contiguous, all groups; x: its first `split` groups, which the gradient goes to. adjacency: (K, V, V).
    blocks: of those groups, and of the others where there are any. Only the first result has a gradient; they share memory.
    """
    if len(rows) % plan.groups:
        raise ValueError(f"{len(rows)} rows do not divide into {plan.groups} groups")
    return _StgcnBlock.apply(x, rows, adjacency, tuple(blocks), plan, *blocks[0].learned())


__all__ = ["Block", "Plan", "reference", "stgcn_block"]
