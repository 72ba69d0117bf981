"""What only a GPU can answer: who may still read a batch, whether a job with NCCL inside a graph ends, and when waiting ends."""

import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from helpers import packed
from test_data_loader import DALI

from hiclr_fast.data.loading.loader import StreamLoader
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.training.readback import Readback

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
LATE = 20_000_000  # cycles: about 10 ms


@pytest.mark.parametrize("dali", [False, DALI], ids=["torch", "dali"])
def test_a_late_reader_sees_its_own_batch(tmp_path, dali):
    """The stream is behind by many batches while Python has long dropped them: nothing may be overwritten before it is read."""
    split = open_packed(packed(tmp_path / "set", train=256, bodies=2))["train"]
    loader, seen = StreamLoader(split, 8, 1, torch.device("cuda", 0), dali=dali), []
    for epoch in (1, 2):
        for batch in loader.epoch(epoch):
            torch.cuda._sleep(LATE)
            seen.append((batch.x.clone(), batch.ids.clone(), batch.label.clone()))
    for x, ids, label in seen:
        np.testing.assert_array_equal(x.cpu().numpy(), split.x[ids.cpu().numpy()])
        np.testing.assert_array_equal(label.cpu().numpy(), split.label[ids.cpu().numpy()])


JOB = """
    import os, sys, time
    import torch
    import torch.distributed as dist
    from hiclr_fast.distributed import leave
    from hiclr_fast.training.graph import GraphedStep

    os.environ |= dict(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29517")
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", device_id=torch.device("cuda", 0))

    class Step:
        optimizer = torch.optim.SGD([torch.zeros(1, device="cuda")], lr=0.1)
        scaler = torch.amp.GradScaler("cuda", enabled=False)
        total = torch.zeros(4, device="cuda")

        def __call__(self, inputs, variant=None):
            self.total += inputs[0]
            dist.all_reduce(self.total)

        def state_tensors(self):
            return [self.total]

    def train(close):
        graphed = GraphedStep(Step())
        try:
            for _ in range(5):
                graphed((torch.ones(4, device="cuda"),))
            assert Step.total.tolist() == [5.0] * 4
            raise ValueError("the loss became NaN")
        finally:
            if close:
                graphed.close()

    try:
        train(sys.argv[1] == "close")
    except ValueError as error:  # its traceback keeps the graph alive
        began = time.monotonic()
        leave(failed=sys.argv[2] == "abort")
        print(f"left after {time.monotonic() - began:.1f} s")
"""


def job(*how: str, patience: float) -> str:
    """What the job printed; `hangs` where it did not end in time."""
    command = [sys.executable, "-c", textwrap.dedent(JOB), *how]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        return "hangs"
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.parametrize("way", ["destroy", "abort"])
def test_a_job_with_nccl_in_its_graph_ends(way, capsys):
    """A failing run closes its graph, then leaves. Beside it, for the record, what happens where the graph stays."""
    closed, kept = job("close", way, patience=90), job("keep", way, patience=40)
    with capsys.disabled():
        print(f"\n{way}: graph closed: {closed}; graph kept: {kept}")
    assert closed.startswith("left after")


def test_waiting_for_a_device_that_is_far_behind_ends():
    device = torch.device("cuda", 0)
    torch.cuda.synchronize()
    torch.cuda._sleep(200 * LATE)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"has not finished its steps within 0.2 s"):
        Readback(device, patience=0.2).now(torch.ones(1, device=device))
    assert time.monotonic() - began < 1
    torch.cuda.synchronize()
    assert Readback(device).now(torch.full((1,), 3.0, device=device)) == [3.0]
