"""Training of the whole network with labels: one loop for finetune, supervised, semi and transfer.

They differ in initial weights, training samples and schedule. Sources: official FT_Processor and Processor (SGD momentum
0.9, Nesterov; linear learning rate 0.1 e / 5 in epochs 1 to 4, then x0.1 from every step on, >=; batches shuffled, the last
incomplete one dropped; encoder in train mode; evaluation every 5 epochs; the new head keeps torch's own initialisation),
release/{gcn,transformer}_ntu60/finetune and {gcn,transformer}_ntu60/semi YAMLs. The headline number is the last epoch.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hiclr_kernels.augment.reference import Stream, to_stream
from torch import Tensor, nn
from tqdm import tqdm

from hiclr_fast.data.packed.dataset import Split
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.features import exact
from hiclr_fast.evaluation.metrics import topk_accuracy
from hiclr_fast.evaluation.results import UNFINISHED, Outcome
from hiclr_fast.evaluation.settings import Settings, require
from hiclr_fast.pretraining.run_folder import load_checkpoint, save_atomic
from hiclr_fast.skeletons import Layout
from hiclr_fast.training.optimizer import MOMENTUM
from hiclr_fast.views.augment import AugmentConfig, make_views

EVAL_EVERY = 5  # official eval_interval
EVAL_BATCH = 256


@dataclass(frozen=True)
class FinetuneConfig(Settings):
    """Official values for the encoder and the protocol where nothing is given."""

    epochs: int | None = None
    """Other than official: drops and warm-up shrink or grow with it, unless given."""
    lr: float | None = None
    warmup: int | None = None
    drops: tuple[int, ...] | None = None
    """x0.1 from each of these epochs on."""
    batch_size: int | None = None
    weight_decay: float | None = None
    dropout: float | None = None
    augment: bool | None = None
    """Crop and shear (the basic view) of every training sample."""
    seed: int = 0
    amp: bool = False
    """bf16 autocast in training; evaluation is float32."""

    def official(self, kind: str) -> "FinetuneConfig":
        return official(self, "finetune", kind)

    def check(self) -> None:
        for name in ("epochs", "lr", "batch_size"):
            require(**{name: (getattr(self, name) > 0, getattr(self, name), "more than 0")})
        for name in ("warmup", "weight_decay"):
            require(**{name: (getattr(self, name) >= 0, getattr(self, name), "at least 0")})
        require(dropout=(0 <= self.dropout < 1, self.dropout, "at least 0 and less than 1"))


STGCN = dict(lr=0.1, warmup=5, batch_size=64, weight_decay=1e-4, dropout=0.5, augment=False)
DSTA = dict(lr=0.1, warmup=5, batch_size=128, weight_decay=5e-4, dropout=0.0)
OFFICIAL = {
    ("finetune", "stgcn"): dict(epochs=70, drops=(30, 55), **STGCN),
    ("finetune", "dsta"): dict(epochs=80, drops=(35, 55), augment=True, **DSTA),
    ("semi", "stgcn"): dict(epochs=42, drops=(15, 30), **STGCN),
    ("semi", "dsta"): dict(epochs=50, drops=(15, 25), augment=False, **DSTA),
}


def official(settings: FinetuneConfig, protocol: str, kind: str) -> FinetuneConfig:
    """Every field filled. protocol: finetune or semi; kind: stgcn or dsta."""
    base = OFFICIAL[protocol, kind]
    given = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) is not None}
    if "epochs" in given:
        scale = given["epochs"] / base["epochs"]
        drops = tuple(1 + round((drop - 1) * scale) for drop in base["drops"])  # drop - 1 epochs come before it
        base = base | dict(drops=drops, warmup=round(base["warmup"] * scale))
    return FinetuneConfig(**(base | given))


def finetune_rate(epoch: int, base: float, warmup: int, drops: Sequence[int]) -> float:
    """Learning rate of a 1-based epoch (official FT_Processor.adjust_lr: < for the warm-up, >= for the steps)."""
    if epoch < warmup:
        return base * epoch / warmup
    return base * 0.1 ** sum(epoch >= drop for drop in drops)


class Classifier(nn.Module):
    """Encoder, pooled features, linear head. The projector stays unused and untouched."""

    def __init__(self, encoder: nn.Module, sample: Tensor, classes: int):
        super().__init__()
        with torch.no_grad():
            width = encoder.eval().features(sample).shape[1]
        self.encoder, self.head = encoder, nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder.features(x))


class Training:
    """One training of a classifier, resumable at every epoch.

    rows: (n,) samples of `train` that are used; an epoch has as many batches as the whole split would have, as in the
    official semi-supervised feeder (sample i of the epoch is rows[i mod n]).
    """

    def __init__(
        self,
        encoder: nn.Module,
        train: Split,
        val: Split,
        rows: np.ndarray,
        classes: int,
        layout: Layout,
        stream: Stream,
        config: FinetuneConfig,
        device: torch.device,
    ):
        self.val, self.layout, self.stream, self.config, self.device = val, layout, stream, config, device
        self.x = torch.from_numpy(train.x[rows]).to(device)
        self.y = torch.from_numpy(train.label[rows]).to(device)
        self.length = len(train)
        self.batch = min(config.batch_size, self.length)
        torch.manual_seed(config.seed)
        self.model = Classifier(encoder, self._stream(self.x[:1].cpu()), classes).to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=config.lr,
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=config.weight_decay,
            foreach=True,
        )
        self.epoch, self.losses, self.best = 0, [], (-1.0, 0)  # epochs done; best on test: (top-1, epoch)

    def _stream(self, x: Tensor) -> Tensor:
        return to_stream(x, self.stream, self.layout.parents)

    def order(self, epoch: int) -> Tensor:
        """(length,) int64 permutation, a pure function of seed and epoch; sample i is row i mod n of x."""
        generator = torch.Generator().manual_seed((self.config.seed << 32) + epoch)
        return torch.randperm(self.length, generator=generator)

    def _input(self, rows: Tensor, ids: Tensor, step: int) -> Tensor:
        """The batch. ids: keys of the draws, so that a sample that is in a batch twice is seen in two ways."""
        if not self.config.augment:
            return self._stream(self.x[rows])
        draw = dict(seed=self.config.seed, step=torch.full((), step, device=self.device), stream=self.stream)
        return make_views(self.x, rows, ids, ("basic",), AugmentConfig(), self.layout, **draw)[0]

    def train_epoch(self) -> None:
        c, epoch = self.config, self.epoch + 1
        for group in self.optimizer.param_groups:
            group["lr"] = finetune_rate(epoch, c.lr, c.warmup, c.drops)
        order, steps = self.order(epoch).to(self.device), self.length // self.batch
        total = torch.zeros((), device=self.device)
        self.model.train()
        for step in range(steps):
            ids = order[step * self.batch : (step + 1) * self.batch]
            rows = ids % len(self.y)
            x = self._input(rows, ids, (epoch - 1) * steps + step)
            with torch.autocast(self.device.type, torch.bfloat16) if c.amp else nullcontext():
                scores = self.model(x)
            loss = F.cross_entropy(scores.float(), self.y[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        mean = total.item() / steps
        if not np.isfinite(mean):
            raise InputError(f"the loss became NaN or Inf in epoch {epoch}; lower --lr, or train without --amp")
        self.losses.append(mean)
        self.epoch = epoch

    @torch.no_grad()
    def scores(self) -> np.ndarray:
        """(N_val, C) float32 logits."""
        self.model.eval()
        parts = []
        for start in range(0, len(self.val), EVAL_BATCH):
            x = torch.from_numpy(self.val.x[start : start + EVAL_BATCH]).to(self.device)
            with exact():
                parts.append(self.model(self._stream(x)).float().cpu())
        return torch.cat(parts).numpy()

    def run(self, state: Path, key: str) -> np.ndarray:
        """Trains to the last epoch and returns its scores. state: file of the unfinished training, written
        every epoch, continued when its key is the same."""
        if state.is_file():
            self._restore(load_checkpoint(state), key)
        state.parent.mkdir(parents=True, exist_ok=True)
        scores = None
        bar = tqdm(total=self.config.epochs, initial=self.epoch, unit="epoch", leave=False, desc=state.parent.name)
        with bar:
            while self.epoch < self.config.epochs:
                self.train_epoch()
                if self.epoch % EVAL_EVERY == 0 or self.epoch == self.config.epochs:
                    scores = self.scores()
                    self.best = max(self.best, (topk_accuracy(scores, self.val.label, 1), self.epoch), key=lambda b: b[0])
                save_atomic(self._state(key), state)
                bar.update()
                bar.set_postfix(loss=f"{self.losses[-1]:.3f}", best_on_test=f"{self.best[0]:.1f}")
        scores = self.scores() if scores is None else scores
        return scores

    def _state(self, key: str) -> dict[str, Any]:
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "losses": self.losses,
            "best": list(self.best),
            "rng": [torch.get_rng_state(), *cuda],
            "config": {"key": key},
        }

    def _restore(self, state: dict[str, Any], key: str) -> None:
        if state["config"].get("key") != key:
            return  # of other weights, data or settings
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.losses, self.best = state["epoch"], state["losses"], tuple(state["best"])
        torch.set_rng_state(state["rng"][0])
        if self.device.type == "cuda" and len(state["rng"]) > 1:
            torch.cuda.set_rng_state(state["rng"][1], self.device)


def train_subject(subject, config: FinetuneConfig, rows: np.ndarray | None, folder: Path, key: str) -> Outcome:
    """Trains a `Subject`'s encoder with a new head on the given rows (none: all) of its training split."""
    if subject.recalibrate:
        raise InputError("training replaces the batch-norm statistics; leave --recalibrate out, it is for frozen features")
    train, val = subject.splits()
    rows = np.arange(len(train)) if rows is None else rows
    encoder = subject.encoder(dropout=config.dropout)
    data = subject.data
    training = Training(encoder, train, val, rows, len(data.classes), data.layout, subject.stream, config, subject.device)
    scores = training.run(folder / UNFINISHED, key)
    best, best_epoch = training.best
    percent = {f"top{k}": topk_accuracy(scores, val.label, k) for k in (1, 5)} | {"best_on_test_top1": best}
    more = {"headline": "last epoch", "schedule": asdict(config), "best_on_test_epoch": best_epoch, "loss": training.losses}
    return Outcome(percent, val.name, val.label, {"scores": scores}, more)


def finetune(subject, settings: FinetuneConfig, folder: Path, key: str) -> Outcome:
    """All weights from the subject's, all labels. With origin `random` this is the supervised baseline."""
    return train_subject(subject, settings, None, folder, key)
