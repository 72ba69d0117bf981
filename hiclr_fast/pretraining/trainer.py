"""What one rank holds of a run: model, step, loader, how far it is; and the state from which it continues exactly."""

import math
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hiclr_fast.data.contract import Contract
from hiclr_fast.data.loading.loader import Batch, ResidentLoader, make_loader
from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.distributed import ALONE, Ranks
from hiclr_fast.errors import Diverged, InputError
from hiclr_fast.files.lock import Lock
from hiclr_fast.files.settings import as_plain, update
from hiclr_fast.machine import pick_device
from hiclr_fast.models.build import initial_encoder
from hiclr_fast.models.hiclr import HiCLR
from hiclr_fast.models.layers import synchronise
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.step import TrainStep
from hiclr_fast.skeletons import unlike
from hiclr_fast.training.graph import GraphedStep
from hiclr_fast.training.optimizer import learning_rate, scaled_rate
from hiclr_fast.training.readback import Readback
from hiclr_fast.training.state import check_count, check_like, load_momenta, load_scaler

MAY_CHANGE = (  # on resume
    *("out", "data", "device", "threads", "epochs", "knn_every", "keep_every"),
    *("save_minutes", "read_every", "compile", "no_graph", "loader", "memory_share"),
)

MOST_RANKS = 1 << 16  # that a checkpoint may be of


def check_job(config: PretrainConfig, data: Packed, ranks: Ranks) -> None:
    """InputError where settings, data and number of ranks do not go together."""
    config.check()
    if config.frames not in (None, data.shape[1]):
        raise InputError(f"{data.path} has frames {data.shape[1]}, the config says {config.frames}; change frames or the data")
    if config.layout is not None and (how := unlike(config.layout, data.layout)):
        raise InputError(f"{data.path} has layout {data.layout.name}, the config says {config.layout}{how}; change one of them")
    if config.batch_size % (ranks.world * config.accumulate):
        raise InputError(
            f"batch_size {config.batch_size} does not divide by {ranks.world} ranks x {config.accumulate} passes; change it"
        )


def make_model(config: PretrainConfig, data: Packed, device: torch.device, ranks: Ranks) -> HiCLR:
    """The pair of encoders and the queue as a run begins, in training mode on the device."""
    encoder = initial_encoder(config, data.layout)
    model = HiCLR(encoder, config.feature_dim, config.queue_size, config.momentum, config.temperature)
    model.to(device, memory_format=torch.channels_last).train()
    if config.sync_batch_norm:
        synchronise(model, ranks)
    if config.compile:
        model.encoder_q.compile(dynamic=False)
        model.encoder_k.compile(dynamic=False)
    return model


def settings(config: PretrainConfig) -> dict[str, Any]:
    """Every setting by name, those of the augmentation one by one."""
    return {**vars(config), **{f"augment {name}": value for name, value in vars(config.augment).items()}, "augment": None}


class Pretrainer:
    """One run, on one of its ranks: all ranks are in the same state. `loop.train` takes it through its epochs."""

    def __init__(self, config: PretrainConfig, data: Packed, ranks: Ranks = ALONE):
        check_job(config, data, ranks)
        self.config, self.data, self.ranks = config, data, ranks
        self.device = pick_device(config.device, ranks.local)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.model = make_model(config, data, self.device, ranks)
        self.train = TrainStep(config, data.layout, self.model, ranks, data.space)
        self.do_step = self.train if config.no_graph or self.device.type != "cuda" else GraphedStep(self.train)
        size, part = config.batch_size // ranks.world, dict(rank=ranks.rank, world=ranks.world)
        memory = dict(mode=config.loader, share=config.memory_share)
        self.loader = make_loader(data["train"], size, config.seed, self.device, **part, **memory)
        self.epoch, self.step = 1, 0  # the next step to do: 1-based epoch, 0-based step inside it
        self.lock: Lock | None = None  # on the run folder, by rank 0, from `start` or `resume` on
        self.stop = False  # a signal came; with several ranks `self.train.sums` tells it to all of them

    @property
    def resident(self) -> Tensor | None:
        """The training split's x, where it lies on the device."""
        return self.loader.x if isinstance(self.loader, ResidentLoader) else None

    def lr_at(self, step: int) -> float:
        """Of that step of the current epoch."""
        c, done = self.config, step / self.loader.steps
        rules = dict(epochs=c.epochs, drops=c.drops, warmup=c.warmup_epochs, schedule=c.schedule)
        return learning_rate(self.epoch + done, base=scaled_rate(c.lr, c.batch_size, c.lr_batch), **rules)

    def train_step(self, batch: Batch) -> None:
        self.train.prepare(self.lr_at(self.step), (self.epoch - 1) * self.loader.steps + self.step)
        if self.stop:
            self.train.stopping.fill_(1)
        self.do_step(batch, self.epoch > self.config.mining_epoch)

    def close(self) -> None:
        """Lets the captured step go, which holds on to memory and to the ranks' communicator."""
        if isinstance(self.do_step, GraphedStep):
            self.do_step.close()

    def release(self) -> None:
        """Lets other processes have the run folder."""
        if self.lock:
            self.lock.release()

    def check_finite(self, numbers: list[float] | None = None) -> None:
        """Diverged when the loss, a weight, a batch-norm statistic or a row of the queue is no longer a number.
        The checkpoint on disk stays as it was.

        numbers: of `TrainStep.health`; none: those of now, for which it waits.
        """
        if not all(map(math.isfinite, Readback(self.device).now(self.train.health()) if numbers is None else numbers)):
            raise Diverged(
                f"the loss became NaN or Inf in epoch {self.epoch} before step {self.step}, or a weight or a statistic "
                "did; the last good checkpoint is kept. Lower --lr, add --warmup-epochs, use --amp-dtype bf16, or check the data"
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
            "input": Contract.of(self.data, self.config.stream).as_dict(),
            "data_checksum": self.data.checksum,
        }

    def restore(self, state: dict[str, Any], where: str) -> None:
        """Continues from a checkpoint; InputError when it is of another model, method or dataset."""
        theirs = update(PretrainConfig(), state["config"], f"{where} config")
        for name, value in settings(self.config).items():
            if name not in MAY_CHANGE and (other := settings(theirs)[name]) != value:
                raise InputError(f"{where} was trained with {name} {other}, not {value}; resume with the same, or start anew")
        if state.get("data_checksum") != self.data.checksum:
            raise InputError(f"{where} was trained on another dataset than {self.data.path}; give that one with --data")
        if state.get("layout", self.data.layout.name) != self.data.layout.name:
            raise InputError(f"{where} names another layout than {self.data.layout.name}, which its data have; take another copy")
        missing = {"optimizer", "scaler", "sums", "epoch", "step", "world"} - set(state)
        if missing:
            raise InputError(f"{where} holds no {min(missing)}; it is no checkpoint to continue from")
        check_like(state["model"], self.model.state_dict(), f"{where} model")
        check_like(state["sums"], self.train.sums, f"{where} sums")
        check_count(int(state["model"]["pointer"]), 0, self.config.queue_size - 1, f"{where} pointer")
        epoch = check_count(state["epoch"], 1, theirs.epochs + 1, f"{where} epoch")
        step = check_count(state["step"], 0, self.loader.steps, f"{where} step")
        world = check_count(state["world"], 1, MOST_RANKS, f"{where} world")
        load_momenta(self.train.optimizer, state["optimizer"], where, every=True)
        load_scaler(self.train.scaler, state["scaler"], where)
        self.model.load_state_dict(state["model"])
        self.train.sums.copy_(state["sums"])
        self.epoch, self.step = epoch, step
        self.train.sums[-1] = 0  # that a rank was asked to stop
        if world != self.ranks.world and self.ranks.rank == 0 and not self.config.sync_batch_norm:
            tqdm.write(
                f"note: {where} was trained by {world} ranks, now there are {self.ranks.world}: batch-norm statistics "
                "are over other parts of the batch from here on"
            )
