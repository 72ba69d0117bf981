"""What a recording lacks and how it is filled; poses in an image -> rows."""

from dataclasses import replace

import numpy as np
import pytest
from own_data import COCO, HEIGHT, WIDTH

from hiclr_fast.data.gaps import Filled
from hiclr_fast.data.prepare import AUTO
from hiclr_fast.data.preprocess import Preprocess, body_size, preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import LAYOUTS

NTU = LAYOUTS["ntu25"]
FLAT = Preprocess(frames=20, rotate="none", gaps="keep", scale="body")


def filled(*recording):
    """(every frame, note)."""
    found = Filled(*recording)
    return found.rows(np.arange(found.length))[0], found.note


def test_gaps_are_filled_joint_by_joint():
    x = np.arange(10.0)[:, None, None, None] + np.ones((10, 25, 3, 2))
    x[4:6, 7, :, 0], x[3, :, :, 1], x[0, 2, :, 0] = 0, 0, 0
    full, note = filled(x, NTU)
    np.testing.assert_allclose(full[:, 7, 0, 0], np.arange(10) + 1)
    np.testing.assert_allclose(full[3, :, 0, 1], 4)
    assert full[0, 2, 0, 0] == 2  # where it was first seen
    assert note == "body 1: 2 joints missing at times, interpolated; body 2: 1 of 10 frames without it, interpolated"
    x = np.random.default_rng(0).normal(size=(6, 25, 3, 1))
    x -= x[:, 20:21]  # a joint that is always at 0 is the centre, no gap
    same, note = filled(x, NTU)
    np.testing.assert_array_equal(same, x)
    assert note == ""


def test_scores_fill_gaps_and_a_joint_that_was_never_seen_is_at_its_parent():
    rng = np.random.default_rng(0)
    x, score = rng.uniform(100, 900, (8, 17, 2, 1)), np.full((8, 17, 1), 0.9)
    score[3, 9], score[:, 15], score[:, 13] = 0.1, 0.0, 0.1
    full, note = filled(x, COCO, score, 0.3)
    np.testing.assert_allclose(full[3, 9], (x[2, 9] + x[4, 9]) / 2)
    np.testing.assert_array_equal(full[:, 15], x[:, 11])  # ankle -> knee -> hip
    assert note == "body 1: 1 joints missing at times, interpolated; 2 joints never seen, put where their parents are"


def pose():
    """(F, 17, 2, 2) pixels and scores of one person, the second body empty."""
    rng = np.random.default_rng(1)
    x = np.zeros((12, 17, 2, 2))
    x[..., 0] = rng.uniform(200, 800, (1, 17, 2)) + rng.normal(0, 3, (12, 17, 2)).cumsum(0)
    score = np.zeros((12, 17, 2))
    score[..., 0] = rng.uniform(0.5, 1, (12, 17))
    return x, score


def test_poses_are_scaled_by_the_body_or_the_image_and_point_up():
    x, score = pose()
    by_body = preprocess(x, COCO, FLAT, score=score)
    assert by_body.shape == (3, 20, 17, 2) and not by_body[2].any() and not by_body[..., 1].any()
    assert body_size(by_body.transpose(1, 2, 0, 3)[:, :, :2]) == pytest.approx(1, rel=0.05)
    larger = preprocess(3 * x, COCO, FLAT, score=score)
    np.testing.assert_allclose(larger, by_body, atol=1e-6)
    still = np.repeat(x[:1], 20, axis=0)
    by_image = preprocess(still, COCO, replace(FLAT, scale="image", center="none"), image=(WIDTH, HEIGHT))
    np.testing.assert_allclose(by_image[0, 0, :, 0], (still[0, :, 0, 0] - WIDTH / 2) / (WIDTH / 2), atol=1e-6)
    np.testing.assert_allclose(by_image[1, 0, :, 0], (HEIGHT / 2 - still[0, :, 1, 0]) / (WIDTH / 2), atol=1e-6)
    assert not by_image[..., 1].any()
    same = preprocess(still, COCO, replace(FLAT, scale="image", center="none", image=(WIDTH, HEIGHT)))
    np.testing.assert_array_equal(same, by_image)
    with pytest.raises(InputError, match="s1: the size of its image is not known; give --image WIDTH HEIGHT"):
        preprocess(x, COCO, replace(FLAT, scale="image"), "s1")


def test_the_score_is_the_third_channel_by_choice():
    x, score = pose()
    row = preprocess(x, COCO, replace(FLAT, frames=12, third="score"), score=score)
    np.testing.assert_allclose(row[2], score, atol=1e-6)
    without = preprocess(x, COCO, replace(FLAT, frames=12, third="score"))
    assert (without[2, ..., 0] == 1).all() and not without[2, ..., 1].any()


@pytest.mark.parametrize(
    ("how", "what"),
    [
        (dict(rotate="frame"), "--rotate frame: the recordings are .x, y. in a plane; use --rotate none"),
        (dict(scale="metres"), "--scale metres: the recordings are .x, y. in a plane; use --scale body or image"),
        (dict(center="none"), "--scale body needs a point"),
    ],
)
def test_settings_that_do_not_go_with_a_plane(how, what):
    with pytest.raises(InputError, match=what):
        preprocess(pose()[0], COCO, replace(FLAT, **how))
    with pytest.raises(InputError, match=r"--scale image: the recordings are \(x, y, z\) in space"):
        preprocess(np.ones((4, 25, 3, 1)), NTU, Preprocess(scale="image"))
    with pytest.raises(ValueError, match="nothing may be left at auto"):
        preprocess(np.ones((4, 25, 3, 1)), NTU, AUTO)
