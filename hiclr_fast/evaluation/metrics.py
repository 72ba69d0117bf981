"""Accuracies."""

import numpy as np


def topk_accuracy(scores: np.ndarray, label: np.ndarray, k: int) -> float:
    """Percent of rows whose label is among the k highest scores. scores: (N, C). Ties: the earlier class wins."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100.0 * float((best == label[:, None]).any(axis=1).mean())


def mean_spread(values: list[float]) -> tuple[float, float | None]:
    """(mean, standard deviation with n - 1); None where one value has no spread."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
