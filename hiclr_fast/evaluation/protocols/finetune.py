"""Finetune and supervised: the whole network trained with all labels. The headline number is the last epoch.

They differ in initial weights alone: those of pretraining, or those with which its run began (origin `random`).
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.classifier import Training
from hiclr_fast.evaluation.metrics import topk_accuracy
from hiclr_fast.evaluation.results import UNFINISHED, Outcome
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.models.pooling import OWN


def train_candidate(candidate, config: FinetuneConfig, rows: np.ndarray | None, folder: Path, key: str) -> Outcome:
    """Trains a `Candidate`'s encoder with a new head on the given rows (none: all) of its training split."""
    if candidate.recalibrate:
        raise InputError("training replaces the batch-norm statistics; leave --recalibrate out, it is for frozen features")
    if candidate.feature_dtype != "float32":
        raise InputError(f"--feature-dtype {candidate.feature_dtype} is for frozen features; to train in bfloat16 give --amp")
    if candidate.readout != OWN:
        raise InputError("a training pools as the encoder does; leave --readout and --segments out, they are for frozen features")
    train, val = candidate.splits()
    rows = np.arange(len(train)) if rows is None else rows
    encoder = candidate.encoder(dropout=config.dropout)
    data = candidate.data
    how = dict(ranks=candidate.ranks, graph=not candidate.no_graph, space=data.space)
    place = data.layout, candidate.stream, config, candidate.device
    training = Training(encoder, train, val, rows, len(data.classes), *place, **how)
    scores = training.run(folder / UNFINISHED, key)
    kept = candidate.keep_classifier(training.model.encoder, training.model.head, folder, key)
    best, best_epoch = training.best
    percent = {f"top{k}": topk_accuracy(scores, val.label, k) for k in (1, 5)} | {"best_on_test_top1": best}
    more = {"headline": "last epoch", "schedule": asdict(config), "best_on_test_epoch": best_epoch, "loss": training.losses}
    return Outcome(percent, val.name, val.label, {"scores": scores}, more, kept, trained=True)


def finetune(candidate, settings: FinetuneConfig, folder: Path, key: str) -> Outcome:
    """All weights from the candidate's, all labels. With origin `random` this is the supervised baseline."""
    return train_candidate(candidate, settings, None, folder, key)
