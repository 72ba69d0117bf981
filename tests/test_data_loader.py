"""Loaders: DALI and torch, resident and streamed, one and many ranks, resumed and straight: the same samples in order."""

import importlib.util
import itertools
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import packed

from hiclr_fast.data.loading import loader as loaders
from hiclr_fast.data.loading.loader import Plan, ResidentLoader, StreamLoader, make_loader
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError

CPU = torch.device("cpu")
HAVE_DALI = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
DALI = pytest.param(True, marks=[pytest.mark.dali, pytest.mark.skipif(not HAVE_DALI, reason="NVIDIA DALI is not installed")])
KINDS = pytest.mark.parametrize("dali", [False, DALI], ids=["torch", "dali"])
MODES = pytest.mark.parametrize("mode", [ResidentLoader, StreamLoader])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_packed(packed(tmp_path_factory.mktemp("loader") / "set", train=45))["train"]


def content(batches):
    """[(ids, labels, rows)] with the rows copied while the batch is valid."""
    return [(b.ids.tolist(), b.label.tolist(), b.x[b.index].clone()) for b in batches]


@KINDS
@MODES
@pytest.mark.parametrize(("world", "batch"), [(1, 8), (1, 45), (2, 7), (3, 4), (4, 11)])
def test_an_epoch_visits_every_sample_once_over_all_ranks(data, mode, dali, world, batch):
    ranks = [mode(data, batch, 3, CPU, rank=r, world=world, dali=dali) for r in range(world)]
    assert {loader.steps for loader in ranks} == {45 // (batch * world)}
    for epoch in (1, 2):
        seen = [content(loader.epoch(epoch)) for loader in ranks]
        together = [i for steps in zip(*seen, strict=True) for ids, _, _ in steps for i in ids]
        assert together == Plan(45, batch, 3).order(epoch)[: ranks[0].steps * batch * world].tolist()
        assert len(set(together)) == len(together)
        for ids, labels, x in itertools.chain(*seen):
            assert len(ids) == batch and labels == data.label[ids].tolist()
            np.testing.assert_array_equal(x.numpy(), data.x[ids])


@pytest.mark.dali
@pytest.mark.skipif(not HAVE_DALI, reason="NVIDIA DALI is not installed")
def test_dali_hands_its_own_memory_to_the_current_stream(data, monkeypatch):
    """A stand-in for the pipeline on a GPU: no copy, no wait, and the batch is bound to the stream that will read it."""
    from hiclr_fast.data.loading import dali
    from hiclr_fast.data.loading.feed import Gather

    stream, rows, made, streams = object(), torch.randn(2, 3), {}, []

    class Pipeline:
        def __init__(self, **kw):
            made.update(kw)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def set_outputs(self, *outputs):
            pass

        def build(self):
            pass

        def run(self, given):
            streams.append(given)
            return (SimpleNamespace(as_tensor=lambda: rows),)

    monkeypatch.setattr(dali, "Pipeline", Pipeline)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    output = SimpleNamespace(gpu=lambda: None)
    monkeypatch.setattr(dali.fn, "external_source", lambda **kw: (output,) * 3)
    (batch,) = next(dali.DaliFeed(Gather(data, iter([]), 8, pinned=False), torch.device("cuda", 0)))
    assert batch.data_ptr() == rows.data_ptr() and streams == [stream]
    assert made["exec_dynamic"] is True and made["device_id"] == 0


@KINDS
@MODES
def test_a_resumed_epoch_continues_as_the_straight_one(data, mode, dali):
    straight = content(mode(data, 8, 1, CPU, dali=dali).epoch(2))
    for step in range(len(straight) + 1):
        fresh = mode(data, 8, 1, CPU, dali=dali)
        for (ids, labels, x), (want_ids, want_labels, want) in zip(content(fresh.epoch(2, step)), straight[step:], strict=True):
            assert (ids, labels) == (want_ids, want_labels) and torch.equal(x, want)


@KINDS
def test_a_stream_goes_on_after_an_epoch_that_was_left_and_across_epochs(data, dali):
    loader = StreamLoader(data, 8, 1, CPU, dali=dali)
    next(loader.epoch(1))  # left after its first batch
    feeds = set()
    for epoch in (1, 2, 3):
        for batch, ids in zip(loader.epoch(epoch), loader.plan.order(epoch).split(8), strict=False):
            assert torch.equal(batch.ids, ids)
            feeds.add(id(loader.feed))
    assert len(feeds) == 1  # the epochs ran through one feed


@KINDS
def test_a_batch_stays_as_it_is_until_the_next_is_asked_for(data, dali):
    for batch in StreamLoader(data, 8, 1, CPU, dali=dali).epoch(1):
        time.sleep(0.02)  # the reading thread is far ahead by now
        np.testing.assert_array_equal(batch.x.numpy(), data.x[batch.ids.numpy()])


@KINDS
def test_a_file_that_is_cut_while_it_is_read_is_one_sentence(tmp_path, dali):
    split = open_packed(packed(tmp_path / "set"))["train"]
    loader = StreamLoader(split, 8, 1, CPU, dali=dali)
    with open(tmp_path / "set" / "train.npy", "rb+") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match="ended early while it was read"):
        list(loader.epoch(1))


def test_the_mode_follows_from_the_memory(data, monkeypatch):
    monkeypatch.setattr(loaders, "free_memory", lambda device: 4 * data.x.nbytes)
    assert isinstance(make_loader(data, 8, 0, CPU, share=0.25), ResidentLoader)
    assert isinstance(make_loader(data, 8, 0, CPU, share=0.24), StreamLoader)
    assert isinstance(make_loader(data, 8, 0, CPU, share=0.24, mode="resident"), ResidentLoader)
    with pytest.raises(InputError, match="45 training samples are fewer than batch_size 46"):
        make_loader(data, 23, 0, CPU, world=2)


def test_free_memory_is_that_of_this_machine():
    assert 1 << 20 < loaders.free_memory(CPU) < 1 << 50


def test_without_dali_it_says_so(data, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    loader = make_loader(data, 8, 0, CPU, mode="stream")
    assert not loader.dali and "NVIDIA DALI is not installed" in capsys.readouterr().out
    assert next(loader.epoch(1)).x.shape[0] == 8


LIMITED = """
    import json, resource, sys
    import numpy as np, torch
    from pathlib import Path
    from hiclr_fast.data.loading.loader import StreamLoader
    from hiclr_fast.data.packed.dataset import Split
    from hiclr_fast.data.packed.rows_on_disk import Rows

    folder, limit, dali = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
    rows = Rows(sorted(folder.glob("*.npy")))
    zeros = np.zeros(len(rows), dtype=np.int64)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    assert rows.nbytes > limit
    loader = StreamLoader(Split(rows, zeros, zeros.astype(str), zeros, zeros), 256, 0, torch.device("cpu"), dali=dali)
    for step, batch in enumerate(loader.epoch(1)):
        assert (batch.x[:, 0, 0, 0, 0].long() == batch.ids % 1000).all(), step
        if step == 11:
            break
    print(json.dumps({"bytes": rows.nbytes, "steps": step + 1}))
"""


@KINDS
def test_a_set_larger_than_the_address_space_is_streamed(tmp_path, dali):
    """24 GiB in sparse shards, of which only the rows that are visited hold numbers; the process may map 12 GiB."""
    row, count, shards = 3 * 50 * 25 * 2, 120_000, 7
    order = Plan(count * shards, 256, 0).order(1)[: 256 * 16].numpy()
    for shard in range(shards):
        with open(tmp_path / f"{shard}.npy", "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, 3, 50, 25, 2)}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            file.truncate(start + count * row * 4)
            for i in order[order // count == shard]:
                file.seek(start + (int(i) - shard * count) * row * 4)
                file.write(np.float32(i % 1000).tobytes())
    limit = 12 << 30
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path), str(limit), str(dali)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["bytes"] > limit and facts["steps"] == 12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@KINDS
@MODES
def test_batches_arrive_on_the_gpu(data, mode, dali):
    loader = mode(data, 8, 1, torch.device("cuda"), dali=dali)
    for epoch in (1, 2):
        for batch, ids in zip(loader.epoch(epoch), loader.plan.order(epoch).split(8), strict=False):
            assert batch.x.is_cuda and batch.label.is_cuda and torch.equal(batch.ids.cpu(), ids)
            np.testing.assert_array_equal(batch.x[batch.index].cpu().numpy(), data.x[ids.numpy()])


def test_rows_read_any_order_across_shards(tmp_path):
    from hiclr_fast.data.packed.rows_on_disk import Rows

    parts = [np.arange(n * 6, dtype=np.float32).reshape(n, 2, 3) + 100 * n for n in (4, 1, 5)]
    for i, part in enumerate(parts):
        np.save(tmp_path / f"{i}.npy", part)
    rows, whole = Rows(sorted(Path(tmp_path).glob("*.npy"))), np.concatenate(parts)
    assert rows.shape == whole.shape and rows.nbytes == whole.nbytes
    np.testing.assert_array_equal(np.asarray(rows), whole)
    rng = np.random.default_rng(0)
    for _ in range(50):
        index = rng.integers(-10, 10, rng.integers(0, 12))
        np.testing.assert_array_equal(rows[index], whole[index])
    mask = whole[:, 0, 0] > 300
    np.testing.assert_array_equal(rows[mask], whole[mask])
    np.testing.assert_array_equal(rows[3:6], whole[3:6])
    np.testing.assert_array_equal(rows[-1], whole[-1])
    np.testing.assert_array_equal(np.asarray(rows.take(np.array([9, 0, 4])).take(np.array([2, 0]))), whole[[4, 9]])
    with pytest.raises(IndexError, match="row 10 of 10"):
        rows[[10]]
