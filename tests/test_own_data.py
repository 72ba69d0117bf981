"""Anybody's skeletons: clips with and without labels, poses in images, units, gaps, names; from files to a trained encoder."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import packed, split
from own_data import COCO, HEIGHT, WIDTH, pretrain_a_little, write_clips, write_coco

from hiclr_fast.data.convert import Conversion
from hiclr_fast.data.formats.pyskl import Annotations
from hiclr_fast.data.formats.synthetic import synthetic_sequences
from hiclr_fast.data.gaps import fill_gaps
from hiclr_fast.data.labels import name_classes, numbered, read_names
from hiclr_fast.data.own import OwnClips, Sequences
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.leaks import check_dataset
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.data.prepare import AUTO, Ntu, Official, Pyskl
from hiclr_fast.data.preprocess import Preprocess, body_size, preprocess, unit_of
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import train_val
from hiclr_fast.files.archives import read_npz
from hiclr_fast.pretraining.trainer import check_job
from hiclr_fast.skeletons import LAYOUTS, Layout, Space

NTU = LAYOUTS["ntu25"]
FLAT = Preprocess(frames=20, rotate="none", gaps="keep", scale="body")
ONE = Conversion(workers=1)
SHORT = replace(AUTO, frames=20)


@pytest.fixture(scope="module")
def actors():
    """Every third of some synthetic sequences, of three subjects."""
    return synthetic_sequences(subjects=3, repeats=1, views=1, two_person=False, seed=0) | {}


def one_body(arrays):
    return arrays | {"frames": arrays["frames"][..., 0]}


def reasons(out):
    with open(out / "report.csv", newline="") as file:
        return [(line["recording"], line["what"], line["reason"]) for line in csv.DictReader(file)]


def test_clips_without_anything_but_a_layout(tmp_path, actors, capsys):
    folder, _ = write_clips(tmp_path, one_body(actors), every=4, factor=1000.0)
    OwnClips(folder, "ntu25", tmp_path / "set", preprocess=SHORT, options=ONE).run()
    data, said = open_packed(tmp_path / "set"), capsys.readouterr().out
    assert "9 samples have no label" in said and "x, y, z, in metres; bodies are" in said and "warning" not in said
    assert set(data.splits) == {"train"} and (data["train"].label == -1).all() and data.classes == () and not data.labelled
    meta = json.loads((tmp_path / "set" / "meta.json").read_text())
    assert meta["preprocessing"]["unit"] == "mm" and meta["layout"] == NTU.as_dict() and meta["space"]["dimensions"] == 3
    x = np.load(folder / "clip0004.npy")[..., None]
    want = preprocess(x, NTU, replace(SHORT, rotate="frame", gaps="keep", unit="mm", scale="metres"))
    np.testing.assert_array_equal(data["train"].x[1], want)
    assert check_dataset(tmp_path / "set", tmp_path / "p.png") == 0 and "no labels" in capsys.readouterr().out
    pretrain_a_little(tmp_path / "set", tmp_path / "run", epochs=1, batch_size=4)
    with pytest.raises(InputError, match="9 samples have no label; evaluation needs labels"):
        train_val(data)


def test_clips_with_a_table(tmp_path, actors):
    folder, table = write_clips(tmp_path, one_body(actors), every=4)
    OwnClips(folder, "ntu25", tmp_path / "set", table, "subject=ann,ben", preprocess=SHORT, options=ONE).run()
    data = open_packed(tmp_path / "set")
    assert data.classes == ("gesture 0", "gesture 4", "gesture 8") and (len(data["train"]), len(data["val"])) == (6, 3)
    assert json.loads((tmp_path / "set" / "meta.json").read_text())["subjects"] == ["ann", "ben", "cem"]
    assert set(data["train"].subject) == {0, 1} and set(data["val"].subject) == {2}
    table.write_text("name,label,split\nclip0000,7,val\nclip0004,100,train\nclip0008,,train\n")
    OwnClips(folder, "ntu25", tmp_path / "other", table, preprocess=SHORT, options=ONE).run()
    data = open_packed(tmp_path / "other")
    assert data.classes == ("7", "100") and data["val"].label.tolist() == [0] and data["train"].label.tolist() == [1] + [-1] * 7


def test_a_skeleton_of_ones_own_from_json(tmp_path, actors):
    own = {"parents": [1, 1, 1, 1, 1], "joint_names": ["hip", "neck", "head", "l", "r"], "left": ["l"], "right": ["r"]}
    (tmp_path / "stick.json").write_text(json.dumps(own))
    folder, _ = write_clips(tmp_path, one_body(actors), every=12)
    for file in folder.glob("*.npy"):
        np.save(file, np.load(file)[:, [0, 20, 3, 7, 11]])
    OwnClips(folder, str(tmp_path / "stick.json"), tmp_path / "set", preprocess=SHORT, options=ONE).run()
    data = open_packed(tmp_path / "set")
    assert data.layout.name == "stick" and data.shape == (3, 20, 5, 1)
    meta = json.loads((tmp_path / "set" / "meta.json").read_text())
    assert meta["preprocessing"]["rotate"] == "none" and Layout.from_dict(meta["layout"], "here") == data.layout


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda folder, table: np.save(folder / "a.npy", np.zeros((5, 24, 3), np.float32)), r"a.npy: shape \(5, 24, 3, 1\), expected"),
        (lambda folder, table: np.save(folder / "a.npy", np.array([{}])), r"a.npy: holds Python objects"),
        (lambda folder, table: np.save(folder / "a.npy", np.array(["x"])), r"a.npy: frames is <U1, expected numbers"),
        (lambda folder, table: np.savez(folder / "a.npz", a=np.zeros(1), b=np.zeros(1)), "a.npz: arrays a, b; expected the clip as"),
        (lambda folder, table: np.save(folder / "a.npy", np.ones((5, 25, 3)) * [300, 400, 0.5]), "a.npy: the third channel lies"),
        (lambda folder, table: (folder / "a.npy").write_bytes(b"hello"), r"a.npy: not a readable .npy"),
        (lambda folder, table: table.write_text("clip,label\n"), "labels.csv: columns clip, label; expected name and any of"),
        (lambda folder, table: table.write_text("name,label\nclip9999,1\n"), "1 names are no clip below .*, as 'clip9999'"),
        (lambda folder, table: table.write_text("name\nclip0000\nclip0000\n"), "line 3: name 'clip0000' is empty or there twice"),
        (lambda folder, table: table.write_text("name,split\nclip0000,test\n"), "line 2: view '0', split 'test'"),
        (lambda folder, table: table.write_text("name,split\nclip0000,val,1\n"), "line 2: too many fields"),
    ],
)
def test_bad_clips_and_tables(tmp_path, actors, change, what):
    folder, table = write_clips(tmp_path, one_body(actors), every=18)
    change(folder, table)
    with pytest.raises(InputError, match=what):
        OwnClips(folder, "ntu25", tmp_path / "set", table, preprocess=SHORT, options=replace(ONE, strict=True)).run()
    assert {f.name for f in tmp_path.iterdir()} == {"clips", "labels.csv"}


def test_a_failed_conversion_says_what_it_leaves(tmp_path, actors):
    folder, table = write_clips(tmp_path, one_body(actors), every=12)
    wrong = OwnClips(folder, "ntu25", tmp_path / "set", None, "subject=dan", preprocess=SHORT, options=ONE)
    with pytest.raises(InputError, match=r"has no subject 'dan'|expected whole numbers") as error:
        wrong.run()
    (left,) = [f for f in tmp_path.iterdir() if f.name.startswith(".set.")]
    assert f"what was read stays in {left}" in str(error.value)
    replace(wrong, train_by=None).run()  # goes on from there
    assert not left.exists() and len(open_packed(tmp_path / "set")["train"]) == 3


def test_a_body_of_300_metres_is_a_warning(tmp_path, actors, capsys):
    folder, _ = write_clips(tmp_path, one_body(actors), every=12, factor=200.0)
    OwnClips(folder, "ntu25", tmp_path / "set", preprocess=replace(SHORT, unit="m"), options=ONE).run()
    assert "m across; if these are people, give the right --unit" in capsys.readouterr().out
    assert [unit_of(size) for size in (0.5, 2.5, 50, 250, 500, 2500)] == ["m", "m", "cm", "cm", "mm", "mm"]


def test_labels_of_any_kind():
    label, names = name_classes(np.array([0, 100, 200, -1, 100]), None, "x")
    assert label.tolist() == [0, 1, 2, -1, 1] and names == ["0", "100", "200"]
    label, names = name_classes(np.array(["wave", "-1", "clap"]), None, "x")
    assert label.tolist() == [1, -1, 0] and names == ["clap", "wave"]
    assert name_classes(np.array(["b", "a"]), ["b", "a", "c"], "x")[0].tolist() == [0, 1]
    for values, given, what in (
        ([0, 100], ["a", "b"], "label 100, expected 0 to 1: 2 classes have names"),
        (["z"], ["a"], "label z, expected one of a"),
        ([-3], None, "label -3; expected numbers from 0"),
    ):
        with pytest.raises(InputError, match=what):
            name_classes(np.array(values), given, "x")
    assert numbered(np.array(["ben", "-1", "ann"])) == (pytest.approx([1, -1, 0]), ["ann", "ben"])


def test_names_of_classes_from_a_file(tmp_path):
    (tmp_path / "names").write_text("wave\n\nclap\n")
    assert read_names(tmp_path / "names") == ["wave", "clap"]
    for text, what in (("a\na\n", "'a' is there twice"), ("\n", "no name in it")):
        (tmp_path / "names").write_text(text)
        with pytest.raises(InputError, match=what):
            read_names(tmp_path / "names")


def test_a_skeleton_file_without_a_telling_name_has_no_label(tmp_path):
    from data_files import write_ntu

    files = write_ntu(tmp_path / "raw", 4)
    files[0].rename(tmp_path / "raw" / "walk.skeleton")
    (tmp_path / "names").write_text("\n".join(f"action {i}" for i in range(51)))
    Ntu((tmp_path / "raw",), tmp_path / "set", preprocess=SHORT, options=ONE).run()
    data = open_packed(tmp_path / "set")
    assert data["train"].name.tolist()[-1] == "walk" and data["train"].label.tolist() == [0, 1, 1, -1]
    assert data.classes == ("A001", "A051") and set(data.splits) == {"train"}
    Ntu((tmp_path / "raw",), tmp_path / "named", preprocess=SHORT, options=ONE, classes=tmp_path / "names").run()
    assert open_packed(tmp_path / "named").classes[50] == "action 50"
    Ntu((tmp_path / "raw",), tmp_path / "listed", "ntu60_xsub", preprocess=SHORT, options=ONE).run()
    data = open_packed(tmp_path / "listed")
    assert data.classes[0] == "drink water" and len(data.classes) == 60 and reasons(tmp_path / "listed")[0][1] == "rejected"
    assert json.loads((tmp_path / "listed" / "meta.json").read_text())["preprocessing"]["gaps"] == "cut"


def test_official_arrays_without_labels(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 3, 10, 25, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    Official(tmp_path / "x.npy", tmp_path / "set").run()
    data = open_packed(tmp_path / "set")
    assert not data.labelled and data["train"].name[3] == "train000003" and data.classes == ()


def test_gaps_are_filled_joint_by_joint():
    x = np.arange(10.0)[:, None, None, None] + np.ones((10, 25, 3, 2))
    x[4:6, 7, :, 0], x[3, :, :, 1], x[0, 2, :, 0] = 0, 0, 0
    full, _, note = fill_gaps(x, NTU)
    np.testing.assert_allclose(full[:, 7, 0, 0], np.arange(10) + 1)
    np.testing.assert_allclose(full[3, :, 0, 1], 4)
    assert full[0, 2, 0, 0] == 2  # where it was first seen
    assert note == "body 1: 2 joints missing at times, interpolated; body 2: 1 of 10 frames without it, interpolated"
    x = np.random.default_rng(0).normal(size=(6, 25, 3, 1))
    x -= x[:, 20:21]  # a joint that is always at 0 is the centre, no gap
    same, _, note = fill_gaps(x, NTU)
    np.testing.assert_array_equal(same, x)
    assert note == ""


def test_scores_fill_gaps_and_a_joint_that_was_never_seen_is_at_its_parent():
    rng = np.random.default_rng(0)
    x, score = rng.uniform(100, 900, (8, 17, 2, 1)), np.full((8, 17, 1), 0.9)
    score[3, 9], score[:, 15], score[:, 13] = 0.1, 0.0, 0.1
    full, _, note = fill_gaps(x, COCO, score, 0.3)
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
    with pytest.raises(InputError, match="--scale image: the recordings are .x, y, z. in space"):
        preprocess(np.ones((4, 25, 3, 1)), NTU, Preprocess(scale="image"))
    with pytest.raises(ValueError, match="nothing may be left at auto"):
        preprocess(np.ones((4, 25, 3, 1)), NTU, AUTO)


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
    assert recording.image == (WIDTH, HEIGHT) and recording.score.shape == recording.frames[:, :, 0].shape and recording.split == "train"
    for change, what in (({"keypoint_score": score[:1]}, "keypoint_score is no float array"), ({"img_shape": 3}, "expected .height, width")):
        content.annotations[0] = one | {"keypoint": crowd} | change
        with pytest.raises(InputError, match=what):
            content.read(0)


def test_poses_by_a_detector_from_pickle_to_encoder(tmp_path, actors, capsys):
    file = write_coco(tmp_path / "coco.pkl", actors, every=2)
    Pyskl(file, tmp_path / "set", SHORT, ONE).run()
    data, said = open_packed(tmp_path / "set"), capsys.readouterr().out
    assert data.layout == COCO and data.space == Space("body", "zero", data.space.size) and data.space.size == pytest.approx(1, rel=0.1)
    assert "x, y and a zero, in bodies" in said and f"{len(data['train']) + len(data['val'])} filled" in said
    assert not data["train"].x[:, 2].any() and {what for _, what, _ in reasons(tmp_path / "set")} == {"filled"}
    straight = data["train"].x[0, :2, :, :, 0]
    assert np.abs(np.diff(straight, axis=1)).max() < 1.0  # no lost joint jumps through the image
    Pyskl(file, tmp_path / "scored", replace(SHORT, third="score", scale="image", center="none"), ONE).run()
    scored = open_packed(tmp_path / "scored")
    assert scored.space.third == "score" and scored.space.unit == "image" and 0 <= scored["val"].x[:, 2].min() <= scored["val"].x[:, 2].max() <= 1
    for name, stream in (("set", "joint"), ("scored", "bone")):
        pretrain_a_little(tmp_path / name, tmp_path / f"run_{name}", epochs=1, stream=stream)


@pytest.mark.parametrize(("name", "rule"), [("nw_ucla", "subject=1,3,5,7,9"), ("irds", "subject=1,2")])
def test_real_recordings_to_encoder(tmp_path, real_data, name, rule):
    arrays = read_npz(real_data(f"{name}.npz"))
    keep = np.arange(0, len(arrays["label"]), 8)
    frames = [arrays["frames"][arrays["offsets"][i] : arrays["offsets"][i + 1]] for i in keep]
    part = {k: arrays[k] for k in ("parents", "class_names")} | {k: arrays[k][keep] for k in ("label", "subject", "view", "name")}
    np.savez(tmp_path / "some.npz", frames=np.concatenate(frames), offsets=np.cumsum([0, *map(len, frames)]), **part)
    Sequences(tmp_path / "some.npz", tmp_path / "set", rule, preprocess=SHORT, options=ONE).run()
    data = pretrain_a_little(tmp_path / "set", tmp_path / "run", epochs=1)
    assert data.classes == tuple(arrays["class_names"].tolist()) and data.labelled and len(data["train"]) + len(data["val"]) == len(keep)


def test_real_poses_from_two_cameras(tmp_path, real_data):
    file = write_coco(tmp_path / "coco.pkl", read_npz(real_data("irds.npz")), every=6)
    Pyskl(file, tmp_path / "set", replace(SHORT, third="score"), ONE).run()
    data = pretrain_a_little(tmp_path / "set", tmp_path / "run", epochs=1)
    assert data.shape == (3, 20, 17, 2) and set(data["train"].view) == {1, 2} and data.space.third == "score"


def test_another_skeleton_of_as_many_joints_is_refused(tmp_path):
    own = replace(NTU, name="mine", parents=tuple(range(1, 25)) + (24,), left=(), right=(), parts=())
    write_packed(tmp_path / "own", {"train": split(8)}, own, "abc", source="t", preprocessing={})
    data = open_packed(tmp_path / "own")
    from helpers import tiny

    from hiclr_fast.distributed import ALONE

    with pytest.raises(InputError, match=r"has layout mine, the config says ntu25 \(the parent of joint 0 \(SpineBase\) is 1 against"):
        check_job(tiny(layout="openpose25"), data, ALONE) if False else check_job(tiny(layout="ntu25"), data, ALONE)
    check_job(tiny(layout="mine"), data, ALONE)
    with pytest.raises(InputError, match="the config says yours .another name."):
        check_job(tiny(layout="yours"), data, ALONE)


def test_sets_from_before_stay_readable(tmp_path):
    path = packed(tmp_path / "set")
    meta = json.loads((path / "meta.json").read_text())
    described = {k: v for k, v in NTU.as_dict().items() if k != "parts"}
    for layout in ("ntu25", described | {"name": "custom"}):
        old = {k: v for k, v in meta.items() if k not in ("space", "subjects")} | {"version": 1, "layout": layout}
        (path / "meta.json").write_text(json.dumps(old))
        data = open_packed(path)
        assert data.layout.parents == NTU.parents and data.space == Space() and data.labelled
    assert data.layout.name == "custom" and len(data.layout.parts) == 5
