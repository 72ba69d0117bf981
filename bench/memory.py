"""Which training steps fit a GPU: by the ledger's peak, before anything is allocated there."""

import torch

from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.step_ledger import step_ledger
from hiclr_fast.skeletons import Layout

SPARE = 1.1  # of the peak: what the allocator cannot use between blocks


def needed(config: PretrainConfig, layout: Layout, shape: tuple[int, ...], batch: int) -> float:
    """Bytes that a step of that batch takes at most."""
    return SPARE * step_ledger(config, layout, shape, batch).peak


def too_large(config: PretrainConfig, layout: Layout, shape: tuple[int, ...], batch: int) -> str:
    """Why the step does not fit the memory that is free on the current GPU; empty where it does."""
    need, free = needed(config, layout, shape, batch), torch.cuda.mem_get_info()[0]
    return f"a step of {batch} needs {need / 1e9:.1f} GB by the ledger, {free / 1e9:.1f} GB are free" if need > free else ""


def largest_batch(config: PretrainConfig, layout: Layout, shape: tuple[int, ...], free: float, unit: int = 128) -> int:
    """The largest power of two times `unit` that fits `free` bytes; 0 where `unit` does not. Memory grows with the batch."""
    batch, sample = 0, needed(config, layout, shape, unit) / unit
    while max(2 * batch, unit) * sample <= free:
        batch = max(2 * batch, unit)
    return batch
