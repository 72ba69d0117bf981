"""The encoder's kernels (interpreted) in the pretraining step: recorded steps, and twins of kernels and reference over many."""

import pytest
import torch
from conftest import rms_error
from interpreted import use_large_tiles
from torch import nn

from hiclr_fast.models.dsta import DSTA
from hiclr_fast.models.hiclr import HiCLR
from hiclr_fast.models.official import official_name
from hiclr_fast.models.stgcn import STGCN, Block
from hiclr_fast.training.optimizer import make_sgd

pytest.importorskip("triton")
WEIGHTS = (1.0, 0.5, 0.5)


def new_model(encoder: str = "stgcn", dropout: float = 0.0) -> HiCLR:
    torch.manual_seed(0)
    make = {"stgcn": lambda: STGCN(torch.rand(3, 5, 5), 3, 4, 16, 8, dropout), "dsta": lambda: DSTA(5, 3, 2, 8, 8, dropout)}
    model = HiCLR(make[encoder](), 8, 32, 0.9, 0.07)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.bias.data.normal_(0, 0.1)
    return model.to(memory_format=torch.channels_last).train()


def views(step: int, joints: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(step)
    return [torch.randn(4, 3, 8, joints, 2, generator=g) * (b + 1) + b for b in range(4)]


def train(model: HiCLR, steps: int, monkeypatch, kernels: str, amp: bool = False, joints: int = 5) -> list[float]:
    monkeypatch.setenv("HICLR_KERNELS", kernels)
    optimizer, losses = make_sgd(model.trainable(), torch.tensor(0.05), 1e-4), []
    for step in range(steps):
        torch.manual_seed(step)
        *given, key_view = views(step, joints)
        model.move_keys()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            q, key = model.pair(given, key_view)
            assert (key is not None) == (kernels == "triton" and isinstance(model.encoder_q, STGCN))
            key = model.keys(key_view, move=False) if key is None else key
        loss, _ = model.loss(q, key, WEIGHTS, 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.enqueue(key)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("encoder", ["stgcn", "dsta"])
def test_a_step_is_the_reference(monkeypatch, encoder):
    """Losses, every gradient, running statistics, queue."""
    use_large_tiles(monkeypatch, pairs=32, values=1 << 12)
    models = {kernels: new_model(encoder) for kernels in ("triton", "reference")}
    losses = [train(model, 1, monkeypatch, kernels) for kernels, model in models.items()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    total = torch.stack([p.grad.norm() for p in models["reference"].encoder_q.parameters()]).norm()
    for (name, p), q in zip(models["triton"].named_parameters(), models["reference"].parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            assert (p.grad - q.grad).norm() <= 2e-4 * max(q.grad.norm(), 1e-2 * total), name
    for (name, a), b in zip(models["triton"].named_buffers(), models["reference"].buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5, msg=name)


def test_the_same_step_twice_is_bit_equal(monkeypatch):
    use_large_tiles(monkeypatch, pairs=32, values=1 << 12)
    states = []
    for _ in range(2):
        model = new_model(dropout=0.5)
        train(model, 1, monkeypatch, "triton", amp=True)
        states.append(model.state_dict())
    assert all(torch.equal(t, states[1][name]) for name, t in states[0].items())


def test_twins_over_32_steps(monkeypatch):
    """Kernels against reference, a short encoder: losses, queue, parameters."""
    use_large_tiles(monkeypatch, pairs=32, values=1 << 10)
    models, losses = {}, {}
    for kernels in ("triton", "reference"):
        torch.manual_seed(0)
        encoder = STGCN(torch.rand(1, 3, 3), 3, 4, 8, 8)
        middle = Block(4, 8, 1, 3, 2, 0.0, residual=True)
        first, last = Block(3, 4, 1, 3, 1, 0.0, residual=False), Block(8, 8, 1, 3, 1, 0.0, residual=True)
        encoder.blocks = nn.ModuleList((first, middle, last))
        models[kernels] = HiCLR(encoder, 8, 64, 0.9, 0.07).to(memory_format=torch.channels_last).train()
        losses[kernels] = torch.tensor(train(models[kernels], 32, monkeypatch, kernels, joints=3))
    torch.testing.assert_close(losses["triton"], losses["reference"], rtol=1e-3, atol=1e-3)
    for (name, a), b in zip(models["triton"].state_dict().items(), models["reference"].state_dict().values(), strict=True):
        if a.is_floating_point():
            assert rms_error(a, b) < 5e-3 or a.norm() < 1e-3, name
        else:
            assert torch.equal(a, b), name


def test_the_recorded_step(golden, monkeypatch):
    """A step of the official processor through the kernels, queries and key in one batch: losses, rows, every gradient."""
    use_large_tiles(monkeypatch)
    from test_contrast import WEIGHTS as official_weights
    from test_contrast import load, official_key
    from test_contrast import views as recorded_views

    monkeypatch.setenv("HICLR_KERNELS", "triton")
    g, prefix = golden("stgcn_train_step"), "small/a1"
    model = load(g, "small", torch.float32)
    given, key_view = recorded_views(g, 1, g.t(f"{prefix}/mask_TV", torch.float32), model.fill, torch.float32)
    model.move_keys()  # as the official step does before its key
    q, key = model.pair(given, key_view)
    loss, terms = model.loss(q, key, official_weights, 0)
    loss.backward()
    assert (q[0] - g.t(f"{prefix}/f64/q")).abs().max() < 5e-6  # of unit rows, after ten blocks in float32
    assert (key - g.t(f"{prefix}/f64/k")).abs().max() < 5e-6
    torch.testing.assert_close(torch.cat([terms, loss[None]]).double(), g.t(f"{prefix}/f64/losses"), rtol=0, atol=1e-5)
    total, compared, apart = float(g[f"{prefix}/grad_total_norm"]), 0, 0.0
    for name, p in model.named_parameters():
        if p.grad is not None:
            want = g.t(f"{prefix}/f64/grad/{official_key(name)}").reshape(p.shape)
            apart += float((p.grad - want).norm()) ** 2
            if want.norm() > 1e-4 * total:
                compared += 1
                assert rms_error(p.grad, want) < 1e-3, name  # a few signs flip at the ReLUs: 3e-4 were found
    assert compared > 80 and apart**0.5 < 2e-4 * total


def test_the_recorded_dsta_net(golden, monkeypatch):
    """Its evaluation takes torch's operations; in training, with batch norm of the recorded statistics' batch, the kernels agree
    with the reference in double on the recorded input, and their gradient is as near to it as the reference's in float32."""
    use_large_tiles(monkeypatch)
    g = golden("dsta_eval")
    results = []
    for kernels, dtype in (("triton", torch.float32), ("reference", torch.float32), ("reference", torch.float64)):
        monkeypatch.setenv("HICLR_KERNELS", kernels)
        model = DSTA(25, dropout=0.0)
        state = {name: g.t(f"encoder_q.{official_name(name)}", t.dtype) for name, t in model.state_dict().items()}
        model.load_state_dict(state)
        x = g.t("x", dtype)[:2]
        assert rms_error(model.to(dtype).eval()(x), g.t("f64/out")[:2]) < 1e-5
        features = model.train().features(x)
        features.square().sum().backward()
        results.append((features, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (features, gradient), (_, plain), (exact, exact_gradient) = results
    assert rms_error(features, exact) < 5e-5
    assert rms_error(gradient, exact_gradient) < 2 * rms_error(plain, exact_gradient) < 0.05  # signs flip at the activations
