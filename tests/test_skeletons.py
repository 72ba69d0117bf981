"""Graphs and streams against the recorded official ones; layouts of one's own, and every way one can be wrong."""

import json

import numpy as np
import pytest
import torch
from hiclr_kernels.augment.reference import to_stream

from hiclr_fast.data.own import Layout as ShowLayout
from hiclr_fast.drawing import spread
from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import LAYOUTS, Layout, Space, adjacency, difference, get_layout, hop_distance, same_skeleton

OFFICIAL = {"ntu25": "ntu-rgb+d", "kinect20": "nw-ucla"}


@pytest.mark.parametrize("strategy", ["spatial", "uniform", "distance"])
@pytest.mark.parametrize("name", OFFICIAL)
def test_adjacency(golden, name, strategy):
    want = golden("graph")[f"{OFFICIAL[name]}/{strategy}/A"]
    np.testing.assert_allclose(adjacency(LAYOUTS[name], strategy), want, atol=1e-12)


def test_adjacency_two_hops(golden):
    layout, g = LAYOUTS["ntu25"], golden("graph")
    np.testing.assert_allclose(adjacency(layout, "spatial", 2), g["ntu-rgb+d/spatial_maxhop2/A"], atol=1e-12)
    np.testing.assert_allclose(adjacency(layout, "distance", 2), g["ntu-rgb+d/distance_maxhop2/A"], atol=1e-12)
    np.testing.assert_array_equal(hop_distance(layout, 2), g["ntu-rgb+d/hop_dis_maxhop2"])


def test_layout_data(golden):
    g = golden("graph")
    for name, official in OFFICIAL.items():
        layout = LAYOUTS[name]
        bones = g[f"{official}/edges"][layout.num_joints :]
        assert sorted(map(tuple, bones)) == sorted(layout.bones)
        assert layout.center == g[f"{official}/center"]
        assert len(layout.joint_names) == layout.num_joints
    np.testing.assert_array_equal(LAYOUTS["ntu25"].parents, golden("streams")["bone_parent"])
    np.testing.assert_array_equal(LAYOUTS["ntu25"].mirror, golden("augment")["op/spatial_flip/index"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_mirror_pairs_are_symmetric_and_named(name):
    layout = LAYOUTS[name]
    for l, r in zip(layout.left, layout.right, strict=True):
        assert layout.joint_names[l].lower().replace("left", "right") == layout.joint_names[r].lower()
        mirrored_parent = layout.mirror[layout.parents[l]]
        assert layout.parents[r] == mirrored_parent


@pytest.mark.parametrize("stream", ["bone", "motion"])
def test_streams(golden, stream):
    g = golden("streams")
    out = to_stream(g.t("x", torch.float32), stream, LAYOUTS["ntu25"].parents)
    torch.testing.assert_close(out, g.t(stream, torch.float32), rtol=0, atol=1e-6)


STICK = {
    "joint_names": ["hip", "neck", "head", "left hand", "right hand"],
    "parents": ["neck", "neck", "neck", "neck", "neck"],
    "left": ["left hand"],
    "right": ["right hand"],
    "shoulders": ["right hand", "left hand"],
}


def write(tmp_path, **changes):
    file = tmp_path / "stick.json"
    file.write_text(json.dumps({key: value for key, value in (STICK | changes).items() if value is not None}))
    return file


@pytest.mark.parametrize("name", LAYOUTS)
def test_known_layouts_are_whole_and_come_back_from_plain_values(name):
    layout = LAYOUTS[name]
    assert Layout.from_dict(json.loads(json.dumps(layout.as_dict())), "here") == layout and get_layout(name) is layout
    assert sorted(j for _, joints in layout.parts for j in joints) == list(range(layout.num_joints))
    mirrored = {tuple(sorted(layout.mirror[j] for j in joints)) for _, joints in layout.parts}
    assert mirrored == {tuple(sorted(joints)) for _, joints in layout.parts}
    right, left = (layout.joint_names[j].lower() for j in layout.shoulders)
    assert "right" in right and "left" in left and "shoulder" in right


def test_a_layout_of_ones_own(tmp_path):
    layout = get_layout(write(tmp_path))
    assert (layout.name, layout.parents, layout.center) == ("stick", (1, 1, 1, 1, 1), 1) and layout.mirror == (0, 1, 2, 4, 3)
    assert dict(layout.parts) == {"torso": (0, 1, 2), "left hand": (3,), "right hand": (4,)} and layout.has_shoulders
    bare = Layout.from_dict({"parents": [0, 0, 1, 2, 0, 4, 5]}, "here")
    assert bare.name.startswith("skeleton7_") and not bare.has_shoulders and bare.center == 0
    assert [joints for _, joints in bare.parts] == [(0,), (1, 2, 3), (4, 5, 6)]
    assert Layout.from_dict({"parents": [0, 0, 1, 2, 0, 4, 5]}, "there") == bare
    given = get_layout(write(tmp_path, parts={"all of it": [0, 1, 2, 3, 4]}, name="sticky"))
    assert given.name == "sticky" and given.parts == (("all of it", (0, 1, 2, 3, 4)),) and same_skeleton(given, layout)


def test_a_skeleton_is_more_than_its_number_of_joints(tmp_path):
    layout = get_layout(write(tmp_path))
    for changes, words in (
        (dict(parents=["neck", "neck", "neck", "head", "head"]), "the parent of joint 3"),
        (dict(left=None, right=None), "the mirror partner of joint 3"),
        (dict(center="hip"), "the centre is joint 1 against 0"),
    ):
        assert words in difference(layout, get_layout(write(tmp_path, **changes))), words
    assert difference(layout, LAYOUTS["ntu25"]) == "5 joints against 25"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (dict(parents=[0, 1, 1, 1, 1]), "joints 0, 1 are their own parent; expected exactly one root"),
        (dict(parents=[1, 2, 0, 1, 1]), "no joint is their own parent"),
        (dict(parents=[2, 1, 0, 1, 1]), "the parents of joint 0 run in a circle"),
        (dict(parents=[1, 1, 1, 1, 5]), "parents names the joint 5, expected whole numbers from 0 to 4"),
        (dict(parents=[1, 1, 1, 1, 0.5]), "parents names the joint 0.5"),
        (dict(parents=[1, 1, 1, 1, -1]), "parents names the joint -1"),
        (dict(parents=[1, 1, 1, 1, True]), "parents names the joint True"),
        (dict(parents=["neck", "neck", "neck", "neck", "toe"]), "'toe' is none of the joints hip, neck"),
        (dict(parents=None), "no layout; expected an object with `parents`"),
        (dict(parents=[0]), "5 joint names, 1 parents"),
        (dict(joint_names=list("abcda"), left=[3], right=[4], parents=[1] * 5, shoulders=[4, 3]), "two joints are called 'a'"),
        (dict(left=["left hand", "hip"]), "2 left and 1 right joints; each needs its mirror partner"),
        (dict(right=["left hand"]), "left hand is in the mirror lists twice"),
        (dict(parents=[1, 1, 1, 1, 3]), r"left hand \(1 bones from the root\) is no mirror image of right hand \(2"),
        (dict(parts={"a": [0, 1], "b": [2, 3]}), "the parts a, b are not a division of the joints"),
        (dict(shoulders=[1, 2, 3]), "3 shoulders; expected two"),
        (dict(centre=1), "unknown key 'centre'; the nearest valid one is 'center'"),
        (dict(name="ntu25"), r"ntu25 is a built-in layout with another skeleton \(5 joints against 25\)"),
        (dict(parts=3), "no layout"),
    ],
)
def test_what_is_no_skeleton_is_one_sentence(tmp_path, changes, what):
    with pytest.raises(InputError, match=what):
        get_layout(write(tmp_path, **changes))


def test_layout_files_that_are_none(tmp_path):
    for text, what in (("", "not readable JSON"), ("[" * 100000, "not readable JSON"), ("3", "no layout"), ("[]", "no layout")):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match=what):
            get_layout(tmp_path / "x.json")
    with pytest.raises(InputError, match=r"none.json does not exist"):
        get_layout(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"unknown joint layout 'coco'.*ntu25.*coco17"):
        get_layout("coco")


def test_spaces_come_back_from_plain_values():
    for space in (Space(), Space("body", "score", 1.0), Space("image", "zero", 0.4)):
        assert Space.from_dict(json.loads(json.dumps(space.as_dict())), "here") == space
    assert Space.from_dict(None, "an old set") == Space() and Space().metre == 1.0 and Space("body", "zero", 1.45).metre == 1.0
    for bad in ({}, {"unit": "px", "third": "zero", "size": 1}, {"unit": "m", "third": "zero", "size": -1}, []):
        with pytest.raises(InputError, match="not a description of coordinates"):
            Space.from_dict(bad, "here")


def test_a_layout_is_shown_drawn_and_read_again(tmp_path, capsys):
    for name in LAYOUTS:
        ShowLayout(name).run()
        (tmp_path / "again.json").write_text(capsys.readouterr().out)
        assert get_layout(tmp_path / "again.json") == LAYOUTS[name]
    for layout, picture in (("coco17", tmp_path / "coco17.png"), (str(write(tmp_path)), tmp_path / "mine.png")):
        ShowLayout(layout, picture).run()
        assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"mine.png exists already"):
        ShowLayout("coco17", picture).run()
    with pytest.raises(InputError, match=r"name it .png"):
        ShowLayout("coco17", tmp_path / "x.pt").run()


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_picture_of_a_layout_is_a_person_who_faces_us(name):
    layout, place = LAYOUTS[name], spread(LAYOUTS[name])
    for l, r in zip(layout.left, layout.right, strict=True):
        assert place[l, 0] == -place[r, 0] > 0 and place[l, 1] == place[r, 1]
    apart = np.linalg.norm(place[:, None] - place[None], axis=-1) + np.eye(layout.num_joints)
    assert apart.min() > 0.1
    named = {n.lower().replace("_", ""): v for v, n in enumerate(layout.joint_names)}
    top, bottom = (next(named[n] for n in names if n in named) for names in (("head", "nose"), ("ankleleft", "leftankle")))
    assert place[top, 1] > place[bottom, 1]
