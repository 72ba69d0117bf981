"""Rows from disk to the device, ahead of their use."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from hiclr_fast.data.packed.dataset import Split

AHEAD = 2  # batches that the reading thread is ahead
QUEUED = 2  # batches inside a DALI pipeline (its prefetch depth)
RING = AHEAD + QUEUED + 2  # and one in the consumer's hands, and one spare

Rows3 = tuple[np.ndarray, np.ndarray, np.ndarray]


class Gather:
    """Reads batches in a thread (reading releases the GIL) into a ring of buffers that are made once.

    ids: one (b,) int64 array a batch, b <= batch_size. A call gives (x (b, 3, T, V, M), ids, label) of the next batch, or raises
    StopIteration. x is a view of a ring buffer: it is overwritten RING - AHEAD calls later.
    """

    def __init__(self, split: Split, ids: Iterator[np.ndarray], batch_size: int, pinned: bool):
        self.split, self.ids = split, ids
        self.ring = deque(torch.empty((batch_size, *split.x.shape[1:]), pin_memory=pinned).numpy() for _ in range(RING))
        self.thread = ThreadPoolExecutor(1)
        self.coming: deque = deque()

    def __call__(self) -> Rows3:
        while len(self.coming) <= AHEAD and (ids := next(self.ids, None)) is not None:
            self.ring.rotate(-1)
            self.coming.append(self.thread.submit(self._read, ids, self.ring[-1]))
        if not self.coming:
            raise StopIteration
        return self.coming.popleft().result()

    def _read(self, ids: np.ndarray, buffer: np.ndarray) -> Rows3:
        return self.split.x.read(ids, buffer[: len(ids)]), ids, self.split.label[ids]

    def __del__(self) -> None:
        self.thread.shutdown(wait=False, cancel_futures=True)  # this may run in that very thread


class TorchFeed:
    """Batches on the device with torch alone: from pinned buffers on CUDA, the buffers themselves on CPU."""

    def __init__(self, gather: Gather, device: torch.device):
        self.gather, self.device, self.copies = gather, device, deque()

    def __iter__(self) -> "TorchFeed":
        return self

    def __next__(self) -> tuple[Tensor, Tensor, Tensor]:
        if len(self.copies) >= RING - AHEAD - 1:  # that buffer may be filled again by the next call
            self.copies.popleft().synchronize()
        batch = tuple(torch.from_numpy(part).to(self.device, non_blocking=True) for part in self.gather())
        if self.device.type == "cuda":
            self.copies.append(torch.cuda.Event())
            self.copies[-1].record()
        return batch
