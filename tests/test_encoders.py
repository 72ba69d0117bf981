"""Encoders from a config, from our files, and from official checkpoints, whose keys are written out here by hand."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import packed, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.models.build import build_encoder
from hiclr_fast.models.config import EncoderConfig
from hiclr_fast.models.load import load_encoder, save_official
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.start import finish, start
from hiclr_fast.skeletons import LAYOUTS

BN = {"weight": True, "bias": True, "running_mean": True, "running_var": True, "num_batches_tracked": False}


def stgcn_keys(prefix: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the ST-GCN of SkeletonCLR and AimCLR (net/st_gcn.py, mlp head): hidden 16, 256 features, 25 joints."""
    keys = {"A": (3, 25, 25)} | {f"data_bn.{k}": (75,) if sized else () for k, sized in BN.items()}

    def conv(name, *shape):
        keys.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    def norm(name, width):
        keys.update({f"{name}.{k}": (width,) if sized else () for k, sized in BN.items()})

    widths = [3, 16, 16, 16, 16, 32, 32, 32, 64, 64, 256]
    for i, (c_in, c_out) in enumerate(pairwise(widths)):
        block = f"st_gcn_networks.{i}"
        conv(f"{block}.gcn.conv", 3 * c_out, c_in, 1, 1)
        norm(f"{block}.tcn.0", c_out)
        conv(f"{block}.tcn.2", c_out, c_out, 9, 1)
        norm(f"{block}.tcn.3", c_out)
        if i in (4, 7, 9):
            conv(f"{block}.residual.0", c_out, c_in, 1, 1)
            norm(f"{block}.residual.1", c_out)
        keys[f"edge_importance.{i}"] = (3, 25, 25)
    conv("fc.0", 256, 256)
    conv("fc.2", 128, 256)
    return {prefix + name: shape for name, shape in keys.items()}


@pytest.fixture
def skeletonclr(golden):
    """A checkpoint as SkeletonCLR and AimCLR save theirs, with HiCLR's recorded weights in it."""
    g = golden("stgcn_eval")
    weights = {name: torch.from_numpy(g[name]) for name in g.names("encoder_q.")}
    for i in range(10):
        weights[f"encoder_q.edge_importance.{i}"] = weights.pop(f"encoder_q.edge_importance{i + 1}")
    assert {name: tuple(t.shape) for name, t in weights.items()} == stgcn_keys("encoder_q.")
    weights |= {name: torch.zeros(shape) for name, shape in stgcn_keys("encoder_k.").items()}
    return weights | {"queue": torch.zeros(128, 32768), "queue_ptr": torch.zeros(1, dtype=torch.int64)}


@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_skeletonclr_and_aimclr_weights(golden, skeletonclr, tmp_path, prefix):
    g = golden("stgcn_eval")
    torch.save({prefix + name: t for name, t in skeletonclr.items()}, tmp_path / "official.pt")
    encoder, config = load_encoder(tmp_path / "official.pt", "official")
    assert config == EncoderConfig(layout="ntu25")
    assert (encoder(g.t("x", torch.float32)) - g.t("f64/out", torch.float32)).abs().max() < 1e-5
    for block in encoder.blocks:  # they matter: 1 everywhere is another encoder
        block.edge_importance.fill_(1)
    assert (encoder(g.t("x", torch.float32)) - g.t("f64/out", torch.float32)).abs().max() > 1e-2


@pytest.mark.parametrize(("stem", "name", "noise"), [("stgcn_eval", "stgcn", 1e-5), ("dsta_eval", "dsta", 2e-4)])
@torch.no_grad()
def test_hiclr_weights_of_both_encoders(golden, tmp_path, stem, name, noise):
    g = golden(stem)
    torch.save({key: torch.from_numpy(g[key]) for key in g.names("encoder_q.")}, tmp_path / "official.pt")
    for file in (g.path, tmp_path / "official.pt"):
        encoder, config = load_encoder(file, "official")
        assert config == EncoderConfig(encoder=name, layout="ntu25")
        assert (encoder(g.t("x", torch.float32)) - g.t("f64/out", torch.float32)).abs().max() < noise
    save_official(encoder, 50, tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert set(back) >= set(g.names("encoder_q.")) and {n.rsplit(".", 1)[-1] for n in set(back) - set(g.names(""))} <= {"pe"}
    for key in g.names("encoder_q."):  # the encoding is computed, to a last bit that may differ between machines
        torch.testing.assert_close(back[key], torch.from_numpy(g[key]), rtol=0, atol=2e-7 if key.endswith(".pe") else 0)


def test_official_checkpoints_that_do_not_fit(skeletonclr, tmp_path):
    def message(change):
        torch.save({k: t for k, t in (skeletonclr | change).items() if t is not None}, tmp_path / "w.pt")
        with pytest.raises(InputError) as caught:
            load_encoder(tmp_path / "w.pt", "official")
        return str(caught.value)

    assert "ends in a class head" in message({"encoder_q.fc.weight": torch.zeros(60, 256)})
    assert "not the weights of an ST-GCN or DSTA-Net" in message({"encoder_q.edge_importance.3": None})
    assert "not the weights of an ST-GCN or DSTA-Net" in message({"encoder_q.fc.2.weight": 3})
    narrow = {"encoder_q.st_gcn_networks.2.tcn.2.weight": torch.zeros(16, 16, 7, 1)}
    assert "blocks.2.conv.weight is torch.float32 (16, 16, 7, 1), expected (16, 16, 9, 1)" in message(narrow)


@pytest.mark.parametrize("encoder", ["stgcn", "dsta"])
def test_our_files_bring_back_encoder_sizes_and_dropout(tmp_path, encoder):
    data = open_packed(packed(tmp_path / "set", layout="kinect20"))
    run, config = tmp_path / "run", tiny(encoder=encoder, epochs=1, dropout=0.25, hidden_channels=3)
    trainer = start(config, data, run)
    assert train(trainer, run)
    finish(trainer, run)
    x = torch.randn(2, 3, 16, 20, 1)
    for name in ("checkpoint.pt", "encoder.safetensors"):
        found, saved = load_encoder(run / name)
        assert saved == replace(config, layout="kinect20").of_encoder() and found.blocks[1].dropout.p == 0.25
        torch.testing.assert_close(found(x), trainer.model.encoder_q.eval()(x), rtol=1e-5, atol=1e-6)


def test_both_encoders_offer_the_same_interface():
    for name in ("stgcn", "dsta"):
        config = tiny(encoder=name, hidden_channels=2, hidden_dim=8, feature_dim=4)
        encoder = build_encoder(config, LAYOUTS["ntu25"])
        x = torch.randn(3, 3, 16, 25, 2)
        assert encoder.num_joints == 25 and encoder(x, None).shape == (3, 4) and encoder.features(x).shape == (3, 8)
        assert encoder.edge_shape(6)[-2:] == (25, 25) and len(encoder.blocks) > 1
