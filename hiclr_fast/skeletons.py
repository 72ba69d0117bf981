"""Joint layouts as data, the graph of each, and the joint / bone / motion streams.

To add a layout, add one `Layout(...)` to `LAYOUTS`: names, parents, centre and mirror pairs say everything else.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hiclr_fast.errors import InputError

Strategy = Literal["uniform", "distance", "spatial"]
STREAMS = ("joint", "bone", "motion")  # in the order of every fusion


@dataclass(frozen=True)
class Layout:
    """A skeleton: V joints, 0-based.

    parents: parent of each joint, the root is its own parent (bones point from the parent).
    center: joint that coordinates are relative to, also the centre of the spatial partition.
    shoulders: (right, left) joints that span the line which preprocessing turns onto the x axis.
    left, right: mirror pairs, entry k of one is the mirror of entry k of the other.
    """

    name: str
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    center: int
    shoulders: tuple[int, int]
    left: tuple[int, ...]
    right: tuple[int, ...]

    @property
    def num_joints(self) -> int:
        return len(self.parents)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """Undirected graph edges (child, parent), without self links."""
        return tuple((v, p) for v, p in enumerate(self.parents) if v != p)

    @property
    def mirror(self) -> tuple[int, ...]:
        """index (V,) such that `x[..., mirror, :]` swaps left and right joints (coordinates are not mirrored)."""
        index = list(range(self.num_joints))
        for l, r in zip(self.left, self.right, strict=True):
            index[l], index[r] = r, l
        return tuple(index)


_KINECT20 = (
    "HipCenter Spine ShoulderCenter Head ShoulderLeft ElbowLeft WristLeft HandLeft ShoulderRight ElbowRight WristRight "
    "HandRight HipLeft KneeLeft AnkleLeft FootLeft HipRight KneeRight AnkleRight FootRight"
).split()
_NTU25 = (
    "SpineBase SpineMid Neck Head ShoulderLeft ElbowLeft WristLeft HandLeft ShoulderRight ElbowRight WristRight "
    "HandRight HipLeft KneeLeft AnkleLeft FootLeft HipRight KneeRight AnkleRight FootRight SpineShoulder HandTipLeft "
    "ThumbLeft HandTipRight ThumbRight"
).split()

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="ntu25",
            joint_names=tuple(_NTU25),
            parents=(1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11),
            center=20,
            shoulders=(8, 4),
            left=(4, 5, 6, 7, 12, 13, 14, 15, 21, 22),
            right=(8, 9, 10, 11, 16, 17, 18, 19, 23, 24),
        ),
        Layout(
            name="kinect20",
            joint_names=tuple(_KINECT20),
            parents=(1, 2, 2, 2, 2, 4, 5, 6, 2, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18),
            center=2,
            shoulders=(8, 4),
            left=(4, 5, 6, 7, 12, 13, 14, 15),
            right=(8, 9, 10, 11, 16, 17, 18, 19),
        ),
    )
}


def get_layout(name: str) -> Layout:
    """The layout of that name; `InputError` lists the known ones."""
    if name not in LAYOUTS:
        raise InputError(f"unknown joint layout {name!r}: expected one of {sorted(LAYOUTS)}; add yours to skeletons.py")
    return LAYOUTS[name]


def body_parts(layout: Layout) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """(name, joints) of the torso and of every limb: what hangs together among the left joints, and among the right ones."""
    parts = [("torso", tuple(v for v in range(layout.num_joints) if v not in {*layout.left, *layout.right}))]
    for side, joints in (("left", layout.left), ("right", layout.right)):
        group = {v: v for v in joints}
        for a, b in layout.bones:
            if a in group and b in group:
                old, new = group[a], group[b]
                group = {v: new if g == old else g for v, g in group.items()}
        limbs = [tuple(v for v in joints if group[v] == g) for g in dict.fromkeys(group.values())]
        parts += [(f"{side} limb {i}", limb) for i, limb in enumerate(limbs, 1)]
    return tuple((name, joints) for name, joints in parts if joints)


def hop_distance(layout: Layout, max_hop: int = 1) -> np.ndarray:
    """(V, V) float64 hops between joints; farther than `max_hop` is inf (official graph code, get_hop_distance)."""
    v = layout.num_joints
    step = np.zeros((v, v))
    for a, b in layout.bones:
        step[a, b] = step[b, a] = 1
    hops = np.full((v, v), np.inf)
    reach = np.eye(v)
    for hop in range(max_hop + 1):
        hops[np.isinf(hops) & (reach > 0)] = hop
        reach = reach @ step
    return hops


def adjacency(layout: Layout, strategy: Strategy = "spatial", max_hop: int = 1) -> np.ndarray:
    """(K, V, V) float64 partitioned graph; `out[:, w] = sum_k sum_v x_k[:, v] A[k, v, w]`.

    Every column of the 0/1 graph (hops <= max_hop, self included) is divided by its sum, then split:
    uniform K=1 all together; distance K=max_hop+1 by hop; spatial K=2*max_hop+1 by hop and by whether the source is
    nearer to the centre than the target. Distances beyond `max_hop` are inf and compare equal, so that outer bones
    fall into one subset in both directions: as in the official code, because released weights depend on it.
    """
    hops = hop_distance(layout, max_hop)
    graph = (hops <= max_hop).astype(np.float64)
    graph /= graph.sum(axis=0, keepdims=True)
    if strategy == "uniform":
        return graph[None]
    if strategy == "distance":
        return np.stack([graph * (hops == hop) for hop in range(max_hop + 1)])
    if strategy == "spatial":
        to_center = hops[:, layout.center]
        further = to_center[:, None] < to_center[None, :]  # [j, i]: source j is nearer to the centre than target i
        subsets = [graph * (hops == 0)]
        for hop in range(1, max_hop + 1):
            subsets += [graph * (hops == hop) * ~further, graph * (hops == hop) * further]
        return np.stack(subsets)
    raise InputError(f"unknown partition strategy {strategy!r}: expected uniform, distance or spatial")
