"""Anybody's skeletons: clips with and without labels, poses in images, units, gaps, names; from files to a trained encoder."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from data_files import write_ntu
from helpers import packed, split, tiny
from own_data import pretrain_a_little, write_clips

from hiclr_fast.data.convert import Conversion
from hiclr_fast.data.formats.synthetic import synthetic_sequences
from hiclr_fast.data.labels import name_classes, numbered, read_names
from hiclr_fast.data.own import OwnClips
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.leaks import check_dataset
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.data.prepare import AUTO, Ntu, Official
from hiclr_fast.data.preprocess import Preprocess, preprocess, unit_of
from hiclr_fast.distributed import ALONE
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import train_val
from hiclr_fast.pretraining.trainer import check_job
from hiclr_fast.skeletons import LAYOUTS, Layout, Space

NTU = LAYOUTS["ntu25"]
FLAT = Preprocess(frames=20, rotate="none", gaps="keep", scale="body")
ONE = Conversion(workers=1)
SHORT = replace(AUTO, frames=20)


@pytest.fixture(scope="module")
def actors():
    """Sequences of three subjects, (F, 25, 3)."""
    arrays = synthetic_sequences(subjects=3, repeats=1, views=1, two_person=False, seed=0)
    return arrays | {"frames": arrays["frames"][..., 0]}


def reasons(out):
    with open(out / "report.csv", newline="") as file:
        return [(line["recording"], line["what"], line["reason"]) for line in csv.DictReader(file)]


def test_clips_without_anything_but_a_layout(tmp_path, actors, capsys):
    folder, _ = write_clips(tmp_path, actors, every=4, factor=1000.0)
    OwnClips(folder, "ntu25", tmp_path / "set", preprocess=SHORT, options=ONE).run()
    data, said = open_packed(tmp_path / "set"), capsys.readouterr().out
    assert "9 samples have no label" in said and "warning" not in said
    assert "x, y, z, in metres (the recordings are in mm); bodies are" in said
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
    folder, table = write_clips(tmp_path, actors, every=4)
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
    folder, _ = write_clips(tmp_path, actors, every=12)
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
        (lambda folder, table: np.save(folder / "a.npy", np.zeros((5, 24, 3))), r"a.npy: shape \(5, 24, 3, 1\), expected"),
        (lambda folder, table: np.save(folder / "a.npy", np.array([{}])), r"a.npy: not a readable .npy .*objects"),
        (lambda folder, table: np.save(folder / "a.npy", np.array(["x"])), r"a.npy: frames is <U1, expected numbers"),
        (lambda folder, table: np.savez(folder / "a.npz", a=np.zeros(1), b=np.zeros(1)), "a.npz: arrays a, b; expected the clip"),
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
    folder, table = write_clips(tmp_path, actors, every=18)
    change(folder, table)
    with pytest.raises(InputError, match=what):
        OwnClips(folder, "ntu25", tmp_path / "set", table, preprocess=SHORT, options=replace(ONE, strict=True)).run()
    assert {f.name for f in tmp_path.iterdir()} == {"clips", "labels.csv"}


def test_a_failed_conversion_says_what_it_leaves(tmp_path, actors):
    folder, _ = write_clips(tmp_path, actors, every=12)
    wrong = OwnClips(folder, "ntu25", tmp_path / "set", None, "subject=dan", preprocess=SHORT, options=ONE)
    with pytest.raises(InputError, match=r"has no subject 'dan'|expected whole numbers") as error:
        wrong.run()
    (left,) = [f for f in tmp_path.iterdir() if f.name.startswith(".set.")]
    assert f"what was read stays in {left}" in str(error.value)
    replace(wrong, train_by=None).run()  # goes on from there
    assert not left.exists() and len(open_packed(tmp_path / "set")["train"]) == 3


def test_a_body_of_300_metres_is_a_warning(tmp_path, actors, capsys):
    folder, _ = write_clips(tmp_path, actors, every=12, factor=200.0)
    OwnClips(folder, "ntu25", tmp_path / "set", preprocess=replace(SHORT, unit="m"), options=ONE).run()
    assert "m across; if these are people, give the right --unit" in capsys.readouterr().out
    folder, _ = write_clips(tmp_path / "moving", actors, every=12)
    OwnClips(folder, "ntu25", tmp_path / "moved", preprocess=replace(SHORT, center="pose"), options=ONE).run()
    assert "across" not in capsys.readouterr().out and open_packed(tmp_path / "moved").space.size is None
    assert [unit_of(size) for size in (0.5, 2.5, 50, 250, 500, 2500)] == ["m", "m", "cm", "cm", "mm", "mm"]


def test_labels_of_any_kind():
    label, names = name_classes(np.array([0, 100, 200, -1, 100]), None, "x")
    assert label.tolist() == [0, 1, 2, -1, 1] and names == ["0", "100", "200"]
    label, names = name_classes(np.array(["wave", "-1", "clap"]), None, "x")
    assert label.tolist() == [1, -1, 0] and names == ["clap", "wave"]
    assert name_classes(np.array(["b", "a"]), ["b", "a", "c"], "x")[0].tolist() == [0, 1]
    for values, given, what in (
        (["a", "b"], ["a", "a", "b"], "the class name 'a' is there twice"),
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
    files = write_ntu(tmp_path / "raw", 4)
    files[0].rename(tmp_path / "raw" / "walk.skeleton")
    (tmp_path / "names").write_text("\n".join(f"action {i}" for i in range(51)))
    Ntu((tmp_path / "raw",), tmp_path / "set", preprocess=SHORT, options=ONE).run()
    data = open_packed(tmp_path / "set")
    assert data["train"].name.tolist()[-1] == "walk" and data["train"].label.tolist() == [1, 0, 1, -1]
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


def test_another_skeleton_of_as_many_joints_is_refused(tmp_path):
    own = replace(NTU, name="mine", parents=(*range(1, 25), 24), left=(), right=(), parts=())
    write_packed(tmp_path / "own", {"train": split(8)}, own, "abc", source="t", preprocessing={})
    data = open_packed(tmp_path / "own")
    with pytest.raises(InputError, match=r"layout mine, the config says ntu25 \(the parent of joint 1 \(SpineMid\) is 20"):
        check_job(tiny(layout="ntu25"), data, ALONE)
    check_job(tiny(layout="mine"), data, ALONE)
    with pytest.raises(InputError, match=r"the config says yours \(another name\)"):
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
