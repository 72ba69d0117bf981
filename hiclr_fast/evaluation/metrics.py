"""Accuracies."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def topk_accuracy(scores: np.ndarray, label: np.ndarray, k: int) -> float:
    """Percent of rows whose label is among the k highest scores. scores: (N, C). Ties: the earlier class wins."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100.0 * float((best == label[:, None]).any(axis=1).mean())


def class_accuracy(scores: np.ndarray, label: np.ndarray, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Percent of every class that has samples, and the mean over these classes, in which a rare class counts as much as a
    frequent one: {mean_class_top1, per_class: [{class, top1, samples}]}. scores: (N, C); classes: names, none: numbers."""
    right = scores.argmax(1) == label
    found = []
    for c in np.unique(label).tolist():
        mine = right[label == c]
        found.append({"class": classes[c] if classes else str(c), "top1": 100.0 * float(mine.mean()), "samples": len(mine)})
    return {"mean_class_top1": float(np.mean([one["top1"] for one in found])), "per_class": found}


def mean_spread(values: list[float]) -> tuple[float, float | None]:
    """(mean, standard deviation with n - 1); None where one value has no spread."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
