"""Views as the loop makes them: strengths from the config, the generator's known answers, the strong operations against
the official recordings, and that nothing repeats but the same (seed, step, sample, view)."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from helpers import packed, tiny
from hiclr_kernels.augment import draw_views
from hiclr_kernels.augment.draw import ViewStrength, blur_taps, rotation
from hiclr_kernels.philox.reference import philox

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.models.dsta import DSTA
from hiclr_fast.models.stgcn import STGCN
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.start import start
from hiclr_fast.pretraining.trainer import Pretrainer
from hiclr_fast.skeletons import LAYOUTS
from hiclr_fast.views.augment import AugmentConfig, make_views, view_strength
from hiclr_fast.views.strong import adain, add_attention_edges, add_edges, draw_graphs, draw_roll, drop_edges

NTU = LAYOUTS["ntu25"]
KINDS = ("basic", "normal", "strong", "basic")
IDS = torch.arange(16)


def views(kinds=KINDS, config=None, ids=IDS[:4], x=None, step=0, seed=0, **kw):
    x = torch.randn(16, 3, 20, 25, 2, generator=torch.Generator().manual_seed(0)) if x is None else x
    return make_views(x, ids, ids, kinds, config or AugmentConfig(), NTU, seed=seed, step=torch.tensor(step), **kw)


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [  # known-answer vectors of philox4x32-10, Random123 distribution
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, want):
    assert tuple(int(w) for w in philox(key, *(torch.tensor(c) for c in counter))) == want


def test_view_sets_are_those_of_the_release():
    config = AugmentConfig()
    assert view_strength("basic", config, 50, 25) == ViewStrength(padding=8, shear=0.5)
    normal = ViewStrength(8, 0.5, 0.5, 30.0, 1.0, 0.01, 0.5, (0.1, 2.0), 0.5, False, 0.5, 0.0, 0)
    assert view_strength("normal", config, 50, 25) == normal
    assert view_strength("strong", config, 50, 25) == replace(normal, masked_joints=2)
    assert [view_strength("strong", config, 50, v).masked_joints for v in (25, 20, 17, 9)] == [2, 2, 1, 0]
    with pytest.raises(ValueError, match="unknown view set 'hard'"):
        views(("hard",))


def test_views_are_a_function_of_seed_step_sample_and_view():
    x = torch.randn(16, 3, 20, 25, 2)
    first = views(x=x)
    for a, b in zip(first, views(x=x), strict=True):
        assert torch.equal(a, b)
    alone = views(x=x, ids=IDS[2:3])
    for a, b in zip(first, alone, strict=True):
        assert torch.equal(a[2:3], b)
    for other in (views(x=x, seed=1), views(x=x, step=1)):
        assert all(not torch.equal(a[i], b[i]) for a, b in zip(first, other, strict=True) for i in range(4))
    assert not torch.equal(first[0], first[3])


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_backends_make_the_same_views(monkeypatch, stream):
    fill = torch.tensor([0.5])
    monkeypatch.setenv("HICLR_KERNELS", "reference")
    want = views(stream=stream, fill=fill)
    monkeypatch.setenv("HICLR_KERNELS", "cpu")
    for out, twin in zip(views(stream=stream, fill=fill), want, strict=True):
        torch.testing.assert_close(out, twin, rtol=0, atol=2e-5)


def test_only_masked_views_carry_a_gradient():
    fill = torch.nn.Parameter(torch.tensor([0.5]))
    assert [v.requires_grad for v in views(fill=fill)] == [False, False, True, False]
    config = AugmentConfig(adain="sequence")
    out = views(config=config, fill=fill)
    assert [v.requires_grad for v in out] == [False, False, True, False]
    out[2].sum().backward()
    assert fill.grad.item() == pytest.approx(4 * 3 * 20 * 2 * 2)  # samples, coordinates, frames, joints, bodies


def test_padding_of_short_sequences():
    for frames in (1, 5, 6, 37, 50):
        strength = view_strength("basic", AugmentConfig(), frames, 25)
        shift = draw_views([strength], torch.arange(4000), torch.tensor(0), seed=0, frames=frames, joints=25).rows[:, 0, 27]
        assert shift.min() == -(frames // 6) and shift.max() == frames // 6


def test_rotation_convention_and_taps():
    r = rotation(torch.tensor([0.0, 0.0, math.pi / 2]))
    torch.testing.assert_close(r @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, -1, 0]), atol=1e-6, rtol=0)
    taps = blur_taps(torch.tensor([2.0, 2.0, 1.0]), torch.tensor([True, True, False]), normalized=False)
    assert taps[0].sum() == pytest.approx(5.01, abs=0.01)  # the recorded gain of the official, un-normalised taps
    assert taps[2].tolist() == [0.0] * 7 + [1.0] + [0.0] * 7
    assert blur_taps(torch.tensor([2.0]), torch.tensor([True]), normalized=True).sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("mode", "name"), [("sequence", "TV"), ("frame", "V")])
def test_adain_against_the_recording(golden, mode, name):
    g = golden("augment")
    out = adain(g.t("adain/content"), g.t("adain/style"), mode)
    torch.testing.assert_close(out, g.t(f"adain/{name}/out_f64"), rtol=0, atol=1e-12)


def test_edges_against_the_recording(golden):
    g = golden("augment")
    graph = g.t("edges/stgcn/A")
    dropped = drop_edges(graph, g.t("edges/stgcn/drop_graph/kept"), g.t("edges/stgcn/drop_graph/r"))
    torch.testing.assert_close(dropped, g.t("edges/stgcn/drop_graph/out"), rtol=0, atol=1e-7)
    added = add_edges(graph, g.t("edges/stgcn/randadd/kept"))
    torch.testing.assert_close(added, g.t("edges/stgcn/randadd/out"), rtol=0, atol=1e-7)
    torch.testing.assert_close(added.sum(), graph.sum())


def test_attention_edges_against_the_recording(golden):
    g = golden("augment")
    attention = g.t("edges/dsta/attention")
    dropped = drop_edges(attention, g.t("edges/dsta/drop_graph/kept"), g.t("edges/dsta/drop_graph/r"))
    torch.testing.assert_close(dropped, g.t("edges/dsta/drop_graph/out"), rtol=0, atol=1e-7)
    added = add_attention_edges(dropped, g.t("edges/dsta/randadd/kept"))
    torch.testing.assert_close(added, g.t("edges/dsta/randadd/out"), rtol=0, atol=1e-7)
    torch.testing.assert_close(added.sum(), dropped.sum())


def test_encoder_with_dropped_edges_against_the_recording(golden):
    """The official forward pass with another graph in every block."""
    from hiclr_fast.models.official import official_name

    g = golden("stgcn_eval")
    model = STGCN(g.t("encoder_q.A")).double().eval()
    model.load_state_dict({k: g.t(f"encoder_q.{official_name(k)}", v.dtype) for k, v in model.state_dict().items()})
    graphs = drop_edges(model.A, g.t("dae/kept"), g.t("dae/r_drop")[:, None, None, None])
    out = model(g.t("x"), graphs)
    torch.testing.assert_close(out, g.t("dae/out"), rtol=0, atol=2e-5)
    assert not torch.allclose(out, model(g.t("x")), atol=1e-2)


def test_adain_gives_a_view_the_statistics_of_another():
    ids = IDS[:6]
    config = AugmentConfig(mask_ratio=0.0)
    plain = views(config=config, ids=ids)
    out = views(config=replace(config, adain="sequence"), ids=ids)
    for a, b in ((out[0], plain[0]), (out[1], plain[1]), (out[3], plain[3])):
        assert torch.equal(a, b)
    partner = draw_roll(6, seed=0, step=torch.tensor(0), view=2)
    assert sorted(partner.tolist()) == list(range(6)) and not (partner == torch.arange(6)).any()
    torch.testing.assert_close(out[2].mean((2, 3)), plain[2][partner].mean((2, 3)), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="a batch of 2: SkeleAdaIN needs at least 3"):
        views(config=replace(config, adain="frame"), ids=IDS[:2])


def test_graphs_are_drawn_for_strong_views_alone():
    encoder = STGCN(torch.rand(3, 25, 25).bernoulli())
    draw = dict(seed=0, step=torch.tensor(5))
    assert draw_graphs(KINDS, 0.0, 0.0, encoder, 12, **draw) is None
    found = draw_graphs(KINDS, 0.1, 0.05, encoder, 12, **draw)
    assert [f is None for f in found] == [True, True, False, True]
    assert len({layer.sum().item() for layer in found[2]}) > 5  # every layer its own
    again = draw_graphs(KINDS, 0.1, 0.05, encoder, 12, **draw)
    assert torch.equal(found[2], again[2])
    later = draw_graphs(KINDS, 0.1, 0.05, encoder, 12, seed=0, step=torch.tensor(6))
    assert not torch.equal(found[2], later[2])
    only_added = draw_graphs(KINDS, 0.0, 0.05, encoder, 12, **draw)[2]
    torch.testing.assert_close(only_added.sum((1, 2, 3)), encoder.A.sum().expand(10))
    assert bool((only_added[:, encoder.A > 0] > 0).all())


def test_attention_edges_are_drawn_for_every_row_and_layer():
    """A pure function of seed, step, view and layer: torch's generator takes no part."""
    encoder, draw = DSTA(25, hidden_channels=2, hidden_dim=8), dict(seed=0, step=torch.tensor(5))
    found = draw_graphs(KINDS, 0.1, 0.05, encoder, 12, **draw)
    assert [f is None for f in found] == [True, True, False, True]
    torch.manual_seed(1)
    again = draw_graphs(KINDS, 0.1, 0.05, encoder, 12, **draw)[2]
    assert all(torch.equal(a, b) for a, b in zip(found[2], again, strict=True))
    rate, kept, added = found[2]
    assert kept.shape == added.shape == (8, 12, 3, 25, 25)
    assert len(set(rate.flatten().tolist())) == 8 and rate.min() >= 0 and rate.max() < 0.1
    share = 1 - kept.float().mean((1, 2, 3, 4))
    torch.testing.assert_close(share, rate.flatten(), rtol=0, atol=5 * (0.09 / kept[0].numel()) ** 0.5)
    assert 0 < added.float().mean() < 0.05
    for a, b in combinations(kept[:, 0].unbind(), 2):
        assert not torch.equal(a, b)
    assert not torch.equal(kept[:, 0], kept[:, 1])
    for change in (dict(seed=1, step=torch.tensor(5)), dict(seed=0, step=torch.tensor(6))):
        assert not torch.equal(draw_graphs(KINDS, 0.1, 0.05, encoder, 12, **change)[2].kept, kept)


def test_the_loop_trains_with_every_strong_operation(tmp_path):
    data = open_packed(packed(tmp_path / "set"))
    config = tiny(epochs=1, knn_every=0, augment=AugmentConfig(adain="frame", edge_drop=0.1, edge_add=0.05))
    sums = {}
    for name, c in (("all", config), ("release", replace(config, augment=AugmentConfig()))):
        trainer = Pretrainer(c, data)
        trainer.train_step(next(trainer.loader.epoch(1)))
        sums[name] = trainer.train.sums
    assert sums["all"][1] == pytest.approx(sums["release"][1].item(), rel=1e-5)  # InfoNCE sees the basic view alone
    assert abs(sums["all"][3] - sums["release"][3]) > 1e-6  # the strong branch's consistency
    assert train(start(config, data, tmp_path / "run"), tmp_path / "run")
