"""Batch norm of the inputs of two encoders at once: views side by side, each a group, the last one the other encoder's.

Channels are those of a frame, joint by joint (v * C + c), as ST-GCN has them. One copy puts the views side by side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiclr_kernels.batch_norm.parts import After, Norm, Rule


def _rows(view: Tensor) -> Tensor:
    """(N, C, T, V, M) -> (N, M, T, V, C), a view of what lies channels last."""
    return view.permute(0, 4, 2, 3, 1)


class _NormaliseViews(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, bias, other, norms, rule, dtype, *views):
        from hiclr_kernels.batch_norm import gpu  # here: a machine without Triton imports the rest

        rows = torch.cat([_rows(view) for view in (*views, other)])
        _, _, frames, joints, channels = rows.shape
        x, own = rows.view(len(views) + 1, -1, joints * channels), len(views)
        stats = gpu.statistics(x, norms, rule, own)
        y = gpu.apply(gpu.Operand(x, stats), None, After(), dtype).view(-1, frames, joints, channels)
        ctx.save_for_backward(x[:own], stats, weight)
        ctx.rule, ctx.shape = rule, rows.shape
        ctx.mark_non_differentiable(y)
        ctx.set_materialize_grads(False)
        return y[: len(y) * own // (own + 1)], y

    @staticmethod
    def backward(ctx, grad, _):
        from hiclr_kernels.batch_norm import gpu

        x, stats, weight = ctx.saved_tensors
        grad = grad.contiguous().view(x.shape)
        dx, _, back, _ = gpu.backward(grad, gpu.Operand(x, stats), None, After(), (weight, None), ctx.rule)
        each = [d.view(-1, *ctx.shape[1:]).permute(0, 4, 2, 3, 1) for d in dx]
        each = [d if wanted else None for d, wanted in zip(each, ctx.needs_input_grad[6:], strict=True)]
        return back.weight, back.bias, None, None, None, None, *each


def normalise_views(
    views: Sequence[Tensor], other: Tensor, norms: tuple[Norm, Norm], *, rule: Rule, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Rows (N * M, T, V, C) in `dtype` of the views one after another; and with those of the other view, which has no gradient,
    behind them, by the second norm. Both share memory. Views: (N, C, T, V, M) float32; Triton alone.
    """
    first = norms[0]
    return _NormaliseViews.apply(first.weight, first.bias, other.detach(), norms, rule, dtype, *views)
