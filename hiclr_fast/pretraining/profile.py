"""Where the time of a training step goes, phase by phase, beside the least time that its bytes and FLOPs allow here."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, record_function
from torch.utils.flop_counter import FlopCounterMode

from hiclr_fast.pretraining.step import PHASES
from hiclr_fast.pretraining.trainer import Pretrainer

PROBE = {"cpu": 1 << 24, "cuda": 1 << 29}  # float32 values of the copy that measures the memory's rate: far beyond any cache
SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrix product that measures the arithmetic's rate


class Clock:
    """Seconds of every phase; waits for the device at both ends, so that a phase pays for its own work."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        with record_function(name):
            wait(self.device)
            began = time.perf_counter()
            yield
            wait(self.device)
            self.seconds[name] += time.perf_counter() - began


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes per second of a copy (read and written) and FLOP per second of a large matrix product, both the best of five.

    On CUDA the float32 product is TF32, as that of cuDNN's convolutions is.
    """
    source = torch.zeros(PROBE[device.type], device=device)
    target, side = torch.empty_like(source), SIDE[device.type]
    a, b = torch.randn(2, side, side, device=device).to(dtype)

    def best(run) -> float:
        times = []
        for _ in range(5):
            wait(device)
            began = time.perf_counter()
            run()
            wait(device)
            times.append(time.perf_counter() - began)
        return min(times)

    copied, allowed = best(lambda: target.copy_(source)), torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    multiplied = best(lambda: a @ b)
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return 8 * len(source) / copied, 2 * side**3 / multiplied


@torch.no_grad()
def forward_work(trainer: Pretrainer) -> tuple[float, float]:
    """Bytes and FLOPs of one forward pass over one sample: what every block puts out, written once and read once."""
    data, encoder, moved = trainer.data.shape, trainer.model.encoder_k, []
    x = torch.randn(2, *data, device=trainer.device)
    hooks = [block.register_forward_hook(lambda *args: moved.append(2 * args[2].nbytes)) for block in encoder.blocks]
    with FlopCounterMode(display=False) as counter, trainer.train.autocast():
        encoder.forward(x)
    for hook in hooks:
        hook.remove()
    return sum(moved) / 2, counter.get_total_flops() / 2


def work(trainer: Pretrainer) -> dict[str, tuple[float, float]]:
    """(bytes, FLOPs) that every phase of one rank's step cannot do without, activations and weights in fused kernels."""
    c, model = trainer.config, trainer.model
    n, branches, d = trainer.loader.plan.batch_size, len(c.branches), c.feature_dim
    sample = 4 * torch.Size(trainer.data.shape).numel()
    weights = 4 * sum(p.numel() for p in model.encoder_q.parameters())
    moved, flops = forward_work(trainer)
    return {
        "load": (16 * n, 0),
        "augment": ((2 + branches) * sample * n, 0),  # one read, all views written
        "query forward": (branches * n * moved, branches * n * flops),
        "key forward": (n * moved, n * flops),
        "loss": (4 * c.queue_size * d, 4 * branches * n * c.queue_size * d),
        "backward": (2 * branches * n * moved, 2 * branches * n * flops),  # to the input and to the weights
        "exchange": (weights if trainer.ranks.world > 1 else 0, 0),
        "optimizer": (5 * weights, 0),  # weight, gradient and momentum read, two of them written
        "EMA": (3 * weights, 0),
        "enqueue": (8 * n * d, 0),
    }


def profile(trainer: Pretrainer, steps: int, trace: Path) -> str:
    """Runs that many steps eagerly after one warm-up, writes a Chrome trace, and returns the table."""
    trainer.do_step, trainer.train.phase = trainer.train, (clock := Clock(trainer.device))
    dtype = torch.bfloat16 if trainer.config.amp else torch.float32
    copy_rate, product_rate = rates(trainer.device, dtype)
    batches = (batch for epoch in range(1, steps + 2) for batch in trainer.loader.epoch(epoch))
    trainer.train_step(next(batches))
    clock.seconds.clear()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if trainer.device.type == "cuda" else [])]
    with torch.profiler.profile(activities=kinds) as recorded:
        for _ in range(steps):
            trainer.step += 1
            with clock("load"):
                batch = next(batches)
            trainer.train_step(batch)
    trace.parent.mkdir(parents=True, exist_ok=True)
    recorded.export_chrome_trace(str(trace))
    needed, total = work(trainer), sum(clock.seconds.values())
    lines = [f"{'phase':14}{'ms':>10}{'share':>8}{'floor ms':>11}{'x floor':>9}"]
    for name in (*PHASES, "all"):
        spent = total if name == "all" else clock.seconds[name]
        floor = sum(max(needed[p][0] / copy_rate, needed[p][1] / product_rate) for p in (PHASES if name == "all" else (name,)))
        ratio = f"{spent / steps / floor:9.1f}" if floor else f"{'-':>9}"
        lines.append(f"{name:14}{1e3 * spent / steps:10.3f}{spent / total:8.1%}{1e3 * floor:11.4f}{ratio}")
    lines.append(
        f"floor: the larger of bytes / {copy_rate / 1e9:.1f} GB/s (a copy) and FLOPs / {product_rate / 1e12:.2f} TFLOP/s (a "
        f"matrix product in {str(dtype)[6:]}), both measured here; {steps} steps under the profiler, each phase waited for"
    )
    return "\n".join(lines)
