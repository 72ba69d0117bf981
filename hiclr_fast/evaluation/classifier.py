"""Training of an encoder with a class head on labels, resumable at every epoch: the loop of finetune, supervised, semi and
transfer. Sources: official FT_Processor and Processor (SGD momentum 0.9, Nesterov; batches shuffled, the last incomplete one
dropped; encoder in train mode; evaluation every 5 epochs; the new head keeps torch's own initialisation).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from hiclr_kernels.augment.reference import Stream, to_stream
from torch import Tensor, nn
from tqdm import tqdm

from hiclr_fast.data.packed.dataset import Split
from hiclr_fast.distributed import ALONE, Ranks
from hiclr_fast.errors import Diverged, InputError
from hiclr_fast.evaluation.classifier_step import ClassifierStep
from hiclr_fast.evaluation.features import check_statistics
from hiclr_fast.evaluation.metrics import topk_accuracy
from hiclr_fast.evaluation.schedule import FinetuneConfig, finetune_rate
from hiclr_fast.files.tensors import load_checkpoint, save_tensors
from hiclr_fast.models.layers import synchronise
from hiclr_fast.skeletons import METRES, Layout, Space
from hiclr_fast.training.graph import GraphedStep
from hiclr_fast.training.precision import exact
from hiclr_fast.training.readback import Readback
from hiclr_fast.training.state import check_count, check_like, load_momenta

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
    official semi-supervised feeder (sample i of the epoch is rows[i mod n]). ranks: they share every batch, with batch-norm
    statistics over all of it, so that results do not depend on their number; all are in the same state, rank 0 writes it.
    graph: on CUDA the step is one CUDA graph; without, its eager twin runs.
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
        ranks: Ranks = ALONE,
        graph: bool = True,
        space: Space = METRES,
    ):
        self.val, self.layout, self.stream, self.config, self.device = val, layout, stream, config, device
        self.ranks, self.length = ranks, len(train)
        self.batch = min(config.batch_size, self.length)
        if self.batch % ranks.world:
            raise InputError(f"batch size {self.batch} does not divide by {ranks.world} ranks; change --batch-size")
        x, y = torch.from_numpy(train.x[rows]).to(device), torch.from_numpy(train.label[rows]).to(device)
        torch.manual_seed(config.seed)
        self.model = Classifier(encoder, self._stream(x[:1].cpu()), classes).to(device, memory_format=torch.channels_last)
        synchronise(self.model, ranks)
        self.step = ClassifierStep(self.model, x, y, layout, stream, config, ranks, space)
        self.do_step = GraphedStep(self.step) if graph and device.type == "cuda" else self.step
        self.epoch, self.losses, self.best = 0, [], (-1.0, 0)  # epochs done; best on test: (top-1, epoch)

    def _stream(self, x: Tensor) -> Tensor:
        return to_stream(x, self.stream, self.layout.parents)

    def order(self, epoch: int) -> Tensor:
        """(length,) int64 permutation, a pure function of seed and epoch; sample i is row i mod n of x."""
        generator = torch.Generator().manual_seed((self.config.seed << 32) + epoch)
        return torch.randperm(self.length, generator=generator)

    def train_epoch(self) -> None:
        c, epoch = self.config, self.epoch + 1
        lr = finetune_rate(epoch, c.lr, c.warmup, c.drops)
        order, steps = self.order(epoch).to(self.device), self.length // self.batch
        part = self.batch // self.ranks.world
        if self.ranks.world > 1:  # every rank has dropout of its own, a function of these numbers
            torch.manual_seed(int(np.random.SeedSequence([c.seed, epoch, self.ranks.rank]).generate_state(1)[0]))
        self.step.total.zero_()
        self.model.train()
        for number in range(steps):
            self.step.prepare(lr, (epoch - 1) * steps + number)
            first = number * self.batch + self.ranks.rank * part
            self.do_step((order[first : first + part],))
        (total,) = Readback(self.device).now(self.ranks.mean(self.step.total.clone())[None])
        if not np.isfinite(total):
            raise Diverged(f"the loss became NaN or Inf in epoch {epoch}; lower --lr, or train without --amp")
        self.losses.append(total / steps)
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
        found = torch.cat(parts).numpy()
        where = f"epoch {self.epoch}"
        if not np.isfinite(found).all():
            raise Diverged(f"{where}: scores became NaN or Inf; the state before it is kept. Lower --lr, or check the data")
        check_statistics(self.model, where)
        return found

    def run(self, state: Path, key: str) -> np.ndarray:
        """Trains to the last epoch and returns its scores. state: file of the unfinished training, written
        every epoch, continued when its key is the same."""
        if state.is_file():
            try:
                self._restore(load_checkpoint(state), key, str(state))
            except InputError as error:
                raise InputError(f"{error}; or remove {state} to train anew") from None
        self.ranks.wait()  # until all have read it
        try:
            return self._epochs(state, key)
        finally:
            if isinstance(self.do_step, GraphedStep):
                self.do_step.close()

    def _epochs(self, state: Path, key: str) -> np.ndarray:
        state.parent.mkdir(parents=True, exist_ok=True)
        scores, shown = None, dict(unit="epoch", leave=False, desc=state.parent.name, disable=self.ranks.rank > 0)
        with tqdm(total=self.config.epochs, initial=self.epoch, **shown) as bar:
            while self.epoch < self.config.epochs:
                self.train_epoch()
                if self.epoch % EVAL_EVERY == 0 or self.epoch == self.config.epochs:
                    scores = self.scores()
                    self.best = max(self.best, (topk_accuracy(scores, self.val.label, 1), self.epoch), key=lambda b: b[0])
                if self.ranks.rank == 0:
                    save_tensors(self._state(key), state)
                bar.update()
                bar.set_postfix(loss=f"{self.losses[-1]:.3f}", best_on_test=f"{self.best[0]:.1f}")
        return self.scores() if scores is None else scores

    def _state(self, key: str) -> dict[str, Any]:
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return {
            "model": self.model.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "epoch": self.epoch,
            "losses": self.losses,
            "best": list(self.best),
            "rng": [torch.get_rng_state(), *cuda],
            "config": {"key": key},
        }

    def _restore(self, state: dict[str, Any], key: str, where: str) -> None:
        """Continues from a state of the same weights, data and settings; InputError, and nothing changed, where it is damaged."""
        if not isinstance(state["config"].get("key"), str):
            raise InputError(f"{where} is of no training with labels; give another folder with --out")
        if state["config"]["key"] != key:
            return
        own = self._state(key)
        missing = set(own) - set(state)
        if missing:
            raise InputError(f"{where} holds no {min(missing)}")
        epoch = check_count(state["epoch"], 0, self.config.epochs, f"{where} epoch")
        check_like(state["losses"], [0.0] * epoch, f"{where} losses")
        check_like(state["best"], [0.0, 0], f"{where} best")
        if not -1 <= state["best"][0] <= 100:
            raise InputError(f"{where} best is {state['best'][0]:g}, expected a percentage; take another checkpoint")
        check_count(state["best"][1], 0, epoch, f"{where} epoch of the best")
        check_like(state["model"], own["model"], f"{where} model")
        rng = state["rng"] if isinstance(state["rng"], list) else []
        check_like(rng, [*own["rng"]][: max(1, len(rng))], f"{where} rng")  # of one device, or of CPU and CUDA
        try:
            for place, one in zip(("cpu", self.device), rng, strict=False):
                torch.Generator(place).set_state(one)
        except RuntimeError as error:
            raise InputError(f"{where} rng is no state of a generator ({' '.join(str(error).split())[:80]})") from None
        load_momenta(self.step.optimizer, state["optimizer"], where)
        self.model.load_state_dict(state["model"])
        self.epoch, self.losses, self.best = epoch, list(state["losses"]), tuple(state["best"])
        torch.set_rng_state(rng[0])
        if len(rng) > 1:
            torch.cuda.set_rng_state(rng[1], self.device)
