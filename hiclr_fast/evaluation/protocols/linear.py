"""Linear evaluation on frozen features, with the official schedules.

Sources: official linear_eval_hiclr_xsub_joint.yaml (one for ST-GCN, one for DSTA-Net) and LE_Processor: SGD momentum 0.9, no
Nesterov, no weight decay, lr 3, 100 epochs, x0.1 from epoch 81 (DSTA-Net: from 31 and from 81), batch 128, last incomplete
batch dropped, weights N(0, 0.02), bias 0, encoder in eval mode, no augmentation. The headline number is the last epoch; the
best epoch on the test set is reported only under that name.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from hiclr_fast.errors import Diverged
from hiclr_fast.evaluation.features import Features
from hiclr_fast.evaluation.metrics import topk_accuracy
from hiclr_fast.evaluation.results import Outcome
from hiclr_fast.evaluation.settings import Settings
from hiclr_fast.files.ranges import COUNT, LENGTH, POSITIVE, SEED
from hiclr_fast.flags import default
from hiclr_fast.training.optimizer import MOMENTUM, learning_rate

EPOCHS = 100
DROPS = {"stgcn": (80,), "dsta": (30, 80)}


@dataclass(frozen=True)
class LinearConfig(Settings):
    epochs: int = EPOCHS
    """Passes over the training features."""
    lr: float = 3.0
    """Learning rate before the drops."""
    drops: Annotated[tuple[int, ...] | None, default("official: 80 of 100 epochs for stgcn, 30 and 80 for dsta")] = None
    """x0.1 from the epoch after each."""
    batch_size: int = 128
    """The last incomplete batch is dropped."""
    seed: int = 0
    """Of the head's initialisation and the order of samples."""

    def official(self, kind: str) -> "LinearConfig":
        if self.drops is not None:
            return self
        return replace(self, drops=tuple(round(drop * self.epochs / EPOCHS) for drop in DROPS[kind]))

    RANGES: ClassVar = {"epochs": LENGTH, "lr": POSITIVE, "drops": COUNT, "batch_size": LENGTH, "seed": SEED}


@dataclass(frozen=True)
class LinearResult:
    """Percentages on the validation split; scores: (N_val, C) logits of the last epoch, by `head`."""

    top1: float
    top5: float
    best_on_test_top1: float
    best_on_test_epoch: int
    scores: np.ndarray
    head: nn.Linear


def linear(train: Features, val: Features, config: LinearConfig, device: torch.device) -> LinearResult:
    """Trains a linear classifier on cached features; the whole split stays on the device."""
    classes = int(max(train.label.max(), val.label.max())) + 1
    x, y = torch.from_numpy(train.feature).to(device), torch.from_numpy(train.label).to(device)
    x_val = torch.from_numpy(val.feature).to(device)
    generator = torch.Generator().manual_seed(config.seed)
    head = official_head(x.shape[1], classes, generator).to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=config.lr, momentum=MOMENTUM)
    batch = min(config.batch_size, len(y))
    best, best_epoch, scores = -1.0, 0, np.empty(0)
    for epoch in tqdm(range(1, config.epochs + 1), desc="linear", unit="epoch", leave=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, base=config.lr, epochs=config.epochs, drops=config.drops or ())
        order = torch.randperm(len(y), generator=generator).to(device)
        for step in range(len(y) // batch):
            rows = order[step * batch : (step + 1) * batch]
            optimizer.zero_grad()
            F.cross_entropy(head(x[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            scores = head(x_val).float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise Diverged(f"the linear classifier's scores became NaN or Inf in epoch {epoch}; lower --lr")
        top1 = topk_accuracy(scores, val.label, 1)
        if top1 > best:
            best, best_epoch = top1, epoch
    return LinearResult(top1, topk_accuracy(scores, val.label, 5), best, best_epoch, scores, head)


def official_head(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """Weights N(0, 0.02), bias 0 (official LE_Processor, weights_init)."""
    head = nn.Linear(width, classes)
    nn.init.normal_(head.weight, 0.0, 0.02, generator=generator)
    nn.init.zeros_(head.bias)
    return head


def linear_protocol(candidate, settings: LinearConfig, folder: Path, key: str) -> Outcome:
    """The linear protocol on a `Candidate`."""
    train, val = candidate.features
    found = linear(train, val, settings, candidate.device)
    kept = {} if candidate.origin == "raw" else candidate.keep_classifier(candidate.frozen(), found.head, folder, key)
    percent = {"top1": found.top1, "top5": found.top5, "best_on_test_top1": found.best_on_test_top1}
    more = {"headline": "last epoch", "schedule": asdict(settings), "best_on_test_epoch": found.best_on_test_epoch}
    return Outcome(percent, val.name, val.label, {"scores": found.scores}, more, kept)
