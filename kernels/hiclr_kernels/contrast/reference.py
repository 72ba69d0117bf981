"""Hierarchical contrastive loss in plain torch, logits materialised: what the contrastive kernel has to reproduce.

For branch b (0 the weakest view), query row q_b, positive key k, queue rows K_j, temperature t (paper eq. 3 to 6):

    s_b = [q_b.k, q_b.K_1, ..., q_b.K_Q] / t,  p_b = softmax(s_b)
    InfoNCE      = -log p_0[0]                        (mined: minus the mean of log p_0 over key and mined rows)
    consistency  = -sum_j p_{b-1}[j] log p_b[j], p_{b-1} detached, for b >= 1
    loss         = sum_b weights[b] * term_b, terms averaged over the N rows
"""

from collections.abc import Sequence

import torch
from torch import Tensor

TEMPERATURE = 0.07  # paper section 4.2, released configuration
WEIGHTS = (1.0, 0.5, 0.5)  # official: loss1 + (loss2 + loss3) / 2


def check_contrast(q: Tensor, key: Tensor, queue: Tensor, weights: Sequence[float], topk: int) -> None:
    """Raises ValueError, in one sentence, on shapes that do not fit together."""
    if q.ndim != 3 or key.shape != q.shape[1:] or queue.ndim != 2 or queue.shape[1] != q.shape[2]:
        raise ValueError(
            f"q {tuple(q.shape)}, key {tuple(key.shape)}, queue {tuple(queue.shape)}: expected (B, N, D), (N, D), (Q, D)"
        )
    if len(weights) != q.shape[0]:
        raise ValueError(f"{len(weights)} weights for {q.shape[0]} branches: give one weight a branch")
    if not 0 <= topk <= queue.shape[0]:
        raise ValueError(f"topk {topk} with a queue of {queue.shape[0]} rows: expected 0 to the queue's length")


def hierarchical_contrast(
    q: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: float = TEMPERATURE,
    weights: Sequence[float] = WEIGHTS,
    topk: int = 0,
) -> tuple[Tensor, Tensor]:
    """Loss and its terms.

    q: (B, N, D) L2-normalised queries, weakest view first; key: (N, D); queue: (Q, D). At least float32 inside.
    topk > 0: InfoNCE's positives are the key and the union over the branches of each query's topk queue rows.
    Returns loss (), with gradient to q only, and terms (B,) detached and unweighted: InfoNCE, then the consistencies.
    """
    check_contrast(q, key, queue, weights, topk)
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        q, key, queue = q.to(dtype), key.detach().to(dtype), queue.detach().to(dtype)
        positive = (q * key).sum(-1, keepdim=True)
        logits = torch.cat([positive, q @ queue.T], dim=-1) / temperature  # (B, N, 1 + Q)
        log_p = torch.log_softmax(logits, dim=-1)
        if topk:
            mined = logits[..., 1:].detach().topk(topk, dim=-1).indices + 1  # (B, N, topk)
            is_positive = torch.zeros_like(log_p[0])
            is_positive[:, 0] = 1
            is_positive.scatter_(1, mined.permute(1, 0, 2).flatten(1), 1.0)
            info_nce = -(is_positive * log_p[0]).sum(-1) / is_positive.sum(-1)
        else:
            info_nce = -log_p[0, :, 0]
        consistency = -(log_p[:-1].detach().exp() * log_p[1:]).sum(-1)  # (B - 1, N)
        terms = torch.cat([info_nce[None], consistency]).mean(-1)
        loss = (terms * torch.tensor(weights, dtype=dtype, device=q.device)).sum()
    return loss, terms.detach()
