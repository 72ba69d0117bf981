"""The two in-place updates of momentum contrast (He et al. 2020): the queue of keys and the moving-average encoder."""

from collections.abc import Iterable

import torch
from torch import Tensor

from hiclr_kernels.backend import choose_backend


@torch.no_grad()
def queue_update(queue: Tensor, pointer: Tensor, keys: Tensor) -> None:
    """Writes keys (N, D) into queue (Q, D) from row `pointer` on, wrapping, and advances the pointer () int64.

    The pointer stays on the device: no synchronisation. N <= Q.
    """
    if keys.shape[0] > queue.shape[0]:
        raise ValueError(f"{keys.shape[0]} keys for {queue.shape[0]} queue rows: make the queue a multiple of the batch")
    if choose_backend(queue.device, queue.dtype) == "triton" and queue.is_contiguous():
        from hiclr_kernels import queue_gpu  # here: a machine without Triton imports the rest

        return queue_gpu.queue_update(queue, pointer, keys)
    rows = (pointer + torch.arange(keys.shape[0], device=queue.device)) % queue.shape[0]
    queue.index_copy_(0, rows, keys.to(queue.dtype))
    pointer.add_(keys.shape[0]).remainder_(queue.shape[0])


@torch.no_grad()
def momentum_update(key_params: Iterable[Tensor], query_params: Iterable[Tensor], momentum: float) -> None:
    """key <- momentum * key + (1 - momentum) * query, all tensors in one call."""
    torch._foreach_lerp_(list(key_params), list(query_params), 1 - momentum)
