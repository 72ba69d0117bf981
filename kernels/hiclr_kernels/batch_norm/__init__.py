"""Training-mode batch norm of groups of rows, with what follows it: dropout, residual, activation.

    y = act(keep * ((x - mean_g) * rstd_g * weight + bias) + residual),  act(v) = v for v > 0, else slope * v
    g = act'(dy),  d residual = g,  h = keep * g,  xhat = (x - mean) * rstd
    d bias = sum h,  d weight = sum h * xhat,  dx = weight * rstd * (h - mean(h) - xhat * mean(h * xhat))

One group is one view: its statistics are its own. Four passes over memory, two forward and two backward; saved are x, y
(which the next layer saves anyway) and the random bits of the dropout. Backends: numba on CPU, for float32 and bfloat16;
plain torch (`batch_norm.reference`) for everything else; CUDA has `normalise`. torch's own channels-last CPU kernels add a
channel up one value at a time, which costs 10 times the rounding noise of its contiguous ones in the output and 50 times in
the gradients.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hiclr_kernels.batch_norm import reference
from hiclr_kernels.batch_norm.normalise import normalise as normalise

_CL = torch.channels_last


def fused(x: Tensor) -> bool:
    """Whether the numba passes cover x."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def _passes(x: Tensor):
    if not fused(x):
        return reference
    from hiclr_kernels.batch_norm import cpu  # here: a machine with a GPU may do without numba

    return cpu


def _groups(x: Tensor | None, groups: int) -> Tensor | None:
    """(R, C, T, V) -> (groups, R / groups * T * V, C), a view where channels are last."""
    if x is None:
        return None
    return x.contiguous(memory_format=_CL).permute(0, 2, 3, 1).reshape(groups, -1, x.shape[1])


def _rows(parts: Tensor, like: Tensor) -> Tensor:
    r, c, frames, joints = like.shape
    return parts.view(r, frames, joints, c).permute(0, 3, 1, 2)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, residual, bits, eps, groups, slope, dropped, mean_of):
        passes, parts = _passes(x), _groups(x, groups)
        bits = None if bits is None else bits.view(parts.shape)
        mean, var = passes.moments(parts)  # (G, C) float64
        if mean_of is not None:
            both = mean_of(torch.stack([mean, var + mean.square()]))
            mean, var = both[0], both[1] - both[0].square()
        rstd = (var + eps).rsqrt()
        out = passes.apply(parts, mean, rstd * weight, bias, slope, _groups(residual, groups), bits, dropped)
        out = _rows(out, x)
        ctx.save_for_backward(x, out, weight, mean, rstd, bits)
        ctx.rest = groups, slope, dropped, mean_of, residual is not None
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    def backward(ctx, grad, *_):
        x, out, weight, mean, rstd, bits = ctx.saved_tensors
        groups, slope, dropped, mean_of, split = ctx.rest
        passes = _passes(x)
        grad, parts, out = (_groups(t, groups) for t in (grad.to(x.dtype), x, out))
        total, products, before = passes.reduce(grad, out, slope, parts, mean, bits, dropped, split)
        d_weight = products * rstd
        means = torch.stack([total, d_weight]) / parts.shape[1]
        means = means if mean_of is None else mean_of(means)
        a = weight * rstd
        rest = (parts, mean, bits, dropped, a, -a * rstd * means[1], -a * means[0])
        dx = passes.spread(*((before, None) if split else (grad, out)), slope, *rest)
        residual = _rows(before, x) if split else None
        affine = (t.sum(0).to(weight.dtype) for t in (d_weight, total))
        return _rows(dx, x), *affine, residual, None, None, None, None, None, None


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    groups: int = 1,
    slope: float = 1.0,
    residual: Tensor | None = None,
    bits: Tensor | None = None,
    dropped: int = 0,
    mean_of: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (R, C, T, V) in the dtype of x, channels last; mean and biased variance (groups, C) float64 of every group.

    x: (R, C, T, V), rows in `groups` equal parts, one after another; weight, bias: (C,); residual: like x. slope: of the
    activation below zero: 0 ReLU, 1 none. bits: int16, as many as x has values, or None: a value is dropped where they
    are below dropped - 32768, else multiplied by 65536 / (65536 - dropped). mean_of: the mean of a tensor over several
    processes, whose statistics are then taken together.
    """
    if len(x) % groups:
        raise ValueError(f"{len(x)} rows do not divide into {groups} groups")
    return _BatchNorm.apply(x, weight, bias, residual, bits, eps, groups, slope, dropped, mean_of)
