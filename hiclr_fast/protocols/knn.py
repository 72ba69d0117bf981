"""k nearest neighbours on frozen features. The official code has no working k-NN: k and metric are stated with each number."""

import numpy as np
import torch
import torch.nn.functional as F

from hiclr_fast.errors import InputError
from hiclr_fast.features import Features

KS = (1, 5, 10, 20)
CHUNK = 1024  # validation rows compared at a time


def knn_scores(train: Features, val: Features, ks: tuple[int, ...] = KS) -> dict[int, np.ndarray]:
    """{k: votes (N_val, C) float32} by cosine similarity, majority vote; a tied vote goes to the class of larger summed
    similarity (added as less than half a vote)."""
    if max(ks) > len(train.label):
        raise InputError(f"k-NN: k {max(ks)} is more than the {len(train.label)} training samples; use a smaller k")
    bank = F.normalize(torch.from_numpy(train.feature), dim=1)
    query = F.normalize(torch.from_numpy(val.feature), dim=1)
    label = torch.from_numpy(train.label)
    classes = int(max(train.label.max(), val.label.max())) + 1
    parts: dict[int, list[torch.Tensor]] = {k: [] for k in ks}
    for rows in query.split(CHUNK):
        similarity, index = (rows @ bank.T).topk(max(ks), dim=1)
        for k in ks:
            vote = 1 + similarity[:, :k] / (2 * k + 1)
            parts[k].append(torch.zeros(len(rows), classes).scatter_add_(1, label[index[:, :k]], vote))
    return {k: torch.cat(part).numpy() for k, part in parts.items()}
