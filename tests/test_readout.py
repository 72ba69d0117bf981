"""Pooling per part and per joint, in an encoder and as a readout of any frozen one."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from helpers import packed, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.evaluation.features import extract
from hiclr_fast.evaluation.protocols.knn import nearest
from hiclr_fast.evaluation.spaces import choose_space, in_space, inner_groups
from hiclr_fast.models.build import build_encoder
from hiclr_fast.models.load import encoder_from_state
from hiclr_fast.models.pooling import Readout, pool_rows, pooling_matrix
from hiclr_fast.pretraining.monitor import COMPARISON, compare
from hiclr_fast.pretraining.start import start
from hiclr_fast.skeletons import LAYOUTS

NTU = LAYOUTS["ntu25"]


def test_means_by_hand():
    x = torch.arange(2 * 3 * 4 * 25, dtype=torch.float64).view(2, 3, 4, 25)
    assert torch.equal(pool_rows(x), x.mean((2, 3)))
    parts = pool_rows(x, pooling_matrix(NTU, "parts").double(), segments=2)
    want = [x[:, :, span][..., list(joints)].mean((2, 3)) for span in (slice(0, 2), slice(2, 4)) for _, joints in NTU.parts]
    torch.testing.assert_close(parts, torch.cat(want, 1).to(parts), rtol=1e-6, atol=1e-4)
    assert pool_rows(x, pooling_matrix(NTU, "joints").double()).shape == (2, 25 * 3)
    torch.testing.assert_close(pooling_matrix(NTU, "all") @ torch.ones(25), torch.ones(1))


@pytest.mark.parametrize("kind", ["stgcn", "dsta"])
def test_an_encoder_of_parts_keeps_the_sides_apart_and_comes_back_from_its_state(kind):
    torch.manual_seed(0)
    config = tiny(encoder=kind, pool="parts", hidden_channels=4, hidden_dim=16)
    encoder = build_encoder(config, NTU).eval()
    x = torch.randn(2, 3, 8, 25, 2)
    features = encoder.features(x)
    assert features.shape == (2, 5 * 16) and encoder(x).shape == (2, 8)
    back, fields = encoder_from_state(encoder.state_dict(), "test")
    assert torch.equal(back.eval().features(x), features) and fields["hidden_dim"] == 16
    whole = build_encoder(tiny(encoder=kind, hidden_channels=4, hidden_dim=16), NTU).eval()
    plain = whole.features(x)
    whole.set_pooling(pooling_matrix(NTU, "all"))
    torch.testing.assert_close(whole.features(x), plain, rtol=1e-5, atol=1e-6)
    whole.set_pooling(None)
    assert torch.equal(whole.features(x), plain)


def test_the_comparison_at_the_end_is_the_readout_and_space_that_are_best_inside_the_training_split(tmp_path):
    data = open_packed(packed(tmp_path / "set"))
    trainer = start(replace(tiny(), data=data.path), data, tmp_path / "run")
    found = compare(trainer, tmp_path / "run")
    assert found["segments"]["raw"] == 1 and json.loads((tmp_path / "run" / COMPARISON).read_text()) == found
    group, scores = inner_groups(data["train"], data["val"])[1], {}
    for segments in (1, 2, 4):
        encoder = copy.deepcopy(trainer.model.encoder_q)
        Readout(segments=segments).set(encoder, data.layout)
        sides = [extract(encoder, data[s], data.layout, "joint", torch.device("cpu")) for s in ("train", "val")]
        for space, percent in choose_space(sides[0], group, nearest)[1].items():
            scores[segments, space] = percent, nearest(*in_space(*sides, space))
    said = found["segments"]["pretrained"], found["spaces"]["pretrained"]
    assert scores[said][0] == max(inner for inner, _ in scores.values()) and found["pretrained"] == scores[said][1]
    assert trainer.model.encoder_q.segments == 1
