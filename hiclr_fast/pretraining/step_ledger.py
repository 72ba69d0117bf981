"""The ledger of a whole training step: what every phase launches, reads, writes and keeps on CUDA, and its floor.

Predictions, never measurements: `--profile` on a GPU puts the two beside each other, `bench/step_ledger.py` prints these.
"""

import os
from dataclasses import replace
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from hiclr_fast.data.loading.loader import Batch
from hiclr_fast.models.build import build_encoder
from hiclr_fast.models.hiclr import HiCLR
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.step import PHASES, TrainStep
from hiclr_fast.skeletons import Layout
from hiclr_fast.training.ledger import Ledger
from hiclr_fast.training.precision import autocast
from hiclr_fast.training.pretended_gpu import fake_mode, without_values

Needed = dict[str, tuple[float, float]]  # phase: bytes, FLOPs

LEAST = 2.5e-6  # seconds: assumed for a kernel with nothing to do inside a CUDA graph


class Gpu(NamedTuple):
    """bandwidth: bytes per second of a copy; rate: FLOP per second of a large bfloat16 product; memory: bytes. Assumed: 0.9 and
    0.8 of the data sheet's 3.35 and 4.8 TB/s, 989 TFLOP/s."""

    name: str
    bandwidth: float
    rate: float
    memory: float


GPUS = (Gpu("H100", 3.0e12, 790e12, 80e9), Gpu("H200", 4.3e12, 790e12, 141e9))


def step_ledger(config: PretrainConfig, layout: Layout, shape: tuple[int, ...], batch: int, mining: bool = False) -> Ledger:
    """Of one step of one rank. shape: (3, T, V, M) of a sample; batch: samples of this rank."""
    step = _step(replace(config, batch_size=batch), layout)
    with Ledger():
        x, ids = torch.empty(batch, *shape, device=step.device), torch.arange(batch, device=step.device)
    with Ledger() as ledger:
        step.phase = ledger.phase
        step(Batch(x, ids, ids, ids), mining)
    return ledger


def _step(config: PretrainConfig, layout: Layout) -> TrainStep:
    with torch.random.fork_rng(devices=[]):  # what is initialised here is thrown away
        encoder = build_encoder(config, layout)
        model = HiCLR(encoder, config.feature_dim, config.queue_size, config.momentum, config.temperature)
    without_values(model.to(memory_format=torch.channels_last).train())
    with Ledger():
        return TrainStep(config, layout, model)


def floor(config: PretrainConfig, layout: Layout, shape: tuple[int, ...], batch: int, world: int = 1) -> Needed:
    """(bytes, FLOPs) that every phase of one rank's step cannot do without, activations and weights in fused kernels.

    A forward pass: what every block puts out, written once and read once; the FLOPs of the plain way, zeros left out.
    """
    moved: list[int] = []
    step = _step(replace(config, batch_size=batch), layout)
    encoder = step.model.encoder_k
    for block in encoder.blocks:
        block.register_forward_hook(lambda *args: moved.append(2 * args[2].nbytes))
    plain = patch.dict(os.environ, HICLR_KERNELS="reference")
    half = autocast(torch.device("cpu"), config.amp)
    with plain, fake_mode(), torch.no_grad(), FlopCounterMode(display=False) as counter, half:
        encoder.forward(torch.empty(2, *shape))
    forward_bytes, forward_flops = sum(moved) / 2, counter.get_total_flops() / 2  # a sample
    branches, width = len(config.branches), config.feature_dim
    sample, weights = 4 * torch.Size(shape).numel(), 4 * sum(p.numel() for p in encoder.parameters())
    return {
        "load": (16 * batch, 0),
        "augment": ((2 + branches) * sample * batch, 0),  # one read, all views written
        "query forward": (branches * batch * forward_bytes, branches * batch * forward_flops),
        "key forward": (batch * forward_bytes, batch * forward_flops),
        "loss": (4 * config.queue_size * width, 4 * branches * batch * config.queue_size * width),
        "backward": (2 * branches * batch * forward_bytes, 2 * branches * batch * forward_flops),  # to the input and the weights
        "exchange": (weights if world > 1 else 0, 0),
        "optimizer": (5 * weights, 0),  # weight, gradient and momentum read, two of them written
        "EMA": (3 * weights, 0),
        "enqueue": (8 * batch * width, 0),
    }


def floor_seconds(needed: Needed, bandwidth: float, rate: float, phase: str | None = None) -> float:
    """Of a phase, or of the whole step."""
    return sum(max(needed[p][0] / bandwidth, needed[p][1] / rate) for p in ((phase,) if phase else PHASES))


def table(config: PretrainConfig, layout: Layout, shape: tuple[int, ...], batch: int) -> str:
    """Every phase: kernels, bytes, FLOPs, and predicted and least milliseconds on each of GPUS; then the memory."""
    ledger, needed = step_ledger(config, layout, shape, batch), floor(config, layout, shape, batch)
    heads = "".join(f"{f'{gpu.name} ms':>10}{'floor':>8}" for gpu in GPUS)
    lines = [f"{'phase':14}{'kernels':>8}{'MB':>11}{'GFLOP':>10}{heads}"]
    for name in (*PHASES, None):
        cost = ledger.cost(name)
        line = f"{name or 'all':14}{cost.kernels:8}{cost.bytes / 1e6:11.1f}{cost.flops / 1e9:10.1f}"
        for gpu in GPUS:
            predicted = ledger.seconds(gpu.bandwidth, gpu.rate, LEAST, name)
            line += f"{1e3 * predicted:10.3f}{1e3 * floor_seconds(needed, gpu.bandwidth, gpu.rate, name):8.3f}"
        lines.append(line)
    saved, peak = ledger.saved / batch, ledger.peak / batch
    fits = ", ".join(f"{gpu.memory / peak:.0f} samples in {gpu.memory / 1e9:.0f} GB" for gpu in GPUS)
    lines.append(f"saved for the backward {saved / 1e6:.1f} MB a sample, peak {peak / 1e6:.1f} MB a sample: at most {fits}")
    rules = [(gpu.name, gpu.bandwidth / 1e12, gpu.rate / 1e12) for gpu in GPUS]
    lines += [
        f"{name}: predicted, not measured: every kernel the longest of bytes at {bandwidth:.1f} TB/s, FLOPs at {rate:.0f} "
        f"TFLOP/s, {1e6 * LEAST:.1f} us"
        for name, bandwidth, rate in rules
    ]
    return "\n".join(lines)
