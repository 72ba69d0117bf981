"""Settings and learning rate of every training with labels, official for the encoder and the protocol where nothing is given.

Sources: official FT_Processor (learning rate 0.1 e / 5 in epochs 1 to 4, then x0.1 from every step on, >=), and the
release/{gcn,transformer}_ntu60/finetune and {gcn,transformer}_ntu60/semi YAMLs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from hiclr_fast.evaluation.settings import Settings, require


@dataclass(frozen=True)
class FinetuneConfig(Settings):
    """Official values for the encoder and the protocol where nothing is given."""

    shared = True
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
