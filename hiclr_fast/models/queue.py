"""The queue of keys on its own, for a momentum-contrast loop of your own."""

import torch
import torch.nn.functional as F
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
