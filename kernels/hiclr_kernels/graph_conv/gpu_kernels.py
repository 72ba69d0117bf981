"""Triton kernels of the graph convolution: its weights as one matrix, the gradients of what makes it, and the sums of columns.

    matrix[(w, d), (v, c)] = sum_k a_k[v, w] W_k[d, c]      column[(w, d)] = sum_k b_k[d] sum_v a_k[v, w]      a_k = A_k E_k
"""

import triton
import triton.language as tl


@triton.jit
def _edges(adjacency, importance, k, v, w, ok, V: tl.constexpr):
    """a_k[v, w] float32."""
    at = (k * V + v) * V + w
    return tl.load(adjacency + at, ok, other=0.0) * tl.load(importance + at, ok, other=0.0)


@triton.jit
def _summed(part, at, ok, P, W, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """Sums (BLOCK,) of the columns `at` of part (P, W), PARTS rows at a time, in order."""
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, P, PARTS):
        p = first + tl.arange(0, PARTS)
        total += tl.sum(tl.load(part + p[:, None] * W + at[None, :], (p < P)[:, None] & ok[None, :], other=0.0), 0)
    return total


@triton.jit
def fold_kernel(
    adjacency, importance, weight, bias, importance2, weight2, bias2, matrix, column, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, D: tl.constexpr, VP: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """matrix (sets, V * D, V * C), column (sets, V * D). One program a set, a joint w and BLOCK channels d."""
    w, d, side = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.program_id(2)
    if side == 1:
        importance, weight, bias = importance2, weight2, bias2
    v, c = tl.arange(0, VP), tl.arange(0, CP)
    ok = (d < D)[:, None, None] & (v < V)[None, :, None] & (c < C)[None, None, :]
    total = tl.zeros((BLOCK, VP, CP), tl.float32)
    offset = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(K):
        a = _edges(adjacency, importance, k, v, w, v < V, V)
        at = (k * D + d)[:, None] * C + c[None, :]
        own = tl.load(weight + at, (d < D)[:, None] & (c < C)[None, :], other=0.0)
        total += a[None, :, None] * own[:, None, :]
        offset += tl.sum(a, 0) * tl.load(bias + k * D + d, d < D, other=0.0)
    row = (side * V + w) * D + d
    at = row[:, None, None] * (V * C) + (v * C)[None, :, None] + c[None, None, :]
    tl.store(matrix + at, total.to(matrix.dtype.element_ty), ok)
    tl.store(column + row, offset.to(column.dtype.element_ty), d < D)


@triton.jit
def unfold_kernel(
    adjacency, importance, weight, bias, d_matrix, part, d_importance, d_weight, d_bias, P, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, D: tl.constexpr, VP: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The first K * V programs: the importance of the edges to one joint; K * D more: the weights of one output channel.

    part: (P, V * D), whose sums are the gradient of the column.
    """
    v, c, i = tl.arange(0, VP), tl.arange(0, CP), tl.arange(0, BLOCK)
    if tl.program_id(0) < K * V:
        k, w = tl.program_id(0) // V, tl.program_id(0) % V
        total = tl.zeros((BLOCK, VP, CP), tl.float32)
        shift = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, D, BLOCK):
            d = first + i
            ok = (d < D)[:, None, None] & (v < V)[None, :, None] & (c < C)[None, None, :]
            at = (w * D + d)[:, None, None] * (V * C) + (v * C)[None, :, None] + c[None, None, :]
            grad = tl.load(d_matrix + at, ok, other=0.0).to(tl.float32)
            at = (k * D + d)[:, None] * C + c[None, :]
            total += grad * tl.load(weight + at, (d < D)[:, None] & (c < C)[None, :], other=0.0)[:, None, :]
            shift += tl.load(bias + k * D + d, d < D, other=0.0) * _summed(part, w * D + d, d < D, P, V * D, BLOCK, PARTS)
        grad = tl.sum(tl.sum(total, 2), 0) + tl.sum(shift, 0)
        at = (k * V + v) * V + w
        tl.store(d_importance + at, grad * tl.load(adjacency + at, v < V, other=0.0), v < V)
    else:
        n = tl.program_id(0) - K * V
        k, d = n // D, n % D
        total = tl.zeros((BLOCK, VP, CP), tl.float32)
        shift = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, V, BLOCK):
            w = first + i
            inside = (w < V)[:, None] & (v < V)[None, :]
            a = _edges(adjacency, importance, k, v[None, :], w[:, None], inside, V)
            ok = inside[:, :, None] & (c < C)[None, None, :]
            at = (w * D + d)[:, None, None] * (V * C) + (v * C)[None, :, None] + c[None, None, :]
            total += tl.load(d_matrix + at, ok, other=0.0).to(tl.float32) * a[:, :, None]
            shift += tl.sum(a, 1) * _summed(part, w * D + d, w < V, P, V * D, BLOCK, PARTS)
        tl.store(d_weight + n * C + c, tl.sum(tl.sum(total, 1), 0), c < C)
        tl.store(d_bias + n, tl.sum(shift, 0))


@triton.jit
def spread_kernel(
    grad, x, stats, back, dx, part, slope, L, G, GQ, C: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ACT: tl.constexpr,
):  # fmt: skip
    """Gradient through an activation and a batch norm, as in `batch_norm`, and its sums over rows, part (GQ, S, W).

    x, grad: (G, L, W), of L frames; column w belongs to channel w % C. ACT: grad is behind the activation, else before it.
    """
    s, g, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    w = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    c, inside = w % C, w < W
    size = tl.cdiv(tl.cdiv(L, splits), ROWS) * ROWS
    begin, end = s * size, tl.minimum(L, (s + 1) * size)
    base = g.to(tl.int64) * L * W
    scale = tl.load(stats + (2 * G + g) * C + c, inside, other=0.0)[None, :]
    shift = tl.load(stats + (3 * G + g) * C + c, inside, other=0.0)[None, :]
    a = tl.load(back + g * C + c, inside, other=0.0)[None, :]
    b = tl.load(back + (GQ + g) * C + c, inside, other=0.0)[None, :]
    e = tl.load(back + (2 * GQ + g) * C + c, inside, other=0.0)[None, :]
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        ok = (row < end)[:, None] & inside[None, :]
        at = base + row.to(tl.int64)[:, None] * W + w[None, :]
        h = tl.load(grad + at, ok, other=0.0).to(tl.float32)
        v = tl.load(x + at, ok, other=0.0).to(tl.float32)
        if ACT:
            h = tl.where(v * scale + shift > 0, h, h * slope)
        h = (h * a + v * b + e).to(dx.dtype.element_ty)
        tl.store(dx + at, h, ok)
        total += tl.where(ok, h.to(tl.float32), 0.0)
    tl.store(part + (g * splits + s) * W + w, tl.sum(total, 0), inside)
