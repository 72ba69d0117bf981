"""The queue of keys on its own, and the loss against it, for a momentum-contrast loop of your own."""

import torch
import torch.nn.functional as F
from hiclr_kernels import contrast
from hiclr_kernels.queue import queue_update
from torch import Tensor, nn


class Queue(nn.Module):
    """The last `size` keys. `rows` (size, D) float32 unit rows, random at the start; `pointer` () int64, the row that is
    written next. Both are part of the state_dict and move with `.to(device)`."""

    def __init__(self, size: int, feature_dim: int):
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, feature_dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def enqueue(self, keys: Tensor) -> None:
        """Replaces the oldest rows by keys (N, D), N <= size, after the backward pass: autograd still reads the old ones.
        No synchronisation."""
        queue_update(self.rows, self.pointer, keys)


def hierarchical_contrast(q: Tensor, key: Tensor, queue: Queue | Tensor, **settings) -> tuple[Tensor, Tensor]:
    """HiCLR's loss and its terms: `hiclr_kernels.contrast.hierarchical_contrast`, which also takes a `Queue`.

    q: (B, N, D) L2-normalised queries, weakest view first; key: (N, D) L2-normalised; queue: a `Queue`, or its rows (Q, D).
    settings: temperature (0.07), weights of the B terms (1, 0.5, 0.5), topk mined neighbours (0).
    Returns loss (), with gradient to q only, and terms (B,) detached and unweighted: InfoNCE, then the consistencies.
    Raises ValueError in one sentence on shapes and dtypes that do not fit.
    """
    return contrast.hierarchical_contrast(q, key, queue.rows if isinstance(queue, Queue) else queue, **settings)
