"""Batches of sample ids: one permutation an epoch, a pure function of (seed, epoch), so that resuming needs no state.

Epoch e visits order(e) in global batches of world * batch_size samples; rank r takes the r-th part of each. The last
N mod (world * batch_size) samples of the order are dropped (as in the release), other ones every epoch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiclr_fast.data.packed import Split
from hiclr_fast.errors import InputError


class Batch(NamedTuple):
    """x: (S, 3, T, V, M) float32, rows to pick from; index: (B,) int64 rows of x that make the batch; ids: (B,) int64
    their sample numbers in the split, the keys of every random draw; label: (B,) int64. All on the loader's device."""

    x: Tensor
    index: Tensor
    ids: Tensor
    label: Tensor


class ResidentLoader:
    """The whole split on the device; a batch is an index into it. batch_size: per rank."""

    def __init__(self, split: Split, batch_size: int, seed: int, device: torch.device, *, rank: int = 0, world: int = 1):
        if len(split) < batch_size * world:
            raise InputError(
                f"{len(split)} training samples are fewer than batch_size {batch_size * world}; make batch_size smaller"
            )
        self.x = torch.from_numpy(np.array(split.x)).to(device)
        self.label = torch.from_numpy(np.array(split.label)).to(device)
        self.batch_size, self.seed, self.device, self.rank, self.world = batch_size, seed, device, rank, world
        self.steps = len(split) // (batch_size * world)

    def order(self, epoch: int) -> Tensor:
        """(N,) int64 permutation of epoch `epoch`, the same on every rank."""
        generator = torch.Generator().manual_seed((self.seed << 32) + epoch)
        return torch.randperm(len(self.x), generator=generator)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this rank from step `start` to the end of the epoch."""
        order = self.order(epoch).to(self.device)
        for step in range(start, self.steps):
            first = (step * self.world + self.rank) * self.batch_size
            ids = order[first : first + self.batch_size]
            yield Batch(self.x, ids, ids, self.label[ids])
