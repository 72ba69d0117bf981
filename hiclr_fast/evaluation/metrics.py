"""Accuracies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hiclr_fast.errors import Diverged


def unit_rows(x: np.ndarray) -> Tensor:
    """(N, D) float32 -> rows of length 1, also where squares of float32 overflow or vanish; a zero row stays zero."""
    rows = torch.from_numpy(x)
    unit, length = F.normalize(rows, dim=1), rows.norm(dim=1)
    odd = (length > 1e18) | (length < 1e-12)
    if odd.any():
        unit[odd] = F.normalize(rows[odd].double(), dim=1, eps=1e-300).float()
    return unit


def topk_accuracy(scores: np.ndarray, label: np.ndarray, k: int) -> float:
    """Percent of rows whose label is among the k highest scores. scores: (N, C). Ties: the earlier class wins.

    Diverged where a score is NaN or Inf: it would still be put into an order.
    """
    if not np.isfinite(scores).all():
        raise Diverged("scores came out as NaN or Inf; look at the data and the weights, or lower --lr")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100.0 * float((best == label[:, None]).any(axis=1).mean())


def class_accuracy(scores: np.ndarray, label: np.ndarray, classes: Sequence[str] = ()) -> dict[str, Any]:
    """Percent of every class that has samples, and the mean over these classes, in which a rare class counts as much as a
    frequent one: {mean_class_top1, per_class: [{class, top1, samples}]}. scores: (N, C); classes: names, none: numbers."""
    right = scores.argmax(1) == label
    found = []
    for c in np.unique(label).tolist():
        mine = right[label == c]
        name = classes[c] if c < len(classes) else str(c)
        found.append({"class": name, "top1": 100.0 * float(mine.mean()), "samples": len(mine)})
    return {"mean_class_top1": float(np.mean([one["top1"] for one in found])), "per_class": found}


def mean_spread(values: list[float]) -> tuple[float, float | None]:
    """(mean, standard deviation with n - 1); None where one value has no spread."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
