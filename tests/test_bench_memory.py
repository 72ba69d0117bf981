"""Benchmarks skip what does not fit the GPU, and say why."""

import pytest
import torch

from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.skeletons import LAYOUTS

pytest.importorskip("triton", reason="the kernels that the ledger counts are Triton's")
from memory import largest_batch, needed, too_large

SIZES = PretrainConfig(hidden_channels=2, hidden_dim=8, queue_size=4096), LAYOUTS["ntu25"], (3, 16, 25, 1)


def test_a_step_is_skipped_by_free_memory(monkeypatch):
    need = needed(*SIZES, 64)
    for free, fits in ((0.99 * need, False), (1.01 * need, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 80e9))
        reason = too_large(*SIZES, 64)
        assert (reason == "") is fits
        assert fits or reason == f"a step of 64 needs {need / 1e9:.1f} GB by the ledger, {free / 1e9:.1f} GB are free"


def test_the_largest_batch_fits_and_twice_it_does_not():
    sample = needed(*SIZES, 128) / 128
    for free in (128 * sample, 255 * sample, 300 * sample, 5000 * sample):
        batch = largest_batch(*SIZES, free)
        assert batch * sample <= free < 2 * batch * sample
    assert largest_batch(*SIZES, 127 * sample) == 0
