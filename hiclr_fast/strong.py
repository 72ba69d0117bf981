"""The two strong operations beside the mask: SkeleAdaIN on a view, dropped and added edges on the encoder's graph.

Off in the release (dead code there). Formulas: official code, checked against its recorded outputs. Drawn from the
augmentation's generator, under sample ids that no sample has.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from hiclr_kernels.augment_draw import BATCH_ID
from hiclr_kernels.philox_ref import uniform
from torch import Tensor

EPS = 1e-5  # added to the variance, official AdaIN


def adain(content: Tensor, style: Tensor, mode: Literal["sequence", "frame"]) -> Tensor:
    """content with the mean and standard deviation of style, per sample, body and coordinate. Both (N, 3, T, V, M).

    sequence: statistics over frames and joints; frame: over the joints of each frame. Unbiased variance.
    """
    dims = (2, 3) if mode == "sequence" else (3,)

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x, dims, keepdim=True)
        return mean, (variance + EPS).sqrt()

    (content_mean, content_std), (style_mean, style_std) = statistics(content), statistics(style)
    return (content - content_mean) * (style_std / content_std) + style_mean


def draw_roll(n: int, *, seed: int, step: Tensor, view: int) -> Tensor:
    """(N,) int64: the batch rolled by U{1..N-2}, so that nobody is his own style. step: () int64 on the device."""
    if n < 3:
        raise ValueError(f"a batch of {n}: SkeleAdaIN needs at least 3 samples")
    one = torch.ones_like(step)
    u = uniform(seed, one * view, one * BATCH_ID, step, 1)  # (1,)
    return (torch.arange(n, device=step.device) - 1 - (u * (n - 2)).long()) % n


def drop_edges(graph: Tensor, kept: Tensor, rate: Tensor) -> Tensor:
    """graph * kept / (1 - rate). graph (..., K, V, V), kept 0/1 of its shape, rate that broadcasts."""
    return graph * kept / (1 - rate)


def add_edges(graph: Tensor, added: Tensor) -> Tensor:
    """Edges of weight 1 where `added` and absent so far; all scaled to keep the sum of the graph. graph: (..., K, V, V)."""
    new = (added.bool() & (graph == 0)).to(graph.dtype)
    total = graph.sum((-3, -2, -1), keepdim=True)
    return (graph + new) * (total / (total + new.sum((-3, -2, -1), keepdim=True)))


def draw_graphs(
    kinds: Sequence[str], drop: float, add: float, graph: Tensor, layers: int, *, seed: int, step: Tensor
) -> list[Tensor | None] | None:
    """For every view the graphs (layers, K, V, V) of its pass: its own for strong views, None for the others. None: all off.

    Each layer draws a drop rate U(0, drop) and an add rate U(0, add), then its edges. graph: (K, V, V); step: () int64.
    """
    if not (drop or add):
        return None
    edges = graph.numel()
    ids = BATCH_ID - 1 - torch.arange(layers, device=step.device)
    graphs: list[Tensor | None] = []
    for view, kind in enumerate(kinds):
        if kind != "strong":
            graphs.append(None)
            continue
        u = uniform(seed, torch.full_like(ids, view), ids, step, 2 + 2 * edges)  # (layers, 2 + 2 K V V)
        drop_rate, add_rate = (u[:, k, None, None, None] * most for k, most in enumerate((drop, add)))
        to_drop, to_add = u[:, 2:].view(layers, 2, *graph.shape).unbind(1)
        graphs.append(add_edges(drop_edges(graph, to_drop >= drop_rate, drop_rate), to_add < add_rate))
    return graphs
