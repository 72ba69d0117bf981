"""The passes of a block, forward and backward. Activations (R, T, V, C), seen as G groups of L rows for statistics."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hiclr_kernels.batch_norm import gpu as norm
from hiclr_kernels.batch_norm import gpu_marks
from hiclr_kernels.batch_norm.gpu import Operand
from hiclr_kernels.graph_conv import gpu as graph
from hiclr_kernels.stgcn_block import shortcut, temporal_part
from hiclr_kernels.temporal import Fold


def _graph_weights(block) -> graph.Weights:
    return graph.Weights(block.importance, block.gcn_weight, block.gcn_bias)


def _frames(x: Tensor, groups: int) -> Tensor:
    """(R, T, V, C) -> (G, R / G * T, V, C)."""
    return x.view(groups, -1, *x.shape[2:])


def _rows(x: Tensor, groups: int) -> Tensor:
    """(R, T, V, C) -> (G, L, C)."""
    return x.view(groups, -1, x.shape[-1])


def _every(x: Tensor, stride: int) -> Tensor:
    """Every stride-th frame, contiguous."""
    return x if stride == 1 else x[:, ::stride].contiguous()


def _project(x: Tensor, blocks: Sequence, split: int, plan) -> Tensor:
    """(R, T', V, D): the projected shortcut, the rows of the first `split` groups by the first block's weights."""
    x = _every(x, plan.stride)
    z = torch.empty(*x.shape[:3], len(blocks[0].project_bias), dtype=x.dtype, device=x.device)
    for part, block in zip((slice(split), slice(split, None)), blocks, strict=False):
        rows, to = x[part].view(-1, x.shape[-1]), z[part].view(-1, z.shape[-1])
        torch.addmm(block.project_bias.to(x.dtype), rows, block.project_weight.to(x.dtype).T, out=to)
    return z


def _marks(z2: Tensor, block, plan) -> bool:
    """Whether a block's end is of the kind that `gpu_marks` takes, and its temporal gradient reads marks."""
    plain = block.norm3 is None and plan.after.slope == 0 and not plan.pooled
    return plain and gpu_marks.covers(z2.shape[-1]) and temporal_part.takes_marks(z2)


def _end(z2: Tensor, part, rows: Tensor, blocks: Sequence, groups: int, split: int, plan) -> tuple[Tensor, list[Tensor | None]]:
    """y of the rows of these groups, and what `_end_backward` needs: z2, z3 or None, marks or None, statistics of both."""
    own, flat, pooled = len(rows) * split // groups, _rows(z2, groups), plan.pooled
    stats2 = norm.statistics(flat, [b.norm2 for b in blocks], plan.rule, split, part)
    z3 = marks = stats3 = second = None
    if blocks[0].norm3 is None:
        second = Operand(_rows(rows, groups)) if plan.identity else None
    elif shortcut.covers(rows.shape[-1], rows.dtype):
        stats3 = shortcut.statistics(rows, flat, blocks, plan, split)
        y = shortcut.end(flat, rows, stats2, stats3, blocks, plan, split)
        return y if pooled else y.view(z2.shape), [z2[:own], None, None, stats2, stats3]
    else:
        z3 = _project(rows, blocks, own, plan)
        stats3 = norm.statistics(_rows(z3, groups), [b.norm3 for b in blocks], plan.rule, split)
        second = Operand(_rows(z3, groups), stats3)
    end = Operand(flat, stats2)
    if pooled:
        y = norm.pool(end, second, plan.after, pooled)
    elif _marks(z2, blocks[0], plan):
        y, marks = gpu_marks.apply(end, None if second is None else second.x, plan.after, split)
    else:
        y = norm.apply(end, second, plan.after)
    return y if pooled else y.view(z2.shape), [z2[:own], None if z3 is None else z3[:own], marks, stats2, stats3]


def forward(rows: Tensor, adjacency: Tensor, blocks: Sequence, plan) -> tuple[Tensor, list[Tensor | None]]:
    groups, split = plan.groups, plan.split
    own = len(rows) * split // groups
    z1, folded, moments = graph.forward(_frames(rows, groups), adjacency, [_graph_weights(b) for b in blocks], split)
    z1 = z1.view(*rows.shape[:3], -1)
    stats1 = norm.statistics(_rows(z1, groups), [b.norm1 for b in blocks], plan.rule, split, moments)
    parts, moments, band = temporal_part.forward(z1, stats1, blocks, plan)
    if len(parts) == 1:
        y, saved = _end(parts[0], moments, rows, blocks, groups, split, plan)
    else:  # joining them would cost a read and a write
        y, saved = _end(parts[0], moments, rows[:own], blocks[:1], split, split, plan)
        seed = plan.after.seed  # positions start again: other draws than the first group's
        theirs = plan._replace(after=plan.after._replace(seed=None if seed is None else seed + 1))
        y = torch.cat([y, _end(parts[1], moments, rows[own:], blocks[1:], groups - split, groups - split, theirs)[0]])
    widens = z1.shape[-1] > rows.shape[-1]
    folded = (None, None) if folded is None else (folded.matrix[:1], folded.column[:1])
    return y, [None if widens else z1[:own], *saved, stats1, *folded, band]


class _EndBack(NamedTuple):
    """h: gradient of z2, or with `fold` what it is made from; onto: of x by the shortcut; project: of its parameters."""

    h: Tensor
    fold: Fold | None
    onto: Tensor | None
    norm2: norm.Back
    project: tuple = (None,) * 4


def _end_backward(grad: Tensor, x: Tensor, saved: Sequence, block, plan) -> _EndBack:
    z2, z3, marks, stats2, stats3 = saved
    groups, rule = plan.split, plan.rule
    grad, flat = grad if plan.pooled else _rows(grad, groups), _rows(z2, groups)
    if stats3 is not None and z3 is None:
        d = shortcut.backward(grad, flat, x, stats2, stats3, block, plan)
        project = d.weight, d.back3.front, d.back3.weight, d.back3.bias
        return _EndBack(d.z2.view(z2.shape), None, d.x, d.back2, project)
    end = Operand(flat, stats2)
    if marks is not None:
        part, before = gpu_marks.reduce(grad, end, marks, plan.after)
        back2 = norm.coefficients(part, block.norm2.weight, stats2, flat.shape[1], rule.mean_of, front=True)
        fold = Fold(z2, *back2.coefficients, marks[0], gpu_marks.inverse(plan.after))
        return _EndBack(grad.view(z2.shape), fold, before, back2)
    second = None
    if z3 is not None:
        second = Operand(_rows(z3, groups), stats3)
    elif plan.identity:
        second = Operand(_rows(x, groups))
    if z3 is None and temporal_part.fuses(z2.shape[-1], z2.dtype):  # the gradient through n2 is made on the way into it
        part, before, h = norm.reduce(grad, end, second, plan.after, plan.identity, plan.pooled, own=True)
        back2 = norm.coefficients(part[:, :, :2], block.norm2.weight, stats2, flat.shape[1], rule.mean_of, front=True)
        return _EndBack(h.view(z2.shape), Fold(z2, *back2.coefficients), before, back2)
    weights = block.norm2.weight, None if block.norm3 is None else block.norm3.weight
    h, before, back2, back3 = norm.backward(grad, end, second, plan.after, weights, rule, plan.pooled, front=True)
    if z3 is None:
        return _EndBack(h.view(z2.shape), None, before, back2)
    given, dz3 = _every(x, plan.stride), before.view(-1, z3.shape[-1])
    onto = torch.zeros_like(x)
    onto[:, :: plan.stride] = (dz3 @ block.project_weight.to(x.dtype)).view(given.shape)
    project = dz3.T @ given.view(-1, x.shape[-1]), back3.front, back3.weight, back3.bias
    return _EndBack(h.view(z2.shape), None, onto, back2, project)


def backward(grad: Tensor, x: Tensor, adjacency: Tensor, saved: Sequence, block, plan) -> tuple[Tensor, tuple]:
    z1, *ends, stats1, matrix, column, band = saved
    groups, own, rule = plan.split, _graph_weights(block), plan.rule
    folded, active = None if matrix is None else graph.Folded(matrix, column), None
    if z1 is None:
        behind = None if temporal_part.fuses(stats1.shape[2], x.dtype) else stats1
        z1, active = graph.again(_frames(x, groups), adjacency, own, folded, behind)
        z1 = z1.view(*x.shape[:3], -1)
    end = _end_backward(grad, x, ends, block, plan)
    d = temporal_part.backward(end.h, end.fold, z1, active, stats1, block, plan, band)
    back1 = norm.coefficients(d.part, block.norm1.weight, stats1, z1.numel() // z1.shape[-1] // groups, rule.mean_of)
    dz1, part = graph.spread(_frames(d.h, groups), _frames(z1, groups), stats1, back1, d.slope)
    dx, d_graph = graph.backward(dz1, part, _frames(x, groups), adjacency, own, folded, end.onto)
    norm2 = end.norm2.front, end.norm2.weight, end.norm2.bias
    return dx.view(x.shape), (*d_graph, back1.weight, back1.bias, d.weight, *norm2, *end.project)
