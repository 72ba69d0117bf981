"""Settings and learning rate of every training with labels, official for the encoder and the protocol where nothing is given.

Sources: official FT_Processor (learning rate 0.1 e / 5 in epochs 1 to 4, then x0.1 from every step on, >=), and the
release/{gcn,transformer}_ntu60/finetune and {gcn,transformer}_ntu60/semi YAMLs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

from hiclr_fast.evaluation.settings import Settings
from hiclr_fast.files.ranges import COUNT, FINITE, LENGTH, POSITIVE, SEED, Range
from hiclr_fast.flags import default


@dataclass(frozen=True)
class FinetuneConfig(Settings):
    """Official values for the encoder and the protocol where nothing is given."""

    shared = True
    epochs: Annotated[int | None, default("official: finetune 70 for stgcn, 80 for dsta; semi 42, 50")] = None
    """Drops and warm-up shrink or grow with it, unless given."""
    lr: Annotated[float | None, default("official: 0.1")] = None
    """Learning rate before the drops."""
    warmup: Annotated[int | None, default("official: 5")] = None
    """The rate of epoch e below this is lr * e / warmup."""
    drops: Annotated[tuple[int, ...] | None, default("official: finetune 30 55, 35 55 for dsta; semi 15 30, 15 25")] = None
    """x0.1 from each of these epochs on."""
    batch_size: Annotated[int | None, default("official: 64 for stgcn, 128 for dsta")] = None
    """Of all ranks together."""
    weight_decay: Annotated[float | None, default("official: 0.0001 for stgcn, 0.0005 for dsta")] = None
    """Of all weights."""
    dropout: Annotated[float | None, default("official: 0.5 for stgcn, 0 for dsta")] = None
    """Of the encoder's blocks."""
    augment: Annotated[bool | None, default("official: only when dsta is finetuned")] = None
    """Crop and shear (the basic view) of every training sample."""
    seed: int = 0
    """Of the head's initialisation, the order of samples and dropout."""
    amp: bool = False
    """bf16 autocast in training; evaluation is float32."""

    def official(self, kind: str) -> "FinetuneConfig":
        return official(self, "finetune", kind)

    RANGES: ClassVar = {
        "epochs": LENGTH,
        "lr": POSITIVE,
        "batch_size": LENGTH,
        "warmup": COUNT,
        "drops": COUNT,
        "weight_decay": FINITE,
        "dropout": Range(0, 1, below=True),
        "seed": SEED,
    }


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
