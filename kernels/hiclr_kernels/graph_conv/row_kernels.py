"""Triton kernels of the graph convolution whose edges differ from row to row (attention maps): tiles of frames of one row.

    z[r, t, w] = sum_k W_k sum_v a[r, k, v, w] x[r, t, v] + b      x: (R, T, V, C); edges: (R, K, V, V) float32; weight: (K, D, C)

Weights lie as they do in the convolution that has them: TO_K from one k to the next, TO_D from one d.
"""

import triton
import triton.language as tl

from hiclr_kernels.graph_conv.wide_kernels import _joints_first, _rows


@triton.jit
def _edges(edges, r, k, v, w, K: tl.constexpr, V: tl.constexpr, J: tl.constexpr):
    """a[r, k, v, w] of any two index tiles, 0 beyond V."""
    at = ((r.to(tl.int64) * K + k) * V + v) * V + w
    return tl.load(edges + at, (v < V) & (w < V), other=0.0)


@triton.jit
def forward_kernel(
    x, edges, weight, bias, z, T, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, D: tl.constexpr, J: tl.constexpr,
    F: tl.constexpr, CB: tl.constexpr, DB: tl.constexpr, TO_K: tl.constexpr, TO_D: tl.constexpr,
):  # fmt: skip
    r, d = tl.program_id(0), tl.program_id(1) * DB
    own, ci, v = d + tl.arange(0, DB), tl.arange(0, CB), tl.arange(0, J)
    start = tl.load(bias + own, own < D, other=0.0)[None, :]
    for first in range(0, T, F):
        acc = tl.zeros((J * F, DB), tl.float32) + start
        for c in range(0, C, CB):
            tile = _joints_first(x, r.to(tl.int64) * T * (V * C), first, c, T, V, C, J, F, CB)
            for k in tl.static_range(K):
                a = _edges(edges, r, k, v[None, :], v[:, None], K, V, J).to(tile.dtype)  # (w, v)
                y = tl.reshape(tl.dot(a, tile, input_precision="ieee").to(tile.dtype), (J * F, CB))
                ok = (c + ci < C)[:, None] & (own < D)[None, :]
                w = tl.load(weight + (k * TO_K + own * TO_D)[None, :] + (c + ci)[:, None], ok, other=0.0)
                acc = tl.dot(y, w.to(y.dtype), acc, input_precision="ieee")
        at, ok = _rows(z, r.to(tl.int64) * T * (V * D), first, d, T, V, D, J, F, DB)
        tl.store(at, acc.to(z.dtype.element_ty), ok)


@triton.jit
def input_kernel(
    dz, x, edges, weight, dx, d_edges, rows, T, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, D: tl.constexpr,
    J: tl.constexpr, F: tl.constexpr, CB: tl.constexpr, DB: tl.constexpr, TO_K: tl.constexpr, TO_D: tl.constexpr,
):  # fmt: skip
    """dx[v] = sum_kw a[k, v, w] (W_k^T dz[w]); d_edges (blocks of C, R, K, V, V): sums of x (W_k^T dz)^T."""
    r, c = tl.program_id(0), tl.program_id(1) * CB
    v, ci, di, n = tl.arange(0, J), tl.arange(0, CB), tl.arange(0, DB), tl.arange(0, F * CB)
    da0 = tl.zeros((J, J), tl.float32)
    da1, da2 = da0, da0
    for first in range(0, T, F):
        tile = _joints_first(x, r.to(tl.int64) * T * (V * C), first, c, T, V, C, J, F, CB)
        acc = tl.zeros((J, F * CB), tl.float32)
        for k in tl.static_range(K):
            y = tl.zeros((J * F, CB), tl.float32)
            for d in range(0, D, DB):
                at, ok = _rows(dz, r.to(tl.int64) * T * (V * D), first, d, T, V, D, J, F, DB)
                ok_w = (d + di < D)[:, None] & (c + ci < C)[None, :]
                w = tl.load(weight + (k * TO_K + (d + di) * TO_D)[:, None] + (c + ci)[None, :], ok_w, other=0.0)
                y = tl.dot(tl.load(at, ok, other=0.0), w.to(tile.dtype), y, input_precision="ieee")
            y = tl.reshape(y.to(tile.dtype), (J, F * CB))
            a = _edges(edges, r, k, v[:, None], v[None, :], K, V, J).to(tile.dtype)  # (v, w)
            acc = tl.dot(a, y, acc, input_precision="ieee")
            if k == 0:
                da0 = tl.dot(tile, tl.trans(y), da0, input_precision="ieee")
            elif k == 1:
                da1 = tl.dot(tile, tl.trans(y), da1, input_precision="ieee")
            else:
                da2 = tl.dot(tile, tl.trans(y), da2, input_precision="ieee")
        f, ch = first + n // CB, c + n % CB
        ok = (v < V)[:, None] & ((f < T) & (ch < C))[None, :]
        at = r.to(tl.int64) * T * (V * C) + (f * (V * C) + ch)[None, :] + v[:, None] * C
        tl.store(dx + at, acc.to(dx.dtype.element_ty), ok)
    at = d_edges + (tl.program_id(1) * rows + r).to(tl.int64) * (K * V * V) + v[:, None] * V + v[None, :]
    ok = (v < V)[:, None] & (v < V)[None, :]
    tl.store(at, da0, ok)
    if K > 1:
        tl.store(at + V * V, da1, ok)
    if K > 2:
        tl.store(at + 2 * V * V, da2, ok)


@triton.jit
def weight_kernel(
    dz, x, edges, part, rows, T, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, D: tl.constexpr, J: tl.constexpr,
    F: tl.constexpr, CB: tl.constexpr, DB: tl.constexpr, TO_K: tl.constexpr, TO_D: tl.constexpr,
):  # fmt: skip
    """part (S, K * D * C), each as the weights lie: gradients of W_k over every S-th row.

    One program a share, a k and a block of (c, d).
    """
    s, k, blocks = tl.program_id(0), tl.program_id(1), tl.cdiv(D, DB)
    c, d = tl.program_id(2) // blocks * CB, tl.program_id(2) % blocks * DB
    v = tl.arange(0, J)
    acc = tl.zeros((CB, DB), tl.float32)
    for turn in range(0, tl.cdiv(rows - s, tl.num_programs(0))):
        r = s + turn * tl.num_programs(0)
        a = _edges(edges, r, k, v[None, :], v[:, None], K, V, J).to(x.dtype.element_ty)
        for first in range(0, T, F):
            tile = _joints_first(x, r.to(tl.int64) * T * (V * C), first, c, T, V, C, J, F, CB)
            y = tl.reshape(tl.dot(a, tile, input_precision="ieee").to(tile.dtype), (J * F, CB))
            at, ok = _rows(dz, r.to(tl.int64) * T * (V * D), first, d, T, V, D, J, F, DB)
            acc = tl.dot(tl.trans(y), tl.load(at, ok, other=0.0), acc, input_precision="ieee")
    ci, di = c + tl.arange(0, CB), d + tl.arange(0, DB)
    at = part + s * (K * D * C) + (k * TO_K + di * TO_D)[None, :] + ci[:, None]
    tl.store(at, acc, (ci < C)[:, None] & (di < D)[None, :])
