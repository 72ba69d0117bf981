"""`attention.joint_scores` in plain torch."""

import torch
from torch import Tensor


def joint_scores(qk: Tensor) -> Tensor:
    q, k = qk.permute(3, 0, 4, 2, 1, 5).flatten(4)  # (2, R, H, V, T * C)
    scores = (q / q.shape[-1]) @ k.transpose(-1, -2)
    return scores.to(torch.promote_types(qk.dtype, torch.float32))
