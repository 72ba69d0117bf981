"""The projector of contrastive learning and what follows it, as one operation: unit rows of two linear layers with a ReLU.

    h = relu(x W1^T + b1)    y = h W2^T + b2    q = y / |y|

    dy = (dq - q (q . dq)) / |y|    dh = [h > 0] (dy W2)    dx = dh W1    dW2 = dy^T h    dW1 = dh^T x    db: sums of dy, dh

Products take operands of `dtype` and add up in float32; y is never rounded. Rows behind those of x may be another encoder's: with
its weights, and no gradient. Forward one launch, backward two: instead of a cast a weight and of a launch an operation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiclr_kernels.backend import choose_backend
from hiclr_kernels.projection import reference
from hiclr_kernels.projection.reference import Head

MAX_FEATURES = 256  # of a unit row, which one program holds


def covers(head: Head, x: Tensor, dtype: torch.dtype) -> bool:
    """float32 on CUDA is left to torch: without tensor cores the kernels gain nothing, and spill."""
    kernels = choose_backend(x.device, x.dtype) == "triton" and not (x.is_cuda and dtype == torch.float32)
    return kernels and len(head.bias2) <= MAX_FEATURES


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rows, heads, dtype, *weights):
        from hiclr_kernels.projection import gpu  # here: a machine without Triton imports the rest

        q, hidden, inverse = gpu.forward(rows, heads, len(x), dtype)
        ctx.save_for_backward(x, q[: len(x)], hidden, inverse, *weights)
        ctx.mark_non_differentiable(q)
        ctx.set_materialize_grads(False)
        return q[: len(x)], q

    @staticmethod
    def backward(ctx, grad, _):
        from hiclr_kernels.projection import gpu

        x, q, hidden, inverse, *weights = ctx.saved_tensors
        dx, d = gpu.backward(grad.contiguous(), x, q, hidden, inverse, Head(*weights))
        return dx, None, None, None, *d


def unit_rows(x: Tensor, rows: Tensor, heads: Sequence[Head], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """q of x and of all rows, (N, F) float32. Only the first has a gradient, to x and the first head; they share memory.

    rows: (N, H) float32 contiguous; x: its first rows, or all. heads: of x, and of the rows behind it where there are any.
    """
    if not covers(heads[0], x, dtype):
        parts = [reference.unit_rows(x, heads[0], dtype)]
        with torch.no_grad():
            parts += [reference.unit_rows(rows[len(x) :], heads[-1], dtype)] if len(rows) > len(x) else []
        return parts[0], torch.cat([part.detach() for part in parts])
    return _UnitRows.apply(x, rows, tuple(heads), dtype, *heads[0])


__all__ = ["Head", "covers", "reference", "unit_rows"]
