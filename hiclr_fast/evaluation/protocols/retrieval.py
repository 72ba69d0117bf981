"""Retrieval: every validation sample queries the training set by cosine similarity; nearest neighbours by name, and mAP.

Average precision of a query is over the ranking of the whole training set, relevant = same class (Manning et al.,
Introduction to Information Retrieval, section 8.4). No counterpart in the official code.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.features import Features
from hiclr_fast.evaluation.metrics import unit_rows
from hiclr_fast.evaluation.protocols.knn import compared
from hiclr_fast.evaluation.results import NEIGHBOURS, Outcome
from hiclr_fast.evaluation.settings import Settings
from hiclr_fast.evaluation.spaces import Space
from hiclr_fast.files.ranges import SOME

CHUNK = 256  # queries ranked at a time


@dataclass(frozen=True)
class RetrievalConfig(Settings):
    listed: int = 10
    """Neighbours that are listed for every query."""
    space: Space = "plain"
    """plain; centred or whitened by the training features; inner: where 1-NN is best inside the training split."""

    RANGES: ClassVar = {"listed": SOME}


def rank(train: Features, val: Features, listed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(average precision (N,), listed neighbours (N, listed) rows of train, their cosines (N, listed))."""
    if not 1 <= listed <= len(train.label):
        raise InputError(f"listed {listed}: expected 1 to the {len(train.label)} training samples")
    bank, query = unit_rows(train.feature), unit_rows(val.feature)
    label, places = torch.from_numpy(train.label), torch.arange(1, len(train.label) + 1, dtype=torch.float64)
    found = []
    for rows, wanted in zip(query.split(CHUNK), torch.from_numpy(val.label).split(CHUNK), strict=True):
        similarity, order = (rows @ bank.T).sort(dim=1, descending=True, stable=True)
        hit = (label[order] == wanted[:, None]).double()
        precision = (hit.cumsum(1) / places * hit).sum(1) / hit.sum(1)
        found.append((precision, order[:, :listed], similarity[:, :listed]))
    return tuple(torch.cat(parts).numpy() for parts in zip(*found, strict=True))


def retrieval(candidate, settings: RetrievalConfig, folder: Path, key: str) -> Outcome:
    """mAP, and the share of the right class among the first and the listed neighbours; neighbours.csv lists them."""
    train, val, space = compared(candidate, settings.space)
    precision, order, similarity = rank(train, val, settings.listed)
    hit = train.label[order] == val.label[:, None]
    percent = {"mAP": 100 * float(precision.mean()), "P@1": 100 * float(hit[:, 0].mean())}
    percent[f"P@{settings.listed}"] = 100 * float(hit.mean())
    samples = {"average_precision": precision, "neighbour": train.name[order], "cosine": similarity}
    more = {"query": "validation", "searched": "training", "metric": "cosine", **space}
    listed = {NEIGHBOURS: _listed(train, val, order, similarity, candidate.data.classes)}
    return Outcome(percent, val.name, val.label, samples, more, listed)


def _listed(train: Features, val: Features, order: np.ndarray, similarity: np.ndarray, classes: Sequence[str]) -> str:
    """The neighbours of every query as CSV."""
    file = io.StringIO()
    out = csv.writer(file)
    out.writerow(["query", "query class", "place", "neighbour", "neighbour class", "cosine"])
    for i, (rows, cosines) in enumerate(zip(order, similarity, strict=True)):
        asked = (val.name[i], classes[val.label[i]])
        for place, (row, cosine) in enumerate(zip(rows, cosines, strict=True), 1):
            out.writerow([*asked, place, train.name[row], classes[train.label[row]], f"{cosine:.4f}"])
    return file.getvalue()
