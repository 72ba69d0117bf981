"""Training of an encoder with a class head on labels, resumable at every epoch: the loop of finetune, supervised, semi and
transfer. Sources: official FT_Processor and Processor (SGD momentum 0.9, Nesterov; batches shuffled, the last incomplete one
dropped; encoder in train mode; evaluation every 5 epochs; the new head keeps torch's own initialisation).
"""

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
from hiclr_fast.evaluation.metrics import topk_accuracy
from hiclr_fast.evaluation.schedule import FinetuneConfig, finetune_rate
from hiclr_fast.files.tensors import load_checkpoint, save_tensors
from hiclr_fast.skeletons import Layout
from hiclr_fast.training.optimizer import MOMENTUM
from hiclr_fast.training.precision import autocast, exact
from hiclr_fast.views.augment import AugmentConfig, make_views

EVAL_EVERY = 5  # official eval_interval
EVAL_BATCH = 256


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
            with autocast(self.device, c.amp):
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
                save_tensors(self._state(key), state)
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
