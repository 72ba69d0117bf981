"""Training batches. Which samples, when and on which rank is a pure function of (seed, epoch, step), so resuming needs no state.

Two modes behind one iterator: `resident` (the split is uploaded once, a batch is an index into it) and `stream` (rows are
gathered from disk a few batches ahead). Rows travel through NVIDIA DALI where it is installed, else through torch alone.
"""

import importlib.util
import os
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hiclr_fast.data.loading.feed import Gather, TorchFeed
from hiclr_fast.data.packed.dataset import CHUNK, Split
from hiclr_fast.errors import InputError

Mode = Literal["auto", "resident", "stream"]


class Batch(NamedTuple):
    """x: (S, 3, T, V, M) float32, rows to pick from; index: (B,) int64 rows of x that make the batch; ids: (B,) int64
    their sample numbers in the split, the keys of every random draw; label: (B,) int64. All on the loader's device.
    In `stream` mode x holds the batch alone and is valid until the next batch is asked for."""

    x: Tensor
    index: Tensor
    ids: Tensor
    label: Tensor


class Plan:
    """Epoch e visits order(e) in global batches of world * batch_size samples; rank r takes the r-th part of each.

    The last N mod (world * batch_size) samples of an order are dropped, as in the release, other ones every epoch: the ranks
    together see every other sample once. batch_size: per rank.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if samples < batch_size * world:
            raise InputError(f"{samples} training samples are fewer than batch_size {batch_size * world}; make it smaller")
        self.samples, self.batch_size, self.seed, self.rank, self.world = samples, batch_size, seed, rank, world
        self.steps = samples // (batch_size * world)

    def order(self, epoch: int) -> Tensor:
        """(N,) int64 permutation of epoch `epoch`, the same on every rank."""
        generator = torch.Generator().manual_seed((self.seed << 32) + epoch)
        return torch.randperm(self.samples, generator=generator)

    def part(self, order: Tensor, step: int) -> Tensor:
        """(B,) the ids of this rank at step `step` of an epoch with that order."""
        first = (step * self.world + self.rank) * self.batch_size
        return order[first : first + self.batch_size]

    def onward(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        """The ids of every batch from there on, through all epochs, without end."""
        while True:
            order = self.order(epoch)
            for step in range(start, self.steps):
                yield self.part(order, step).numpy()
            epoch, start = epoch + 1, 0


class ResidentLoader:
    """The whole split on the device."""

    def __init__(
        self, split: Split, batch_size: int, seed: int, device: torch.device, *, rank: int = 0, world: int = 1, dali: bool = False
    ):
        self.plan, self.device = Plan(len(split), batch_size, seed, rank, world), device
        self.steps = self.plan.steps
        self.x = torch.empty(split.x.shape, device=device)
        self.label = torch.from_numpy(np.array(split.label)).to(device)
        rows = max(1, CHUNK // split.x.row_bytes)
        parts = np.split(np.arange(len(split)), range(rows, len(split), rows))
        for x, ids, _ in make_feed(split, iter(parts), rows, device, dali):
            self.x[int(ids[0]) : int(ids[-1]) + 1].copy_(x)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this rank from step `start` to the end of the epoch."""
        order = self.plan.order(epoch).to(self.device)
        for step in range(start, self.steps):
            ids = self.plan.part(order, step)
            yield Batch(self.x, ids, ids, self.label[ids])


class StreamLoader:
    """Rows are read while the steps before them run; memory holds a few batches. One feed runs through all epochs."""

    def __init__(
        self, split: Split, batch_size: int, seed: int, device: torch.device, *, rank: int = 0, world: int = 1, dali: bool = False
    ):
        self.plan, self.split, self.device, self.dali = Plan(len(split), batch_size, seed, rank, world), split, device, dali
        self.steps = self.plan.steps
        self.index = torch.arange(batch_size, device=device)
        self.feed, self.place = None, (0, 0)  # the running feed, and (epoch, step) of the batch that comes next out of it

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this rank from step `start` to the end of the epoch."""
        for step in range(start, self.steps):
            if self.feed is None or self.place != (epoch, step):
                ids = self.plan.onward(epoch, step)
                self.feed = make_feed(self.split, ids, self.plan.batch_size, self.device, self.dali)
            x, ids, label = next(self.feed)
            self.place = (epoch, step + 1) if step + 1 < self.steps else (epoch + 1, 0)
            yield Batch(x, self.index, ids, label)


def make_feed(split: Split, ids: Iterator[np.ndarray], batch_size: int, device: torch.device, dali: bool):
    """Iterator of (x (b, 3, T, V, M), ids (b,), label (b,)) on the device."""
    if dali:
        from hiclr_fast.data.loading.dali import DaliFeed  # a gigabyte of libraries: only where it is used

        return DaliFeed(Gather(split, ids, batch_size, pinned=False), device)
    return TorchFeed(Gather(split, ids, batch_size, pinned=device.type == "cuda"), device)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device, or in this machine's RAM for the CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def make_loader(
    split: Split,
    batch_size: int,
    seed: int,
    device: torch.device,
    *,
    rank: int = 0,
    world: int = 1,
    mode: Mode = "auto",
    share: float = 0.5,
) -> ResidentLoader | StreamLoader:
    """auto: resident when the split takes at most `share` of the free memory of the device (of RAM on CPU), else stream."""
    dali = importlib.util.find_spec("nvidia.dali") is not None if importlib.util.find_spec("nvidia") else False
    if not dali and rank == 0:
        tqdm.write("NVIDIA DALI is not installed: rows are loaded by torch alone (on Linux: pip install 'hiclr_fast[dali]')")
    if mode == "auto":
        mode = "resident" if split.x.nbytes <= share * free_memory(device) else "stream"
    loader = ResidentLoader if mode == "resident" else StreamLoader
    return loader(split, batch_size, seed, device, rank=rank, world=world, dali=dali)
