"""Contrastive loss in Triton: one sweep over the queue, split over programs, then a merge per row.

    sweep   program (row block, split), for each of its queue tiles K_c:
            s = q K_c^T / t,  m' = max(m, max s),  p = exp(s - m'),  l <- exp(m - m') l + sum p,  acc <- exp(m - m') acc + p K_c
    merge   program n: joins the splits and the key of row n in every branch; loss terms and gradient of that row
    reduce  one program: means over the rows and the weighted loss

Every tile is loaded once and multiplied twice. Exponents are in base 2; m is the largest minus SHIFT.
16-bit inputs are multiplied as they are. float32 inputs are multiplied as pairs of float16, x = hi + lo (22 bits), three
products each (Ootomo and Yokota 2022, arXiv 2203.03341): the accuracy of three tf32 products, operands half the size.
Between the kernels: m, l (S, R) and acc (S, R, D) in float32 for S splits of R = B * N rows, and the running topk (R, S, SLOTS).
"""

import triton
import triton.language as tl

SHIFT = tl.constexpr(14.0)  # largest weight 2^14: float16 then keeps weights 2^-38 times as large; its limit is 2^16
PAIR_SCALE = tl.constexpr(1024.0)  # keeps the lo half of unit rows a normal float16; elements up to 63 are in range
NO_ROW = tl.constexpr(2**31 - 1)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def split_pair(x):
    hi = x.to(tl.float16)
    return hi, (x - hi.to(tl.float32)).to(tl.float16)


@triton.jit
def insert(values, index, new, new_index, SLOTS: tl.constexpr):
    """Replaces the smallest of each row's (BLOCK_R, SLOTS) values by new (BLOCK_R,) where new is larger."""
    smallest = tl.arange(0, SLOTS)[None, :] == tl.argmin(values, 1)[:, None]
    better = smallest & (new > tl.min(values, 1))[:, None]
    return tl.where(better, new[:, None], values), tl.where(better, new_index[:, None], index)


@triton.jit(do_not_specialize=["rows", "queue_rows", "tiles_per_split"])
def sweep_kernel(
    q_ptr,  # (R, D), the hi halves if PAIR
    q_lo_ptr,  # (R, D), read if PAIR
    queue_ptr,  # (Q, D)
    m_ptr,  # (S, R)
    l_ptr,  # (S, R)
    acc_ptr,  # (S, R, D)
    value_ptr,  # (R, S, SLOTS)
    index_ptr,  # (R, S, SLOTS)
    rows,
    queue_rows,
    tiles_per_split,
    scale,  # log2(e) / temperature
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    SLOTS: tl.constexpr,
    PAIR: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    split, splits = tl.program_id(1), tl.num_programs(1)
    d = tl.arange(0, BLOCK_D)
    at = row.to(tl.int64)[:, None] * D + d[None, :]
    inside = (row < rows)[:, None] & (d < D)[None, :]
    q = tl.load(q_ptr + at, mask=inside, other=0.0)  # (BLOCK_R, BLOCK_D)
    if PAIR:
        q_lo = tl.load(q_lo_ptr + at, mask=inside, other=0.0)
        scale = scale / (PAIR_SCALE * PAIR_SCALE)
    m = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_R,), tl.float32)
    acc = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
    if SLOTS > 0:
        values = tl.full((BLOCK_R, SLOTS), float("-inf"), tl.float32)
        index = tl.full((BLOCK_R, SLOTS), NO_ROW, tl.int32)
    begin = split * tiles_per_split * BLOCK_Q
    end = tl.minimum(begin + tiles_per_split * BLOCK_Q, queue_rows)
    for start in range(begin, end, BLOCK_Q):
        column = start + tl.arange(0, BLOCK_Q)
        tile_at = column.to(tl.int64)[:, None] * D + d[None, :]
        tile = tl.load(queue_ptr + tile_at, mask=(column < queue_rows)[:, None] & (d < D)[None, :], other=0.0)
        if PAIR:
            k_hi, k_lo = split_pair(tile * PAIR_SCALE)
            s = tl.dot(q_lo, tl.trans(k_hi), tl.dot(q, tl.trans(k_lo)))
            s = tl.dot(q, tl.trans(k_hi), s) * scale
        else:
            s = tl.dot(q, tl.trans(tile)) * scale  # (BLOCK_R, BLOCK_Q)
        s = tl.where((column < queue_rows)[None, :], s, float("-inf"))
        highest = tl.max(s, 1)
        m_new = tl.maximum(m, highest - SHIFT)
        p = tl.exp2(s - m_new[:, None])
        alpha = tl.exp2(m - m_new)
        l = l * alpha + tl.sum(p, 1)
        if PAIR:
            # tensor cores truncate: one tile is summed there, the tiles are summed with rounding
            p_hi, p_lo = split_pair(p)
            acc = acc * alpha[:, None] + tl.dot(p_hi, k_hi, tl.dot(p_hi, k_lo, tl.dot(p_lo, k_hi)))
        else:
            acc = tl.dot(p.to(tile.dtype), tile, acc * alpha[:, None])
        m = m_new
        for _ in tl.static_range(SLOTS):
            which = tl.min(tl.where(s == highest[:, None], column[None, :], NO_ROW), 1)
            values, index = insert(values, index, highest, which, SLOTS)
            s = tl.where(column[None, :] == which[:, None], float("-inf"), s)
            highest = tl.max(s, 1)
    if PAIR:
        acc = acc / PAIR_SCALE
    out = split.to(tl.int64) * rows + row
    tl.store(m_ptr + out, m, mask=row < rows)
    tl.store(l_ptr + out, l, mask=row < rows)
    tl.store(acc_ptr + split.to(tl.int64) * rows * D + at, acc, mask=inside)
    if SLOTS > 0:
        slot = (row.to(tl.int64) * splits + split)[:, None] * SLOTS + tl.arange(0, SLOTS)[None, :]
        tl.store(value_ptr + slot, values, mask=(row < rows)[:, None])
        tl.store(index_ptr + slot, index, mask=(row < rows)[:, None])


@triton.jit
def log1p(x):
    """log(1 + x) for x >= 0, relative error 1e-7: series of 2 atanh(x / (2 + x)) below 1, where the device's log is coarse."""
    z = x / (2 + x)
    z2 = z * z
    series = 2 * z * (1 + z2 * (1 / 3 + z2 * (1 / 5 + z2 * (1 / 7 + z2 * (1 / 9 + z2 * (1 / 11 + z2 / 13))))))
    return tl.where(x < 1, series, tl.log(1 + x))


@triton.jit
def mined_offset(
    key, d, n, queue_ptr, value_ptr, index_ptr, batch, queue_rows, splits,
    B: tl.constexpr, D: tl.constexpr, TOPK: tl.constexpr, SLOTS: tl.constexpr, CANDIDATES: tl.constexpr, UNION: tl.constexpr,
):  # fmt: skip
    """(BLOCK_D,): the mean of row n's positives minus its key; a queue row that several branches mined counts once."""
    chosen = tl.full((UNION,), NO_ROW, tl.int32)
    offset = tl.zeros_like(key)
    count = 1.0
    c = tl.arange(0, CANDIDATES)
    for b in tl.static_range(B):
        at = (b * batch + n) * splits * SLOTS + c
        value = tl.load(value_ptr + at, mask=c < splits * SLOTS, other=float("-inf"))
        index = tl.load(index_ptr + at, mask=c < splits * SLOTS, other=NO_ROW)
        for i in tl.static_range(TOPK):
            best = tl.min(tl.where(value == tl.max(value, 0), index, NO_ROW), 0)
            value = tl.where(index == best, float("-inf"), value)
            fresh = (tl.sum((chosen == best).to(tl.int32), 0) == 0) & (best < queue_rows)
            chosen = tl.where(tl.arange(0, UNION) == b * TOPK + i, best, chosen)
            neighbour = tl.load(queue_ptr + best.to(tl.int64) * D + d, mask=fresh & (d < D), other=0.0).to(tl.float32)
            offset += tl.where(fresh, neighbour - key, 0.0)
            count += fresh.to(tl.float32)
    return offset / count


@triton.jit(do_not_specialize=["batch", "queue_rows", "splits"])
def merge_kernel(
    q_ptr,  # (B, N, D)
    key_ptr,  # (N, D)
    queue_ptr,  # (Q, D)
    m_ptr,  # (S, R)
    l_ptr,  # (S, R)
    acc_ptr,  # (S, R, D)
    value_ptr,  # (R, S, SLOTS)
    index_ptr,  # (R, S, SLOTS)
    term_ptr,  # (B, N)
    grad_ptr,  # (B, N, D)
    batch,  # N
    queue_rows,
    splits,
    scale,  # log2(e) / temperature
    grad_scales,  # weights / (N * temperature)
    B: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    TOPK: tl.constexpr,
    SLOTS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    UNION: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    key = tl.load(key_ptr + n * D + d, mask=d < D, other=0.0).to(tl.float32)
    target = tl.zeros((BLOCK_D,), tl.float32)  # all means are relative to the key: nothing cancels where it dominates
    if TOPK > 0:
        target = mined_offset(
            key, d, n, queue_ptr, value_ptr, index_ptr, batch, queue_rows, splits, B, D, TOPK, SLOTS, CANDIDATES, UNION
        )
    for b in tl.static_range(B):
        row = b * batch + n
        q = tl.load(q_ptr + row * D + d, mask=d < D, other=0.0).to(tl.float32) * scale
        positive = tl.sum(q * key, 0)
        top, l, acc = positive, 0.0, tl.zeros((BLOCK_D,), tl.float32)
        for start in range(0, splits, BLOCK_S):
            s = start + tl.arange(0, BLOCK_S)
            at = s.to(tl.int64) * (B * batch) + row
            m_s = tl.load(m_ptr + at, mask=s < splits, other=float("-inf"))
            l_s = tl.load(l_ptr + at, mask=s < splits, other=0.0)
            inside = (s < splits)[:, None] & (d < D)[None, :]
            acc_s = tl.load(acc_ptr + at[:, None] * D + d[None, :], mask=inside, other=0.0)  # (BLOCK_S, BLOCK_D)
            top_new = tl.maximum(top, tl.max(m_s, 0))
            share, alpha = tl.exp2(m_s - top_new), tl.exp2(top - top_new)
            l = l * alpha + tl.sum(l_s * share, 0)
            acc = acc * alpha + tl.sum(acc_s * share[:, None], 0)
            top = top_new
        key_share = tl.exp2(positive - top)
        offset = (acc - l * key) / (l + key_share)  # G - k
        nll = (top - positive) * LN2 + log1p(l + (key_share - 1))  # -log p[0]
        tl.store(term_ptr + row, nll - tl.sum(q * target, 0) * LN2)
        tl.store(grad_ptr + row * D + d, (offset - target) * grad_scales[b], mask=d < D)
        target = offset


@triton.jit(do_not_specialize=["batch"])
def reduce_kernel(
    term_ptr,  # (B, N)
    terms_ptr,  # (B,)
    loss_ptr,  # ()
    batch,  # N
    weights,
    B: tl.constexpr,
    BLOCK: tl.constexpr,
):
    loss = 0.0
    for b in tl.static_range(B):
        total = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, batch, BLOCK):
            n = start + tl.arange(0, BLOCK)
            total += tl.load(term_ptr + b * batch + n, mask=n < batch, other=0.0)
        term = tl.sum(total, 0) / batch
        tl.store(terms_ptr + b, term)
        loss += weights[b] * term
    tl.store(loss_ptr, loss)
