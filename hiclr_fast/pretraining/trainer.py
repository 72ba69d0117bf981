"""What one rank holds of a run: model, step, loader, how far it is; and the state from which it continues exactly."""

import math
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hiclr_fast.data.loading.loader import Batch, ResidentLoader, make_loader
from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.distributed import ALONE, Ranks
from hiclr_fast.errors import InputError
from hiclr_fast.files.settings import as_plain, update
from hiclr_fast.machine import pick_device
from hiclr_fast.models.build import initial_encoder
from hiclr_fast.models.hiclr import HiCLR
from hiclr_fast.models.layers import synchronise
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.step import TrainStep
from hiclr_fast.training.graph import GraphedStep
from hiclr_fast.training.optimizer import learning_rate, scaled_rate
from hiclr_fast.training.readback import Readback

MAY_CHANGE = (  # on resume
    *("out", "data", "device", "threads", "epochs", "knn_every", "keep_every"),
    *("save_minutes", "read_every", "compile", "no_graph", "loader", "memory_share"),
)


def check_job(config: PretrainConfig, data: Packed, ranks: Ranks) -> None:
    """InputError where settings, data and number of ranks do not go together."""
    config.check()
    for name, want, have in (("layout", config.layout, data.layout.name), ("frames", config.frames, data.shape[1])):
        if want is not None and want != have:
            raise InputError(f"{data.path} has {name} {have}, the config says {want}; change {name} or the data")
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


class Pretrainer:
    """One run, on one of its ranks: all ranks are in the same state. `loop.train` takes it through its epochs."""

    def __init__(self, config: PretrainConfig, data: Packed, ranks: Ranks = ALONE):
        check_job(config, data, ranks)
        self.config, self.data, self.ranks = config, data, ranks
        self.device = pick_device(config.device, ranks.local)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.model = make_model(config, data, self.device, ranks)
        self.train = TrainStep(config, data.layout, self.model, ranks)
        self.do_step = self.train if config.no_graph or self.device.type != "cuda" else GraphedStep(self.train)
        size, part = config.batch_size // ranks.world, dict(rank=ranks.rank, world=ranks.world)
        memory = dict(mode=config.loader, share=config.memory_share)
        self.loader = make_loader(data["train"], size, config.seed, self.device, **part, **memory)
        self.epoch, self.step = 1, 0  # the next step to do: 1-based epoch, 0-based step inside it
        self.stop = False  # a signal came; with several ranks `self.train.sums` tells it to all of them

    @property
    def resident(self) -> Tensor | None:
        """The training split's x, where it lies on the device."""
        return self.loader.x if isinstance(self.loader, ResidentLoader) else None

    def lr_now(self) -> float:
        c, done = self.config, self.step / self.loader.steps
        rules = dict(epochs=c.epochs, drops=c.drops, warmup=c.warmup_epochs, schedule=c.schedule)
        return learning_rate(self.epoch + done, base=scaled_rate(c.lr, c.batch_size, c.lr_batch), **rules)

    def train_step(self, batch: Batch) -> None:
        self.train.prepare(self.lr_now(), (self.epoch - 1) * self.loader.steps + self.step)
        if self.stop:
            self.train.stopping.fill_(1)
        self.do_step(batch, self.epoch > self.config.mining_epoch)

    def close(self) -> None:
        """Lets the captured step go, which holds on to memory and to the ranks' communicator."""
        if isinstance(self.do_step, GraphedStep):
            self.do_step.close()

    def check_finite(self, numbers: list[float] | None = None) -> None:
        """InputError when the loss or a weight is no longer a number. The checkpoint on disk stays as it was.

        numbers: of `TrainStep.health`; none: those of now, for which it waits.
        """
        if not all(map(math.isfinite, Readback(self.device).now(self.train.health()) if numbers is None else numbers)):
            raise InputError(
                f"the loss became NaN or Inf in epoch {self.epoch} before step {self.step}; the last good checkpoint is kept. "
                "Lower --lr, add --warmup-epochs, or use --amp-dtype bf16"
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
