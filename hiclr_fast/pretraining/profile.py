"""Where the time of a training step goes, phase by phase, beside the least time that its bytes and FLOPs allow here."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, record_function

from hiclr_fast.pretraining.step import PHASES
from hiclr_fast.pretraining.step_ledger import floor, floor_seconds, step_ledger
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


def profile(trainer: Pretrainer, steps: int, trace: Path) -> str:
    """Runs that many steps eagerly after one warm-up, writes a Chrome trace, and returns the table.

    On CUDA with the ledger's bytes of every phase, and the rate at which they would have moved in the time it took.
    """
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
    c, layout, shape, size = trainer.config, trainer.data.layout, trainer.data.shape, trainer.loader.plan.batch_size
    needed, total = floor(c, layout, shape, size, trainer.ranks.world), sum(clock.seconds.values())
    ledger = step_ledger(c, layout, shape, size) if trainer.device.type == "cuda" else None
    lines = [f"{'phase':14}{'ms':>10}{'share':>8}{'floor ms':>11}{'x floor':>9}"]
    if ledger:
        lines[0] += f"{'ledger MB':>12}{'GB/s':>8}"
    for name in (*PHASES, None):
        spent = clock.seconds[name] if name else total
        least = floor_seconds(needed, copy_rate, product_rate, name)
        ratio = f"{spent / steps / least:9.1f}" if least else f"{'-':>9}"
        line = f"{name or 'all':14}{1e3 * spent / steps:10.3f}{spent / total:8.1%}{1e3 * least:11.4f}{ratio}"
        if ledger:
            moved = ledger.cost(name).bytes
            line += f"{moved / 1e6:12.1f}" + (f"{moved / (spent / steps) / 1e9:8.0f}" if spent else f"{'-':>8}")
        lines.append(line)
    lines.append(
        f"floor: the larger of bytes / {copy_rate / 1e9:.1f} GB/s (a copy) and FLOPs / {product_rate / 1e12:.2f} TFLOP/s (a "
        f"matrix product in {str(dtype)[6:]}), both measured here; {steps} steps under the profiler, each phase waited for"
    )
    if ledger:
        lines.append("ledger: what the kernels of the phase read and write by count, hiclr_fast/training/ledger.py; not measured")
    return "\n".join(lines)
