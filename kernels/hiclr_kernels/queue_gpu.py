"""The queue's update in Triton: two launches, the rows and then the pointer, which every program of the first one reads."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def rows_kernel(queue, pointer, keys, N, Q, D, BLOCK: tl.constexpr):
    """Keys (N, D) into queue (Q, D) from row `pointer` on, wrapping."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = (tl.load(pointer).to(tl.int32) + e // D) % Q
    value = tl.load(keys + e, e < N * D, other=0.0)
    tl.store(queue + row.to(tl.int64) * D + e % D, value.to(queue.dtype.element_ty), e < N * D)


@triton.jit
def pointer_kernel(pointer, N, Q):
    tl.store(pointer, (tl.load(pointer) + N) % Q)


def queue_update(queue: Tensor, pointer: Tensor, keys: Tensor) -> None:
    keys, (n, d) = keys.contiguous(), keys.shape
    with torch.cuda.device_of(queue):
        rows_kernel[triton.cdiv(n * d, BLOCK),](queue, pointer, keys, n, len(queue), d, BLOCK)
        pointer_kernel[1,](pointer, n, len(queue))
