"""ST-GCN against the recorded official encoder, block by block."""

import pytest
import torch
from conftest import rms_error
from torch import nn

from hiclr_fast.models.layers import BatchNorm, Dropout
from hiclr_fast.models.official import official_name
from hiclr_fast.models.stgcn import STGCN, init_official


@pytest.fixture
def encoder(golden):
    g = golden("stgcn_eval")
    model = STGCN(g.t("encoder_q.A"))
    state = {name: g.t(f"encoder_q.{official_name(name)}", t.dtype) for name, t in model.state_dict().items()}
    model.load_state_dict(state)
    assert len(state) == len(g.names("encoder_q."))
    return model.eval()


@torch.no_grad()
def test_outputs_in_double(golden, encoder):
    g, model = golden("stgcn_eval"), encoder.double()
    x = g.t("x")
    torch.testing.assert_close(model.features(x), g.t("f64/pooled"), rtol=1e-8, atol=1e-8)
    out = model(x)
    torch.testing.assert_close(out, g.t("f64/out"), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(nn.functional.normalize(out), g.t("f64/out_normalized"), rtol=1e-8, atol=1e-8)


@torch.no_grad()
def test_blocks_in_float32(golden, encoder):
    g = golden("stgcn_eval")
    rows = g["rows"].tolist()
    x = encoder.normalize_input(g.t("x", torch.float32))
    data_bn = x.permute(0, 3, 1, 2).flatten(1, 2)  # (R, V * C, T)
    torch.testing.assert_close(data_bn[rows], g.t("inter/data_bn_rows", torch.float32), rtol=1e-5, atol=1e-5)
    for i, block in enumerate(encoder.blocks):
        x = block(x, encoder.A)
        assert rms_error(x[rows], g[f"inter/block{i}_rows"]) < 1e-5, f"block {i}"
        assert rms_error(x.mean((2, 3)), g[f"inter/block{i}_mean_TV"]) < 1e-5, f"block {i}"
        assert rms_error(x.std((2, 3), correction=0), g[f"inter/block{i}_std_TV"]) < 1e-5, f"block {i}"


@torch.no_grad()
def test_float32_within_the_recorded_noise(golden, encoder):
    g = golden("stgcn_eval")
    assert (encoder(g.t("x", torch.float32)) - g.t("out", torch.float32)).abs().max() < 1e-5


def test_default_size_is_the_release():
    model = STGCN(torch.ones(3, 25, 25))
    assert [block.conv.out_channels for block in model.blocks] == [16] * 4 + [32] * 3 + [64] * 2 + [256]
    assert model(torch.randn(2, 3, 50, 25, 2)).shape == (2, 128)


@pytest.mark.parametrize("shape", [(1, 3, 17, 20, 1), (3, 3, 50, 25, 3)])
def test_any_length_joints_bodies(shape):
    assert STGCN(torch.rand(3, shape[3], shape[3])).eval()(torch.randn(shape)).shape == (shape[0], 128)


def test_init_official_spread():
    torch.manual_seed(0)
    model = STGCN(torch.ones(3, 25, 25))
    init_official(model)
    conv = model.blocks[9].conv
    assert abs(conv.weight.std().item() - 0.02) < 1e-3
    assert conv.bias.abs().max() == 0


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_rate_scale_and_gradient(p):
    torch.manual_seed(0)
    x = torch.ones(64, 16, 50, 25).to(memory_format=torch.channels_last).requires_grad_()
    y = Dropout(p)(x)
    kept = (y != 0).float().mean().item()
    assert abs(kept - (1 - p)) < 5 * (p * (1 - p) / x.numel()) ** 0.5
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y)
    assert Dropout(p).eval()(x) is x


def test_dropout_strided_view_and_bfloat16():
    x = torch.randn(4, 6, 5, dtype=torch.bfloat16)[:, ::2].transpose(0, 1)
    y = Dropout(0.5)(x)
    assert y.dtype == torch.bfloat16
    assert bool(((y == 0) | (y == 2 * x)).all())


def test_batch_norm_matches_torch_in_double():
    """Output, gradients and running statistics of the float32 CPU path against nn.BatchNorm2d in double."""
    torch.manual_seed(0)
    ours, theirs = BatchNorm(8), nn.BatchNorm2d(8).double()
    ours.weight.data.uniform_(0.5, 1.5)
    ours.bias.data.normal_()
    theirs.load_state_dict(ours.state_dict())
    x = (torch.randn(6, 8, 7, 5) * 3 + 10).to(memory_format=torch.channels_last)
    a, b = x.clone().requires_grad_(), x.double().requires_grad_()
    grad = torch.randn_like(x)
    ours(a).backward(grad)
    theirs(b).backward(grad.double())
    for got, want in ((a.grad, b.grad), (ours.weight.grad, theirs.weight.grad), (ours.bias.grad, theirs.bias.grad)):
        assert rms_error(got, want) < 1e-5
    assert rms_error(ours(x), theirs(x.double())) < 1e-6
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name).double(), buffer.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 3])
def test_gradients_of_groups_keep_their_memory_format(monkeypatch, groups):
    """Parts of a batch that lie channels-last get gradients that do: nothing behind them has to be copied."""
    monkeypatch.setenv("HICLR_KERNELS", "reference")
    norm = BatchNorm(16)
    norm.groups = groups
    seen = []
    x = torch.randn(6, 16, 10, 25).to(memory_format=torch.channels_last).requires_grad_().exp()
    x.register_hook(lambda grad: seen.append(grad.is_contiguous(memory_format=torch.channels_last)))
    norm(x).backward(torch.randn(6, 16, 10, 25).to(memory_format=torch.channels_last))
    assert seen == [True]
