"""The passes of a block, forward and backward. Activations (R, T, V, C), seen as G groups of L rows for statistics."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiclr_kernels.batch_norm import gpu as norm
from hiclr_kernels.batch_norm.gpu import Operand
from hiclr_kernels.graph_conv import gpu as graph
from hiclr_kernels.stgcn_block import temporal_part
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


def _end(z2: Tensor, part, rows: Tensor, blocks: Sequence, groups: int, split: int, plan) -> tuple[Tensor, list[Tensor | None]]:
    """y of the rows of these groups, and what the backward pass needs: z2, z3 and their statistics."""
    stats2 = norm.statistics(_rows(z2, groups), [b.norm2 for b in blocks], plan.rule, split, part)
    z3 = stats3 = second = None
    if blocks[0].norm3 is not None:
        z3 = _project(rows, blocks, len(rows) * split // groups, plan)
        stats3 = norm.statistics(_rows(z3, groups), [b.norm3 for b in blocks], plan.rule, split)
        second = Operand(_rows(z3, groups), stats3)
    elif plan.identity:
        second = Operand(_rows(rows, groups))
    end = Operand(_rows(z2, groups), stats2)
    y = norm.pool(end, second, plan.after, plan.pooled) if plan.pooled else norm.apply(end, second, plan.after).view(z2.shape)
    own = len(rows) * split // groups
    return y, [z2[:own], None if z3 is None else z3[:own], stats2, stats3]


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
    z2, z3, stats2, stats3 = saved
    folded = (None, None) if folded is None else (folded.matrix[:1], folded.column[:1])
    return y, [None if widens else z1[:own], z2, z3, stats1, stats2, stats3, *folded, band]


def backward(grad: Tensor, x: Tensor, adjacency: Tensor, saved: Sequence, block, plan, want: bool) -> tuple[Tensor | None, tuple]:
    z1, z2, z3, stats1, stats2, stats3, matrix, column, band = saved
    groups, own, rule = plan.split, _graph_weights(block), plan.rule
    folded = None if matrix is None else graph.Folded(matrix, column)
    if z1 is None:
        z1 = graph.forward(_frames(x, groups), adjacency, (own,), groups, folded, moments=False)[0].view(*x.shape[:3], -1)
    second = None
    if z3 is not None:
        second = Operand(_rows(z3, groups), stats3)
    elif plan.identity:
        second = Operand(_rows(x, groups))
    end = Operand(_rows(z2, groups), stats2)
    grad = grad if plan.pooled else _rows(grad, groups)
    if z3 is None and temporal_part.fuses(z2.shape[-1], z2.dtype):  # the gradient through n2 is made on the way into it
        part, before, h = norm.reduce(grad, end, second, plan.after, plan.identity, plan.pooled, own=True)
        back2 = norm.coefficients(part[:, :, :2], block.norm2.weight, stats2, end.x.shape[1], rule.mean_of, front=True)
        fold, back3 = Fold(z2, *back2.coefficients), None
    else:
        weights = block.norm2.weight, None if block.norm3 is None else block.norm3.weight
        h, before, back2, back3 = norm.backward(grad, end, second, plan.after, weights, rule, plan.pooled, front=True)
        fold = None
    d = temporal_part.backward(h.view(z2.shape), fold, z1, stats1, block, plan, band)
    back1 = norm.coefficients(d.part, block.norm1.weight, stats1, z1.numel() // z1.shape[-1] // groups, rule.mean_of)
    dz1, part = graph.spread(_frames(d.h, groups), _frames(z1, groups), stats1, back1, d.slope)
    project = None, None, None, None
    onto = before
    if z3 is not None:
        given, dz3 = _every(x, plan.stride), before.view(-1, z3.shape[-1])
        onto = dz3 @ block.project_weight.to(x.dtype) if want else None
        project = dz3.T @ given.view(-1, x.shape[-1]), back3.front, back3.weight, back3.bias
    strided = z3 is not None and plan.stride > 1
    dx, d_graph = graph.backward(dz1, part, _frames(x, groups), adjacency, own, folded, None if strided else onto)
    dx = dx.view(x.shape)
    if strided and want:
        dx[:, :: plan.stride] += onto.view(given.shape)
    return dx, (*d_graph, back1.weight, back1.bias, d.weight, back2.front, back2.weight, back2.bias, *project)
