"""Graphs and streams against the recorded official ones."""

import numpy as np
import pytest
import torch
from hiclr_kernels.augment.reference import to_stream

from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import LAYOUTS, adjacency, get_layout, hop_distance

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
        assert layout.joint_names[l].replace("Left", "Right") == layout.joint_names[r]
        mirrored_parent = layout.mirror[layout.parents[l]]
        assert layout.parents[r] == mirrored_parent


@pytest.mark.parametrize("stream", ["bone", "motion"])
def test_streams(golden, stream):
    g = golden("streams")
    out = to_stream(g.t("x", torch.float32), stream, LAYOUTS["ntu25"].parents)
    torch.testing.assert_close(out, g.t(stream, torch.float32), rtol=0, atol=1e-6)


def test_unknown_layout_is_one_sentence():
    with pytest.raises(InputError, match=r"unknown joint layout 'coco'.*ntu25"):
        get_layout("coco")
