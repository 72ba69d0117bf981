"""One CUDA graph against the eager step; the compiled encoder against the plain one."""

import numpy as np
import pytest
import torch
from helpers import packed, tiny

from hiclr_fast.data.loading.loader import Batch
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.classifier import Training
from hiclr_fast.evaluation.schedule import FinetuneConfig, official
from hiclr_fast.models.build import initial_encoder
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.start import start
from hiclr_fast.pretraining.trainer import Pretrainer
from hiclr_fast.training.graph import GraphedStep
from hiclr_fast.training.readback import Readback
from hiclr_fast.views.augment import AugmentConfig

STEPS = 32


@pytest.fixture(autouse=True)
def repeatable():
    """Twins may differ by the order of sums only: no TF32, and no algorithm of cuDNN's that changes from call to call."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def on_gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


@pytest.fixture
def data(tmp_path):
    return open_packed(packed(tmp_path / "set", train=64, bodies=2))


def follow(trainer: Pretrainer, steps: int = STEPS) -> tuple[torch.Tensor, dict]:
    """What each step added to the sums, and the state at the end."""
    losses, done = [], 0
    while done < steps:
        for batch in trainer.loader.epoch(trainer.epoch):
            before = trainer.train.sums.clone()
            trainer.train_step(batch)
            losses.append((trainer.train.sums - before).cpu())
            trainer.step, done = trainer.step + 1, done + 1
        trainer.epoch, trainer.step = trainer.epoch + 1, 0
    return torch.stack(losses), {name: t.clone() for name, t in trainer.model.state_dict().items()}


def assert_twins(a, b, rtol: float, atol: float):
    torch.testing.assert_close(a[0], b[0], rtol=rtol, atol=atol)
    for name, value in a[1].items():
        torch.testing.assert_close(b[1][name], value, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


KINDS = [
    {},
    {"amp": True},
    {"amp": True, "amp_dtype": "fp16"},
    {"accumulate": 2, "stream": "bone"},
    {"augment": AugmentConfig(adain="sequence", edge_drop=0.1, edge_add=0.05)},
]


@on_gpu
@pytest.mark.parametrize("kw", KINDS, ids=str)
def test_graph_equals_eager_over_32_steps(data, kw):
    """With dropout, across the mining epoch: two captures. The draws are equal, so only the order of sums may differ."""
    config = dict(device="cuda", feature_dim=16, queue_size=64, dropout=0.5, mining_epoch=2, epochs=9, **kw)
    eager, graph = Pretrainer(tiny(**config, no_graph=True), data), Pretrainer(tiny(**config), data)
    assert isinstance(graph.do_step, GraphedStep) and eager.do_step is eager.train
    bar = 1e-2 if "amp" in kw else 1e-4
    assert_twins(follow(eager), follow(graph), bar, bar)
    assert graph.do_step.variant is True


@on_gpu
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("kw", KINDS, ids=str)
def test_no_synchronisation(data, kw, graph):
    """The driver itself raises at any call that waits for the device. The first steps compile, copy tables and capture."""
    config = dict(device="cuda", feature_dim=16, queue_size=64, no_graph=not graph, **kw)
    trainer = Pretrainer(tiny(**config), data)
    batches = iter(trainer.loader.epoch(1))
    first = next(batches)
    for _ in range(2):
        trainer.train_step(first)
    readback = Readback(trainer.device)
    readback.swap(trainer.train.health(), 0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.train_step(first)
            readback.waiting = None
            readback.swap(trainer.train.health(), 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
def test_streamed_batches_are_copied_in(data):
    """A loader whose x holds only the batch, a new tensor every step, feeds the same graph."""
    config = tiny(device="cuda", feature_dim=16, queue_size=64)
    resident, streamed = Pretrainer(config, data), Pretrainer(config, data)
    for batch in resident.loader.epoch(1):
        resident.train_step(batch)
        rows = torch.arange(len(batch.index), device="cuda")
        streamed.train_step(Batch(batch.x[batch.index].clone(), rows, batch.ids, batch.label))
        resident.step, streamed.step = resident.step + 1, streamed.step + 1
    torch.testing.assert_close(streamed.train.sums, resident.train.sums, rtol=1e-4, atol=1e-4)


@on_gpu
def test_another_resident_tensor_is_refused(data):
    trainer = Pretrainer(tiny(device="cuda", feature_dim=16, queue_size=64), data)
    batch = next(trainer.loader.epoch(1))
    trainer.train_step(batch)
    with pytest.raises(ValueError, match="keep one resident tensor"):
        trainer.train_step(batch._replace(x=batch.x.clone()))


@on_gpu
@pytest.mark.parametrize("no_graph", [True, False])
def test_compiled_equals_plain_on_gpu(data, no_graph):
    config = dict(device="cuda", feature_dim=16, queue_size=64, dropout=0.0, no_graph=no_graph)
    assert_twins(follow(Pretrainer(tiny(**config), data)), follow(Pretrainer(tiny(**config, compile=True), data)), 1e-2, 1e-2)


@on_gpu
@pytest.mark.parametrize("kw", [{}, {"amp": True, "augment": True}], ids=str)
def test_a_classifier_trains_the_same_in_a_graph(data, kw):
    """Three epochs of finetuning, dropout included, and one more after the state went through a file's form."""
    config = official(FinetuneConfig(epochs=4, batch_size=8, **kw), "finetune", "stgcn")
    place = data.layout, "joint", config, torch.device("cuda", 0)
    ends = []
    for graph in (False, True):
        encoder = initial_encoder(tiny(), data.layout)
        one = Training(encoder, data["train"], data["val"], np.arange(40), 3, *place, graph=graph)
        for _ in range(3):
            one.train_epoch()
        other = Training(initial_encoder(tiny(), data.layout), data["train"], data["val"], np.arange(40), 3, *place, graph=graph)
        other._restore(one._state("k"), "k", "state")
        other.train_epoch()
        ends.append((torch.tensor(other.losses), other.model.state_dict()))
    bar = 1e-2 if "amp" in kw else 1e-4
    assert_twins(*ends, bar, bar)


class Captured:
    """A graph that says whether it is alive."""

    def __init__(self):
        self.alive = True

    def reset(self):
        self.alive = False


@pytest.mark.parametrize("way_out", ["end", "signal", "error"])
def test_the_graph_is_closed_on_every_way_out(data, tmp_path, way_out):
    """Communicators wait for graphs that hold them, and a traceback keeps the trainer alive."""
    trainer = start(tiny(epochs=1, knn_every=0), data, tmp_path / "run")
    graph = Captured()

    class Graphed(GraphedStep):
        def __call__(self, batch, mining):
            self.graph, self.variant = graph, mining
            if way_out == "error":
                trainer.train.sums.fill_(float("nan"))
            trainer.stop = way_out == "signal"

    trainer.do_step = Graphed(trainer.train)
    try:
        assert train(trainer, tmp_path / "run") is (way_out == "end")
    except InputError as error:
        assert way_out == "error" and "NaN" in str(error)
    assert not graph.alive and trainer.do_step.graph is None


class Event:
    """Of a device that passes it after so many looks."""

    def __init__(self, looks: float):
        self.looks = looks

    def record(self):
        pass

    def query(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.fixture
def readback(monkeypatch):
    """Of a CUDA device whose events pass as `looks` says."""

    def make(patience: float, looks: list[float]) -> Readback:
        events = iter(looks)
        monkeypatch.setattr(torch.cuda, "Event", lambda: Event(next(events)))
        monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory, dtype: torch.zeros(*shape, dtype=dtype))
        return Readback(torch.device("cuda", 0), patience)

    return make


def test_readback_is_one_behind_and_waits_for_its_event(readback):
    read = readback(60.0, [0, 3, 2])
    assert read.swap(torch.tensor([1.0]), 7) is None
    assert read.swap(torch.tensor([2.0]), 9) == ([1.0], 7)
    assert read.now(torch.tensor([3.0])) == [3.0]


@pytest.mark.parametrize("how", ["swap", "now"])
def test_a_device_that_never_finishes_ends_with_a_sentence(readback, how):
    read = readback(0.01, [float("inf")] * 2)
    with pytest.raises(InputError, match=r"cuda:0 has not finished its steps within 0.01 s: another rank is gone.*--resume"):
        for step in range(2):
            read.now(torch.zeros(1)) if how == "now" else read.swap(torch.zeros(1), step)


@pytest.mark.slow
def test_compiled_equals_plain_on_cpu(data):
    """Twins over 8 steps: Inductor's code for the encoders, statistics per view included."""
    config = dict(dropout=0.0, lr=1e-3)
    compiled = Pretrainer(tiny(**config, compile=True), data)
    try:
        got = follow(compiled, 8)
    except torch._inductor.exc.InductorError as error:
        pytest.skip(f"torch.compile cannot build here: {str(error).splitlines()[0]}")
    assert_twins(follow(Pretrainer(tiny(**config), data), 8), got, 1e-3, 1e-4)
