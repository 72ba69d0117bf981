"""The pretraining loop: gather, augment, encode, contrast, step, enqueue; checkpoints that resume exactly."""

import math
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hiclr_fast.augment import make_views
from hiclr_fast.config import PretrainConfig, as_plain, update
from hiclr_fast.contrast import HiCLR
from hiclr_fast.data.loader import Batch, ResidentLoader
from hiclr_fast.data.packed import Packed
from hiclr_fast.encoders import build_encoder
from hiclr_fast.errors import InputError
from hiclr_fast.features import Features, extract
from hiclr_fast.models.stgcn import init_official
from hiclr_fast.optimizer import learning_rate, make_sgd
from hiclr_fast.protocols.knn import knn_scores
from hiclr_fast.protocols.metrics import topk_accuracy
from hiclr_fast.run import CHECKPOINT, ENCODER, Metrics, create_run, export_encoder, load_checkpoint, save_atomic
from hiclr_fast.strong import draw_graphs

KEY_VIEW = "basic"
COLLAPSED = 0.99  # of the loss at which every row of the queue looks the same, sum(weights) * log(Q + 1)
MAY_CHANGE = ("out", "data", "device", "threads", "epochs", "knn_every", "keep_every")  # on resume


def pick_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: this torch sees no CUDA device; use --device cpu or install a CUDA build of torch")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


class Pretrainer:
    """One run. `run()` trains to the end or until a signal; `state()` and `restore()` are everything that resuming needs."""

    def __init__(self, config: PretrainConfig, data: Packed):
        config.check()
        for name, want, have in (("layout", config.layout, data.layout.name), ("frames", config.frames, data.shape[1])):
            if want is not None and want != have:
                raise InputError(f"{data.path} has {name} {have}, the config says {want}; change {name} or the data")
        self.config, self.data, self.device = config, data, pick_device(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        encoder = build_encoder(config, data.layout)
        if config.init == "official":
            init_official(encoder)
        model = HiCLR(encoder, config.feature_dim, config.queue_size, config.momentum, config.temperature)
        self.model = model.to(self.device, memory_format=torch.channels_last).train()
        self.optimizer = make_sgd(model.trainable(), config.lr, config.weight_decay)
        self.loader = ResidentLoader(data["train"], config.batch_size, config.seed, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp and config.amp_dtype == "fp16")
        self.epoch, self.step = 1, 0  # the next step to do: 1-based epoch, 0-based step inside it
        self.sums = torch.zeros(len(config.branches) + 2, device=self.device)  # loss, terms, spread of this epoch so far
        self.stop = False

    def autocast(self):
        if not self.config.amp:
            return nullcontext()
        return torch.autocast(self.device.type, torch.float16 if self.config.amp_dtype == "fp16" else torch.bfloat16)

    def lr_now(self) -> float:
        c, done = self.config, self.step / self.loader.steps
        return learning_rate(
            self.epoch + done, base=c.lr, epochs=c.epochs, drops=c.drops, warmup=c.warmup_epochs, schedule=c.schedule
        )

    def train_step(self, batch: Batch) -> None:
        c, model = self.config, self.model
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_now()
        step = torch.full((), (self.epoch - 1) * self.loader.steps + self.step, device=self.device)
        draw = dict(seed=c.seed, step=step)
        kinds = (*c.branches, KEY_VIEW)
        views = make_views(
            batch.x, batch.index, batch.ids, kinds, c.augment, self.data.layout, **draw, stream=c.stream, fill=model.fill
        )
        rows, a = len(batch.index) * batch.x.shape[-1], c.augment
        graphs = draw_graphs(c.branches, a.edge_drop, a.edge_add, model.encoder_q, rows, **draw)
        with self.autocast():
            q = model.queries(views[:-1], graphs)
            key = model.keys(views[-1])
        loss, terms = model.loss(q, key, c.weights, c.topk if self.epoch > c.mining_epoch else 0)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        model.enqueue(key)
        spread = q[0].detach().std(0).norm()  # 1: directions differ as much as they can, 0: all the same
        self.sums += torch.cat([loss.detach()[None], terms, spread[None]]).float()

    def check_finite(self) -> None:
        """InputError when the loss or a weight is no longer a number. The checkpoint on disk stays as it was."""
        weights = torch.stack([p.detach().abs().max() for p in self.model.parameters()])
        if not (torch.isfinite(self.sums).all() and torch.isfinite(weights).all()):
            raise InputError(
                f"the loss became NaN or Inf in epoch {self.epoch} before step {self.step}; the last good checkpoint is kept. "
                "Lower --lr, add --warmup-epochs, or use --amp-dtype bf16"
            )

    def knn(self, encoder: torch.nn.Module) -> float:
        """1-NN cosine accuracy in percent on the validation split."""
        split = {s: extract(encoder, self.data[s], self.data.layout, self.config.stream, self.device) for s in ("train", "val")}
        encoder.train()
        return knn_accuracy(split["train"], split["val"])

    def run(self, out: Path) -> bool:
        """Trains until the last epoch; True when it got there, False when a signal stopped it (checkpoint saved)."""
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        metrics = Metrics(out, self.epoch - 1)
        try:
            while self.epoch <= self.config.epochs:
                if not self._epoch(out, metrics):
                    self.save(out)
                    return False
            return True
        finally:
            metrics.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, *_: Any) -> None:
        self.stop = True

    def _epoch(self, out: Path, metrics: Metrics) -> bool:
        """The rest of the current epoch; False when a signal came."""
        c, steps = self.config, self.loader.steps
        first, start = self.step, time.perf_counter()
        lr = self.lr_now()
        with tqdm(total=steps * c.batch_size, initial=first * c.batch_size, unit="sample", leave=False) as bar:
            bar.set_description(f"epoch {self.epoch}/{c.epochs}")
            for batch in self.loader.epoch(self.epoch, first):
                self.train_step(batch)
                self.step += 1
                bar.update(c.batch_size)
                if self.step % 20 == 0 or self.step == steps or self.stop:
                    self.check_finite()
                    bar.set_postfix(loss=f"{self.sums[0].item() / self.step:.3f}", lr=f"{lr:.2g}")
                if self.stop:
                    return False
        seconds = time.perf_counter() - start
        loss, *terms, spread = (self.sums / steps).tolist()
        values = {"loss": loss, "info_nce": terms[0], "spread": spread, "lr": lr, "seconds": round(seconds, 3)}
        values |= {f"consistency_{b}": term for b, term in enumerate(terms[1:], 1)}
        values["samples_per_s"] = round((steps - first) * c.batch_size / seconds, 1)
        done = self.epoch
        if "val" in self.data.splits and (done == c.epochs or (c.knn_every and done % c.knn_every == 0)):
            values["knn1"] = self.knn(self.model.encoder_q)
        self.epoch, self.step = done + 1, 0
        self.sums.zero_()
        self.save(out)
        if c.keep_every and done % c.keep_every == 0:
            save_atomic(self.state(), out / f"checkpoint_epoch{done}.pt")
        metrics.write(done, values)
        self._tell(done, values)
        return True

    def _tell(self, epoch: int, values: dict[str, float]) -> None:
        shown = f"epoch {epoch}: loss {values['loss']:.3f}, {values['samples_per_s']:.0f} samples/s"
        tqdm.write(shown + (f", 1-NN {values['knn1']:.1f} %" if "knn1" in values else ""))
        limit = sum(self.config.weights) * math.log(self.config.queue_size + 1)
        if values["loss"] > COLLAPSED * limit and epoch > max(1, self.config.warmup_epochs):
            tqdm.write(
                f"warning: training has collapsed: the loss {values['loss']:.3f} is that of identical features "
                f"({limit:.3f}). Lower --lr, use --init torch, or a longer --warmup-epochs"
            )

    def state(self) -> dict[str, Any]:
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "rng": [torch.get_rng_state(), *cuda],
            "config": as_plain(self.config),
            "layout": self.data.layout.name,
            "data_checksum": self.data.checksum,
        }

    def save(self, out: Path) -> None:
        self.check_finite()
        save_atomic(self.state(), out / CHECKPOINT)

    def restore(self, state: dict[str, Any], where: str) -> None:
        """Continues from a checkpoint; InputError when it is of another model, method or dataset."""
        theirs = update(PretrainConfig(), state["config"], f"{where} config")
        for name, value in vars(self.config).items():
            if name not in MAY_CHANGE and getattr(theirs, name) != value:
                raise InputError(
                    f"{where} was trained with {name} {getattr(theirs, name)}, not {value}; resume with the same, or start anew"
                )
        if state["data_checksum"] != self.data.checksum:
            raise InputError(f"{where} was trained on another dataset than {self.data.path}; give that one with --data")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"{where} does not fit this model ({' '.join(str(error).split())[:200]})") from None
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.sums.copy_(state["sums"])
        torch.set_rng_state(state["rng"][0])
        if self.device.type == "cuda" and len(state["rng"]) > 1:
            torch.cuda.set_rng_state(state["rng"][1], self.device)


def knn_accuracy(train: Features, val: Features) -> float:
    return topk_accuracy(knn_scores(train, val, (1,))[1], val.label, 1)


def start(config: PretrainConfig, data: Packed, out: Path) -> Pretrainer:
    """A new run in a new folder."""
    trainer = Pretrainer(config, data)
    create_run(out, config, trainer.device, data.checksum)
    return trainer


def resume(config: PretrainConfig, data: Packed, run: Path) -> Pretrainer:
    """Continues the run in that folder from its checkpoint."""
    state = load_checkpoint(run / CHECKPOINT)
    trainer = Pretrainer(config, data)
    trainer.restore(state, str(run / CHECKPOINT))
    return trainer


def finish(trainer: Pretrainer, out: Path) -> None:
    export_encoder(trainer.model.encoder_q, trainer.config, trainer.data.layout.name, out / ENCODER)
