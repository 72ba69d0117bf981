"""The graph of a layout, as the encoders read it."""

from typing import Literal

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.skeletons.layout import Layout

Strategy = Literal["uniform", "distance", "spatial"]


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
