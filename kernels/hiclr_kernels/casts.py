"""The weights of a pass in the dtype that it works in: one copy for all of them each way, instead of a cast a weight."""

from collections.abc import Sequence

import torch
from torch import Tensor


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dtype, *weights):
        ctx.save_for_backward(*weights)
        ctx.set_materialize_grads(False)
        if all(w.dtype == dtype for w in weights):
            return tuple(w.view_as(w) for w in weights)
        out = [torch.empty_like(w, dtype=dtype) for w in weights]
        torch._foreach_copy_(out, list(weights))
        return tuple(out)

    @staticmethod
    def backward(ctx, *grads):
        weights, unused = ctx.saved_tensors, [g is None for g in grads]
        sizes = [w.numel() for w, zero in zip(weights, unused, strict=True) if zero]
        zeros = iter(weights[0].new_zeros(sum(sizes)).split(sizes) if sizes else ())
        out = [next(zeros).view(w.shape) if zero else torch.empty_like(w) for w, zero in zip(weights, unused, strict=True)]
        given = [(own, g) for own, g in zip(out, grads, strict=True) if g is not None]
        if given:
            torch._foreach_copy_(*map(list, zip(*given, strict=True)))
        return None, *out


def cast_all(weights: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Every weight in that dtype. One that nothing is made of has a gradient of zeros, not none: so has a bias in front of a
    batch norm, which is used detached."""
    return _Cast.apply(dtype, *weights)
