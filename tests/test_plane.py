"""Views of poses in a plane: they stay in it, the third channel is left alone, and every backend makes the same."""

import pytest
import torch
from hiclr_kernels.augment.draw import MATRIX, NOISE

from hiclr_fast.skeletons import LAYOUTS, METRES, Space
from hiclr_fast.views.augment import AugmentConfig, draw, make_views, view_strength

COCO = LAYOUTS["coco17"]
KINDS = ("basic", "normal", "strong", "basic")
SCORE, ZERO = Space("body", "score", 1.0), Space("body", "zero", 1.0)
IDS = torch.arange(64)


def poses(third: str) -> torch.Tensor:
    x = torch.rand(64, 3, 20, 17, 2, generator=torch.Generator().manual_seed(0))
    x[:, :2] -= 0.5
    if third == "zero":
        x[:, 2] = 0
    return x


def views(space, x=None, kinds=KINDS, config=None, stream="joint", step=0):
    x = poses(space.third) if x is None else x
    how = dict(seed=3, step=torch.tensor(step), stream=stream, space=space)
    return make_views(x, IDS[: len(x)], IDS[: len(x)], kinds, config or AugmentConfig(), COCO, **how)


def rows(space, config=None):
    how = dict(seed=3, frames=20, joints=17)
    return draw(KINDS, config or AugmentConfig(), space, torch.arange(500), torch.tensor(0), **how).rows


def test_matrices_stay_in_the_plane():
    matrix, noise = rows(SCORE)[..., MATRIX:NOISE].unflatten(-1, (3, 3)), rows(SCORE)[..., NOISE : NOISE + 3]
    assert (matrix[..., 2, 2] == 1).all() and not matrix[..., :2, 2].any() and not matrix[..., 2, :2].any()
    assert not noise[..., 2].any() and noise[..., :2].any()
    hidden = ~matrix[:, 1, :2, :2].any(-1)  # (N, 2) of the normal view
    share = hidden.float().mean(0)
    assert (share - 1 / 6).abs().max() < 0.06 and not hidden.all(1).any()
    basic = matrix[:, 0, :2, :2]  # a shear alone
    assert (basic.diagonal(dim1=1, dim2=2) == 1).all() and 0.4 < basic[:, 0, 1].abs().max() < 0.5


def test_rotation_is_one_of_the_plane_to_both_sides():
    config = AugmentConfig(shear=0.0, axis_p=0.0)
    matrix = rows(ZERO, config)[:, 1, MATRIX:NOISE].unflatten(-1, (3, 3))[:, :2, :2]
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(2).expand_as(matrix), rtol=0, atol=1e-6)
    angle = torch.rad2deg(torch.atan2(matrix[:, 0, 1], matrix[:, 0, 0]))
    assert -30 < angle.min() < -25 and 25 < angle.max() < 30 and angle.mean().abs() < 3


def test_the_third_channel_is_left_alone():
    """Whatever is in it, x and y are the same; a zero stays zero; a score is that of the frames and joints of the view."""
    config = AugmentConfig(mask_ratio=0.0)
    for with_score, with_zero in zip(views(SCORE, config=config), views(Space("body", "zero", 1.0), config=config), strict=True):
        assert not with_zero[:, 2].any() and with_score[:, 2].min() >= 0 and with_score[:, 2].max() <= 1
    still = AugmentConfig(mask_ratio=0.0, blur_p=0.0, flip_p=0.0, crop_ratio=1000)
    for view in views(SCORE, config=still):
        torch.testing.assert_close(view[:, 2], poses("score")[:, 2], rtol=0, atol=0)
    x = poses("score")
    nothing = x * torch.tensor([1, 1, 0.0])[:, None, None, None]
    for a, b in zip(views(ZERO, x, config=still), views(ZERO, nothing, config=still), strict=True):
        torch.testing.assert_close(a[:, :2], b[:, :2], rtol=0, atol=0)


def test_adain_leaves_the_score():
    still = AugmentConfig(mask_ratio=0.0, blur_p=0.0, flip_p=0.0, crop_ratio=1000, adain="sequence")
    torch.testing.assert_close(views(SCORE, config=still, kinds=("strong",))[0][:, 2], poses("score")[:, 2], rtol=0, atol=0)


def test_noise_is_a_centimetre_of_a_person_in_every_unit():
    spaces = METRES, Space("m", "depth", 300.0), ZERO, Space("image", "zero", 0.5)
    for space, want in zip(spaces, (0.01, 0.01, 0.01 / 1.45, 0.005 / 1.45), strict=True):
        assert view_strength("normal", AugmentConfig(), 20, 17, space).noise_std == pytest.approx(want)
    assert not view_strength("normal", AugmentConfig(), 20, 17, ZERO).blur_normalized
    assert view_strength("normal", AugmentConfig(), 20, 17, SCORE).blur_normalized


@pytest.mark.parametrize("stream", ["joint", "bone"])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_every_backend_makes_the_same(monkeypatch, backend, stream):
    if backend == "triton":
        pytest.importorskip("triton", reason="Triton is not installed")
    x = poses("score")[:3]
    monkeypatch.setenv("HICLR_KERNELS", "reference")
    want = views(SCORE, x, stream=stream)
    monkeypatch.setenv("HICLR_KERNELS", backend)
    for a, b in zip(views(SCORE, x, stream=stream), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_set_in_space_is_seen_as_before():
    x = poses("score")
    plain = make_views(x, IDS, IDS, KINDS, AugmentConfig(), COCO, seed=3, step=torch.tensor(0))
    for a, b in zip(plain, views(METRES, x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
