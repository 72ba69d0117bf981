"""Accuracies, and one way to write a protocol's results down."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np


def topk_accuracy(scores: np.ndarray, label: np.ndarray, k: int) -> float:
    """Percent of rows whose label is among the k highest scores. scores: (N, C). Ties: the earlier class wins."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100.0 * float((best == label[:, None]).any(axis=1).mean())


def write_results(results: dict[str, Any], scores: np.ndarray, label: np.ndarray, name: np.ndarray, out: Path) -> None:
    """out: JSON of the numbers; beside it {stem}_scores.npz with name (N,), label (N,), scores (N, C) float32."""
    out.parent.mkdir(parents=True, exist_ok=True)
    score_file = out.with_name(f"{out.stem}_scores.npz")
    temporary = out.with_name(f".{out.stem}.tmp.npz")
    np.savez(temporary, name=name, label=label, scores=scores.astype(np.float32))
    os.replace(temporary, score_file)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(json.dumps({**results, "scores": score_file.name}, indent=1))
    os.replace(temporary, out)
