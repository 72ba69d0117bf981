"""k nearest neighbours on frozen features. The official code has no working k-NN: k and metric are stated with each number."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.features import Features, check_finite
from hiclr_fast.evaluation.metrics import topk_accuracy, unit_rows
from hiclr_fast.evaluation.results import Outcome
from hiclr_fast.evaluation.settings import Settings, require
from hiclr_fast.evaluation.spaces import Space, choose_space, in_space, inner_groups
from hiclr_fast.files.ranges import POSITIVE

KS = (1, 5, 10, 20)
TEMPERATURE = 0.1
CHUNK = 1024  # validation rows compared at a time


@dataclass(frozen=True)
class KnnConfig(Settings):
    k: tuple[int, ...] = KS
    temperature: float = TEMPERATURE
    """Of the weighted vote, exp(cosine / temperature)."""
    space: Space = "plain"
    """plain; centred or whitened by the training features; inner: the one of them that is best inside the training split."""

    RANGES: ClassVar = {"temperature": POSITIVE}

    def check(self) -> None:
        super().check()
        require(k=(min(self.k, default=0) >= 1, self.k, "at least 1"))
        require(k=(len(set(self.k)) == len(self.k), self.k, "every number once"))


def usual_ks(train: int) -> tuple[int, ...]:
    """KS as far as there are that many training samples."""
    return tuple(k for k in KS if k <= train)


def knn_scores(
    train: Features, val: Features, ks: tuple[int, ...] = KS, temperature: float | None = None
) -> dict[int, np.ndarray]:
    """{k: votes (N_val, C) float32} by cosine similarity.

    Majority vote; a tied vote goes to the class of larger summed similarity (added as less than half a vote). With a
    temperature, neighbour j votes with exp((s_j - s_1) / temperature) instead (Wu et al., CVPR 2018, section 3.4).
    """
    if min(ks) < 1:
        raise InputError(f"k-NN: k {min(ks)}, expected at least 1")
    if max(ks) > len(train.label):
        raise InputError(f"k-NN: k {max(ks)} is more than the {len(train.label)} training samples; use a smaller k")
    bank, query = unit_rows(train.feature), unit_rows(val.feature)
    label = torch.from_numpy(train.label)
    classes = int(max(train.label.max(), val.label.max())) + 1
    parts: dict[int, list[torch.Tensor]] = {k: [] for k in ks}
    for rows in query.split(CHUNK):
        similarity, index = (rows @ bank.T).topk(max(ks), dim=1)
        for k in ks:
            near = similarity[:, :k]
            vote = ((near - near[:, :1]) / temperature).exp() if temperature is not None else 1 + near / (2 * k + 1)
            parts[k].append(torch.zeros(len(rows), classes).scatter_add_(1, label[index[:, :k]], vote))
    return {k: torch.cat(part).numpy() for k, part in parts.items()}


def nearest(train: Features, val: Features) -> float:
    """1-NN accuracy in percent; InputError where a feature is NaN or Inf."""
    check_finite((train, val), "1-NN accuracy")
    return topk_accuracy(knn_scores(train, val, (1,))[1], val.label, 1)


def compared(candidate, space: Space) -> tuple[Features, Features, dict[str, Any]]:
    """(train, val features in that space, which space it is and how it was chosen)."""
    train, val = candidate.features
    if space != "inner":
        return *in_space(train, val, space), {"space": space}
    left_out, group = inner_groups(*candidate.splits())
    chosen, percent = choose_space(train, group, nearest)
    return *in_space(train, val, chosen), {"space": chosen, "inner": {"left out": left_out, "percent": percent}}


def knn(candidate, settings: KnnConfig, folder: Path, key: str) -> Outcome:
    """Top-1 for every k, by majority and by weighted vote; `scores` are the votes of the first k, `weighted` of the last."""
    train, val, space = compared(candidate, settings.space)
    majority = knn_scores(train, val, settings.k)
    weighted = knn_scores(train, val, settings.k, settings.temperature)
    percent = {f"k={k}": topk_accuracy(votes, val.label, 1) for k, votes in majority.items()}
    percent |= {f"weighted k={k}": topk_accuracy(votes, val.label, 1) for k, votes in weighted.items() if k > 1}
    samples = {"scores": majority[settings.k[0]], "weighted": weighted[settings.k[-1]]}
    return Outcome(percent, val.name, val.label, samples, {"metric": "cosine", **space})
