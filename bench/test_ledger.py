"""The ledger of a training step against the same step on a GPU: kernels, bytes, memory.

ledger_*: counted without a GPU; kernels, peak_mb: of one eager step, by torch's profiler and allocator; gb_per_s: the ledger's
bytes over the median of the captured step; copy_fraction: that rate over the rate of a large copy in the same process.
"""

import pytest
import torch
from official_style import LAYOUT
from our_step import QUEUE, SHAPE, trainer
from torch.profiler import ProfilerActivity

from hiclr_fast.pretraining.profile import profile, rates
from hiclr_fast.pretraining.step_ledger import LEAST, step_ledger

ON_GPU = torch.autograd.DeviceType.CUDA


def stepper(ours):
    batches = (given for epoch in range(1, 10**6) for given in ours.loader.epoch(epoch))

    def run():
        ours.train_step(next(batches))
        ours.step += 1

    run()  # compiles, captures
    return run


def eager_step(batch: int, encoder: str) -> tuple[int, int]:
    """(kernels, most bytes allocated at once beyond what was there before) of one eager step."""
    run = stepper(trainer(batch, "cuda", amp=True, no_graph=True, encoder=encoder))
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return sum(event.device_type == ON_GPU for event in recorded.events()), peak


@pytest.mark.gpu
@pytest.mark.parametrize(("encoder", "batch"), [("stgcn", 128), ("dsta", 128), ("stgcn", 1024)])
def test_ledger(benchmark, capsys, encoder, batch):
    kernels, peak = eager_step(batch, encoder)
    ours = trainer(batch, "cuda", amp=True, encoder=encoder)
    copy_rate, product_rate = rates(ours.device, torch.bfloat16)
    benchmark.pedantic(stepper(ours), rounds=20)
    ledger = step_ledger(ours.config, LAYOUT, SHAPE, batch)
    cost, median = ledger.cost(), benchmark.stats.stats.median
    shape = f"N{batch} T50 V25 M2 Q{QUEUE}"
    facts = dict(op="ledger", variant=f"step_amp_{encoder}", device="cuda", dtype="bfloat16", shape=shape)
    benchmark.extra_info |= dict(
        **facts,
        items_per_s=batch / median,
        kernels=kernels,
        ledger_kernels=cost.kernels,
        peak_mb=peak / 1e6,
        ledger_peak_mb=ledger.peak / 1e6,
        ledger_mb=cost.bytes / 1e6,
        gb_per_s=cost.bytes / median / 1e9,
        copy_fraction=cost.bytes / median / copy_rate,
    )
    with capsys.disabled():
        predicted, took = 1e3 * ledger.seconds(copy_rate, product_rate, LEAST), 1e3 * median
        print(f"\n{encoder}, batch {batch}: predicted {predicted:.2f} ms at the rates measured here, took {took:.2f} ms")


@pytest.mark.gpu
@pytest.mark.parametrize("encoder", ["stgcn", "dsta"])
def test_phases(capsys, tmp_path, encoder):
    """Prints the profile; timed by its own clock, so nothing is recorded."""
    table = profile(trainer(128, "cuda", amp=True, encoder=encoder), 20, tmp_path / "trace.json")
    with capsys.disabled():
        print(f"\n{encoder}\n{table}")
