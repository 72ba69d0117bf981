"""Preprocessing against the recorded official chain, and its options."""

import numpy as np
import pytest

from hiclr_fast.data.gaps import Filled
from hiclr_fast.data.geometry import between_frames, rotation_angles, source_frames
from hiclr_fast.data.preprocess import Preprocess, preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import LAYOUTS

NTU = LAYOUTS["ntu25"]


def raw(g, i):
    return g["raw"][i].transpose(1, 2, 0, 3)  # (C, F, V, M) -> (F, V, C, M)


@pytest.mark.parametrize("i", range(6))
def test_official_chain(golden, i):
    g = golden("preprocess")
    before = preprocess(raw(g, i), NTU, Preprocess(rotate="none"))
    np.testing.assert_allclose(before, g["position_before_rotation"][i], atol=1e-6)
    angles = rotation_angles(before.transpose(1, 2, 0, 3).astype(np.float64), NTU.shoulders, "frame")
    np.testing.assert_allclose(np.rad2deg(angles.T), g["rotation_angles_deg"][i], atol=1e-2)
    np.testing.assert_allclose(preprocess(raw(g, i), NTU, Preprocess()), g["position"][i], atol=1e-5)


def test_gap_cuts_the_tail_or_is_interpolated(golden):
    g = golden("preprocess")
    x = raw(g, 3)  # 143 frames, 60 to 64 are zero
    filled = Filled(x, NTU)
    kept, _ = filled.rows(np.arange(filled.length))
    assert filled.note == "body 1: 5 of 143 frames without it, interpolated"
    assert len(kept) == 143 and g["length"][3] == 138
    np.testing.assert_allclose(kept[62], (x[59] + x[65]) / 2, atol=1e-6)
    np.testing.assert_allclose(kept[59], x[59], atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 49, 50, 51, 300])
def test_resize_of_a_ramp_is_a_clamped_ramp(length):
    x = np.arange(length, dtype=float).reshape(-1, 1, 1, 1)
    want = np.clip((np.arange(50) + 0.5) * length / 50 - 0.5, 0, length - 1)
    np.testing.assert_allclose(between_frames(x, *source_frames(len(x), 50))[:, 0, 0, 0], want)


def walker(frames=20, angle=0.0):
    """Two bodies one metre apart that walk along x, facing the camera turned by `angle`."""
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(25, 3)) * 0.2
    pose[4], pose[8] = (-0.2, 0.4, 0.0), (0.2, 0.4, 0.0)
    path = np.linspace(0, 1, frames)[:, None, None] * np.array([1.0, 0, 0])
    x = np.stack([pose + path + [0, 0, 3], pose + path + [1, 0, 3]], axis=-1)
    c, s = np.cos(angle), np.sin(angle)
    turned = x.copy()
    turned[:, :, 0], turned[:, :, 2] = c * x[:, :, 0] - s * x[:, :, 2], s * x[:, :, 0] + c * x[:, :, 2]
    return turned


def test_center_first_keeps_path_and_distance():
    lost = preprocess(walker(), NTU, Preprocess(rotate="none"))
    kept = preprocess(walker(), NTU, Preprocess(rotate="none", center="first"))
    assert np.abs(lost[:, :, 20]).max() < 1e-6
    np.testing.assert_allclose(kept[0, -1, 20, 0], 1.0, atol=1e-5)
    np.testing.assert_allclose(kept[0, :, 20, 1] - kept[0, :, 20, 0], 1.0, atol=1e-5)


def test_center_pose_leaves_movement_alone():
    """Two people who differ in body alone become equal; frames without the second body stay zero."""
    move = np.random.default_rng(1).normal(size=(50, 25, 3, 2)) * 0.1
    a, b = move + walker(50), move + walker(50) * 1.3
    a[30:, ..., 1], b[30:, ..., 1] = 0, 0
    how = Preprocess(rotate="none", gaps="keep", center="pose")
    one, other = preprocess(a, NTU, how), preprocess(b, NTU, how)
    np.testing.assert_allclose(one, other, atol=1e-5)
    there = one.any(axis=(0, 2))  # (T, M)
    assert there[:, 0].all() and 30 <= there[:, 1].sum() < 50
    np.testing.assert_allclose(one.sum(1), 0, atol=1e-4)
    plain = preprocess(a, NTU, Preprocess(rotate="none", gaps="keep"))
    np.testing.assert_allclose(one[..., 0], (plain - plain.mean(1, keepdims=True))[..., 0], atol=1e-6)


@pytest.mark.parametrize("rotate", ["frame", "first"])
def test_rotation_removes_the_camera_yaw(rotate):
    how = Preprocess(rotate=rotate, center="first" if rotate == "first" else "frame")
    a, b = (preprocess(walker(angle=angle), NTU, how) for angle in (0.3, 1.2))
    np.testing.assert_allclose(a, b, atol=5e-2)  # the official 0.0001 in the cosine turns a few degrees near zero
    assert np.abs(b[2, :, 8] - b[2, :, 4]).max() < 2e-2


def test_bad_sequences_are_one_sentence():
    x = walker().astype(np.float32)
    with pytest.raises(InputError, match=r"s7: shape \(20, 25, 1, 2\), expected \(frames, 25 joints, 2 or 3, bodies\)"):
        preprocess(x[:, :, :1], NTU, Preprocess(), "s7")
    x[3, 4, 1, 0] = np.nan
    with pytest.raises(InputError, match="s7: NaN or Inf at frame 3"):
        preprocess(x, NTU, Preprocess(), "s7")
    with pytest.raises(InputError, match="zero in every frame"):
        preprocess(np.zeros((5, 25, 3, 1)), NTU, Preprocess(), "s7")
