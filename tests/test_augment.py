"""The draws: known answers of the generator, ranges, and that nothing repeats but the same (seed, step, sample, view)."""

import math

import pytest
import torch
from hiclr_kernels.philox_ref import normal, philox, uniform

from hiclr_fast.augment import AugmentConfig, blur_taps, draw_view, make_views, rotation
from hiclr_fast.skeletons import LAYOUTS

NTU = LAYOUTS["ntu25"]
SHAPE = (3, 50, 25, 2)
IDS = torch.arange(4000)


def draw(kind="normal", ids=IDS[:64], shape=SHAPE, config=None, **kw):
    return draw_view(kind, config or AugmentConfig(), **{**dict(seed=1, step=3, view=0), **kw}, sample=ids, shape=shape)


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


def test_uniform_and_normal_moments():
    one = torch.tensor([1])
    u = uniform(5, one, one, one, 100_001)[0]
    assert u.shape == (100_001,) and u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / 1e5) ** 0.5
    z = normal(5, one, one, one, 100_001, first_block=0)[0].double()
    assert abs(z.mean()) < 5e-2 / 10 and abs(z.std() - 1) < 2e-2
    assert abs((z.abs() < 1.959964).double().mean() - 0.95) < 5 * (0.95 * 0.05 / 1e5) ** 0.5
    assert abs((z[:-1] * z[1:]).mean()) < 5 / 1e5**0.5


def test_draws_are_a_function_of_seed_step_sample_view():
    a, b = draw(), draw()
    for name, value in vars(a).items():
        if value is not None:
            torch.testing.assert_close(value, getattr(b, name), rtol=0, atol=0)
    alone = draw(ids=IDS[10:11])
    torch.testing.assert_close(alone.matrix[0], a.matrix[10])
    torch.testing.assert_close(alone.noise[0], a.noise[10])
    for other in (dict(seed=2), dict(step=4), dict(view=1)):
        c = draw(**other)
        assert not torch.isclose(c.matrix, a.matrix).all(dim=(1, 2)).any()
        assert not torch.equal(c.noise, a.noise)
    assert len({round(float(m[0, 1]), 6) for m in a.matrix}) == 64


def test_ranges_and_probabilities():
    """Every draw of method and feeder: bounds hold, and frequencies lie within five standard errors."""
    p = draw(ids=IDS, shape=(3, 50, 25, 1))
    n = len(IDS)
    assert set(p.crop_start.tolist()) == set(range(17))
    shear = draw("basic", ids=IDS).matrix
    off = shear[:, ~torch.eye(3, dtype=torch.bool)]
    assert bool((shear.diagonal(dim1=1, dim2=2) == 1).all()) and off.abs().max() <= 0.5 and off.abs().max() > 0.49
    for on in (p.flip, p.noise.flatten(1).any(1), p.blur[:, 6] > 0, p.axis_keep.sum(1) == 2):
        assert abs(on.double().mean() - 0.5) < 5 * 0.5 / n**0.5
    hidden = (p.axis_keep == 0).double().mean(0)
    assert bool((abs(hidden - 1 / 6) < 5 * (5 / 36 / n) ** 0.5).all())
    noisy = p.noise[p.noise.flatten(1).any(1)]
    assert abs(noisy.std() - 0.01) < 1e-4
    rotations = p.matrix @ torch.linalg.inv(shear_of(p))
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(n, 3, 3), rtol=0, atol=1e-4)


def shear_of(p):
    """The shear inside the combined matrix, drawn again: the basic view of the same counters."""
    return draw("basic", ids=IDS).matrix


def test_crop_never_leaves_the_sequence():
    for frames in (1, 5, 6, 37, 50):
        start = draw("basic", ids=IDS, shape=(3, frames, 25, 1)).crop_start
        assert start.min() == 0 and start.max() == 2 * (frames // 6)


@pytest.mark.parametrize(("joints", "masked"), [(25, 2), (20, 2), (17, 1), (9, 0)])
def test_mask_hides_that_many_joints_a_frame(joints, masked):
    shared = draw("strong", shape=(3, 50, joints, 1)).joint_keep
    assert shared.shape == (1, 50, joints) and bool(((shared == 0).sum(-1) == masked).all())
    own = draw("strong", shape=(3, 50, joints, 1), config=AugmentConfig(mask_per_sample=True)).joint_keep
    assert own.shape == (64, 50, joints) and bool(((own == 0).sum(-1) == masked).all())
    if masked:
        assert len({tuple(row.flatten().tolist()) for row in own}) == 64
        joint_use = (own == 0).double().mean((0, 1))
        assert bool((abs(joint_use - masked / joints) < 5 * (masked / joints / 3200) ** 0.5).all())


def test_rotation_convention_and_taps():
    r = rotation(torch.tensor([0.0, 0.0, math.pi / 2]))
    torch.testing.assert_close(r @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, -1, 0]), atol=1e-6, rtol=0)
    taps = blur_taps(torch.tensor([2.0, 2.0, 1.0]), torch.tensor([True, True, False]), normalized=False)
    assert taps[0].sum() == pytest.approx(5.01, abs=0.01)  # the recorded gain of the official, un-normalised taps
    assert taps[2].tolist() == [0.0] * 7 + [1.0] + [0.0] * 7
    assert blur_taps(torch.tensor([2.0]), torch.tensor([True]), normalized=True).sum() == pytest.approx(1.0)


def test_views_of_a_batch():
    x = torch.randn(4, *SHAPE)
    fill = torch.nn.Parameter(torch.tensor([0.5]))
    views = make_views(
        x, IDS[:4], ("basic", "normal", "strong", "basic"), AugmentConfig(), NTU, seed=0, step=0, stream="bone", fill=fill
    )
    assert [v.shape for v in views] == [x.shape] * 4
    assert not torch.equal(views[0], views[3])
    assert [v.requires_grad for v in views] == [False, False, True, False]
    with pytest.raises(ValueError, match="unknown view set 'hard'"):
        make_views(x, IDS[:4], ("hard",), AugmentConfig(), NTU, seed=0, step=0)
