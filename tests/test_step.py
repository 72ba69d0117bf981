"""The training step: no read of the device in it, and what it does with its parts."""

import pytest
import torch
from helpers import packed, tiny
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from hiclr_fast.data.loading.loader import Batch
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.models.build import build_encoder
from hiclr_fast.models.hiclr import HiCLR
from hiclr_fast.pretraining.profile import profile
from hiclr_fast.pretraining.step import PHASES, TrainStep
from hiclr_fast.pretraining.trainer import Pretrainer
from hiclr_fast.skeletons import LAYOUTS
from hiclr_fast.training.optimizer import make_sgd
from hiclr_fast.views.augment import AugmentConfig

NTU = LAYOUTS["ntu25"]


@pytest.fixture
def data(tmp_path):
    return open_packed(packed(tmp_path / "set"))


def without_values(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Replaces every parameter and buffer by one that has a shape, but no values."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: mode.from_tensor(t) for name, t in tensors.items() if t is not None})


@pytest.mark.parametrize(
    "kw",
    [
        {},
        {"amp": True},
        {"amp": True, "amp_dtype": "fp16"},
        {"accumulate": 2},
        {"stream": "bone", "augment": AugmentConfig(adain="sequence", edge_drop=0.1, edge_add=0.05, mask_per_sample=True)},
    ],
    ids=str,
)
@pytest.mark.parametrize("mining", [False, True])
def test_a_step_reads_nothing_from_the_device(monkeypatch, kw, mining):
    """Traced with tensors that have no values, any read of a value raises. The kernels are their plain-torch references."""
    monkeypatch.setenv("HICLR_KERNELS", "reference")
    config = tiny(**kw)
    model = HiCLR(build_encoder(config, NTU), config.feature_dim, config.queue_size, config.momentum, config.temperature)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        without_values(model, mode)
        step = TrainStep(config, NTU, model.train())
        step.together = True  # as on a GPU
        x, index = torch.randn(32, 3, 16, 25, 1), torch.arange(config.batch_size)
        for number in range(2):
            step.prepare(0.1, number)
            step(Batch(x, index, index, index), mining)
        step.health()
        with pytest.raises(DataDependentOutputException):
            step.sums[0].item()


def test_kernels_can_be_traced(monkeypatch):
    """The loss as it runs on the device, too, is one opaque operation with a known shape."""
    monkeypatch.delenv("HICLR_KERNELS", raising=False)
    model = HiCLR(torch.nn.Linear(2, 8), 8, 64, 0.9, 0.07)
    with FakeTensorMode() as mode:
        without_values(model, mode)
        q = torch.randn(3, 4, 8, requires_grad=True)
        loss, terms = model.loss(q, torch.randn(4, 8), (1.0, 0.5, 0.5), 1)
        loss.backward()
        assert terms.shape == (3,) and q.grad.shape == q.shape


def test_accumulation_is_one_step_over_all_passes(data):
    """Gradients are the mean over the passes, which see the same queue and key weights; all keys enter, in sample order."""
    config = tiny(accumulate=2, dropout=0.0, lr=0.0, weight_decay=0.0)
    trainer = Pretrainer(config, data)
    batch = next(trainer.loader.epoch(1))
    before = {name: t.clone() for name, t in trainer.model.state_dict().items()}
    trainer.train_step(batch)
    grads = [p.grad.clone() for p in trainer.model.trainable()]
    queue = trainer.model.queue.clone()
    parts = []
    for index in batch.index.chunk(2):
        half = Pretrainer(tiny(batch_size=4, dropout=0.0, lr=0.0, weight_decay=0.0), data)
        half.model.load_state_dict(before)
        half.train.prepare(0.0, 0)
        half.train(Batch(batch.x, index, index, index), False)
        parts.append(half)
    for number, grad in enumerate(grads):
        want = (parts[0].model.trainable()[number].grad + parts[1].model.trainable()[number].grad) / 2
        torch.testing.assert_close(grad, want, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(queue[:8], torch.cat([p.model.queue[:4] for p in parts]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(queue[8:], before["queue"][8:], rtol=0, atol=0)
    assert trainer.model.pointer == 8
    want = (parts[0].train.sums + parts[1].train.sums) / 2
    torch.testing.assert_close(trainer.train.sums[:4], want[:4], rtol=1e-5, atol=1e-5)


def test_dropout_is_a_function_of_seed_and_step(data):
    results = []
    for noise in (1, 2):
        trainer = Pretrainer(tiny(dropout=0.5), data)
        torch.manual_seed(noise)
        trainer.train_step(next(trainer.loader.epoch(1)))
        results.append(trainer.train.sums.clone())
    torch.testing.assert_close(*results, rtol=0, atol=0)
    trainer = Pretrainer(tiny(dropout=0.5), data)
    trainer.train.prepare(0.01, 1)  # the next step's draws, the same batch
    assert not torch.equal(torch.rand(4), (trainer.train.prepare(0.01, 2), torch.rand(4))[1])


def test_a_skipped_first_step_leaves_momentum_clean():
    """fp16: the first scale is often too large. Nothing may move, and the buffers must hold zeros, not garbage."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer, scaler = make_sgd([p], torch.tensor(0.1), 0.0), torch.amp.GradScaler("cpu")
    scaler.scale((p * torch.tensor([1.0, float("inf"), 1.0])).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p, torch.ones(3)) and torch.equal(optimizer.state[p]["momentum_buffer"], torch.zeros(3))
    assert scaler.get_scale() == 32768


def test_learning_rate_is_read_from_its_tensor():
    p, lr = torch.nn.Parameter(torch.zeros(2)), torch.tensor(0.5)
    optimizer = make_sgd([p], lr, 0.0)
    for rate in (0.5, 0.25):
        lr.fill_(rate)
        p.grad = torch.ones(2)
        optimizer.step()
    torch.testing.assert_close(p, torch.full((2,), -0.5 - 0.25 * 1.9))


def test_profile_names_every_phase(data, tmp_path):
    table = profile(Pretrainer(tiny(), data), 2, tmp_path / "p" / "trace.json")
    rows = {line[:14].strip(): line[14:].split() for line in table.splitlines()[1:-1]}
    assert list(rows) == [*PHASES, "all"]
    assert sum(float(rows[name][0]) for name in PHASES) == pytest.approx(float(rows["all"][0]), abs=0.01)
    assert all(float(rows[name][0]) > 0 and float(rows[name][2]) >= 0 for name in PHASES)
    assert '"query forward"' in (tmp_path / "p" / "trace.json").read_text()
