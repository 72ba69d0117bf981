"""All query views in one batch: the numbers of separate passes, in outputs, gradients and running statistics."""

import pytest
import torch
from torch import nn

from hiclr_fast.models.hiclr import HiCLR
from hiclr_fast.models.layers import BatchNorm, Dropout, distinct_bodies, in_groups
from hiclr_fast.models.stgcn import STGCN


def model(dtype=torch.float64, dropout=0.0) -> HiCLR:
    torch.manual_seed(0)
    encoder = STGCN(torch.rand(3, 5, 5), 3, 4, 16, 8, dropout)
    return HiCLR(encoder, 8, 32, 0.9, 0.07).to(dtype).to(memory_format=torch.channels_last).train()


def views(dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 3, 12, 5, 2, generator=g) * (b + 1) + b).to(dtype) for b in range(3)]


def outcome(one_batch: bool, dtype):
    hiclr, given = model(dtype), views(dtype)
    given[2].requires_grad_()
    q = hiclr.queries(given, together=one_batch)
    (q * torch.arange(q.numel(), dtype=dtype).view_as(q).cos()).sum().backward()
    grads = {name: p.grad for name, p in hiclr.named_parameters() if p.grad is not None}
    return {"q": q.detach(), "view": given[2].grad, **grads, **dict(hiclr.encoder_q.named_buffers())}


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_equal_to_separate_passes(dtype, bar):
    together, separate = outcome(True, dtype), outcome(False, dtype)
    assert together.keys() == separate.keys() and len(together) > 100
    total = torch.stack([t.double().norm() for name, t in separate.items() if name.startswith("encoder_q")]).norm()
    for name, want in separate.items():
        error = (together[name].double() - want.double()).norm()
        assert error <= bar * max(want.double().norm(), 1e-3 * total if "bias" in name else 0), name
    assert together["data_bn.num_batches_tracked"] == 3


def test_training_stays_equal_over_32_steps():
    """Twins in double: one batch against separate passes, with the optimizer, the moving average and the queue."""
    losses = {}
    for one_batch in (True, False):
        hiclr = model()
        optimizer = torch.optim.SGD(hiclr.trainable(), 0.05, momentum=0.9)
        losses[one_batch] = []
        for step in range(32):
            given = [v + 0.1 * step for v in views()]
            q = hiclr.queries(given, together=one_batch)
            key = hiclr.keys(given[0])
            loss, _ = hiclr.loss(q, key, (1.0, 0.5, 0.5), 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hiclr.enqueue(key)
            losses[one_batch].append(loss.item())
    torch.testing.assert_close(torch.tensor(losses[True]), torch.tensor(losses[False]), rtol=1e-6, atol=1e-6)


def test_any_encoder_of_these_layers_has_it():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), BatchNorm(6), nn.LeakyReLU(0.1), nn.Conv2d(6, 4, (3, 1)), BatchNorm(4)).double()
    x = torch.randn(6, 3, 7, 5, dtype=torch.float64)
    with in_groups(net, 3):
        together = net(x)
    torch.testing.assert_close(together, torch.cat([net(part) for part in x.chunk(3)]), rtol=1e-12, atol=1e-12)
    assert net[1].groups == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_inside_the_fused_layer(dtype):
    """Rate, scale and independence between views: identical views are dropped differently."""
    torch.manual_seed(0)
    norm, dropout = BatchNorm(16), Dropout(0.3)
    x = torch.randn(8, 16, 20, 25).repeat(3, 1, 1, 1).to(dtype).contiguous(memory_format=torch.channels_last)
    with in_groups(norm, 3):
        full, y = norm(x).float(), norm(x, dropout=dropout).float()
    kept = y != 0
    assert abs(kept.float().mean() - 0.7) < 5 * (0.21 / x.numel()) ** 0.5
    torch.testing.assert_close(y[kept], full[kept] / 0.7, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-6)
    first, second, _ = kept.float().chunk(3)
    assert abs((first * second).mean() - 0.49) < 0.005


def test_empty_bodies_run_once():
    x = torch.randn(4, 3, 6, 5, 2)
    x[[0, 2], ..., 1] = 0
    rows, where = distinct_bodies(x)
    assert rows.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert where.tolist() == [0, 1, 2, 3, 4, 1, 5, 6]
    for plain in (torch.randn(2, 3, 6, 5, 1), x[1::2]):
        rows, where = distinct_bodies(plain)
        assert rows.tolist() == where.tolist() == list(range(len(plain) * plain.shape[-1]))


@torch.no_grad()
def test_features_with_empty_bodies(monkeypatch):
    encoder = model().encoder_q.eval()
    x = views()[0]
    x[:3, ..., 1] = 0
    counted = []
    encoder.blocks[0].register_forward_hook(lambda _, args, out: counted.append(len(out)))
    got = encoder.features(x)
    assert counted == [6]  # five bodies and one empty one
    one_by_one = torch.cat([encoder.features(sample[None]) for sample in x])
    torch.testing.assert_close(got, one_by_one, rtol=1e-12, atol=1e-12)
