"""Contrastive loss on CPU: chunks of the queue, running maximum and sum, logits that never leave the cache.

    per chunk K_c:   s = q K_c^T / t,  m' = max(m, max s),  p = exp(s - m'),  a = exp(m - m')
                     l <- a l + sum p,  acc <- a acc + p K_c,  m <- m'

(online softmax: Milakov and Gimelshein 2018, arXiv 1805.02867; exponents in base 2). The key joins at the end.

Why not torch's CPU flash attention: its products come from MKL, at half the rate of oneDNN on an AMD processor, and it
cannot return neighbours. kernels/README.md has the timings.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# 384 rows (three branches of the released batch of 128) by 2048 queue rows: 3 MB of float32 logits, which stay in the
# caches and give both threads enough to do. On a 2-core AVX-512 EPYC with 1 MB of L2 a core, 1024 to 4096 are equal within noise.
ROW_BLOCK = 384
QUEUE_BLOCK = 2048
SAFE = 2.0**60  # sums of weights within [1 / SAFE, SAFE] are far from both ends of float32
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


def add_unshifted(q: Tensor, chunk: Tensor, l: Tensor, acc: Tensor) -> bool:
    """Adds a chunk with m = 0. False, and nothing done, where its exponents come near the ends of float32."""
    p = matmul_t(q, chunk).exp2_()  # (R, C); torch's vectorised exp2 is several times as fast as its exp
    total = p.sum(1, keepdim=True)
    inside = bool(total.amin() > 1 / SAFE and total.amax() < SAFE)
    if inside:
        l.add_(total)
        acc.add_(matmul_t(p, chunk.T))
    return inside


def add_shifted(q: Tensor, chunk: Tensor, start: int, m: Tensor, l: Tensor, acc: Tensor, best: Tensor, index: Tensor) -> None:
    """Adds a chunk, queue rows from `start` on, with the running maximum m; keeps the best logits and their index."""
    s = matmul_t(q, chunk)  # (R, C)
    if index.shape[1]:
        merge_topk(best, index, s, start)
    m_new = torch.maximum(m, s.amax(1, keepdim=True))
    p = s.sub_(m_new).exp2_()
    alpha = m.sub_(m_new).exp2_()
    l.mul_(alpha).add_(p.sum(1, keepdim=True))
    acc.mul_(alpha).add_(matmul_t(p, chunk.T))
    m.copy_(m_new)


def sweep(q: Tensor, queue: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One pass over the queue (Q, D). q: (R, D) queries times log2(e) / temperature, float32 or float64.

    Returns m (R, 1), l (R, 1), acc (R, D) as above, and the queue rows of the topk largest logits, (R, topk) int64.
    """
    m, l, acc = q.new_full((len(q), 1), -math.inf), q.new_zeros(len(q), 1), torch.zeros_like(q)
    index = torch.zeros(len(q), topk, dtype=torch.int64)
    for rows, m_, l_, acc_, index_ in zip(*(x.split(ROW_BLOCK) for x in (q, m, l, acc, index)), strict=True):
        best = q.new_full(index_.shape, -math.inf)
        unshifted = not topk  # at the released temperature exponents stay within [-21, 21]: two passes over s less
        for start in range(0, len(queue), QUEUE_BLOCK):
            chunk = queue[start : start + QUEUE_BLOCK].to(q.dtype)
            if unshifted and (unshifted := add_unshifted(rows, chunk, l_, acc_)):
                m_.zero_()
            else:
                add_shifted(rows, chunk, start, m_, l_, acc_, best, index_)
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
        key_share = (positive - top).exp2_()
        scale = (m - top).exp2_()
        l = l * scale
        offset = acc.mul_(scale).addcmul_(l, key, value=-1).div_(l + key_share)  # G - k
        nll = (top - positive) / LOG2E + torch.log1p(l + (key_share - 1))  # -log p[0]
        first = key.new_zeros(1).expand(1, n, d)
        if topk:
            first = mined_offset(key, queue, mined.view(branches, n, topk).permute(1, 0, 2).flatten(1))[None]
        target = torch.cat([first, offset[:-1]])
        terms = (nll - (q * target).sum(-1, keepdim=True) / LOG2E).mean((1, 2))
        weight = torch.tensor(weights, dtype=dtype)
        grad = offset.sub_(target).mul_((weight / (n * temperature))[:, None, None])
    return (terms * weight).sum(), terms, grad
