"""Contrastive loss on CPU: chunks of the queue, running maximum and sum, logits that never leave the cache.

    per chunk K_c:   s = q K_c^T / t,  m' = max(m, max s),  p = exp(s - m'),  a = exp(m - m')
                     l <- a l + sum p,  acc <- a acc + p K_c,  m <- m'

(online softmax: Milakov and Gimelshein 2018, arXiv 1805.02867; exponents in base 2). The key joins at the end, in `finish`.

Why not torch's CPU flash attention: it takes its products from MKL, at half the rate of oneDNN on processors of other
makers than Intel; it cannot return neighbours. kernels/README.md has the timings.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# 384 rows (three branches of the released batch of 128) by 2048 queue rows: 3 MB of float32 logits, which stay in the
# caches and give both threads enough to do. On a 2-core AVX-512 EPYC with 1 MB of L2 a core, 1024 to 4096 are equal within noise.
ROW_BLOCK = 384
QUEUE_BLOCK = 2048
LOG2E = math.log2(math.e)


def matmul_t(x: Tensor, w: Tensor) -> Tensor:
    """x (M, K) times the transpose of w (N, K), which may be a view. float32 goes to oneDNN where torch has it."""
    if x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")  # what torch.compile makes of a linear layer
    return x @ w.T


def merge_topk(values: Tensor, index: Tensor, s: Tensor, start: int) -> None:
    """Brings one chunk's logits into each row's best ones, in place.

    values, index: (R, topk) logits, largest first, and their queue rows; s: (R, C) logits of queue rows start to start + C.
    """
    topk = values.shape[1]
    rows = (s.amax(1) > values[:, -1]).nonzero()[:, 0]  # after some chunks only few rows still improve
    new, column = s[rows].topk(min(topk, s.shape[1]), dim=1)
    values[rows], order = torch.cat([values[rows], new], dim=1).topk(topk, dim=1)
    index[rows] = torch.cat([index[rows], column + start], dim=1).gather(1, order)


def sweep(q: Tensor, queue: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One pass over the queue (Q, D). q: (R, D) queries times log2(e) / temperature, float32 or float64.

    Returns m (R, 1), l (R, 1), acc (R, D) as above, and the queue rows of the topk largest logits, (R, topk) int64.
    """
    m, l, acc = q.new_full((len(q), 1), -math.inf), q.new_zeros(len(q), 1), torch.zeros_like(q)
    values, index = q.new_full((len(q), topk), -math.inf), torch.zeros(len(q), topk, dtype=torch.int64)
    for r in range(0, len(q), ROW_BLOCK):
        rows = slice(r, r + ROW_BLOCK)
        for start in range(0, len(queue), QUEUE_BLOCK):
            chunk = queue[start : start + QUEUE_BLOCK].to(q.dtype)
            s = matmul_t(q[rows], chunk)  # (ROW_BLOCK, QUEUE_BLOCK)
            if topk:
                merge_topk(values[rows], index[rows], s, start)
            m_new = torch.maximum(m[rows], s.amax(1, keepdim=True))
            p = s.sub_(m_new).exp2_()  # torch's vectorised exp2 is several times as fast as its exp
            alpha = m[rows].sub_(m_new).exp2_()
            l[rows].mul_(alpha).add_(p.sum(1, keepdim=True))
            acc[rows].mul_(alpha).add_(matmul_t(p, chunk.T))
            m[rows] = m_new
    return m, l, acc, index


def mined_offset(key: Tensor, queue: Tensor, mined: Tensor) -> Tensor:
    """(N, D): the mean of the positives, key and distinct mined rows, minus the key. mined: (N, B * topk), with repetitions."""
    mined = mined.sort(dim=1).values
    first = torch.ones_like(mined, dtype=key.dtype)
    first[:, 1:] = mined[:, 1:] != mined[:, :-1]
    offset = queue[mined].to(key.dtype) - key[:, None]  # (N, B * topk, D)
    return (first[:, :, None] * offset).sum(1) / (1 + first.sum(1, keepdim=True))


def contrast(
    q: Tensor, key: Tensor, queue: Tensor, temperature: float, weights: Sequence[float], topk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """loss (), terms (B,), and the gradient of the loss to q, (B, N, D). Arguments as for `hierarchical_contrast`."""
    branches, n, d = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        q, key = q.to(dtype) * (LOG2E / temperature), key.to(dtype)
        m, l, acc, mined = sweep(q.reshape(-1, d), queue, topk)
        m, l, acc = m.view(branches, n, 1), l.view(branches, n, 1), acc.view(branches, n, d)
        positive = (q * key).sum(-1, keepdim=True)
        top = torch.maximum(m, positive)
        scale, key_share = (m - top).exp2_(), (positive - top).exp2_()
        l = l * scale
        offset = (acc * scale - l * key) / (l + key_share)  # G - k
        nll = (top - positive) / LOG2E + torch.log1p(l + (key_share - 1))  # -log p[0]
        target = torch.cat([torch.zeros_like(offset[:1]), offset[:-1]])
        if topk:
            target[0] = mined_offset(key, queue, mined.view(branches, n, topk).permute(1, 0, 2).flatten(1))
        terms = (nll - (q * target).sum(-1, keepdim=True) / LOG2E).mean((1, 2))
        weight = torch.tensor(weights, dtype=dtype)
        grad = (offset - target) * (weight / (n * temperature))[:, None, None]
    return (terms * weight).sum(), terms, grad
