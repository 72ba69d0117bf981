"""DSTA-Net against the recorded official encoder, block by block."""

import pytest
import torch
from conftest import rms_error
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from hiclr_fast.models.dsta import DSTA
from hiclr_fast.models.official import official_name
from hiclr_fast.models.stgcn import init_official
from hiclr_fast.views.strong import Edges, draw_graphs

BUFFERS = ("atts", "pes.pe")  # constants of the official blocks that ours do not load


@pytest.fixture
def encoder(golden):
    g = golden("dsta_eval")
    model = DSTA(25)
    state = {name: g.t(f"encoder_q.{official_name(name)}", t.dtype) for name, t in model.state_dict().items()}
    model.load_state_dict(state)
    assert len(state) == len([name for name in g.names("encoder_q.") if not name.endswith(BUFFERS)])
    return model.eval()


def test_the_joint_encoding_is_the_recorded_one(golden, encoder):
    g = golden("dsta_eval")
    for i, block in enumerate(encoder.blocks):
        recorded = g.t(f"encoder_q.graph_layers.{i}.pes.pe", torch.float32)[0]
        torch.testing.assert_close(block.encoding.expand_as(recorded), recorded, rtol=0, atol=2e-7)
        assert g[f"encoder_q.graph_layers.{i}.atts"].max() == 0


@torch.no_grad()
def test_outputs_in_double(golden, encoder):
    g, model = golden("dsta_eval"), encoder.double()
    x = g.t("x")
    torch.testing.assert_close(model.features(x), g.t("f64/pooled"), rtol=1e-8, atol=1e-8)
    out = model(x)
    torch.testing.assert_close(out, g.t("f64/out"), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(nn.functional.normalize(out), g.t("f64/out_normalized"), rtol=1e-8, atol=1e-8)


@torch.no_grad()
def test_blocks_in_float32(golden, encoder):
    g = golden("dsta_eval")
    rows = g["rows"].tolist()
    x = encoder.embed(g.t("x", torch.float32))
    for i, name in enumerate(("input_map", *(f"layer{i}" for i in range(8)))):
        x = encoder.blocks[i - 1](x) if i else x
        assert rms_error(x[rows], g[f"inter/{name}_rows"]) < 1e-5, name
        assert rms_error(x.mean((2, 3)), g[f"inter/{name}_mean_TV"]) < 1e-5, name
        assert rms_error(x.std((2, 3), correction=0), g[f"inter/{name}_std_TV"]) < 1e-5, name


@torch.no_grad()
def test_float32_within_the_recorded_noise(golden, encoder):
    g = golden("dsta_eval")
    assert (encoder(g.t("x", torch.float32)) - g.t("out", torch.float32)).abs().max() < 2e-4  # of outputs up to 135


@torch.no_grad()
def test_dropped_and_added_attention_edges_against_the_recording(golden, encoder):
    g = golden("dsta_eval")
    rate = g.t("dae/r_drop", torch.float32).view(8, 1, 1, 1, 1)
    edges = Edges(rate, g.t("dae/kept_drop", torch.bool), g.t("dae/kept_add", torch.bool))
    out = encoder(g.t("x", torch.float32)[:1], edges)
    assert rms_error(out, g["dae/out"]) < 1e-5


def test_default_size_is_the_release():
    model = DSTA(25)
    assert [block.ff[0].out_channels for block in model.blocks] == [32, 32, 64, 64, 128, 128, 128, 256]
    assert [block.qk.out_channels for block in model.blocks] == [2 * 3 * c for c in (16, 16, 16, 16, 32, 32, 32, 32)]
    assert model(torch.randn(2, 3, 50, 25, 2)).shape == (2, 128)


@pytest.mark.parametrize("shape", [(1, 3, 17, 20, 1), (3, 3, 64, 25, 3)])
def test_any_length_joints_bodies(shape):
    assert DSTA(shape[3], hidden_channels=2, hidden_dim=8).eval()(torch.randn(shape)).shape == (shape[0], 128)


def test_dropout_acts_on_the_temporal_shortcut_only():
    """With all of it dropped, a block is its temporal convolution; everything before it draws nothing."""
    torch.manual_seed(0)
    model = DSTA(25, hidden_channels=2, hidden_dim=8, dropout=1 - 1 / 65536)
    block, x = model.blocks[0], torch.randn(2, 4, 8, 25)
    seen = []
    block.temporal.register_forward_hook(lambda module, args, out: seen.append(out))
    out, again = block(x), block(x)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)
    torch.testing.assert_close(out, nn.functional.leaky_relu(seen[0], 0.1), rtol=0, atol=0)
    torch.testing.assert_close(again, out, rtol=0, atol=0)


def test_gradients_reach_every_parameter_and_half_precision_is_close():
    torch.manual_seed(0)
    model = DSTA(25, hidden_channels=4, hidden_dim=16, feature_dim=8, dropout=0.0)
    init_official(model)
    for p in model.parameters():
        p.data.mul_(5)
    x = torch.randn(4, 3, 20, 25, 2)
    full = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x)
    assert rms_error(half, full) < 0.05
    full.square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name


def test_a_training_pass_with_drawn_edges_reads_nothing_from_the_device(monkeypatch):
    """Draws, forward and backward on tensors without values: any read of a value raises. Kernels as plain torch."""
    monkeypatch.setenv("HICLR_KERNELS", "reference")
    with FakeTensorMode():
        model = DSTA(25, hidden_channels=2, hidden_dim=8, feature_dim=4).train()
        graphs = draw_graphs(("basic", "strong"), 0.1, 0.05, model, 6, seed=0, step=torch.zeros((), dtype=torch.int64))
        out = model(torch.randn(3, 3, 16, 25, 2), graphs[1])
        out.sum().backward()
        assert out.shape == (3, 4) and all(p.grad is not None for p in model.parameters())
        with pytest.raises(DataDependentOutputException):
            out.sum().item()
