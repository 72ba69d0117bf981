"""The pretraining loop: steps, epochs, checkpoints that resume exactly, on one device or many ranks."""

import math
import signal
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hiclr_fast.data.loading.loader import Batch, ResidentLoader, make_loader
from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.distributed import ALONE, Ranks
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.features import Features, extract
from hiclr_fast.evaluation.metrics import topk_accuracy
from hiclr_fast.evaluation.protocols.knn import knn_scores
from hiclr_fast.models.hiclr import HiCLR
from hiclr_fast.models.layers import synchronise
from hiclr_fast.models.load import build_encoder
from hiclr_fast.models.stgcn import init_official
from hiclr_fast.pretraining.config import PretrainConfig, as_plain, save_yaml, update
from hiclr_fast.pretraining.graph import GraphedStep
from hiclr_fast.pretraining.run_folder import (
    CHECKPOINT,
    ENCODER,
    Metrics,
    create_run,
    export_encoder,
    load_checkpoint,
    save_atomic,
)
from hiclr_fast.pretraining.step import Readback, TrainStep
from hiclr_fast.training.optimizer import learning_rate, scaled_rate

COLLAPSED = 0.99  # of the loss at which every row of the queue looks the same, sum(weights) * log(Q + 1)
MAY_CHANGE = (  # on resume
    *("out", "data", "device", "threads", "epochs", "knn_every", "keep_every"),
    *("save_minutes", "read_every", "compile", "no_graph", "loader", "memory_share"),
)


def pick_device(name: str, local: int = 0) -> torch.device:
    """local: number of this rank's GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: this torch sees no CUDA device; use --device cpu or install a CUDA build of torch")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local)


class Pretrainer:
    """One run. `run()` trains to the end or until a signal; `state()` and `restore()` are everything that resuming needs.

    With several ranks every rank has a Pretrainer, all in the same state; rank 0 writes.
    """

    def __init__(self, config: PretrainConfig, data: Packed, ranks: Ranks = ALONE):
        config.check()
        for name, want, have in (("layout", config.layout, data.layout.name), ("frames", config.frames, data.shape[1])):
            if want is not None and want != have:
                raise InputError(f"{data.path} has {name} {have}, the config says {want}; change {name} or the data")
        if config.batch_size % (ranks.world * config.accumulate):
            raise InputError(
                f"batch_size {config.batch_size} does not divide by {ranks.world} ranks x {config.accumulate} passes; change it"
            )
        self.config, self.data, self.ranks = config, data, ranks
        self.device = pick_device(config.device, ranks.local)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        encoder = build_encoder(config, data.layout)
        if config.init == "official":
            init_official(encoder)
        model = HiCLR(encoder, config.feature_dim, config.queue_size, config.momentum, config.temperature)
        self.model = model.to(self.device, memory_format=torch.channels_last).train()
        if config.sync_batch_norm:
            synchronise(model, ranks)
        if config.compile:
            model.encoder_q.compile(dynamic=False)
            model.encoder_k.compile(dynamic=False)
        self.train = TrainStep(config, data.layout, model, ranks)
        self.do_step = self.train if config.no_graph or self.device.type != "cuda" else GraphedStep(self.train)
        self.readback = Readback(self.device)
        size, part = config.batch_size // ranks.world, dict(rank=ranks.rank, world=ranks.world)
        memory = dict(mode=config.loader, share=config.memory_share)
        self.loader = make_loader(data["train"], size, config.seed, self.device, **part, **memory)
        self.epoch, self.step = 1, 0  # the next step to do: 1-based epoch, 0-based step inside it
        self.stop = False  # a signal came; with several ranks `self.train.sums` tells it to all of them
        self.saved = time.monotonic()

    def lr_now(self) -> float:
        c, done = self.config, self.step / self.loader.steps
        rules = dict(epochs=c.epochs, drops=c.drops, warmup=c.warmup_epochs, schedule=c.schedule)
        return learning_rate(self.epoch + done, base=scaled_rate(c.lr, c.batch_size, c.lr_batch), **rules)

    def train_step(self, batch: Batch) -> None:
        self.train.prepare(self.lr_now(), (self.epoch - 1) * self.loader.steps + self.step)
        if self.stop:
            self.train.stopping.fill_(1)
        self.do_step(batch, self.epoch > self.config.mining_epoch)

    def check_finite(self, numbers: list[float] | None = None) -> None:
        """InputError when the loss or a weight is no longer a number. The checkpoint on disk stays as it was.

        numbers: of `TrainStep.health`; none: those of now, for which it waits.
        """
        if not all(map(math.isfinite, self.readback.now(self.train.health()) if numbers is None else numbers)):
            raise InputError(
                f"the loss became NaN or Inf in epoch {self.epoch} before step {self.step}; the last good checkpoint is kept. "
                "Lower --lr, add --warmup-epochs, or use --amp-dtype bf16"
            )

    def knn(self, encoder: torch.nn.Module) -> float:
        """1-NN cosine accuracy in percent on the validation split."""
        resident = {"train": self.loader.x} if isinstance(self.loader, ResidentLoader) else {}
        common = self.data.layout, self.config.stream, self.device
        train, val = (extract(encoder, self.data[s], *common, rows=resident.get(s)) for s in ("train", "val"))
        encoder.train()
        return knn_accuracy(train, val)

    def run(self, out: Path) -> bool:
        """Trains until the last epoch; True when it got there, False when a signal stopped it (checkpoint saved)."""
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        metrics = Metrics(out, self.epoch - 1) if self.ranks.rank == 0 else None
        self.saved = time.monotonic()
        try:
            while self.epoch <= self.config.epochs:
                if not self._epoch(out):
                    self.save(out)
                    return False
                self._close_epoch(out, metrics)
            return True
        finally:
            self.close()
            if metrics:
                metrics.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Lets the captured step go, which holds on to memory and to the ranks' communicator."""
        if isinstance(self.do_step, GraphedStep):
            self.do_step.close()

    def _on_signal(self, *_: Any) -> None:
        self.stop = True

    def _epoch(self, out: Path) -> bool:
        """The rest of the current epoch; False when a signal came."""
        c, steps = self.config, self.loader.steps
        self.first, self.began, self.lr = self.step, time.perf_counter(), self.lr_now()
        size = dict(total=steps * c.batch_size, initial=self.step * c.batch_size, unit="sample")
        with tqdm(**size, leave=False, disable=self.ranks.rank > 0) as bar:
            bar.set_description(f"epoch {self.epoch}/{c.epochs}")
            for batch in self.loader.epoch(self.epoch, self.step):
                self.train_step(batch)
                self.step += 1
                bar.update(c.batch_size)
                stopping = self.stop and self.ranks.world == 1
                if self.step % c.read_every == 0 and (seen := self.readback.swap(self.train.health(), self.step)):
                    numbers, at = seen
                    self.check_finite(numbers)
                    bar.set_postfix(loss=f"{numbers[0] / at:.3f}", lr=f"{self.lr:.2g}")
                    stopping |= numbers[-2] > 0
                if stopping:
                    return False
                if time.monotonic() - self.saved > 60 * c.save_minutes:
                    self.save(out)
        return True

    def _close_epoch(self, out: Path, metrics: Metrics | None) -> None:
        """Metrics first, then the checkpoint: a run killed in between repeats the epoch's end, and loses no line."""
        c, steps, done = self.config, self.loader.steps, self.epoch
        self.check_finite()
        loss, *terms, spread, _ = (self.train.sums / steps).tolist()
        seconds = time.perf_counter() - self.began
        values = {"loss": loss, "info_nce": terms[0], "spread": spread, "lr": self.lr, "seconds": round(seconds, 3)}
        values |= {f"consistency_{b}": term for b, term in enumerate(terms[1:], 1)}
        values["samples_per_s"] = round((steps - self.first) * c.batch_size / seconds, 1)
        self.epoch, self.step = done + 1, 0
        self.train.sums.zero_()
        if self.ranks.rank > 0:
            return
        if "val" in self.data.splits and (done == c.epochs or (c.knn_every and done % c.knn_every == 0)):
            values["knn1"] = self.knn(self.model.encoder_q)
        metrics.write(done, values)
        self.save(out)
        if c.keep_every and done % c.keep_every == 0:
            save_atomic(self.state(), out / f"checkpoint_epoch{done}.pt")
        self._tell(done, values)

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
        """All of it: random numbers are functions of (seed, step), the order of samples of (seed, epoch)."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.train.optimizer.state_dict(),
            "scaler": self.train.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.train.sums,
            "world": self.ranks.world,
            "config": as_plain(self.config),
            "layout": self.data.layout.name,
            "data_checksum": self.data.checksum,
        }

    def save(self, out: Path) -> None:
        self.check_finite()
        if self.ranks.rank == 0:
            save_atomic(self.state(), out / CHECKPOINT)
        self.saved = time.monotonic()

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
            self.train.optimizer.load_state_dict(state["optimizer"])
            self.train.scaler.load_state_dict(state["scaler"])
            self.train.sums.copy_(state["sums"])
            self.epoch, self.step, world = state["epoch"], state["step"], state["world"]
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"{where} does not fit this model ({' '.join(str(error).split())[:200]})") from None
        for group in self.train.optimizer.param_groups:
            group["lr"] = self.train.lr  # the tensor that `prepare` fills
        self.train.sums[-1] = 0  # that a rank was asked to stop
        if world != self.ranks.world and self.ranks.rank == 0 and not self.config.sync_batch_norm:
            tqdm.write(
                f"note: {where} was trained by {world} ranks, now there are {self.ranks.world}: batch-norm statistics "
                "are over other parts of the batch from here on"
            )


def knn_accuracy(train: Features, val: Features) -> float:
    return topk_accuracy(knn_scores(train, val, (1,))[1], val.label, 1)


def start(config: PretrainConfig, data: Packed, out: Path, ranks: Ranks = ALONE) -> Pretrainer:
    """A new run in a new folder, which can be resumed as soon as it is there."""
    trainer = Pretrainer(config, data, ranks)
    if ranks.rank == 0:
        create_run(out, config, trainer.device, data.checksum, trainer.state())
    return trainer


def resume(config: PretrainConfig, data: Packed, run: Path, ranks: Ranks = ALONE) -> Pretrainer:
    """Continues the run in that folder from its checkpoint, with the settings of `config` from here on."""
    state = load_checkpoint(run / CHECKPOINT)
    trainer = Pretrainer(config, data, ranks)
    trainer.restore(state, str(run / CHECKPOINT))
    if ranks.rank == 0:
        save_yaml(config, run / "config.yaml")
        (run / ENCODER).unlink(missing_ok=True)  # it marks a finished run, and would be older than the checkpoint
    return trainer


def finish(trainer: Pretrainer, out: Path) -> None:
    export_encoder(trainer.model.encoder_q, trainer.config, trainer.data.layout.name, out / ENCODER)
