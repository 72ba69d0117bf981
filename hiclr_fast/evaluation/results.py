"""What a protocol leaves behind: a folder with results.json and scores.npz, each whole or absent."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz
from hiclr_fast.files.atomic import replacing, write_text

RESULTS, SCORES = "results.json", "scores.npz"
UNFINISHED = "training.pt"  # state of a training that was stopped; gone when the results are there


@dataclass(frozen=True)
class Outcome:
    """What a protocol found.

    percent: the numbers of its row. name, label: (N,) of the validation split. samples: per-sample arrays (N, ...), by
    convention `scores` (N, C) where a class is predicted. more: whatever else belongs into results.json.
    """

    percent: dict[str, float]
    name: np.ndarray
    label: np.ndarray
    samples: dict[str, np.ndarray]
    more: dict[str, Any] = field(default_factory=dict)


def result_key(facts: dict[str, Any]) -> str:
    """Identifies a result by everything that it depends on; another key is another result."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_results(folder: Path, facts: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Writes scores.npz, then results.json: where the latter is, the result is complete. Returns what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / SCORES) as temporary:
        np.savez(temporary, name=outcome.name, label=outcome.label, **outcome.samples)
    results = {**facts, "percent": outcome.percent, **outcome.more}
    write_text(folder / RESULTS, json.dumps(results, indent=1, default=str))
    (folder / UNFINISHED).unlink(missing_ok=True)
    return results


def read_results(folder: Path) -> dict[str, Any] | None:
    """results.json of a finished protocol; None when there is none."""
    file = Path(folder) / RESULTS
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable results ({error}); remove it and evaluate again") from None


def read_scores(folder: Path) -> dict[str, np.ndarray]:
    """Per-sample arrays of a finished protocol: name, label, scores, ..."""
    return read_npz(Path(folder) / SCORES)


def print_row(protocol: str, setting: str, percent: dict[str, float]) -> None:
    print(f"| {protocol} | {setting} | " + " | ".join(f"{name} {value:.2f} %" for name, value in percent.items()) + " |")
