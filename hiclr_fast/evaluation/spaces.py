"""Spaces in which frozen features are compared: as they are, centred, or whitened; fitted on training features alone.

Cosine similarity depends on where the origin is and on how unequal the directions are, for features and for raw coordinates
alike. A fair comparison gives every side the space that suits it, chosen without the test set: by leaving parts of the training
set out.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from hiclr_fast.data.packed.dataset import Split
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.features import Features

Space = Literal["plain", "centred", "whitened", "inner"]
SPACES = ("plain", "centred", "whitened")
SHRINK = 0.05  # of the largest singular value, added to each before the division: small directions are mostly noise
FOLDS = 5  # where neither subjects nor views are known


def fit(train: np.ndarray, space: Space):
    """A function (n, D) -> (n, D or rank) float32 that takes rows into the space of the training rows (N, D)."""
    if space == "plain":
        return lambda x: x
    center = train.mean(0, dtype=np.float64)
    if space == "centred":
        return lambda x: (x - center).astype(np.float32)
    if space != "whitened":
        raise ValueError(f"space {space!r}: expected one of {SPACES}")
    project = _whitening(train - center)
    return lambda x: ((x - center) @ project).astype(np.float32)


def _whitening(x: np.ndarray) -> np.ndarray:
    """(D, rank): principal axes of the rows (N, D) over their singular values, shrunk; by the smaller Gram matrix."""
    wide = x.shape[1] > len(x)
    squares, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    squares, vectors = squares[::-1], vectors[:, ::-1]
    rank = int((squares > 1e-12 * squares[0]).sum())
    values, vectors = np.sqrt(squares[:rank]), vectors[:, :rank]
    axes = x.T @ vectors / values if wide else vectors
    return axes / (values + SHRINK * values[:1])  # no direction at all where the rows are all alike


def in_space(train: Features, val: Features, space: Space) -> tuple[Features, Features]:
    """Both in that space, fitted on the first."""
    move = fit(train.feature, space)
    return replace(train, feature=move(train.feature)), replace(val, feature=move(val.feature))


def inner_groups(split: Split, test: Split | None, seed: int = 0) -> tuple[str, np.ndarray]:
    """(what is left out, (N,) group of every training sample), so that the choice resembles the test: its view where the test's
    views, not its subjects, are others than those of training; or else its subject; or else its view; or else one of FOLDS
    random parts with equal shares of every class. Of the test only these two numbers are looked at."""

    def apart(name: str) -> bool:
        return test is not None and not np.isin(getattr(test, name), getattr(split, name)).any()

    for name in ("view", "subject") if apart("view") and not apart("subject") else ("subject", "view"):
        values = np.asarray(getattr(split, name))
        if (values >= 0).all() and _folds(values, split.label):
            return name, values
    group, rng = np.empty(len(split), np.int64), np.random.default_rng(seed)
    for c in np.unique(split.label):
        rows = rng.permutation(np.flatnonzero(split.label == c))
        group[rows] = np.arange(len(rows)) % FOLDS
    return "fold", group


def divisible(split: Split, test: Split | None) -> bool:
    """Whether a part of the training split can be left out and judged by the rest."""
    return bool(_folds(inner_groups(split, test)[1], split.label))


def inner_folds(group: np.ndarray, label: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(rows to learn from, rows to judge by)], one group left out at a time; judged are only classes that are learnt."""
    folds = _folds(group, label)
    if not folds:
        raise InputError("the training split cannot be divided for a choice inside it; name a space: plain, centred or whitened")
    return folds


def _folds(group: np.ndarray, label: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    folds = []
    for left_out in np.unique(group):
        learn = np.flatnonzero(group != left_out)
        judge = np.flatnonzero((group == left_out) & np.isin(label, label[learn]))
        if len(learn) and len(judge):
            folds.append((learn, judge))
    return folds


def choose_space(train: Features, group: np.ndarray, score) -> tuple[str, dict[str, float]]:
    """(the best space, percent of each): mean of score(learn, judge) over `inner_folds`. score: two `Features` -> percent."""
    percent: dict[str, list[float]] = {space: [] for space in SPACES}
    for learn, judge in inner_folds(group, train.label):
        parts: Sequence[Features] = [Features(*(x[rows] for x in vars(train).values())) for rows in (learn, judge)]
        for space in SPACES:
            percent[space].append(score(*in_space(*parts, space)))
    found = {space: float(np.mean(values)) for space, values in percent.items()}
    return max(found, key=lambda space: found[space]), found
