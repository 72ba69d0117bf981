"""The exchange of mean poses between samples of a batch."""

import torch

from hiclr_fast.skeletons import LAYOUTS
from hiclr_fast.views.augment import AugmentConfig, make_views
from hiclr_fast.views.pose import draw_exchange, exchange_poses

NTU = LAYOUTS["ntu25"]


def test_the_mean_moves_and_the_motion_stays():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 5, 2, dtype=torch.float64)
    x[1, ..., 1] = 0  # this one is alone
    partner, share = torch.tensor([1, 2, 3, 0]), torch.tensor([0.5, 0.25, 1.0, 0.0])
    out, pose = exchange_poses(x, partner, share), x.mean(2, keepdim=True)
    torch.testing.assert_close(out - out.mean(2, keepdim=True), x - pose)
    torch.testing.assert_close(out[2].mean(1), pose[3].squeeze(1))
    torch.testing.assert_close(out[0, ..., 0].mean(1), (pose[0] + pose[1])[..., 0].squeeze(1) / 2)
    assert torch.equal(out[0, ..., 1], x[0, ..., 1]) and torch.equal(out[1, ..., 1], x[1, ..., 1]) and torch.equal(out[3], x[3])


def test_frames_without_a_body_stay_empty_and_are_no_part_of_its_mean():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 5, 2, dtype=torch.float64)
    x[0, :, 4:, :, 1] = 0  # the second body left
    out = exchange_poses(x, torch.tensor([1, 0]), torch.tensor([1.0, 1.0]))
    assert torch.equal(out[0, :, 4:, :, 1], x[0, :, 4:, :, 1])
    torch.testing.assert_close(out[0, :, :4, :, 1].mean(1), x[1, ..., 1].mean(1))
    torch.testing.assert_close(out[1, ..., 1].mean(1), x[0, :, :4, :, 1].mean(1))


def test_draws_are_functions_of_seed_step_sample_and_view():
    sample, step = torch.tensor([7, 3, 9, 1]), torch.tensor(5)
    partner, share = draw_exchange(sample, 0.5, seed=1, step=step, view=2)
    assert (partner != torch.arange(4)).all() and share.min() >= 0 and share.max() < 0.5
    assert torch.equal(share, draw_exchange(sample, 0.5, seed=1, step=step, view=2)[1])
    assert torch.equal(share.flip(0), draw_exchange(sample.flip(0), 0.5, seed=1, step=step, view=2)[1])
    for change in (dict(seed=2), dict(step=step + 1), dict(view=1)):
        assert not torch.equal(share, draw_exchange(sample, 0.5, **{**dict(seed=1, step=step, view=2), **change})[1])


def test_views_of_every_backend_and_off_by_default(monkeypatch):
    torch.manual_seed(0)
    x, index, ids = torch.randn(5, 3, 12, 25, 1), torch.tensor([4, 0, 2]), torch.tensor([40, 10, 20])
    how = dict(seed=3, step=torch.tensor(2))
    config, found = AugmentConfig(pose_swap=(0.0, 1.0, 1.0)), {}
    for backend in ("reference", "cpu"):
        monkeypatch.setenv("HICLR_KERNELS", backend)
        off = make_views(x, index, ids, ("basic", "normal", "strong"), AugmentConfig(), NTU, **how)
        on = make_views(x, index, ids, ("basic", "normal", "strong"), config, NTU, **how)
        torch.testing.assert_close(on[0], off[0])
        assert not torch.allclose(on[1], off[1]) and not torch.allclose(on[2], off[2])
        found[backend] = on
    torch.testing.assert_close(found["reference"], found["cpu"], rtol=1e-5, atol=1e-5)
