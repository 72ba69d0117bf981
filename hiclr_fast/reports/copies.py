"""Accuracy on the test samples that are no exact copy of a training sample: what a leaking split is worth without its leak."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.data.packed.leaks import duplicates_across
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.results import read_scores


def copied(data: Packed) -> frozenset[str]:
    """Names of the validation samples that are equal to a training sample in every value."""
    pairs = [pair for splits, found in duplicates_across(data).items() if splits == ("val", "train") for pair in found]
    return frozenset(data["val"].name[[row for row, _ in pairs]].tolist())


def without_copies(folders: Sequence[Path], names: frozenset[str]) -> float:
    """Top-1 percent over the samples that are not of these names, mean over the folders of results (repeats)."""
    percent = []
    for folder in folders:
        scores = read_scores(folder)
        kept = ~np.isin(scores["name"], list(names))
        if not kept.any():
            raise InputError(f"{folder}: every sample is a copy of a training sample; prepare a split that tests something")
        percent.append(100 * float((scores["scores"].argmax(1) == scores["label"])[kept].mean()))
    return float(np.mean(percent))
