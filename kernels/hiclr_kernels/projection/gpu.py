"""Launches the projector. Nothing here waits for the device or depends on its data."""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from hiclr_kernels.projection.gpu_kernels import forward_kernel, rows_kernel, weights_kernel
from hiclr_kernels.projection.reference import Head

if triton.knobs.runtime.interpret:
    from hiclr_kernels.interpreter import correct_bfloat16

    correct_bfloat16()

ROWS = 16  # of a program: few, so that many programs share the rows of a batch
BLOCK = 64  # of a sum, and of the gradient to a weight
WARPS, STAGES = 4, 2


def rows_tile(features: int, hidden: int, out: int) -> dict[str, int]:
    fp = max(16, triton.next_power_of_2(out))
    return dict(H=features, M=hidden, F=out, BR=ROWS, BH=BLOCK, BM=BLOCK if fp <= 128 else BLOCK // 2, FP=fp)


def weights_tile(features: int, hidden: int, out: int) -> dict[str, int]:
    return dict(H=features, M=hidden, F=out, BR=BLOCK, BLOCK=BLOCK)


def _sizes(head: Head) -> tuple[int, int, int]:
    hidden, features = head.weight1.shape
    return features, hidden, len(head.bias2)


def forward(rows: Tensor, heads: Sequence[Head], split: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q (N, F) of rows (N, H); hidden activations (split, M) in `dtype` and 1 / |y| (split,) of the first head's."""
    sizes = _, hidden_size, out = _sizes(heads[0])
    q = torch.empty(len(rows), out, device=rows.device)
    hidden = torch.empty(split, hidden_size, dtype=dtype, device=rows.device)
    inverse = torch.empty(split, device=rows.device)
    blocks = triton.cdiv(split, ROWS)
    with torch.cuda.device_of(rows):
        forward_kernel[blocks + triton.cdiv(len(rows) - split, ROWS),](
            rows, *heads[0], *heads[-1], q, hidden, inverse, len(rows), split, blocks, **rows_tile(*sizes), num_warps=WARPS,
            num_stages=STAGES,
        )  # fmt: skip
    return q, hidden, inverse


def backward(grad: Tensor, x: Tensor, q: Tensor, hidden: Tensor, inverse: Tensor, head: Head) -> tuple[Tensor, Head]:
    """Gradients of x (N, H) and of the head, for that of q (N, F)."""
    sizes = features, hidden_size, out = _sizes(head)
    dy = torch.empty(len(x), out, dtype=hidden.dtype, device=x.device)
    dh, dx, d = torch.empty_like(hidden), torch.empty_like(x), Head(*map(torch.empty_like, head))
    cut, own = rows_tile(*sizes), weights_tile(*sizes)
    blocks = [triton.cdiv(n, BLOCK) for n in (features, hidden_size, out)]
    with torch.cuda.device_of(x):
        rows_kernel[triton.cdiv(len(x), ROWS), blocks[0]](
            grad, q, inverse, hidden, head.weight1, head.weight2, dy, dh, dx, len(x), **cut, num_warps=WARPS,
            num_stages=STAGES,
        )  # fmt: skip
        weights_kernel[blocks[1] * (blocks[0] + blocks[2]),](
            dh, x, dy, hidden, *d, len(x), **own, num_warps=WARPS, num_stages=STAGES
        )
    return dx, d
