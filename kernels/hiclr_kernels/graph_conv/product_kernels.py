"""Triton kernel of the graph convolution of narrow inputs: one product with the folded matrix, and moments of what it makes.

    z[g, l, (w, d)] = sum_(v, c) x[g, l, (v, c)] matrix[(w, d), (v, c)] + column[(w, d)]

So that the batch norm behind need not read z for its statistics. A tile is BM frames by BN columns, some joints of DP channels
(D, padded). x: (G, L, V * C). Groups from `split` on take the second matrix and column.
"""

import triton
import triton.language as tl


@triton.jit
def product_kernel(
    x, matrix, column, z, part, L, split, V: tl.constexpr, W: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, MOMENTS: tl.constexpr,
):  # fmt: skip
    """part (G, S, 3, DP): count, mean and sum of squared deviations of a tile's values, as stored, if MOMENTS. W: V * C."""
    n_tiles: tl.constexpr = (V * DP + BN - 1) // BN
    m_tiles, pid = tl.cdiv(L, BM), tl.program_id(0)
    n, m, g = pid % n_tiles, pid // n_tiles % m_tiles, pid // (n_tiles * m_tiles)
    if g >= split:
        matrix += V * D * W
        column += V * D
    row, j, k = m * BM + tl.arange(0, BM), n * BN + tl.arange(0, BN), tl.arange(0, BK)
    w, d = j // DP, j % DP
    inside, to = (w < V) & (d < D), w * D + d
    source = x + (g.to(tl.int64) * L + row)[:, None] * W + k[None, :]
    factor = matrix + to[None, :] * W + k[:, None]
    acc = tl.zeros((BM, BN), tl.float32)
    for first in range(0, W, BK):
        real = first + k < W
        a = tl.load(source + first, (row < L)[:, None] & real[None, :], other=0.0)
        b = tl.load(factor + first, real[:, None] & inside[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    acc += tl.load(column + to, inside, other=0.0).to(tl.float32)[None, :]
    out, ok = acc.to(z.dtype.element_ty), (row < L)[:, None] & inside[None, :]
    tl.store(z + (g.to(tl.int64) * L + row)[:, None] * (V * D) + to[None, :], out, ok)
    if MOMENTS:  # of every column, then of the columns of a channel (Chan et al. 1979)
        values, rows = out.to(tl.float32), tl.minimum(BM, L - m * BM).to(tl.float32)
        mean = tl.sum(tl.where(ok, values, 0.0), 0) / rows
        apart = tl.where(ok, values - mean[None, :], 0.0)
        m2 = tl.reshape(tl.sum(apart * apart, 0), (BN // DP, DP))
        mean, real = tl.reshape(mean, (BN // DP, DP)), tl.reshape(inside, (BN // DP, DP))
        joints = tl.minimum(BN // DP, V - n * (BN // DP)).to(tl.float32)
        joined = tl.sum(mean, 0) / joints
        apart = tl.where(real, mean - joined[None, :], 0.0)
        place = part + pid * (3 * DP) + tl.arange(0, DP)
        tl.store(place, tl.zeros_like(joined) + rows * joints)
        tl.store(place + DP, joined)
        tl.store(place + 2 * DP, tl.sum(m2, 0) + rows * tl.sum(apart * apart, 0))
