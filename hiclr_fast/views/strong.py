"""The two strong operations beside the mask: SkeleAdaIN on a view, dropped and added edges on the encoder's graph or
attention maps.

Off in the release (dead code there). Formulas: official code, checked against its recorded outputs. Drawn from the
augmentation's generator, under sample ids that no sample has.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from hiclr_kernels.augment.draw import BATCH_ID
from hiclr_kernels.philox.reference import uniform
from torch import Tensor, nn

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


class Edges(NamedTuple):
    """Which edges a pass drops and adds. Of all layers, leading dimension L, or of one of them (`of`)."""

    rate: Tensor  # (L, 1, ...) share that is dropped
    kept: Tensor  # (L, *shape) bool
    added: Tensor  # (L, *shape) bool

    def of(self, layer: int) -> "Edges":
        return Edges(*(x[layer] for x in self))


def drop_edges(graph: Tensor, kept: Tensor, rate: Tensor) -> Tensor:
    """graph * kept / (1 - rate). kept 0/1 of the graph's shape, rate that broadcasts."""
    return graph * kept / (1 - rate)


def add_edges(graph: Tensor, added: Tensor, weight: Tensor | float = 1.0, dims: Sequence[int] = (-3, -2, -1)) -> Tensor:
    """Edges of `weight` where `added` and absent so far; all scaled to keep the sum over `dims`. graph: (..., K, V, V)."""
    new = (added.bool() & (graph == 0)).to(graph.dtype) * weight
    total = graph.sum(dims, keepdim=True)
    return (graph + new) * (total / (total + new.sum(dims, keepdim=True)))


def add_attention_edges(attention: Tensor, added: Tensor) -> Tensor:
    """`add_edges` on attention maps (R, S, V, V): the weight is the mean of all of them, detached (official randadd)."""
    return add_edges(attention, added, attention.mean().detach(), (-4, -3, -2, -1))


def draw_graphs(
    kinds: Sequence[str], drop: float, add: float, encoder: nn.Module, rows: int, *, seed: int, step: Tensor
) -> list[Tensor | Edges | None] | None:
    """For every view what its pass of the encoder takes as `graphs`: None for all but strong views. None: all off.

    Each layer draws a drop rate U(0, drop) and an add rate U(0, add), then its edges. An encoder with a graph A (K, V, V)
    gets changed graphs (layers, K, V, V); one whose edges are attention maps gets the draws. rows: N * M; step: () int64.
    """
    if not (drop or add):
        return None
    shape, layers = encoder.edge_shape(rows), len(encoder.blocks)
    edges = math.prod(shape)
    ids = BATCH_ID - 1 - torch.arange(layers, device=step.device)
    graphs: list[Tensor | Edges | None] = []
    for view, kind in enumerate(kinds):
        if kind != "strong":
            graphs.append(None)
            continue
        u = uniform(seed, torch.full_like(ids, view), ids, step, 2 + 2 * edges)  # (layers, 2 + 2 edges)
        drop_rate, add_rate = (u[:, k].view(-1, *[1] * len(shape)) * most for k, most in enumerate((drop, add)))
        to_drop, to_add = u[:, 2:].view(layers, 2, *shape).unbind(1)
        draws = Edges(drop_rate, to_drop >= drop_rate, to_add < add_rate)
        whole = encoder.A is not None
        graphs.append(add_edges(drop_edges(encoder.A, draws.kept, draws.rate), draws.added) if whole else draws)
    return graphs
