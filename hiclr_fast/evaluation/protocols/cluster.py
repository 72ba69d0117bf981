"""Clustering of the validation split: k-means on unit features, as many clusters as classes; labels are only used to judge.

NMI (arithmetic mean), adjusted Rand index, and accuracy after the best one-to-one match of clusters and classes
(Hungarian). No counterpart in the official code.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.metrics import unit_rows
from hiclr_fast.evaluation.results import Outcome
from hiclr_fast.evaluation.settings import Settings
from hiclr_fast.files.ranges import SEED, Range


@dataclass(frozen=True)
class ClusterConfig(Settings):
    starts: int = 10
    """Random starts of k-means; the best by inertia is kept."""
    seed: int = 0
    """Of the starting points."""

    RANGES: ClassVar = {"starts": Range(1, 10**4), "seed": SEED}


def need_scikit_learn() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise InputError('clustering needs scikit-learn: pip install "hiclr_fast[report]"')


def matched(label: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """(N,) class of every sample's cluster, by the one-to-one match with the most hits; -1 for a cluster without a class."""
    from scipy.optimize import linear_sum_assignment  # scikit-learn brings scipy

    classes, clusters = int(label.max()) + 1, int(cluster.max()) + 1
    counts = np.zeros((clusters, classes), np.int64)
    np.add.at(counts, (cluster, label), 1)
    assigned = np.full(clusters, -1)
    rows, columns = linear_sum_assignment(-counts)
    assigned[rows] = columns
    return assigned[cluster]


def cluster(candidate, settings: ClusterConfig, folder: Path, key: str) -> Outcome:
    """NMI, ARI and matched accuracy, in percent."""
    need_scikit_learn()
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    _, val = candidate.features
    count = len(np.unique(val.label))
    if count < 2:
        raise InputError(f"{candidate.data.path}: all validation samples are of one class, so clusters cannot be judged")
    means = KMeans(count, n_init=settings.starts, random_state=settings.seed).fit(unit_rows(val.feature).numpy())
    guess = matched(val.label, means.labels_)
    percent = {
        "NMI": 100 * float(normalized_mutual_info_score(val.label, means.labels_)),
        "ARI": 100 * float(adjusted_rand_score(val.label, means.labels_)),
        "accuracy": 100 * float((guess == val.label).mean()),
    }
    samples = {"cluster": means.labels_, "class_of_cluster": guess}
    return Outcome(percent, val.name, val.label, samples, {"clusters": count, "clustered": "validation"})
