"""Several processes (gloo): the same state on all ranks, equal to one process; a rank that dies ends the job."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import packed, tiny

from hiclr_fast.data.loading.loader import Batch
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.distributed import ALONE, Ranks, join, leave, leaving
from hiclr_fast.errors import InputError
from hiclr_fast.files.tensors import load_checkpoint
from hiclr_fast.pretraining.trainer import Pretrainer
from hiclr_fast.training.ledger import Ledger

ROOT = Path(__file__).parent.parent
EQUAL = dict(rtol=1e-5, atol=1e-5)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def follow(trainer: Pretrainer, steps: int) -> dict:
    """The state after that many steps, and what each step added to the sums."""
    losses = []
    for batch in list(trainer.loader.epoch(1))[:steps]:
        before = trainer.train.sums.clone()
        trainer.train_step(batch)
        trainer.step += 1
        losses.append((trainer.train.sums - before)[:-1])
    return {"losses": torch.stack(losses), **{name: t.clone() for name, t in trainer.model.state_dict().items()}}


def rank_main(rank: int, world: int, port: int, folder: Path, jobs: list[tuple]) -> None:
    torch.set_num_threads(1)
    os.environ |= dict(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    data, ranks = open_packed(folder / "set"), join(torch.device("cpu"))
    torch.save([follow(Pretrainer(config, data, ranks), steps) for config, steps in jobs], folder / f"rank{rank}.pt")
    leave()


def on_ranks(world: int, folder: Path, *jobs: tuple) -> list[list[dict]]:
    """For each (config, steps): what every rank ended with."""
    mp.spawn(rank_main, (world, free_port(), folder, list(jobs)), nprocs=world)
    return list(zip(*(torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)), strict=True))


@pytest.mark.slow
def test_four_ranks_agree_bit_for_bit_and_equal_one_process(tmp_path):
    """The single process sees the same global batch in as many passes, so with the same statistics a part."""
    data = open_packed(packed(tmp_path / "set"))
    config = dict(dropout=0.0, batch_size=16, queue_size=32, mining_epoch=0)
    (ranks,) = on_ranks(4, tmp_path, (tiny(**config), 2))
    for other in ranks[1:]:
        for name, value in ranks[0].items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=0, msg=name)
    alone = follow(Pretrainer(tiny(**config, accumulate=4), data), 2)
    for name, value in alone.items():
        if "running_" not in name and "num_batches" not in name:
            torch.testing.assert_close(ranks[0][name], value, **EQUAL, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.equal(ranks[0]["queue"], Pretrainer(tiny(**config), data).model.queue)


@pytest.mark.slow
def test_batch_statistics_over_two_ranks(tmp_path):
    """Running statistics are the mean over ranks; synchronised batch norm is that of the global batch."""
    data = open_packed(packed(tmp_path / "set"))
    together = dict(dropout=0.0, batch_size=16, sync_batch_norm=True)
    (first, _), (one, _) = on_ranks(2, tmp_path, (tiny(dropout=0.0), 1), (tiny(**together), 2))
    parts = []
    for index in next(Pretrainer(tiny(), data).loader.epoch(1)).index.chunk(2):
        part = Pretrainer(tiny(dropout=0.0, batch_size=4), data)
        part.train.prepare(0.0, 0)
        part.train(Batch(part.loader.x, index, index, index), False)
        parts.append(part.model.state_dict())
    compared = [name for name in parts[0] if "running_" in name]
    assert len(compared) > 80
    for name in compared:
        torch.testing.assert_close(first[name], (parts[0][name] + parts[1][name]) / 2, **EQUAL)
    for name, value in follow(Pretrainer(tiny(**together), data), 2).items():
        if name == "losses":  # the spread is that of a part of the batch
            value, one[name] = value[:, :-1], one[name][:, :-1]
        torch.testing.assert_close(one[name], value, **EQUAL, msg=lambda text, name=name: f"{name}: {text}")


def test_a_batch_that_does_not_divide(tmp_path):
    data = open_packed(packed(tmp_path / "set"))
    ranks = type(ALONE)(rank=0, world=3, local=0)
    with pytest.raises(InputError, match=r"batch_size 8 does not divide by 3 ranks x 1 passes"):
        Pretrainer(tiny(), data, ranks)


class Twin(Ranks):
    """A rank whose only peer has the same numbers."""

    def __init__(self):
        super().__init__(0, 2, 0)

    def mean(self, x):
        return x


def test_the_average_keeps_every_memory_order():
    """All copies of the exchange are joined launches: none has to change an order of dimensions."""
    shapes = [(4, 3, 2, 2), (5,), (6, 2, 3, 1), (2, 3)]
    with Ledger():
        tensors = [torch.zeros(shape) for shape in shapes]
        tensors[:3:2] = [t.to(memory_format=torch.channels_last) for t in tensors[:3:2]]
    with Ledger() as ledger:
        Twin().average(tensors)
    assert [(e.name, e.kernels) for e in ledger.entries] == [("cat", 1), ("_foreach_copy_", 1)]
    real = [
        torch.randn(shape).to(memory_format=torch.channels_last) if len(shape) == 4 else torch.randn(shape) for shape in shapes
    ]
    want = [t.clone() for t in real]
    Twin().average(real)
    for t, w in zip(real, want, strict=True):
        assert torch.equal(t, w) and t.stride() == w.stride()


def test_more_ranks_than_gpus(monkeypatch):
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="rank 2 is number 2 of this machine, counted from 0, which has 2 GPUs"):
        join(torch.device("cuda", 0))


def test_a_failed_job_gives_up_what_is_under_way(monkeypatch):
    """NCCL waits for what its peers will never do, unless it is aborted; gloo has its own timeouts."""
    done = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append("destroyed"))
    monkeypatch.setattr(dist, "group", SimpleNamespace(WORLD=SimpleNamespace(abort=lambda: done.append("aborted"))))
    for backend in ("nccl", "gloo"):
        monkeypatch.setattr(dist, "get_backend", lambda backend=backend: backend)
        with leaving():
            pass
        with pytest.raises(InputError, match="NaN"), leaving():
            raise InputError("NaN")
    assert done == ["destroyed", "aborted", "destroyed", "destroyed"]


def test_one_process_is_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert join(torch.device("cpu")) is ALONE
    x = torch.randn(3, 2)
    assert ALONE.gather(x) is x and ALONE.mean(x) is x
    ALONE.average([x])
    ALONE.wait()


def launch(folder: Path, *args: str) -> subprocess.Popen:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command = [*torchrun, str(ROOT / "scripts" / "pretrain.py"), *args]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def long_job(folder: Path) -> tuple[subprocess.Popen, Path]:
    """A job of two ranks that has finished its first epoch, and its checkpoint."""
    packed(folder / "set", train=64)
    sizes = "--hidden-channels 2 --hidden-dim 8 --feature-dim 8 --queue-size 16 --batch-size 8 --threads 1 --knn-every 0".split()
    often = ["--device", "cpu", "--read-every", "3"]
    job = launch(folder, "--data", "set", "--out", "run", "--epochs", "100000", *often, *sizes)
    checkpoint = folder / "run" / "checkpoint.pt"
    deadline = time.monotonic() + 180
    while not (checkpoint.exists() and load_checkpoint(checkpoint)["epoch"] > 1):
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()[1]
        time.sleep(0.2)
    return job, checkpoint


by_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the ranks through /proc")


@pytest.mark.slow
@by_proc
def test_a_signal_to_one_rank_stops_all_at_the_same_step(tmp_path):
    job, checkpoint = long_job(tmp_path)
    os.kill(children(job.pid)[1], signal.SIGTERM)
    out, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    state = load_checkpoint(checkpoint)
    assert f"stopped in epoch {state['epoch']} after step {state['step']}; continue with --resume run" in out


@pytest.mark.slow
@by_proc
def test_a_dead_rank_ends_the_job_and_the_checkpoint_continues(tmp_path):
    job, checkpoint = long_job(tmp_path)
    os.kill(children(job.pid)[1], signal.SIGKILL)
    began = time.monotonic()
    _, errors = job.communicate(timeout=60)
    assert job.returncode != 0 and time.monotonic() - began < 60
    assert "rank 0: another rank of the 2 is gone" in errors and "start again with --resume" in errors
    epoch = load_checkpoint(checkpoint)["epoch"]
    job = launch(tmp_path, "--resume", "run", "--epochs", str(epoch + 1))
    out, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    assert load_checkpoint(checkpoint)["epoch"] == epoch + 2 and "random-init encoder" in out
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == epoch + 1  # every epoch once, by rank 0 alone
