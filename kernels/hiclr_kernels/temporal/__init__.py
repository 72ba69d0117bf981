"""Temporal convolution of ST-GCN with the batch norm and activation before it folded in, and the moments for the one after it.

    a = act(z1 * scale[g] + shift[g]),  z2[r, t, v, o] = bias[o] + sum_{k, c} weight[o, c, k] a[r, stride t + k - K // 2, v, c]

z1 is read once, z2 written once, and a is never stored: the backward pass makes it again from z1. With scale and shift those of a
batch norm, g = d loss / d (z1 * scale + shift), which `temporal_backward` returns with its sums, is what that batch norm's
backward pass starts from; `Fold` takes the gradient through the batch norm after z2 on the way in. Formulas: `reference.py`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiclr_kernels.backend import choose_backend
from hiclr_kernels.temporal import reference
from hiclr_kernels.temporal.reference import Fold, Gradients, check_temporal
from hiclr_kernels.temporal.tiles import covers
from hiclr_kernels.temporal.traffic import traffic

__all__ = ["Fold", "Gradients", "covers", "temporal", "temporal_backward", "traffic"]


def _backend(z1: Tensor):
    if choose_backend(z1.device, z1.dtype) != "triton":
        return reference
    from hiclr_kernels.temporal import gpu  # here: this module imports on machines without Triton

    return gpu


class _Temporal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z1, scale, shift, weight, bias, options):
        z2, mean, var = _backend(z1).temporal(z1, scale, shift, weight, bias, **options)
        ctx.save_for_backward(z1, scale, shift, weight)
        ctx.options = options
        ctx.mark_non_differentiable(mean, var)
        return z2, mean, var

    @staticmethod
    def backward(ctx, grad, *_):
        z1, scale, shift, weight = ctx.saved_tensors
        grad, bias = grad.to(z1.dtype).contiguous(), ctx.needs_input_grad[4]
        given = dict(ctx.options, center=None, fold=None, bias=bias)
        g, d_weight, total, products, d_bias = _backend(z1).temporal_backward(grad, z1, scale, shift, weight, **given)
        dz1 = g.unflatten(0, (len(scale), -1)) * scale[:, None, None, None]
        dz1 = dz1.to(z1.dtype).view(z1.shape)
        return dz1, products.to(scale.dtype), total.to(shift.dtype), d_weight.to(weight.dtype), d_bias, None


def _options(z1, weight, bias, scale, shift, groups, stride, slope, sets):
    """Weight and bias with their sets, and the rest; ValueError where they do not fit."""
    sets = (0,) * groups if sets is None else tuple(sets)
    if weight.ndim == 3:
        weight, bias = weight[None], None if bias is None else bias[None]
    check_temporal(z1, scale, shift, weight, bias, groups, stride, sets)
    return weight, bias, dict(groups=groups, stride=stride, slope=float(slope), sets=sets)


def temporal(
    z1: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    groups: int,
    stride: int = 1,
    slope: float = 0.0,
    sets: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """z2 (R, ceil(T / stride), V, O) in the dtype of z1; its mean and biased variance (groups, O) float32, without gradient.

    z1: (R, T, V, C) contiguous, rows in `groups` equal parts one after another; scale, shift: (groups, C), of the batch norm
    before; weight: (O, C, K), bias: (O,), or (S, O, C, K) and (S, O) of which group g uses number sets[g]; K odd; stride 1 or 2;
    slope: of the activation below zero. Gradients to all five tensors. Triton: widths and dtypes of `covers`, up to 15 groups.
    Raises ValueError on shapes, dtypes or a HICLR_KERNELS that do not fit.
    """
    weight, bias, options = _options(z1, weight, bias, scale, shift, groups, stride, slope, sets)
    return _Temporal.apply(z1, scale, shift, weight, bias, options)


@torch.no_grad()
def temporal_backward(
    h: Tensor,
    z1: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    *,
    groups: int,
    stride: int = 1,
    slope: float = 0.0,
    sets: Sequence[int] | None = None,
    center: Tensor | None = None,
    fold: Fold | None = None,
    bias: bool = False,
) -> Gradients:
    """Gradients of `temporal` for h (R, TO, V, O) in the dtype of z1, the gradient to z2 or, with `fold`, what it is made from.

    center: (groups, C), usually the mean of z1, which `products` are taken about; None: zero. bias: whether to give the bias's
    gradient (zero by algebra, and not worth a pass, where a batch norm follows). Other arguments as for `temporal`.
    """
    single = weight.ndim == 3
    weight, _, options = _options(z1, weight, None, scale, shift, groups, stride, slope, sets)
    shape = (*z1.shape[:1], reference.out_frames(z1.shape[1], stride), z1.shape[2], weight.shape[1])
    for name, x in (("h", h), *((("fold.z2", fold.z2),) if fold else ())):
        if x.shape != shape or x.dtype != z1.dtype or not x.is_contiguous():
            raise ValueError(f"{name} {tuple(x.shape)} {x.dtype}: expected contiguous {shape} {z1.dtype}")
    out = _backend(z1).temporal_backward(h, z1, scale, shift, weight, center=center, fold=fold, bias=bias, **options)
    if single:
        out = out._replace(weight=out.weight[0], bias=None if out.bias is None else out.bias[0])
    return out
