"""Batches of sample ids: one permutation an epoch, a pure function of (seed, epoch), so that resuming needs no state."""

import numpy as np
import torch
from torch import Tensor

from hiclr_fast.data.packed import Split
from hiclr_fast.errors import InputError


class ResidentLoader:
    """The whole split on the device; a batch is an index into it.

    Every epoch visits N // batch_size full batches (the rest is dropped, as in the release; another rest each epoch).
    """

    def __init__(self, split: Split, batch_size: int, seed: int, device: torch.device):
        if len(split) < batch_size:
            raise InputError(f"{len(split)} training samples are fewer than batch_size {batch_size}; make it smaller")
        self.x = torch.from_numpy(np.array(split.x)).to(device)
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.steps = len(split) // batch_size

    def order(self, epoch: int) -> Tensor:
        """(N,) int64 permutation of epoch `epoch`."""
        generator = torch.Generator().manual_seed((self.seed << 32) + epoch)
        return torch.randperm(len(self.x), generator=generator).to(self.device)

    def batch(self, order: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """(x (N, 3, T, V, M) of the whole split, ids (B,)) of step `step` of the epoch with that order."""
        return self.x, order[step * self.batch_size : (step + 1) * self.batch_size]
