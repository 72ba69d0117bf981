"""Triton kernels of the graph convolution of wide inputs: joints are gathered and multiplied in registers, tile by tile.

    z[w, f] = sum_k (sum_v a_k[v, w] x[v, f]) W_k + sum_k b_k sum_v a_k[v, w]        a_k = A_k E_k

A tile is F frames of J joints (V, padded). x: (G, L, V, C), G groups of L frames. weight: (K, D, C) float32, rounded to the
dtype of x. Groups from `split` on take the second set of edges and weights.
"""

import triton
import triton.language as tl

from hiclr_kernels.graph_conv.gpu_kernels import _edges, _summed


@triton.jit
def _gathered(adjacency, importance, x, k, V: tl.constexpr, J: tl.constexpr, F: tl.constexpr, CB: tl.constexpr):
    """(J * F, CB) of x (J, F * CB), and the sums over v of a_k."""
    v = tl.arange(0, J)
    ok = (v < V)[:, None] & (v < V)[None, :]
    a = _edges(adjacency, importance, k, v[None, :], v[:, None], ok, V)  # (w, v)
    y = tl.dot(a.to(x.dtype), x, input_precision="ieee").to(x.dtype)
    return tl.reshape(y, (J * F, CB)), tl.sum(a, 1)


@triton.jit
def _joints_first(x, base, first, c, L, V: tl.constexpr, C: tl.constexpr, J: tl.constexpr, F: tl.constexpr, CB: tl.constexpr):
    """(J, F * CB): channels c to c + CB - 1 of F frames."""
    v, n = tl.arange(0, J), tl.arange(0, F * CB)
    f, c = first + n // CB, c + n % CB
    ok = (v < V)[:, None] & ((f < L) & (c < C))[None, :]
    return tl.load(x + base + (f.to(tl.int64) * (V * C) + c)[None, :] + v[:, None] * C, ok, other=0.0)


@triton.jit
def _rows(z, base, first, d, L, V: tl.constexpr, D: tl.constexpr, J: tl.constexpr, F: tl.constexpr, DB: tl.constexpr):
    """Pointers and mask (J * F, DB): rows are (w, f), columns channels d to d + DB - 1."""
    q, d = tl.arange(0, J * F), d + tl.arange(0, DB)
    w, f = q // F, first + q % F
    ok = ((w < V) & (f < L))[:, None] & (d < D)[None, :]
    return z + base + (f.to(tl.int64) * (V * D) + w * D)[:, None] + d[None, :], ok


@triton.jit
def forward_kernel(
    x, adjacency, importance, weight, bias, importance2, weight2, bias2, z, part, stats, active, L, split, G, K: tl.constexpr,
    C: tl.constexpr, D: tl.constexpr, J: tl.constexpr, F: tl.constexpr, CB: tl.constexpr, DB: tl.constexpr,
    MOMENTS: tl.constexpr, ACT: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """part (G, S, 3, D): count, mean and sum of squared deviations of a tile's values, as stored, if MOMENTS.

    active, like z: relu(z * scale + shift), of the batch norm behind, whose stats (4, G, D) are known, if ACT.
    """
    first, d, g = tl.program_id(0) * F, tl.program_id(1) * DB, tl.program_id(2)
    if g >= split:
        importance, weight, bias = importance2, weight2, bias2
    acc = tl.zeros((J * F, DB), tl.float32)
    own, ci = d + tl.arange(0, DB), tl.arange(0, CB)
    for c in range(0, C, CB):
        tile = _joints_first(x, g.to(tl.int64) * L * (V * C), first, c, L, V, C, J, F, CB)
        for k in tl.static_range(K):
            y, sums = _gathered(adjacency, importance, tile, k, V, J, F, CB)
            ok = (c + ci < C)[:, None] & (own < D)[None, :]
            w = tl.load(weight + (k * D + own)[None, :] * C + (c + ci)[:, None], ok, other=0.0)
            acc = tl.dot(y, w.to(y.dtype), acc, input_precision="ieee")
            if c == 0:
                each = sums[:, None] * tl.load(bias + k * D + own, own < D, other=0.0)[None, :]  # (J, DB)
                acc += tl.reshape(tl.broadcast_to(each[:, None, :], (J, F, DB)), (J * F, DB))
    at, ok = _rows(z, g.to(tl.int64) * L * (V * D), first, d, L, V, D, J, F, DB)
    out = acc.to(z.dtype.element_ty)
    tl.store(at, out, ok)
    if MOMENTS:
        values, count = out.to(tl.float32), (tl.minimum(F, L - first) * V).to(tl.float32)
        mean = tl.sum(tl.where(ok, values, 0.0), 0) / count
        apart = tl.where(ok, values - mean[None, :], 0.0)
        place = part + (g * tl.num_programs(0) + tl.program_id(0)) * (3 * D) + own
        tl.store(place, tl.zeros_like(mean) + count, own < D)
        tl.store(place + D, mean, own < D)
        tl.store(place + 2 * D, tl.sum(apart * apart, 0), own < D)
    if ACT:
        scale = tl.load(stats + (2 * G + g) * D + own, own < D, other=0.0)
        shift = tl.load(stats + (3 * G + g) * D + own, own < D, other=0.0)
        value = tl.maximum(out.to(tl.float32) * scale[None, :] + shift[None, :], 0.0)
        at, ok = _rows(active, g.to(tl.int64) * L * (V * D), first, d, L, V, D, J, F, DB)
        tl.store(at, value.to(active.dtype.element_ty), ok)


@triton.jit
def input_kernel(
    dz, x, adjacency, importance, weight, before, dx, part, L, tiles, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
    D: tl.constexpr, J: tl.constexpr, F: tl.constexpr, CB: tl.constexpr, DB: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """dx = sum_k a_k dz W_k, added to `before` with ADD; part (K, S, J, J): sums of x (dz W_k)^T, the gradients of a_k.

    dz, x: (L, V, ...), groups of one set are one. A program takes every S-th tile of one block of channels.
    """
    s, c = tl.program_id(0), tl.program_id(1) * CB
    v = tl.arange(0, J)
    da0 = tl.zeros((J, J), tl.float32)
    da1, da2 = da0, da0
    square = (v < V)[:, None] & (v < V)[None, :]
    ci, di = tl.arange(0, CB), tl.arange(0, DB)
    n = tl.arange(0, F * CB)
    for turn in range(s, tiles, tl.num_programs(0)):
        first = turn * F
        tile = _joints_first(x, 0, first, c, L, V, C, J, F, CB)
        acc = tl.zeros((J, F * CB), tl.float32)
        for k in tl.static_range(K):
            y = tl.zeros((J * F, CB), tl.float32)
            for d in range(0, D, DB):
                at, ok = _rows(dz, 0, first, d, L, V, D, J, F, DB)
                ok_w = (d + di < D)[:, None] & (c + ci < C)[None, :]
                w = tl.load(weight + (k * D + d + di)[:, None] * C + (c + ci)[None, :], ok_w, other=0.0)
                y = tl.dot(tl.load(at, ok, other=0.0), w.to(tile.dtype), y, input_precision="ieee")
            y = tl.reshape(y.to(tile.dtype), (J, F * CB))
            a = _edges(adjacency, importance, k, v[:, None], v[None, :], square, V)  # (v, w)
            acc = tl.dot(a.to(tile.dtype), y, acc, input_precision="ieee")
            if k == 0:
                da0 = tl.dot(tile, tl.trans(y), da0, input_precision="ieee")
            elif k == 1:
                da1 = tl.dot(tile, tl.trans(y), da1, input_precision="ieee")
            else:
                da2 = tl.dot(tile, tl.trans(y), da2, input_precision="ieee")
        f, ch = first + n // CB, c + n % CB
        ok = (v < V)[:, None] & ((f < L) & (ch < C))[None, :]
        at = (f.to(tl.int64) * (V * C) + ch)[None, :] + v[:, None] * C
        if ADD:
            acc += tl.load(before + at, ok, other=0.0).to(tl.float32)
        tl.store(dx + at, acc.to(dx.dtype.element_ty), ok)
    at = part + (tl.program_id(1) * tl.num_programs(0) + s) * (J * J) + v[:, None] * J + v[None, :]
    step = tl.num_programs(0) * tl.num_programs(1) * (J * J)
    tl.store(at, da0)
    if K > 1:
        tl.store(at + step, da1)
    if K > 2:
        tl.store(at + 2 * step, da2)


@triton.jit
def weight_kernel(
    dz, x, adjacency, importance, part, L, tiles, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, D: tl.constexpr,
    J: tl.constexpr, F: tl.constexpr, CB: tl.constexpr, DB: tl.constexpr,
):  # fmt: skip
    """part (S, K, D, C): gradients of W_k over every S-th tile. One program a share, a k and a block of (c, d)."""
    s, k, blocks = tl.program_id(0), tl.program_id(1), tl.cdiv(D, DB)
    c, d = tl.program_id(2) // blocks * CB, tl.program_id(2) % blocks * DB
    acc = tl.zeros((CB, DB), tl.float32)
    for turn in range(s, tiles, tl.num_programs(0)):
        tile = _joints_first(x, 0, turn * F, c, L, V, C, J, F, CB)
        y, _ = _gathered(adjacency, importance, tile, k, V, J, F, CB)
        at, ok = _rows(dz, 0, turn * F, d, L, V, D, J, F, DB)
        acc = tl.dot(tl.trans(y), tl.load(at, ok, other=0.0), acc, input_precision="ieee")
    ci, di = c + tl.arange(0, CB), d + tl.arange(0, DB)
    at = part + ((s * K + k) * D + di)[None, :] * C + ci[:, None]
    tl.store(at, acc, (ci < C)[:, None] & (di < D)[None, :])


@triton.jit
def _finish_edges(
    adjacency, bias, edges, part, d_importance, k, w, E, P, V: tl.constexpr, D: tl.constexpr, J: tl.constexpr, DB: tl.constexpr,
    EB: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The importance of the edges of one k to joint w."""
    v = tl.arange(0, J)
    total = tl.zeros((J,), tl.float32)
    for first in range(0, E, EB):
        e = first + tl.arange(0, EB)
        at = edges + ((k * E + e)[:, None] * J + v[None, :]) * J + w
        total += tl.sum(tl.load(at, (e < E)[:, None] & (v < V)[None, :], other=0.0), 0)
    shift = tl.zeros((DB,), tl.float32)
    for first in range(0, D, DB):
        d = first + tl.arange(0, DB)
        sums = _summed(part, w * D + d, d < D, P, V * D, DB, PARTS)
        shift += tl.load(bias + k * D + d, d < D, other=0.0) * sums
    place = (k * V + v) * V + w
    tl.store(d_importance + place, (total + tl.sum(shift, 0)) * tl.load(adjacency + place, v < V, other=0.0), v < V)


@triton.jit
def _finish_bias(
    adjacency, importance, part, d_bias, k, first, P, V: tl.constexpr, D: tl.constexpr, J: tl.constexpr, DB: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """DB biases of one k."""
    v, d = tl.arange(0, J), first + tl.arange(0, DB)
    total = tl.zeros((DB,), tl.float32)
    for w in range(0, V):
        a = tl.sum(_edges(adjacency, importance, k, v, w, v < V, V), 0)
        total += a * _summed(part, w * D + d, d < D, P, V * D, DB, PARTS)
    tl.store(d_bias + k * D + d, total, d < D)


@triton.jit
def finish_kernel(
    adjacency, importance, bias, edges, weights, part, d_importance, d_weight, d_bias, E, S, P, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, D: tl.constexpr, J: tl.constexpr, DB: tl.constexpr, EB: tl.constexpr, PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Joins what the other kernels left: edges (K, E, J, J), weights (S, K, D, C), part (P, V * D), the sums of dz.

    The first K * V programs: the importance of the edges to one joint; then biases, DB at a time; then weights, BLOCK at a time.
    """
    pid, blocks = tl.program_id(0), tl.cdiv(D, DB)
    if pid < K * V:
        _finish_edges(adjacency, bias, edges, part, d_importance, pid // V, pid % V, E, P, V, D, J, DB, EB, PARTS)
    elif pid < K * (V + blocks):
        at = pid - K * V
        _finish_bias(adjacency, importance, part, d_bias, at // blocks, at % blocks * DB, P, V, D, J, DB, PARTS)
    else:
        i = (pid - K * (V + blocks)) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        for s in range(0, S):
            total += tl.load(weights + s * (K * D * C) + i, i < K * D * C, other=0.0)
        tl.store(d_weight + i, total, i < K * D * C)
