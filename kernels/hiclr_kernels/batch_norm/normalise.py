"""Training-mode batch norm of one or two operands with what follows, as passes that store nothing but their inputs.

    y = act(keep * n1(x1) + n2(x2))    n(x) = (x - mean_g) * rstd_g * weight + bias, or x itself    act(v) = v, slope * v below 0

    h2 = act'(v) dy,   h1 = keep * h2;   of a normalised operand, with xhat = (x - mean) * rstd:
    d bias = sum h,    d weight = sum h * xhat,    dx = weight * rstd * (h - mean(h) - xhat * mean(h * xhat));    of a plain one h

keep: dropout of the first operand, 0 or 1 / (1 - p), drawn again in the backward pass from (seed, position). The sign of v is
computed again, too: saved are x1, x2 and the statistics. Forward: one read of each normalised operand, then one read of each
operand and one write; backward: two reads of each operand and of dy, one write of each gradient.
"""

import torch
from torch import Tensor

from hiclr_kernels.backend import choose_backend
from hiclr_kernels.batch_norm import reference
from hiclr_kernels.batch_norm.parts import After, Norm, Rule


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x1, x2, w1, b1, w2, b2, norm1, norm2, rule, after, pooled, dtype):
        from hiclr_kernels.batch_norm import gpu  # here: a machine without Triton imports the rest

        stats1, stats2 = (None if n is None else gpu.statistics(x, (n,), rule) for x, n in ((x1, norm1), (x2, norm2)))
        ctx.save_for_backward(x1, x2, stats1, stats2, w1, w2, after.seed)
        ctx.rest = rule, after._replace(seed=None), pooled
        first, second = gpu.Operand(x1, stats1), None if x2 is None else gpu.Operand(x2, stats2)
        return gpu.pool(first, second, after, pooled) if pooled else gpu.apply(first, second, after, dtype)

    @staticmethod
    def backward(ctx, grad):
        from hiclr_kernels.batch_norm import gpu

        x1, x2, stats1, stats2, w1, w2, seed = ctx.saved_tensors
        rule, after, pooled = ctx.rest
        first, second = gpu.Operand(x1, stats1), None if x2 is None else gpu.Operand(x2, stats2)
        grad, after = grad.contiguous(), after._replace(seed=seed)
        dx1, dx2, back1, back2 = gpu.backward(grad, first, second, after, (w1, w2), rule, pooled=pooled)
        affine = (d for back in (back1, back2) for d in ((None, None) if back is None else (back.weight, back.bias)))
        return dx1, dx2, *affine, None, None, None, None, None, None


def normalise(
    x1: Tensor,
    x2: Tensor | None,
    norm1: Norm | None,
    norm2: Norm | None,
    *,
    rule: Rule,
    after: After,
    pooled: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """y (G, L, C) in the dtype of x1, or in `dtype`; with `pooled` its mean over every so many rows, (G * L / pooled, C) float32.

    x1, x2: (G, L, C) contiguous, G groups of L rows with statistics of their own, or x2 None. norm1, norm2: of each operand, or
    None where it is plain; their running statistics move, group by group. One of the operands is normalised, or both.
    """
    if pooled and x1.shape[1] % pooled:
        raise ValueError(f"{x1.shape[1]} rows of a group do not divide into means of {pooled}")
    if choose_backend(x1.device, x1.dtype) != "triton":
        return reference.normalise(x1, x2, norm1, norm2, rule=rule, after=after, pooled=pooled, dtype=dtype)
    affine = (p for n in (norm1, norm2) for p in ((None, None) if n is None else (n.weight, n.bias)))
    return _Normalise.apply(x1, x2, *affine, norm1, norm2, rule, after, pooled, dtype)
