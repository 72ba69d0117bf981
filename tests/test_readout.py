"""Pooling per part and per joint, in an encoder and as a readout of any frozen one."""

import pytest
import torch
from helpers import tiny

from hiclr_fast.models.build import build_encoder
from hiclr_fast.models.load import encoder_from_state
from hiclr_fast.models.pooling import pool_rows, pooling_matrix
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
