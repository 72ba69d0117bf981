"""Fusion of two or more runs, as of the joint, bone and motion streams: the weighted sum of their raw scores, sample by sample
by name.

Both weight sets of the official ensemble scripts (ensemble_ntu_cs.py and its siblings), a weight for each stream. Which one is
used is said beforehand, never chosen by accuracy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.metrics import class_accuracy, topk_accuracy
from hiclr_fast.evaluation.results import (
    Outcome,
    may_replace,
    print_row,
    read_results,
    read_scores,
    result_key,
    write_results,
)
from hiclr_fast.files.archives import sha256
from hiclr_fast.files.lock import Lock
from hiclr_fast.skeletons import STREAMS

FACTS = ("checkpoint", "checkpoint_sha256", "data_checksum", "stream", "origin")
WEIGHTS = {"equal": (0.5, 0.5, 0.5), "less-motion": (0.6, 0.6, 0.4)}  # in the order of STREAMS


def fuse(scores: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """(N, C) float64: sum of weight * raw scores, no softmax."""
    return sum(weight * np.asarray(score, np.float64) for weight, score in zip(weights, scores, strict=True))


def _load(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    results = read_results(folder)
    if results is None:
        raise InputError(f"{folder} holds no results; evaluate that protocol of that run first, with scripts/evaluate.py")
    told = all(isinstance(results.get(name), str) for name in FACTS) and "settings" in results
    if not told or results["stream"] not in STREAMS:
        raise InputError(f"{folder} is no result of one run; give runs whose protocol was evaluated with scripts/evaluate.py")
    checkpoint = Path(results["checkpoint"])
    if checkpoint.is_file() and sha256(checkpoint) != results["checkpoint_sha256"]:
        raise InputError(f"{folder} holds results of an older {checkpoint}; move them away and evaluate again")
    return results, read_scores(folder)


def _without_seeds(settings: Any) -> Any:
    """Settings, nested or not, without their seeds: those may differ between runs that are fused."""
    if not isinstance(settings, dict):
        return settings
    return {name: _without_seeds(value) for name, value in settings.items() if name != "seed"}


def _aligned(folders: Sequence[Path], results: Sequence[dict], arrays: Sequence[dict]) -> list[np.ndarray]:
    """Every run's scores in the sample order of the first; InputError with the first thing in which the runs differ."""
    first, name, label, shape = folders[0], arrays[0]["name"], arrays[0]["label"], arrays[0]["scores"].shape
    keys = [result["key"] for result in results]
    for i, (folder, key) in enumerate(zip(folders, keys, strict=True)):
        if key in keys[:i]:
            raise InputError(f"{folder} holds the same result as {folders[keys.index(key)]}; give each run once")
    aligned = []
    for folder, result, found in zip(folders, results, arrays, strict=True):
        row = {sample: i for i, sample in enumerate(found["name"].tolist())}
        if len(row) != len(found["name"]):
            raise InputError(f"{folder}: sample names repeat, so scores cannot be matched; prepare the data with unique names")
        for mine, theirs, where, other in ((name, found["name"], first, folder), (found["name"], name, folder, first)):
            alone = np.setdiff1d(mine, theirs)
            if len(alone):
                raise InputError(f"different test samples: {alone[0]} is in {where}, not in {other}; evaluate all on one dataset")
        rows = [row[sample] for sample in name.tolist()]
        differ = np.flatnonzero(found["label"][rows] != label)
        if len(differ):
            raise InputError(f"classes do not match: {name[differ[0]]} has another label in {folder} than in {first}")
        if found["scores"].shape != shape:
            theirs = found["scores"].shape[1]
            raise InputError(f"classes do not match: {first} has {shape[1]}, {folder} has {theirs}; evaluate all on one dataset")
        for fact in ("data_checksum", "protocol", "origin", "recalibrated", "readout", "feature_dtype", "settings"):
            if _without_seeds(result.get(fact)) != _without_seeds(results[0].get(fact)):
                raise InputError(f"{folder} has another {fact.replace('_', ' ')} than {first}; evaluate all alike")
        aligned.append(found["scores"][rows])
    return aligned


def ensemble(folders: Sequence[Path], weights: str, out: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Fuses the results of one protocol. folders: its result folders in two or more runs, of any streams.

    weights: a name of WEIGHTS, where each stream has its own. out: folder for results.json and scores.npz, samples in the first
    run's order. InputError where the runs differ in anything but stream and seeds.
    """
    if len(folders) < 2:
        raise InputError(f"an ensemble of {len(folders)} runs: give two or more")
    loaded = [_load(Path(folder)) for folder in folders]
    results, arrays = [r for r, _ in loaded], [a for _, a in loaded]
    if any("scores" not in found for found in arrays):
        raise InputError(f"{results[0]['protocol']} predicts no classes; fuse linear, finetune, supervised, knn or a semi repeat")
    by_stream = dict(zip(STREAMS, WEIGHTS[weights], strict=True))
    alphas = [by_stream[result["stream"]] for result in results]
    scores = fuse(_aligned(folders, results, arrays), alphas)
    name, label = arrays[0]["name"], arrays[0]["label"]
    percent = {f"top{k}": topk_accuracy(scores, label, k) for k in (1, 5)}
    facts = {
        "protocol": f"ensemble of {results[0]['protocol']}",
        "weights": {result["stream"]: alpha for result, alpha in zip(results, alphas, strict=True)},
        "inputs": [str(folder) for folder in folders],
        "input_keys": [result["key"] for result in results],
        "data_checksum": results[0]["data_checksum"],
        "checkpoint_sha256": [result["checkpoint_sha256"] for result in results],
        "origin": results[0]["origin"],
    }
    facts["key"] = result_key({name: value for name, value in facts.items() if name != "inputs"})
    facts |= class_accuracy(scores, label, [str(c) for c in results[0].get("classes") or ()])
    out = Path(out)
    with Lock(out):
        may_replace(out, facts)
        found = write_results(out, facts, Outcome(percent, name, label, {"scores": scores.astype(np.float32)}))
    if not quiet:
        print_row(facts["protocol"], f"{weights}: {'/'.join(f'{a:g}' for a in alphas)}, {facts['origin']}", percent)
    return found
