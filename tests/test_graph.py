"""One CUDA graph against the eager step; the compiled encoder against the plain one."""

import pytest
import torch
from helpers import packed, tiny

from hiclr_fast.data.loading.loader import Batch
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.pretraining.graph import GraphedStep
from hiclr_fast.pretraining.trainer import Pretrainer
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
    assert graph.do_step.mining is True


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
    trainer.readback.swap(trainer.train.health(), 0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.train_step(first)
            trainer.readback.waiting = None
            trainer.readback.swap(trainer.train.health(), 0)
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
