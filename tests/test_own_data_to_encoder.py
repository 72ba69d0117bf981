"""From files to a trained encoder: poses by a detector in a pickle, real recordings, real recordings seen by two cameras."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from own_data import COCO, HEIGHT, WIDTH, pretrain_a_little, write_coco

from hiclr_fast.data.convert import Conversion
from hiclr_fast.data.formats.pyskl import Annotations
from hiclr_fast.data.formats.synthetic import synthetic_sequences
from hiclr_fast.data.own import Sequences
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.prepare import AUTO, Pyskl
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz
from hiclr_fast.skeletons import Space

ONE = Conversion(workers=1)
SHORT = replace(AUTO, frames=20)


@pytest.fixture(scope="module")
def actors():
    return synthetic_sequences(subjects=3, repeats=1, views=1, two_person=False, seed=0)


def test_more_people_than_two_in_a_pose_pickle(tmp_path, actors):
    file = write_coco(tmp_path / "coco.pkl", actors, every=12, views=(0.0,))
    content = Annotations(file, None, None)
    one = content.annotations[0]
    crowd = np.concatenate([one["keypoint"] + shift for shift in (0, 5, 9)])
    score = np.concatenate([one["keypoint_score"] * share for share in (0.5, 0.9, 0.7)])
    content.annotations[0] = one | {"keypoint": crowd, "keypoint_score": score}
    (recording,) = content.read(0)
    np.testing.assert_array_equal(recording.frames[..., 0], crowd[1].astype(np.float32))
    np.testing.assert_array_equal(recording.frames[..., 1], crowd[2].astype(np.float32))
    assert recording.image == (WIDTH, HEIGHT) and recording.split == "train"
    assert recording.score.shape == recording.frames[:, :, 0].shape
    for change, what in (({"keypoint_score": score[:2]}, "keypoint_score is no float"), ({"img_shape": 3}, r"expected \(height")):
        content.annotations[0] = one | change
        with pytest.raises(InputError, match=what):
            content.read(0)


def test_poses_by_a_detector_from_pickle_to_encoder(tmp_path, actors, capsys):
    file = write_coco(tmp_path / "coco.pkl", actors, every=2)
    Pyskl(file, tmp_path / "set", SHORT, ONE).run()
    data, said = open_packed(tmp_path / "set"), capsys.readouterr().out
    assert data.layout == COCO and data.space == Space("body", "zero", pytest.approx(1, rel=0.1))
    assert "x, y and a zero, in bodies" in said and f"{len(data['train']) + len(data['val'])} filled" in said
    with open(tmp_path / "set" / "report.csv", newline="") as report:
        done = {line["what"] for line in csv.DictReader(report)}
    x = np.asarray(data["train"].x)
    assert not x[:, 2].any() and done == {"filled"}
    assert np.abs(np.diff(x[:, :2, :, :, 0], axis=2)).max() < 1.0  # no lost joint jumps through the image
    Pyskl(file, tmp_path / "scored", replace(SHORT, third="score", scale="image", center="none"), ONE).run()
    scored = open_packed(tmp_path / "scored")
    assert scored.space.third == "score" and scored.space.unit == "image"
    score = np.asarray(scored["val"].x)[:, 2, ..., 0]
    assert 0 <= score.min() < 0.5 < score.max() <= 1
    for name, stream in (("set", "joint"), ("scored", "bone")):
        pretrain_a_little(tmp_path / name, tmp_path / f"run_{name}", epochs=1, stream=stream)


@pytest.mark.parametrize(("name", "rule"), [("nw_ucla", "subject=1,3,5,7,9"), ("irds", "subject=1,2")])
def test_real_recordings_to_encoder(tmp_path, real_data, name, rule):
    arrays = read_npz(real_data(f"{name}.npz"))
    keep = np.arange(0, len(arrays["label"]), 8)
    frames = [arrays["frames"][arrays["offsets"][i] : arrays["offsets"][i + 1]] for i in keep]
    part = {k: arrays[k] for k in ("parents", "class_names")}
    part |= {k: arrays[k][keep] for k in ("label", "subject", "view", "name")}
    np.savez(tmp_path / "some.npz", frames=np.concatenate(frames), offsets=np.cumsum([0, *map(len, frames)]), **part)
    Sequences(tmp_path / "some.npz", tmp_path / "set", rule, preprocess=SHORT, options=ONE).run()
    data = pretrain_a_little(tmp_path / "set", tmp_path / "run", epochs=1)
    assert data.classes == tuple(arrays["class_names"].tolist()) and data.labelled
    assert len(data["train"]) + len(data["val"]) == len(keep)


def test_real_poses_from_two_cameras(tmp_path, real_data):
    file = write_coco(tmp_path / "coco.pkl", read_npz(real_data("irds.npz")), every=6)
    Pyskl(file, tmp_path / "set", replace(SHORT, third="score"), ONE).run()
    data = pretrain_a_little(tmp_path / "set", tmp_path / "run", epochs=1)
    assert data.shape == (3, 20, 17, 2) and set(data["train"].view) == {1, 2} and data.space.third == "score"
