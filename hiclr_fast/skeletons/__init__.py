"""Joint layouts as data, the graph of each, the joint / bone / motion streams, and what the three numbers of a joint are."""

from hiclr_fast.skeletons.graph import Strategy, adjacency, hop_distance
from hiclr_fast.skeletons.known import LAYOUTS, get_layout, read_layout, unlike
from hiclr_fast.skeletons.layout import Layout, difference, same_skeleton
from hiclr_fast.skeletons.space import METRES, Space

STREAMS = ("joint", "bone", "motion")  # in the order of every fusion

__all__ = [
    "LAYOUTS",
    "METRES",
    "STREAMS",
    "Layout",
    "Space",
    "Strategy",
    "adjacency",
    "difference",
    "get_layout",
    "hop_distance",
    "read_layout",
    "same_skeleton",
    "unlike",
]
