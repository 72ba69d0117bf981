"""What a reproduction does, and whether it can be done."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from hiclr_fast.data.packed.dataset import Packed, open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import train_val
from hiclr_fast.evaluation.protocols.cluster import need_scikit_learn
from hiclr_fast.evaluation.protocols.linear import EPOCHS, LinearConfig
from hiclr_fast.evaluation.protocols.semi import SemiConfig
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.evaluation.spaces import Space, inner_folds, inner_groups
from hiclr_fast.machine import pick_device
from hiclr_fast.models.pooling import OWN, Readout
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.skeletons import STREAMS, difference

PROTOCOLS = ("knn", "linear", "retrieval", "cluster", "semi", "finetune", "transfer")


@dataclass(frozen=True)
class Plan:
    """What to do. data: one packed set, or one a fold. configs: pretraining of every stream. training: settings of finetune,
    semi and transfer. readout: of frozen features. space: in which k-NN and retrieval compare them."""

    dataset: str
    split: str
    data: tuple[Path, ...]
    out: Path
    configs: dict[str, PretrainConfig]
    seeds: tuple[int, ...] = (0, 1, 2)
    protocols: tuple[str, ...] = PROTOCOLS
    linear_epochs: int = EPOCHS
    finetune_epochs: int | None = None
    semi_epochs: int | None = None
    semi_percent: tuple[float, ...] = (1, 5, 10, 20)
    semi_repeats: int = 5
    transfer_to: Path | None = None
    training: FinetuneConfig = field(default_factory=FinetuneConfig)
    readout: Readout = OWN
    space: Space = "plain"

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self.configs)

    @property
    def device(self) -> torch.device:
        return pick_device(next(iter(self.configs.values())).device)

    def check(self) -> list[Packed]:
        """The opened data; InputError for whatever would stop the plan only after hours."""
        for what, given, known in (("protocol", self.protocols, PROTOCOLS), ("stream", self.streams, STREAMS)):
            unknown = set(given) - set(known)
            if unknown:
                raise InputError(f"unknown {what} {min(unknown)!r}: expected some of {', '.join(known)}")
        if len({folder.name for folder in self.data}) < len(self.data):
            raise InputError("two --data folders have the same name; folds are told apart by it, so rename one")
        if not (self.data and self.seeds and self.streams and self.protocols):
            raise InputError("give at least one --data folder, one seed, one stream and one protocol")
        self.readout.check()
        sets = [open_packed(path) for path in self.data]
        for data in sets:
            train, val = train_val(data)
            if self.space == "inner":
                inner_folds(inner_groups(train, val)[1], train.label)
        for config in self.configs.values():
            config.check()
            LinearConfig(epochs=self.linear_epochs).check()
            replace(self.training, epochs=self.finetune_epochs).official(config.encoder).check()
            for percent in self.semi_percent:
                self.semi_settings(percent).official(config.encoder).check()
        if "cluster" in self.protocols:
            need_scikit_learn()
        if "transfer" in self.protocols and self.transfer_to:
            target = open_packed(self.transfer_to)
            train_val(target)
            if how := difference(sets[0].layout, target.layout):
                mine, other = sets[0].layout.name, target.layout.name
                raise InputError(
                    f"transfer to {target.path} of layout {other}: {sets[0].path} has {mine} ({how}), "
                    "and an encoder belongs to its joints; leave --transfer-to out"
                )
        return sets

    def semi_settings(self, percent: float) -> SemiConfig:
        return SemiConfig(percent, self.semi_repeats, replace(self.training, epochs=self.semi_epochs))
